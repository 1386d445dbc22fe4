"""The sections about the models: each a function from the sources to a Section."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from report import figures, models, plots, reference
from report.document import (
    NOTHING,
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
from report.models import BASELINE, BEST, CHURN, MODEL, HeldOut, Judged
from report.names import (
    FIGURE_TITLES,
    MODEL_TITLES,
    MODEL_UNITS,
    NO_MODEL,
    POPULATION_NAMES,
    SHOWN_FIGURES,
    held_out_figure,
)
from report.sources import Sources
from training.metrics import MORE_IS_BETTER
from training.models import EVERYONE, NOT_YET_LAPSED, SPECS, ModelSpec
from training.reference import REFERENCES
from training.reference import Reference as QualityReference


def _specs(sources: Sources) -> list[ModelSpec]:
    return [spec for spec in SPECS if sources.release is None or spec.name in sources.release.models]


def model_quality(sources: Sources) -> Section:
    """Headline figures beside the reference, then everything, then curves."""
    specs = _specs(sources)
    release = sources.release
    headline = []
    for spec in specs:
        expected = REFERENCES[spec.name]
        held_out = release.models[spec.name].held_out if release else {}
        populations = [EVERYONE] if spec.only_before_first_session else [EVERYONE, NOT_YET_LAPSED]
        for population in populations:
            headline.append(
                (
                    MODEL_TITLES[spec.name] if population == EVERYONE else "",
                    FIGURE_TITLES[expected.figure],
                    POPULATION_NAMES[population],
                    held_out_figure(held_out, population, "rows", 0),
                    held_out_figure(held_out, population, expected.figure),
                    held_out_figure(held_out.get("baseline"), population, expected.figure),
                    held_out_figure(held_out.get("best_possible"), population, expected.figure),
                    f"{number(expected.low)}–{number(expected.high)}",
                    _verdict(expected.figure, (held_out.get(population) or {}).get(expected.figure), expected)
                    if sources.reference_applies
                    else "",
                )
            )
    head = ("model", "figure", "population", "rows", MODEL, BASELINE, BEST, "reference", "")
    blocks: list[Block] = []
    if sources.judged is None or release is None:
        blocks += [Paragraph(NO_MODEL), table(head, "lllrrrrrl", headline)]
        return Section("What can be predicted, and how well", "models", tuple(blocks))
    blocks += [
        Paragraph(
            f"Champion {release.model_version}. All of this is on held-out rows: customers whom no model has "
            "ever seen, in weeks that begin after the last label that the model learned from was known. The "
            "reference does not say on which rows its figures were measured."
        ),
        table(head, "lllrrrrrl", headline),
        Bullets(
            tuple(
                f"{MODEL_TITLES[spec.name]}: naive baseline is {held_out['described']}."
                for spec in specs
                if (held_out := release.models[spec.name].held_out.get("baseline") or {}).get("described")
            )
        ),
        Paragraph(
            "Best possible is what the simulator's true probabilities reach on the same rows; who sees the "
            "tables alone can hardly do better."
            if sources.has_truth
            else "The best possible is not known on these data: there is no simulator's truth."
        ),
        _verification(sources.judged),
        Heading("The held-out rows"),
        _held_out_rows(sources),
        Heading("All figures"),
        *(_all_figures(sources, kind) for kind in SHOWN_FIGURES),
        Heading("Curves"),
        Paragraph(
            "Precision and recall at every threshold; calibration in ten groups of equal count, where points "
            "on the grey diagonal are probabilities that can be taken at their word."
        ),
        Plots(tuple(_curve_plots(sources.judged))),
    ]
    return Section("What can be predicted, and how well", "models", tuple(blocks))


def _held_out_rows(sources: Sources) -> Table:
    rows = []
    for spec in _specs(sources):
        blocks = sources.release.models[spec.name].held_out.get("blocks") or {}
        weeks = [
            f"{block['first_snapshot']} to {block['last_snapshot']}"
            if (block := blocks.get(name))
            else NOTHING
            for name in ("fit", "choose", "report")
        ]
        held_out = blocks.get("report") or {}
        rows.append(
            (MODEL_TITLES[spec.name], *weeks, count(held_out.get("rows")), count(held_out.get("customers")))
        )
    return table(
        (
            "model",
            "weeks to fit on",
            "weeks to choose with",
            "held-out weeks",
            "held-out rows",
            "their customers",
        ),
        "llllrr",
        rows,
    )


def _verdict(figure: str, reached: float | None, expected: QualityReference) -> str:
    if reached is None:
        return NOTHING
    if expected.low <= reached <= expected.high:
        return "inside"
    return "better" if (reached > expected.high) == (figure in MORE_IS_BETTER) else "worse"


def _verification(judged: Judged) -> Paragraph:
    verified = sum(each.verified for each in judged.models.values())
    differing = [f"{name}.{figure}" for name, each in judged.models.items() for figure in each.differing]
    text = (
        "The held-out rows were made again from this warehouse and predicted again for this report: "
        f"{verified} of {verified + len(differing)} released figures came out equal."
    )
    if differing:
        shown = ", ".join(f"`{name}`" for name in differing[:5]) + (" and more" if len(differing) > 5 else "")
        text += (
            f" These did not: {shown}. Labels may change when late rows arrive after the training; the "
            "tables show the released figures, the curves those of today."
        )
    for name, reason in judged.missing.items():
        text += f" No curves of {name}: {reason.rstrip('.')}."
    return Paragraph(text)


def _all_figures(sources: Sources, kind: str) -> Table:
    shown = SHOWN_FIGURES[kind]
    rows = []
    for spec in _specs(sources):
        if spec.kind != kind or sources.release is None:
            continue
        held_out = sources.release.models[spec.name].held_out
        populations = [EVERYONE] if spec.only_before_first_session else [EVERYONE, NOT_YET_LAPSED]
        for population in populations:
            lines = (
                (MODEL, held_out),
                (BASELINE, held_out.get("baseline")),
                (BEST, held_out.get("best_possible")),
            )
            for by, source in lines:
                if by == BEST and not source:
                    continue
                rows.append(
                    (
                        MODEL_TITLES[spec.name] if by == MODEL else "",
                        POPULATION_NAMES[population] if by == MODEL else "",
                        by,
                        *(held_out_figure(source, population, name) for name in shown),
                    )
                )
    header = ("model", "population", "by", *(FIGURE_TITLES[name] for name in shown))
    return table(header, "lll" + "r" * len(shown), rows)


def _curve_plots(judged: Judged) -> Iterable[Plot]:
    for name, held_out in judged.models.items():
        title = MODEL_TITLES[name]
        for population in held_out.populations:
            place = f"{name}-{population}".replace("_", "-")
            who = f"{title}, {POPULATION_NAMES[population]}"
            who = title if len(held_out.populations) == 1 else who
            if held_out.spec.kind == "amount":
                lines = models.deciles(held_out, population)
                yield Plot(
                    f"deciles-{place}",
                    f"What happened by what was predicted, in ten groups: {who}.",
                    plots.amounts(f"deciles-{place}", f"In ten groups: {who}", lines, MODEL_UNITS[name]),
                )
                continue
            yield Plot(
                f"precision-recall-{place}",
                f"Precision by recall: {who}.",
                plots.curves(
                    f"precision-recall-{place}",
                    f"PR curve: {who}",
                    models.precision_recall(held_out, population),
                    "recall",
                    "precision",
                ),
            )
            yield Plot(
                f"calibration-{place}",
                f"Share that came true by predicted probability: {who}.",
                plots.curves(
                    f"calibration-{place}",
                    f"Calibration: {who}",
                    models.calibration(held_out, population),
                    "predicted",
                    "came true",
                    diagonal=True,
                    marked=True,
                ),
            )


def lift_and_gain(sources: Sources) -> Section:
    """How much of the churn the customers with the highest risk hold."""
    if sources.judged is None:
        return Section("Lift and gain", "lift", (Paragraph(NO_MODEL),))
    rows, images = [], []
    shown = [
        held_out
        for name in ("churn_risk_30d", "churn_risk_14d")
        if (held_out := sources.judged.models.get(name)) is not None
    ]
    lines = [by for by in (MODEL, BASELINE, BEST) if any(by in held_out.predictions for held_out in shown)]
    for held_out in shown:
        name = held_out.spec.name
        for population in held_out.populations:
            rows += _lift_rows(held_out, population, lines)
            who = f"{MODEL_TITLES[name]}, {POPULATION_NAMES[population]}"
            place = f"gain-{name}-{population}".replace("_", "-")
            images.append(
                Plot(
                    place,
                    f"Share of all churn found by share of customers called: {who}.",
                    plots.curves(
                        place,
                        f"Gain: {who}",
                        models.gain(held_out, population),
                        "customers called, highest risk first",
                        "churn found",
                        diagonal=True,
                    ),
                )
            )
    return Section(
        "Lift and gain",
        "lift",
        (
            Paragraph(
                "If only a share of the customers can be called, those with the highest risk first: which "
                "share of all who churn is among them (gain), and how many times as many as among as many "
                "customers drawn blindly (lift)."
            ),
            table(
                (
                    "model",
                    "population",
                    "customers called",
                    *(
                        figure if by == MODEL else f"{figure}, {by}"
                        for by in lines
                        for figure in ("gain", "lift")
                    ),
                ),
                "llr" + "rr" * len(lines),
                rows,
            ),
            Plots(tuple(images)),
        ),
    )


def _lift_rows(held_out: HeldOut, population: str, lines: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    for row in models.lift(held_out, population):
        first = row["share"] == models.LIFT_SHARES[0]
        cells = []
        for by in lines:
            gain = row.get(by)
            cells += [percent(gain), number(None if gain is None else gain / row["share"])]
        rows.append(
            (
                MODEL_TITLES[held_out.spec.name] if first else "",
                POPULATION_NAMES[population] if first else "",
                percent(row["share"], 0),
                *cells,
            )
        )
    return rows


_SHOWN_FEATURES = 20


def feature_importance(sources: Sources) -> Section:
    """Gain and mean |SHAP| beside the expected ten."""
    if sources.judged is None or CHURN not in sources.judged.release.models:
        rows = [(f"`{name}`", count(rank), *[NOTHING] * 5) for rank, name in _ranked_expected()]
        expected = table(_EXPECTED_HEADER, "lrrrrrr", rows)
        return Section("Which features matter", "features", (Paragraph(NO_MODEL), expected))
    found, sampled = models.feature_importance(sources.judged)
    by_gain = {
        each.name: rank
        for rank, each in enumerate(sorted(found, key=lambda each: (-each.gain, each.name)), 1)
    }
    by_shap = {each.name: rank for rank, each in enumerate(found, 1)}
    named = {each.name: each for each in found}
    first = [each for each in found if each.shap > 0 or each.gain > 0][:_SHOWN_FEATURES]
    hits = sum(
        each.name in reference.IMPORTANT_FEATURES for each in found[: len(reference.IMPORTANT_FEATURES)]
    )
    expected_rows = []
    for rank, name in _ranked_expected():
        each = named.get(name)
        expected_rows.append(
            (
                f"`{name}`",
                count(rank),
                count(by_shap.get(name) if sampled else None),
                count(by_gain.get(name)),
                count(
                    min(
                        (rank for other, rank in by_shap.items() if _kind(other) == _kind(name)), default=None
                    )
                ),
                number(each.shap if each and sampled else None, 3),
                percent(each.gain if each else None),
            )
        )
    svg = plots.importances(
        "importance", "Features of the 30-day churn risk", first[:15], reference.IMPORTANT_FEATURES
    )
    return Section(
        "Which features matter",
        "features",
        (
            Paragraph(
                "Of the 30-day churn model. Gain is a feature's share of what the trees' splits gained in "
                f"training; mean |SHAP| is how far it moves a prediction, in log-odds, over {count(sampled)} "
                f"held-out rows. Among the first ten here are {hits} of the expected ten."
            ),
            Heading("The expected ten"),
            table(_EXPECTED_HEADER, "lrrrrrr", expected_rows),
            Heading("What the model found"),
            Plots(
                (
                    Plot(
                        "importance",
                        "Mean |SHAP| of the first features: "
                        + ", ".join(each.name for each in first[:15])
                        + ".",
                        svg,
                    ),
                )
            ),
            table(
                ("rank", "feature", "mean |SHAP|", "share of gain", "rank by gain", "expected"),
                "rlrrrr",
                [
                    (
                        count(rank),
                        f"`{each.name}`",
                        number(each.shap if sampled else None, 3),
                        percent(each.gain),
                        count(by_gain[each.name]),
                        count(_expected_rank(each.name)),
                    )
                    for rank, each in enumerate(first, 1)
                ],
            ),
            Paragraph(
                "Features that say nearly the same share their importance among them: sessions counted over "
                "7, 14 and 30 days, the same as weekly frequencies, active days. That such a group matters "
                "is a finding; which of its members leads is mostly chance."
            ),
        ),
    )


_EXPECTED_HEADER = (
    "feature",
    "expected rank",
    "rank by |SHAP|",
    "rank by gain",
    "best rank of any window",
    "mean |SHAP|",
    "share of gain",
)


def _kind(name: str) -> str:
    """A feature without its window: what is counted, whatever the number of days."""
    return re.sub(r"_\d+d$", "", name)


def _ranked_expected() -> Iterable[tuple[int, str]]:
    return enumerate(reference.IMPORTANT_FEATURES, 1)


def _expected_rank(name: str) -> int | None:
    return {feature: rank for rank, feature in _ranked_expected()}.get(name)


def stability(sources: Sources) -> Section:
    """The 30-day churn model by month, signup cohort and subject."""
    if sources.judged is None:
        return Section("Stability", "stability", (Paragraph(NO_MODEL),))
    months = models.stability_by_month(sources.judged)
    subjects = figures.code_names(sources.warehouse).get("primary_subject", {})
    blocks: list[Block] = [
        Paragraph(
            f"The 30-day churn model, group by group. A group of fewer than {models.LEAST_GROUP} rows gets "
            "no figures; one of a few hundred rows, a few dozen customers, still moves by chance."
        ),
        Heading("By month"),
        Paragraph(
            "Customers whom no model has seen, in every month. The last column says whether the month's "
            "weeks are also later than anything learned from; those before show the seasons, not the future."
            if sources.judged.periods is None
            else "Customers whom no model has seen, in their own periods: the training was given a split "
            "that says which customers are held out, and when."
        ),
    ]
    if months:
        plot = plots.by_month("auc-by-month", "AUC on unseen customers, by month", months)
        blocks.append(
            Plots(
                (
                    Plot(
                        "auc-by-month",
                        "AUC on unseen customers by month; shaded: months with held-out weeks.",
                        plot,
                    ),
                )
            )
        )
    blocks += [
        _groups("month", months, "later than training"),
        Heading("By quarter of signup"),
        Paragraph("Held-out rows: later weeks of unseen customers."),
        _groups("signup", models.stability_by_cohort(sources.judged)),
        Heading("By primary subject"),
        _groups("subject", models.stability_by_subject(sources.judged, subjects)),
    ]
    return Section("Stability", "stability", tuple(blocks))


def _groups(first: str, groups: Sequence[models.Group], note: str | None = None) -> Table:
    header = (first, "rows", "churned", "predicted", "AUC, everyone", "AUC, not yet lapsed")
    rows = [
        (
            group.name,
            count(group.rows),
            percent(group.happened),
            percent(group.predicted),
            number(group.auc, 3),
            number(group.auc_not_yet_lapsed, 3),
            *([group.note] if note else []),
        )
        for group in groups
    ]
    return table((*header, *([note] if note else [])), "lrrrrr" + ("l" if note else ""), rows)
