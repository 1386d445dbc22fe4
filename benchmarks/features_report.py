"""The tables and the plot of benchmarks/features.py, made of what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import markdown_table

Results = Mapping[str, Mapping[str, Any]]

_DESCRIBED = {
    "models": "**dbt models, with all quantities and lifetime sums**",
    "tiles": "**our method, these columns alone**",
    "range_join": "SQL range join, facts to dates",
    "spine_join": "SQL range join, customers and dates to facts",
    "polars": "polars, date by date",
    "pandas": "pandas, date by date",
}
_OURS, _OTHERS = "#1f4e79", "#9fb8d1"


def tables(results: Results) -> dict[str, str]:
    """The text of each section of docs/performance.md for which there are measurements."""
    makers = {"full": _full, "steps": _steps, "nights": _nights, "windows": _windows}
    sources = {"steps": "full"}
    return {
        name: make(results[source])
        for name, make in makers.items()
        if (source := sources.get(name, name)) in results
    }


def _full(full: Mapping[str, Any]) -> str:
    header = [
        "customers",
        "raw rows",
        "feature rows",
        "dbt queries",
        "dbt's own",
        "memory limit",
        "peak",
        "reference",
        "peak",
        "ratio",
        "µs a raw row",
        "equal values",
    ]
    lines = []
    for customers, measured in _by_size(full):
        reference = measured["reference"]
        if not measured["seconds"]:
            lines.append(
                [
                    f"{customers:,}",
                    f"{measured['raw_rows']:,}",
                    measured["remark"],
                    *["–"] * (len(header) - 3),
                ]
            )
            continue
        queries = measured["queries_seconds"]
        lines.append(
            [
                f"{customers:,}",
                f"{measured['raw_rows']:,}",
                f"{measured['feature_rows']:,}",
                _seconds(queries),
                _seconds(measured["seconds"] - queries),
                measured["memory_limit"],
                _memory(measured["peak_bytes"]),
                _seconds(reference["seconds"]) if reference["seconds"] else reference["remark"],
                _memory(reference["peak_bytes"]) if reference["seconds"] else "–",
                f"{queries / reference['seconds']:.2f} ×" if reference["seconds"] else "–",
                f"{queries / measured['raw_rows'] * 1e6:.2f}",
                f"{measured['equal_share']:.2%}" if "equal_share" in measured else "–",
            ]
        )
    return markdown_table(header, lines)


def _steps(full: Mapping[str, Any]) -> str:
    """The slowest models of the largest build that ended, with their shares."""
    ended = [(customers, measured) for customers, measured in _by_size(full) if measured["seconds"]]
    if not ended:
        return "Nothing was measured."
    customers, measured = ended[-1]
    steps = measured["slowest"]
    lines = [
        [f"`{name}`", _seconds(seconds), f"{seconds / sum(steps.values()):.0%}"]
        for name, seconds in list(steps.items())[:12]
    ]
    return markdown_table([f"{customers:,} customers", "time", "share of all"], lines)


def _nights(nights: Mapping[str, Any]) -> str:
    header = [
        "customers",
        "history, days",
        "full build",
        "new raw rows",
        "new feature rows",
        "night: features",
        "share",
        "labels, scores, marts",
        "tests",
        "dbt's own",
        "peak",
    ]
    lines = []
    for measured in sorted(nights.values(), key=lambda each: (each["customers"], each["history"])):
        begin = [f"{measured['customers']:,}", f"{measured['history']:,}"]
        if measured["median_queries"] is None:
            remarks = [each["remark"] for each in (measured["full"], *measured["nights"]) if each["remark"]]
            lines.append([*begin, ", ".join(remarks) or "–", *["–"] * (len(header) - 3)])
            continue
        full = measured["full"]["queries_seconds"]
        night = {
            name: median(each[name] for each in measured["nights"])
            for name in (
                "new_rows",
                "feature_rows",
                "features_seconds",
                "rest_seconds",
                "tests_seconds",
                "peak_bytes",
            )
        }
        own = median(each["seconds"] - each["queries_seconds"] for each in measured["nights"])
        lines.append(
            [
                *begin,
                _seconds(full),
                f"{night['new_rows']:,.0f}",
                f"{night['feature_rows']:,.0f}",
                _seconds(night["features_seconds"]),
                f"{night['features_seconds'] / full:.1%}",
                _seconds(night["rest_seconds"]),
                _seconds(night["tests_seconds"]),
                _seconds(own),
                _memory(night["peak_bytes"]),
            ]
        )
    return markdown_table(header, lines)


def _windows(windows: Mapping[str, Any]) -> str:
    sizes = _by_size(windows)
    header = [
        "",
        *(f"{customers:,} customers: {what}" for customers, _ in sizes for what in ("time", "ratio", "peak")),
    ]
    lines = []
    for way, described in _DESCRIBED.items():
        if not any(way in measured["ways"] for _, measured in sizes):
            continue
        line = [described]
        for _, measured in sizes:
            here, ours = measured["ways"].get(way), measured["ways"].get("models")
            if not here or not here["seconds"]:
                line += [here["remark"] if here else "–", "–", "–"]
                continue
            ratio = f"{here['seconds'] / ours['seconds']:.2f} ×" if ours and ours["seconds"] else "–"
            line += [_seconds(here["seconds"]), ratio, _memory(here["peak_bytes"])]
        lines.append(line)
    facts = ["*the file of facts that all but the first line start from*"]
    for _, measured in sizes:
        facts += [_seconds(measured["facts_seconds"]), "–", "–"]
    return markdown_table(header, [*lines, facts])


def plot(results: Results, path: Path) -> None:
    """Three panels: full builds by raw rows, nights by history, windows by way."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    _plot_full(panels[0], results.get("full", {}))
    _plot_nights(panels[1], results.get("nights", {}))
    _plot_windows(panels[2], results.get("windows", {}))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _plot_full(axes: Any, full: Mapping[str, Any]) -> None:
    axes.set(xlabel="raw rows", ylabel="seconds", title="full build", xscale="log", yscale="log")
    ended = [measured for _, measured in _by_size(full) if measured["seconds"]]
    if not ended:
        return
    rows = [measured["raw_rows"] for measured in ended]
    queries = [measured["queries_seconds"] for measured in ended]
    # On two logarithmic axes what grows in proportion is a line of slope one.
    axes.plot(
        rows,
        [queries[0] * each / rows[0] for each in rows],
        color="grey",
        linestyle=":",
        label="in proportion to the first",
    )
    axes.plot(rows, queries, marker="o", color=_OURS, label="dbt, queries")
    referred = [measured for measured in ended if measured["reference"]["seconds"]]
    axes.plot(
        [measured["raw_rows"] for measured in referred],
        [measured["reference"]["seconds"] for measured in referred],
        marker="o",
        color=_OTHERS,
        label="hand-made SQL",
    )
    axes.set_xticks(rows, [f"{each / 1e6:,.1f} million" for each in rows])
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False)


def _plot_nights(axes: Any, nights: Mapping[str, Any]) -> None:
    axes.set(xlabel="days of history", ylabel="seconds of queries", title="one night, features")
    sizes = sorted({measured["customers"] for measured in nights.values()})
    for customers in sizes:
        points = sorted(
            (measured["history"], measured["median_queries"], 0.03 * measured["full"]["queries_seconds"])
            for measured in nights.values()
            if measured["customers"] == customers and measured["median_queries"] is not None
        )
        if points:
            days, seconds, allowed = zip(*points, strict=True)
            axes.plot(days, seconds, marker="o", color=_OURS, label=f"{customers:,} customers")
            axes.plot(days, allowed, linestyle=":", color="grey", label="3 % of the full build")
    axes.set_ylim(bottom=0)
    if sizes:
        axes.legend(frameon=False)


def _plot_windows(axes: Any, windows: Mapping[str, Any]) -> None:
    sizes = _by_size(windows)
    if not sizes:
        axes.set_axis_off()
        return
    customers, measured = sizes[-1]
    ways = [way for way in _DESCRIBED if measured["ways"].get(way, {}).get("seconds")]
    seconds = [measured["ways"][way]["seconds"] for way in ways]
    axes.barh(
        [_DESCRIBED[way].strip("*") for way in ways],
        seconds,
        color=[_OURS if way in ("models", "tiles") else _OTHERS for way in ways],
    )
    for place, value in enumerate(seconds):
        axes.annotate(f" {_seconds(value)}", (value, place), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="seconds", title=f"windows, {customers:,} customers")


def _by_size(results: Mapping[str, Any]) -> Sequence[tuple[int, Any]]:
    return sorted((int(size), measured) for size, measured in results.items())


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:,.1f} s" if value >= 1 else f"{value:.2f} s"


def _memory(value: int) -> str:
    return f"{value / 2**20:,.0f} MB"
