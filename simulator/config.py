"""Every number that shapes the marketplace, with the reason for its value.

Nothing here is a label or a feature: the reference figures are approached by changing how people behave.
Rates are probabilities a week unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

MICROSECONDS = 1_000_000
MINUTE = 60 * MICROSECONDS
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
LOADS_END_HOUR = 6
"""By this hour the nightly load is over."""
NULL_TIME = -(2**63)
"""Null timestamp in microsecond arrays: the bit pattern of NumPy's NaT."""
NULL_INTEGER = -(2**31)

SUBJECTS = [
    "algebra_1",
    "algebra_2",
    "geometry",
    "precalculus",
    "ap_calculus",
    "ap_physics",
    "ap_chemistry",
    "ap_biology",
    "spanish",
    "french",
    "english",
    "history",
    "sat_prep",
    "act_prep",
    "ap_statistics",
    "computer_science",
    "economics",
    "psychology",
    "elementary_math",
    "middle_school_science",
]
TIERS = ["budget", "standard", "premium"]
CHANNELS = ["organic", "paid_google", "paid_facebook", "referral"]
GRADES = ["elementary", "middle_school", "high_school", "college"]
STATES = ["thriving", "healthy", "at_risk", "lapsed"]
THRIVING, HEALTHY, AT_RISK, LAPSED = range(4)
SESSION_STATUSES = ["scheduled", "completed", "cancelled_by_customer", "cancelled_by_tutor", "no_show"]
SCHEDULED, COMPLETED, CANCELLED_BY_CUSTOMER, CANCELLED_BY_TUTOR, NO_SHOW = range(5)
CALL_REASONS = ["billing", "scheduling", "tutor_quality", "technical", "other"]
BILLING, SCHEDULING, TUTOR_QUALITY, TECHNICAL, OTHER = range(5)
PAYMENT_STATUSES = ["succeeded", "failed", "refunded", "pending"]
SUCCEEDED, FAILED, REFUNDED, PENDING = range(4)


@dataclass(frozen=True)
class Marketplace:
    """Who comes and who teaches."""

    customers_per_tutor: int = 20
    minimum_tutors: int = 20  # one for each of the 20 subjects
    opening_share: float = 0.20  # customers moved over from an earlier system in the opening weeks
    opening_days: int = 21
    # accounts of the opening weeks ran on provisional terms: all, also of those who had left by then, were
    # asked to agree to lasting ones in the app, or to close the account there
    provisional_days: int = 42
    agreement_days: int = 30  # so long that took
    weekly_growth: float = 0.007  # a young marketplace: signups double within two years
    channel_share: tuple[float, ...] = (0.38, 0.27, 0.17, 0.18)
    grade_share: tuple[float, ...] = (0.17, 0.28, 0.42, 0.13)
    tier_share: tuple[float, ...] = (0.34, 0.46, 0.20)
    missing_profile_share: float = 0.004  # a null tier, channel or grade is allowed by the contract
    # share that would like 1, 2, 3, 4 lessons a week when all goes well: thriving customers hold about 2.7
    lessons_a_week: tuple[float, ...] = (0.0, 0.03, 0.32, 0.65)
    never_books_share: float = 0.05
    price: tuple[float, ...] = (32.0, 48.0, 75.0)  # dollars a lesson by tier
    fragility_spread: float = 0.35  # people differ in how fast they leave for reasons that nobody sees


@dataclass(frozen=True)
class Attendance:
    """What a customer in each latent state (thriving, healthy, at risk, lapsed) does in an ordinary school
    week.
    """

    # regular weekly slots make counts steadier than chance; at risk they book one week in two or three
    books_slot: tuple[float, ...] = (0.98, 0.96, 0.42, 0.0)
    # cancellations and no-shows give a customer at risk away before the lessons stop
    customer_cancels: tuple[float, ...] = (0.03, 0.085, 0.29, 0.72)
    no_show: tuple[float, ...] = (0.008, 0.025, 0.17, 0.22)
    # a week: healthy customers who would like more book a second lesson now and then (1.2 a week)
    extra_lesson: float = 0.22
    books_first: float = 0.70  # a week, who has had no lesson yet
    # share of lessons held by whoever is free: tutor consistency falls from 90 to 57 % by segment
    substitute_tutor: tuple[float, ...] = (0.015, 0.17, 0.5, 0.5)
    extra_logins: tuple[float, ...] = (1.5, 1.0, 0.45, 0.10)
    messages: tuple[float, ...] = (1.1, 0.7, 0.30, 0.05)
    tutor_unreliability: float = 0.022
    rates_lesson: float = 0.55
    typical_score: float = 4.28  # stars before rounding for an average tutor and match
    app_fades_weeks: float = 1.2  # how fast those who left stop looking in
    rates_first_lesson: float = 0.92  # the product insists after a first lesson
    corrected_outcome: float = 0.003


@dataclass(frozen=True)
class Moves:
    """Weekly hazards of the latent state, before causes act on them."""

    # in balance about a quarter thrives, under half is healthy, a fifth at risk; stays last 20 to 40 weeks
    thriving_to_healthy: float = 0.026
    thriving_to_at_risk: float = 0.004
    thriving_to_lapsed: float = 0.001
    healthy_to_thriving: float = 0.020
    healthy_to_at_risk: float = 0.025
    healthy_to_lapsed: float = 0.002
    # most who are at risk recover or drift on and off: half of them show a gap of a month soon
    at_risk_to_thriving: float = 0.010
    at_risk_to_healthy: float = 0.070
    at_risk_to_lapsed: float = 0.024
    # some come back in the first weeks, hardly any later; twice as many at back-to-school
    lapsed_to_healthy: float = 0.05
    return_fades_weeks: float = 6.0
    # leaving content: the goal is reached, the exam is over
    goal_reached: float = 0.030
    exam_over: float = 0.05
    # trouble: what each bad event adds to it
    trouble_bad_lesson: float = 0.35
    trouble_let_down: float = 0.35
    trouble_failed_payment: float = 0.22
    trouble_no_slot: float = 0.40
    trouble_memory: float = 0.72  # share of last week's trouble that is still felt
    trouble_ceiling: float = 2.5
    trouble_typical_inflow: float = 0.10  # what an average week adds: used for the true risk of later weeks
    summer_pause_share: float = 0.30
    gone_after_weeks: int = 45  # no trace is left of these: they are no longer simulated


@dataclass(frozen=True)
class Money:
    """Card payments: one charge every second week, two retries."""

    card_breaks: tuple[float, ...] = (0.001, 0.035, 0.040, 0.040)  # by latent state
    card_repaired: float = 0.30
    failure_good_card: float = 0.004
    failure_broken_card: float = 0.80
    failure_after_leaving: float = 0.60
    lapsed_billing_weeks: int = 2  # a subscription runs on for a while after the last lesson
    refund_share: float = 0.25  # of customers whose tutor let them down in a billed fortnight


@dataclass(frozen=True)
class Support:
    """Inbound calls a week by cause."""

    base: tuple[float, ...] = (0.006, 0.18, 0.95, 0.0)
    lapsed_first_weeks: float = 1.0  # cancelling, asking for money back
    leaving_half_life_weeks: float = 1.0
    after_failed_payment: float = 0.45
    after_tutor_cancels: float = 0.25
    after_bad_lesson: float = 0.25
    after_no_slot: float = 0.45
    outbound: tuple[float, ...] = (0.01, 0.015, 0.08, 0.05)


@dataclass(frozen=True)
class Delivery:
    """How rows travel: minutes to hours, a few late, a few repeated, a few broken."""

    median_delay_minutes: float = 35.0
    delay_spread: float = 0.9
    longest_delay_hours: float = 5.0
    late_share: float = 0.0125
    latest_days: float = 6.0
    repeated_share: float = 0.005
    broken_share: float = 0.0012
    audit_share: float = 0.0015  # profiles that the customer system sends again in a night
    quiet_until_hour: int = LOADS_END_HOUR  # before it the feeds carry nothing of the new day


@dataclass(frozen=True)
class Config:
    """Arguments of one run and the parameters of its marketplace."""

    customers: int = 10_000
    seed: int = 7
    start: date = date(2024, 7, 1)
    end: date = date(2026, 7, 1)
    signup_days: int = 730
    chunk_customers: int = 50_000
    marketplace: Marketplace = field(default_factory=Marketplace)
    attendance: Attendance = field(default_factory=Attendance)
    moves: Moves = field(default_factory=Moves)
    money: Money = field(default_factory=Money)
    support: Support = field(default_factory=Support)
    delivery: Delivery = field(default_factory=Delivery)

    def arguments(self) -> dict[str, object]:
        """What was asked for, as the options of the command."""
        return {
            "customers": self.customers,
            "seed": self.seed,
            "start": str(self.start),
            "end": str(self.end),
            "signup_days": self.signup_days,
        }

    def __post_init__(self) -> None:
        if not 1 <= self.customers <= 5_000_000:
            raise ValueError(f"--customers must lie between 1 and 5000000, not {self.customers}.")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, not {self.seed}.")
        if self.end <= self.start:
            raise ValueError(f"--end ({self.end}) must come after --start ({self.start}).")
        if self.signup_days < 28:
            raise ValueError(f"--signup-days must be at least 28, not {self.signup_days}.")

    @property
    def first_week(self) -> date:
        """Monday of the week of the start."""
        return self.start - timedelta(days=self.start.weekday())


def microseconds(day: date) -> int:
    """Midnight UTC of ``day`` in microseconds since 1970."""
    return (day - date(1970, 1, 1)).days * DAY
