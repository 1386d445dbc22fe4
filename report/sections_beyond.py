"""The sections beyond the reference: the market as a whole, and the limits of all of it."""

from __future__ import annotations

from collections.abc import Iterable

from report import figures, models, plots, reference
from report.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Plot,
    Plots,
    Section,
    Table,
    count,
    number,
    percent,
    table,
)
from report.models import CHURN, MODEL
from report.names import (
    SEGMENT_TITLES,
)
from report.sources import Sources
from training.metrics import probability_figures


def market(sources: Sources) -> Section:
    """What the reference named as its gaps: seasons, cohorts, supply and demand."""
    weeks = figures.weekly_activity(sources.warehouse)
    blocks: list[Block] = [
        Paragraph(
            "The reference names three gaps: no market-wide supply and demand, no cohort patterns, no "
            "seasonality. Here they are tables (`marts.market_supply_demand`, `marts.cohort_retention`) and "
            "weekly snapshots."
        )
    ]
    if weeks:
        plot = plots.weekly(
            "weekly-sessions",
            "Sessions by week",
            [row["week_start"] for row in weeks],
            {
                "requested": [float(row["requested"]) for row in weeks],
                "completed": [float(row["completed"]) for row in weeks],
            },
        )
        text = "Sessions requested and completed in each week of the history."
        blocks.append(Plots((Plot("weekly-sessions", text, plot),)))
    blocks += [
        Heading("Signup cohorts: share still active"),
        table(
            ("signup", "customers", *(f"after {_months(month)}" for month in figures.COHORT_MONTHS)),
            "lr" + "r" * len(figures.COHORT_MONTHS),
            [
                (
                    f"{row['quarter'].year} Q{(row['quarter'].month + 2) // 3}",
                    count(row["customers"]),
                    *(percent(row[f"month_{month}"]) for month in figures.COHORT_MONTHS),
                )
                for row in figures.cohorts(sources.warehouse)
            ],
        ),
        Heading("Supply and demand, last twelve weeks"),
        table(
            ("subject", "hours offered", "sessions requested", "completed", "utilisation"),
            "lrrrr",
            [
                (
                    str(row["subject"]).replace("_", " "),
                    count(row["available_hours"]),
                    count(row["requested"]),
                    count(row["completed"]),
                    percent(row["utilisation"]),
                )
                for row in figures.supply_and_demand(sources.warehouse)
            ],
        ),
    ]
    return Section("Market, cohorts and seasons", "market", tuple(blocks))


def _months(months: int) -> str:
    return "1 month" if months == 1 else f"{months} months"


def limits(sources: Sources) -> Section:
    """What the figures cannot say, and where the reference disagrees with the definitions."""
    blocks: list[Block] = [
        Heading("Where the reference disagrees with the definitions"),
        Bullets(tuple(_disagreements(sources))),
        Paragraph(
            "The reference's own averages put into the health index (weights of "
            "`seeds/health_score_weights.csv`), beside the health score that it gives:"
        ),
        _reference_index(sources),
        Heading("What these figures cannot say"),
        Bullets(tuple(_cannot(sources))),
    ]
    return Section("Limits", "limits", tuple(blocks))


def _disagreements(sources: Sources) -> Iterable[str]:
    churned = figures.one(
        sources.warehouse,
        "select avg(label_churn_risk_14d) as share from report_rows where segment = 'churned'",
    )["share"]
    calls = figures.one(
        sources.warehouse,
        f"""
        select avg(cast(not ({sources.active}) as integer)) as share
        from report_rows
        where ib_call_count_14d = 0
        """,
    )["share"]
    segment, label_14d, label_30d = (
        reference.SEGMENT_SHARES["churned"],
        reference.LABELS["label_churn_risk_14d"],
        reference.LABELS["label_churn_risk_30d"],
    )
    if churned is not None:
        yield (
            f"High churn risk within 14 days ({percent(label_14d)}) is no more than the share of the churned "
            f"segment ({percent(segment)}), of whom by definition all have the label who do not come back in "
            f"time: here {percent(churned)}. With as many of the reference's, "
            f"{number(100 * (label_14d - churned * segment), 1)} points are left for everyone who is about "
            f"to leave within 14 days, against {number(100 * (label_30d - label_14d), 1)} points more who "
            "leave between day 14 and day 30. Leaving does not wait for day 14."
        )
    bands = ", ".join(band.words for band in reference.INBOUND_CALLS.bands)
    yield (
        f"Churn by inbound calls ({bands}) repeats the figures of the segments thriving, healthy and "
        f"at-risk. Who has left does not call any more: here {percent(calls)} of the records without a call "
        "have lapsed already, and count as churned although nobody called. The tables above therefore show "
        "those not yet lapsed as well."
    )
    yield (
        "The simulator is calibrated towards the reference by how customers behave, never by writing a "
        "feature or a label; where a figure stays off, that is how near this behaviour comes."
        if sources.reference_applies
        else "The reference describes another marketplace: its figures are a comparison here, not a goal."
    )
    yield "`docs/decisions.md` says how each definition is read where the specification leaves room."


def _reference_index(sources: Sources) -> Table:
    weights = {
        part: (weight, full_scale)
        for part, weight, full_scale in sources.warehouse.execute(
            "select part, weight, full_scale from reference.health_score_weights"
        ).fetchall()
    }
    expected = {each.column: each.expected for each in reference.SEGMENT_FIGURES}

    def part(name: str, scaled: float) -> float:
        return weights[name][0] * min(1.0, max(0.0, scaled))

    rows = []
    for place, segment in enumerate(reference.SEGMENTS):
        own = {column: values[place] for column, values in expected.items()}
        index = (
            part("engagement", own["session_frequency_30d"] / weights["engagement"][1])
            + part("recency", 1 - own["days_since_last_session"] / weights["recency"][1])
            + part("satisfaction", (own["avg_rating_30d"] - 1) / weights["satisfaction"][1])
            + part("payment", own["payment_success_rate_30d"])
            + part("support", 1 - own["ib_call_count_14d"] / weights["support"][1])
            + part("tutor", own["tutor_consistency_score"])
        )
        rows.append((SEGMENT_TITLES[segment], number(index, 1), number(own["label_health_score"], 0)))
    return table(("segment", "index of the reference's averages", "reference health score"), "lrr", rows)


def _cannot(sources: Sources) -> Iterable[str]:
    if sources.has_truth:
        yield (
            "The customers are simulated. That the models come near the best possible shows that the "
            "pipeline loses little of what can be known; it says nothing about how predictable real "
            "customers are."
        )
    yield (
        "Records of one customer in neighbouring weeks are nearly copies: the data hold as much as their "
        "customers, not as their records, and figures of small groups vary more than their row counts "
        "suggest."
    )
    held_out = sources.judged.models.get(CHURN) if sources.judged else None
    if held_out is not None:
        block = held_out.plan.blocks.report
        customers = len(set(held_out.examples.customer_ids.tolist()))
        yield (
            f"The held-out block of the churn models covers {count(customers)} customers and the weeks from "
            f"{block.first} to {block.last}: one part of one year."
            + (
                " How the model does on unseen customers in other seasons is under Stability, but there it "
                "had seen other customers of the same weeks."
                if sources.judged.periods is None
                else ""
            )
        )
        known = [month for month in models.stability_by_month(sources.judged) if month.happened is not None]
        worst = max(known, key=lambda month: abs(month.happened - month.predicted), default=None)
        if worst is not None:
            yield (
                f"The month in which the 30-day churn model was furthest off is {worst.name}: "
                f"{percent(worst.happened)} of unseen customers churned, {percent(worst.predicted)} were "
                "predicted. Features look back; what the calendar brings next, they do not know."
            )
    first = sources.judged.models.get("first_session_success") if sources.judged else None
    if first is not None and len(first.examples):
        always = float(max(first.examples.labels.mean(), 1 - first.examples.labels.mean()))
        accuracy = probability_figures(first.examples.labels, first.predictions[MODEL])["accuracy"]
        margin = 1.96 * (accuracy * (1 - accuracy) / len(first.examples)) ** 0.5
        yield (
            f"First sessions are few: on {count(len(first.examples))} held-out rows an accuracy of "
            f"{number(accuracy, 3)} is known to about ±{number(margin, 3)} only. Always guessing the "
            f"commoner outcome is right in {percent(always)}."
        )
    yield (
        f"A churn label is known {30 + int(sources.variables['lapse_days'])} days after its snapshot, so the "
        "newest weeks are in no figure about outcomes."
    )
    yield (
        "These are associations. That customers with many calls leave more often does not mean that fewer "
        "calls would keep them; whom an intervention helps takes an experiment to learn."
    )
