"""SVG plots: text as text, no clock and no library version inside, so that equal figures give equal bytes.

A plot is narrow enough for a phone; a page puts two beside each other where there is room. Colours are
Okabe and Ito's, which people with any kind of colour vision can tell apart; lines differ in style as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import matplotlib
import numpy as np
from matplotlib import dates, ticker
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from report.models import BASELINE, BEST, MODEL, Curve, Group, Importance

OURS, REFERENCE = "#0072b2", "#e69f00"
_GREY = "#6b6b6b"
_STYLES: dict[str, dict[str, Any]] = {
    MODEL: {"color": OURS, "linestyle": "-", "marker": "o"},
    BASELINE: {"color": _GREY, "linestyle": "--", "marker": "s"},
    BEST: {"color": "#009e73", "linestyle": ":", "marker": "^"},
}
_WIDTH, _HEIGHT = 4.7, 3.3
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
_PERCENT = ticker.PercentFormatter(1.0, decimals=0, symbol=" %")
# The page's own fonts, in an order that every system has one of.
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def paired_bars(
    name: str,
    title: str,
    names: Sequence[str],
    ours: Sequence[float | None],
    reference: Sequence[float | None],
) -> str:
    """Shares beside their reference, a pair of bars a name; what is None is left out."""
    with _axes(name, title) as (figure, axes):
        places = np.arange(len(names))
        paired = any(value is not None for value in reference)
        sides = [(-0.2, 0.38, ours, OURS, "here"), (0.2, 0.38, reference, REFERENCE, "reference")]
        for offset, width, values, color, label in sides if paired else [(0, 0.6, *sides[0][2:])]:
            shown = [(x + offset, y) for x, y in zip(places, values, strict=True) if y is not None]
            if not shown:
                continue
            x, heights = zip(*shown, strict=True)
            axes.bar(x, heights, width=width, color=color, label=label)
            for place, height in shown:
                axes.annotate(f"{100 * height:.0f}", (place, height), ha="center", va="bottom", fontsize=8)
        axes.set_xticks(places, names)
        # Every name has its place, also where nothing is to be drawn.
        axes.set_xlim(-0.55, len(names) - 0.45)
        axes.yaxis.set_major_formatter(_PERCENT)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0)
        if paired:
            axes.legend()
        return _svg(figure, name)


def curves(
    name: str,
    title: str,
    lines: Sequence[Curve],
    x: str,
    y: str,
    *,
    diagonal: bool = False,
    marked: bool = False,
) -> str:
    """Lines of MODEL, BASELINE and BEST over shares from 0 to 100 %."""
    with _axes(name, title) as (figure, axes):
        if diagonal:
            axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        for line in lines:
            style = dict(_STYLES[line.by]) | ({} if marked else {"marker": None})
            axes.plot(line.x, line.y, label=line.by, **style)
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1.01), ylim=(0, 1.02))
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_major_formatter(_PERCENT)
        if lines:
            axes.legend()
        return _svg(figure, name)


def amounts(name: str, title: str, lines: Sequence[Curve], unit: str) -> str:
    """Mean of what happened by mean prediction, beside the diagonal."""
    with _axes(name, title) as (figure, axes):
        if lines:
            highest = max(float(max(line.x.max(), line.y.max())) for line in lines)
            axes.plot([0, highest], [0, highest], color="#bbbbbb", linewidth=1)
        for line in lines:
            axes.plot(line.x, line.y, label=line.by, **_STYLES[line.by])
        axes.set(xlabel=f"predicted, {unit}", ylabel=f"happened, {unit}", xlim=(0, None), ylim=(0, None))
        if lines:
            axes.legend()
        return _svg(figure, name)


def importances(name: str, title: str, features: Sequence[Importance], expected: Sequence[str]) -> str:
    """Mean |SHAP| of the first features, the expected ones in the reference's colour."""
    with _axes(name, title, height=4.4) as (figure, axes):
        places = np.arange(len(features))
        axes.barh(
            places,
            [each.shap for each in features],
            color=[REFERENCE if each.name in expected else OURS for each in features],
        )
        axes.set_yticks(places, [each.name for each in features], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("mean |SHAP|, log-odds")
        axes.legend(
            handles=[
                Patch(color=REFERENCE, label="among the expected ten"),
                Patch(color=OURS, label="others"),
            ],
            loc="lower right",
        )
        return _svg(figure, name)


def by_month(name: str, title: str, groups: Sequence[Group]) -> str:
    """AUC of unseen customers by month, for everyone and for those not yet lapsed."""
    with _axes(name, title) as (figure, axes):
        months = [date.fromisoformat(f"{group.name}-01") for group in groups]
        for label, values, style in (
            ("everyone", [group.auc for group in groups], _STYLES[MODEL]),
            ("not yet lapsed", [group.auc_not_yet_lapsed for group in groups], _STYLES[BASELINE]),
        ):
            axes.plot(months, [np.nan if value is None else value for value in values], label=label, **style)
        later = [month for month, group in zip(months, groups, strict=True) if group.note != "no"]
        if later:
            axes.axvspan(later[0], later[-1], color="#0072b2", alpha=0.12, linewidth=0)
        axes.set(ylabel="AUC", ylim=(0.5, 1.0))
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%Y-%m"))
        axes.legend(loc="lower left")
        return _svg(figure, name)


def weekly(name: str, title: str, weeks: Sequence[date], lines: dict[str, Sequence[float]]) -> str:
    """Counts by week."""
    with _axes(name, title) as (figure, axes):
        for (label, values), style in zip(lines.items(), (_STYLES[MODEL], _STYLES[BASELINE]), strict=False):
            axes.plot(weeks, values, label=label, **{**style, "marker": None, "linewidth": 1.2})
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%Y-%m"))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        axes.legend()
        return _svg(figure, name)


@contextmanager
def _axes(name: str, title: str, height: float = _HEIGHT) -> Iterator[tuple[Any, Any]]:
    # Nothing of the reader's own matplotlibrc. The salt makes ids a matter of the plot's name and content.
    settings = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context({**settings, **_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        yield figure, axes


_ID = re.compile(r'(\bid="|xlink:href="#|url\(#)')
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_FONT_FAMILY = re.compile(r"'DejaVu Sans'(, sans-serif)?")


def _svg(figure: Any, name: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # no XML head: the same text is a file and a part of a page
    text = _METADATA.sub("", text)
    text = _FONT_FAMILY.sub(_FONTS, text)
    # Several images on one page must not share ids.
    return _ID.sub(rf"\g<1>{name}-", text)
