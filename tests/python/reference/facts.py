"""Facts with their two clocks: what the warehouse could know about a customer at a snapshot time D."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from .contract import COLUMNS, DEFAULTS, Settings
from .quarantine import Judged, judge, load_moment, primary_key, version_order
from .raw import Raw, Row


@dataclass(frozen=True)
class Outcome:
    """A session that came to an end of some kind."""

    session_id: str
    status: str
    tutor_id: str | None
    subject: str
    duration_minutes: int | None
    event_at: datetime
    known_at: datetime


@dataclass(frozen=True)
class Rating:
    """A rating of a session."""

    session_id: str
    rating: int
    event_at: datetime


@dataclass(frozen=True)
class Confirmation:
    """A tutor's answer to a booking."""

    event_at: datetime
    microseconds_waited: int


@dataclass(frozen=True)
class Call:
    """A call; all of them here are inbound."""

    sentiment_score: float | None
    event_at: datetime


@dataclass(frozen=True)
class Payment:
    """A payment that is not pending."""

    status: str
    amount: Decimal
    event_at: datetime


@dataclass
class Facts:
    """All facts about one customer that are visible at one moment, and the profile and booking in force
    there.
    """

    signed_up_at: datetime | None = None
    profile: Row | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    logins: list[datetime] = field(default_factory=list)
    messages: list[datetime] = field(default_factory=list)
    next_session: Row | None = None

    @property
    def completed(self) -> list[Outcome]:
        """The completed sessions in the order in which the warehouse came to know of them."""
        completed = [outcome for outcome in self.outcomes if outcome.status == "completed"]
        return sorted(completed, key=lambda outcome: (outcome.known_at, outcome.session_id))


class World:
    """The valid versions of all raw rows, indexed by primary key and by customer."""

    def __init__(self, raw: Raw, settings: Settings = DEFAULTS) -> None:
        self.settings = settings
        self.judged: Judged = judge(raw)
        self.customer_first_loaded: dict[str, datetime] = {}
        for row in raw["raw_customers"]:
            if row["customer_id"] is not None:
                seen = self.customer_first_loaded.get(row["customer_id"], datetime.max)
                self.customer_first_loaded[row["customer_id"]] = min(seen, load_moment(row))

        self.versions: dict[str, dict[tuple, list[Row]]] = {table: defaultdict(list) for table in COLUMNS}
        self.keys_of_customer: dict[str, dict[str, set]] = {table: defaultdict(set) for table in COLUMNS}
        self.sessions_of_tutor: dict[str, set] = defaultdict(set)
        for table, rows in self.judged.valid.items():
            for row in rows:
                key = primary_key(table, row)
                self.versions[table][key].append(row)
                if "customer_id" in row:
                    self.keys_of_customer[table][row["customer_id"]].add(key)
                if table == "raw_sessions":
                    self.sessions_of_tutor[row["tutor_id"]].add(key)
            for versions in self.versions[table].values():
                versions.sort(key=version_order)

    @property
    def customers(self) -> list[str]:
        """Every customer with a valid version."""
        return sorted(key[0] for key in self.versions["raw_customers"])

    def arrived(self, loaded_at: datetime, at: datetime) -> bool:
        """Whether what was loaded then belongs to the snapshot of `at`: loaded_at less the grace is before
        it.
        """
        return loaded_at < at + self.settings.arrival_grace

    def delivered(self, table: str, key: tuple, at: datetime) -> list[Row]:
        """The versions of a row that had arrived, of customers who had themselves arrived; earliest first."""
        return [
            version
            for version in self.versions[table][key]
            if self.arrived(load_moment(version), at)
            and self.arrived(self.customer_first_loaded[version["customer_id"]], at)
        ]

    def in_force(self, table: str, customer_id: str, at: datetime) -> Iterable[tuple[Row, list[Row]]]:
        """(version in force, all delivered versions) of each row that is this customer's at that moment."""
        for key in sorted(self.keys_of_customer[table][customer_id]):
            delivered = self.delivered(table, key, at)
            if delivered and delivered[-1]["customer_id"] == customer_id:
                yield delivered[-1], delivered

    def known_at(self, event_at: datetime, delivered: list[Row], same: Callable[[Row], bool]) -> datetime:
        """The later of event_at and (the first load of a version that carries the same value, less the
        grace).
        """
        first_loaded = min(load_moment(version) for version in delivered if same(version))
        if first_loaded == datetime.min:
            return event_at
        return max(event_at, first_loaded - self.settings.arrival_grace)

    def facts(self, customer_id: str, at: datetime) -> Facts:
        """Everything about one customer that is visible at `at`."""
        facts = Facts()
        for version, delivered in self.in_force("raw_customers", customer_id, at):
            if version["signed_up_at"] < at:
                facts.signed_up_at = version["signed_up_at"]
            profiles = [row for row in delivered if row["updated_at"] is not None and row["updated_at"] < at]
            if profiles:
                facts.profile = max(profiles, key=lambda row: (row["updated_at"], load_moment(row)))
        upcoming = []
        for version, delivered in self.in_force("raw_sessions", customer_id, at):
            self._add_session(facts, version, delivered, at)
            resolved = version["status"] != "scheduled" and version["resolved_at"] < at
            if version["booked_at"] < at and not resolved and version["scheduled_at"] >= at:
                upcoming.append(version)
        if upcoming:
            facts.next_session = min(upcoming, key=lambda row: (row["scheduled_at"], row["session_id"]))
        for version, _ in self.in_force("raw_calls", customer_id, at):
            if version["direction"] == "inbound" and version["called_at"] < at:
                facts.calls.append(Call(version["sentiment_score"], version["called_at"]))
        for version, _ in self.in_force("raw_payments", customer_id, at):
            if version["status"] != "pending" and version["attempted_at"] < at:
                amount = version["amount"] if version["amount"] is not None else Decimal(0)
                facts.payments.append(Payment(version["status"], amount, version["attempted_at"]))
        for version, _ in self.in_force("raw_app_events", customer_id, at):
            if version["occurred_at"] < at:
                events = facts.logins if version["event_type"] == "login" else facts.messages
                events.append(version["occurred_at"])
        return facts

    def _add_session(self, facts: Facts, version: Row, delivered: list[Row], at: datetime) -> None:
        """The facts of one session: outcome, rating, confirmation."""
        status, rating = version["status"], version["rating"]
        if status != "scheduled" and version["resolved_at"] < at:
            known_at = self.known_at(version["resolved_at"], delivered, lambda row: row["status"] == status)
            facts.outcomes.append(
                Outcome(
                    version["session_id"],
                    status,
                    version["tutor_id"],
                    version["subject"],
                    version["duration_minutes"],
                    version["resolved_at"],
                    known_at,
                )
            )
        if rating is not None and version["rated_at"] < at:
            facts.ratings.append(Rating(version["session_id"], rating, version["rated_at"]))
        if version["confirmed_at"] is not None and version["confirmed_at"] < at:
            waited = version["confirmed_at"] - version["booked_at"]
            microseconds = (waited.days * 86_400 + waited.seconds) * 1_000_000 + waited.microseconds
            facts.confirmations.append(Confirmation(version["confirmed_at"], microseconds))

    def ratings_of_tutor(self, tutor_id: str | None, at: datetime) -> list[int]:
        """All visible ratings, by any customer, of sessions with this tutor."""
        ratings = []
        for key in self.sessions_of_tutor[tutor_id]:
            delivered = self.delivered("raw_sessions", key, at)
            if not delivered:
                continue
            version = delivered[-1]
            if version["tutor_id"] == tutor_id and version["rating"] is not None and version["rated_at"] < at:
                ratings.append(version["rating"])
        return ratings
