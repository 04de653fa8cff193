"""The figures, in the papers' style: error against iterations (`curves`), and final errors over rows (`final`)."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from depthlab.reports.collect import Result, Row, spread

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "depthlab",
}
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a8a8a")
"""Colours of Okabe and Ito, which most people tell apart, with grey for their yellow, too light on white."""
MARKERS = "os^DvPX<>*hp"
MANY = len(OKABE_ITO)
"""With more rows than this, colours are cut from a sequential palette, and panels are split."""
WIDTHS = {"training": 0.8, "test": 1.9}
"""Of the lines, in points."""
Style = tuple[str, str]
"""Colour and marker."""


@rc_context(STYLE)
def curves(rows: list[Row]) -> Figure:
    """Error (%) against iterations, thin for training, bold for test: the mean over seeds in a band from the lowest
    to the highest.

    Plain rows stand left and residual ones right; where depths differ, each has its colour, the same in all panels.
    A cross marks where a run diverged, a vertical line where the learning rate drops.
    """
    panels, by_depth = _panels(rows), _differ_in_depth(rows)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(4.6 if columns == 1 else 6.9, lines * (2.9 if columns < 3 else 2.4)), layout="constrained"
    )
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    everywhere = _styles([_key(row, by_depth) for row in rows])
    for ax, (title, inside) in zip(axes.flat, panels.items(), strict=False):
        own = by_depth or len(rows) <= MANY
        styles = everywhere if own else _styles([_key(row, by_depth) for row in inside])
        for number, row in enumerate(inside):
            _curve(ax, row, styles[_key(row, by_depth)], number, len(inside))
        for step in sorted({step for row in inside for result in row.results for step in drops(result)}):
            ax.axvline(step, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5, gid="drop")
        ax.set_title(title)
        if not by_depth:
            _legend(ax, {_short(row, inside): styles[row.label] for row in inside}, 46 if columns < 3 else 30)
    low, high = error_limits(rows)
    for number, ax in enumerate(axes.flat):
        ax.set_ylim(low - 0.015 * (high - low), high)
        ax.set_xlim(left=0)
        ax.grid(axis="x", visible=False)
        ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
        ax.set_visible(number < len(panels))
        if number % columns == 0:
            ax.set_ylabel("error (%)")
        if number + columns >= len(panels):
            ax.set_xlabel("iterations")
            ax.tick_params(labelbottom=True)
    lines_seen = [Line2D([], [], color="#444444", linewidth=w, label=s) for s, w in WIDTHS.items()]
    depths = {f"{depth} layers": style for depth, style in everywhere.items()} if by_depth else {}
    _legend(figure, depths, 84, lines_seen)
    return figure


@rc_context(STYLE)
def final(rows: list[Row]) -> Figure:
    """Training and test errors (%) of the last epoch: a dot a seed, mean ± standard deviation over seeds.

    Over depth, a line for each kind of row, where depths differ; else a line of the figure for each row. A diverged
    seed is a cross at the edge.
    """
    by_depth = _differ_in_depth(rows)
    height = 2.9 if by_depth else 0.7 + 0.24 * max(len(rows), 4)
    figure = Figure(figsize=(6.9, height), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    kinds: defaultdict[str, list[Row]] = defaultdict(list)
    for row in _plain_first(rows) if by_depth else rows:
        kinds[_kind(row) if by_depth else row.label].append(row)
    styles = _styles(list(kinds))
    for ax, metric, title in zip(axes, ("train_error", "test_error"), ("training", "test"), strict=True):
        ax.set_title(title)
        for number, (kind, inside) in enumerate(kinds.items()):
            aside = 1.012 ** (2 * number - len(kinds) + 1)  # so that bars at one depth do not hide each other
            at = [row.facts["depth"] * aside if by_depth else float(number) for row in inside]
            _points(ax, at, [row.values(metric) for row in inside], styles[kind], kind, by_depth)
    if by_depth:
        _depth_axis(axes, sorted({row.facts["depth"] for row in rows}))
        if len(kinds) > 1:
            _legend(figure, styles, 84)
    else:
        axes[0].set_yticks(range(len(rows)), list(kinds))
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
    for ax in axes:
        ax.grid(axis="x", visible=not by_depth)
        ax.set(**{"xlabel": "layers"} if by_depth else {"xlabel": "error of the last epoch (%)"})
        _from_zero(ax, by_depth)
    return figure


def save(figure: Figure, stem: Path) -> str:
    """Writes stem.svg and stem.png (300 dots an inch), the same bytes for the same runs; returns the SVG's text."""
    with rc_context(STYLE):
        figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None})
        figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=300)
    return stem.with_name(f"{stem.name}.svg").read_text()


def inline(svg: str, prefix: str) -> str:
    """An SVG for the inside of an HTML page: no prologue, no metadata, no address, ids that begin with `prefix`."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def drops(result: Result) -> list[float]:
    """Iterations at which the learning rate falls, between two evaluations, by a factor above 2 from a level that it
    held before (a smooth descent has no drops).
    """
    points = [(r["step"], r["lr"]) for r in result.records if r.get("lr") is not None and "step" in r]
    found = []
    for i in range(1, len(points)):
        (before, high), (after, low) = points[i - 1], points[i]
        held = i == 1 or math.isclose(points[i - 2][1], high, rel_tol=1e-6)
        if held and high > 2 * low:
            found.append((before + after) / 2)
    return found


def series(row: Row, metric: str) -> list[tuple[float, float, float, float]]:
    """(iteration, mean, lowest, highest) over the seeds that have a value there."""
    values: defaultdict[float, list[float]] = defaultdict(list)
    for result in row.results:
        for step, value in _points_of(result, metric):
            values[step].append(value)
    return [(step, sum(v) / len(v), min(v), max(v)) for step, v in sorted(values.items())]


def error_limits(rows: list[Row]) -> tuple[float, float]:
    """The error axis (%): to twice the highest final error, so that ends are seen and beginnings are cut; to the
    highest value, at most, and from 0, unless all errors are far above.
    """
    points = [series(row, metric) for row in rows for metric in ("train_error", "test_error")]
    points = [p for p in points if p]
    if not points:
        return 0.0, 100.0
    ends = max(high for p in points for _, _, _, high in p[-1:])
    ends = max([ends, *(v[-1][1] for row in rows for r in row.results for m in ("train_error", "test_error")
                        if (v := _points_of(r, m)))])  # fmt: skip
    highest = max(high for p in points for _, _, _, high in p)
    lowest = min(low for p in points for _, _, low, _ in p)
    top = min(max(2 * ends, 2.0), highest * 1.03)
    unit = 5.0 if top > 10 else 1.0
    top = min(math.ceil(top / unit) * unit, 100.0) if top > 1 else max(top, 0.1)
    return (0.0 if lowest < top / 2 else math.floor((lowest - 2) / 10) * 10.0), top


def _points_of(result: Result, metric: str) -> list[tuple[float, float]]:
    return [(r["step"], r[metric]) for r in result.records if r.get(metric) is not None and "step" in r]


def _curve(ax: Axes, row: Row, style: Style, number: int, of: int) -> None:
    """One row's two curves; markers of the test curve are shifted, so that those of `of` rows do not hide others."""
    colour, marker = style
    for metric, width, shade in (("train_error", WIDTHS["training"], 0.10), ("test_error", WIDTHS["test"], 0.18)):
        points = series(row, metric)
        if not points:
            continue
        steps, means, lows, highs = zip(*points, strict=True)
        every = max(1, len(steps) // 6)
        marks = {"marker": marker, "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.5}
        marks["markevery"] = (number * every // of, every)
        ax.fill_between(steps, lows, highs, color=colour, alpha=shade, linewidth=0, zorder=1.5)
        ax.plot(steps, means, color=colour, linewidth=width, label=f"{row.label}: {metric}", gid=f"{row.label}: {metric}",
                **(marks if metric == "test_error" or len(steps) == 1 else {}))  # fmt: skip
    for result in row.results:
        if result.summary.get("status") == "diverged" and (seen := _points_of(result, "train_error")):
            ax.plot(*seen[-1], marker="x", color=colour, markersize=6, markeredgewidth=1.5, clip_on=False, zorder=4)


def _points(ax: Axes, at: list[float], seeds: list[list[float]], style: Style, label: str, upright: bool) -> None:
    """Dots of seeds and mean ± standard deviation, at places along x if `upright` (joined by a line), else along y."""
    colour, marker = style
    means, _, deviations = zip(*map(spread, seeds), strict=True)
    finite = [i for i, mean in enumerate(means) if math.isfinite(mean)]
    place, mean = [at[i] for i in finite], [means[i] for i in finite]
    bar = [0 if math.isnan(deviations[i]) else deviations[i] for i in finite]
    x, y, bars = (place, mean, {"yerr": bar}) if upright else (mean, place, {"xerr": bar})
    ax.errorbar(x, y, **bars, color=colour, marker=marker, markersize=5, markeredgecolor="white", markeredgewidth=0.5,
                linewidth=1.5 if upright else 0, elinewidth=1.3, capsize=2.5, label=label)  # fmt: skip
    beside = ScaledTranslation(*((-5 / 72, 0) if upright else (0, 5 / 72)), ax.figure.dpi_scale_trans)
    for where, values in zip(at, seeds, strict=True):
        for value in values:
            if math.isfinite(value):
                ax.plot(*((where, value) if upright else (value, where)), ".", color=colour, alpha=0.6, markersize=4.5,
                        markeredgewidth=0, transform=ax.transData + beside, gid="seed")  # fmt: skip
            else:
                edge = ax.get_xaxis_transform() if upright else ax.get_yaxis_transform()
                ax.plot(*((where, 0.98) if upright else (0.98, where)), "x", color=colour, transform=edge, markersize=6,
                        markeredgewidth=1.5, clip_on=False, gid="diverged")  # fmt: skip


def _panels(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by panel, plain ones first: by all but the depth where depths differ, else by plain and residual, and by
    the first thing that tells them apart where many would share a panel.
    """
    panels: defaultdict[str, list[Row]] = defaultdict(list)
    rows = _plain_first(rows)
    kinds = {row.facts.get("skip") == "none" for row in rows}
    for row in rows:
        plain = "plain" if row.facts.get("skip") == "none" else "residual"
        panels[_kind(row) if _differ_in_depth(rows) else plain if len(kinds) > 1 else ""].append(row)
    split: dict[str, list[Row]] = {}
    for title, inside in panels.items():
        firsts = [row.label.split(" ")[0] for row in inside]
        for row, first in zip(inside, firsts, strict=True):
            alone = len(inside) <= MANY or _differ_in_depth(rows) or firsts.count(first) == 1
            split.setdefault(title if alone else first, []).append(row)
    return split


def _kind(row: Row) -> str:
    """A row's label without its depth, with the papers' words for the two kinds of networks."""
    words = {"skip=none": "plain", "skip=identity": "residual"}
    return " ".join(words.get(word, word) for word in row.label.split(" ") if not word.startswith("depth="))


def _short(row: Row, panel: list[Row]) -> str:
    """A row's label without what all rows of its panel share."""
    words = row.label.split(" ")
    told = [word for word in words if not all(word in other.label.split(" ") for other in panel)]
    return " ".join(told) or row.label


def _plain_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.facts.get("skip") != "none")


def _differ_in_depth(rows: list[Row]) -> bool:
    return len({row.facts["depth"] for row in rows}) > 1


def _key(row: Row, by_depth: bool) -> Any:
    return row.facts["depth"] if by_depth else row.label


def _styles(keys: Sequence[Any]) -> dict[Any, Style]:
    """A colour and a marker for each: from light to dark for numbers and for many, else colours without order."""
    keys = sorted(set(keys)) if all(isinstance(k, int) for k in keys) else list(dict.fromkeys(keys))
    ordered = len(keys) > MANY or (len(keys) > 1 and isinstance(keys[0], int))
    cut = [colormaps["viridis_r"](0.18 + 0.77 * i / max(1, len(keys) - 1)) for i in range(len(keys))]
    colours = [to_hex(colour) for colour in cut] if ordered else list(OKABE_ITO)
    return {key: (colours[i], MARKERS[i % len(MARKERS)]) for i, key in enumerate(keys)}


def _legend(where: Axes | Figure, styles: dict[Any, Style], room: int, first: Sequence[Line2D] = ()) -> None:
    """A legend below a panel, or below the whole figure, in columns as the labels have `room` for (in letters)."""
    marks = {"linewidth": WIDTHS["test"], "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
    handles = [*first, *(Line2D([], [], color=c, marker=m, label=str(k), **marks) for k, (c, m) in styles.items())]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), room // (longest + 5)))
    if isinstance(where, Figure):
        where.legend(handles=handles, loc="outside lower center", ncols=columns)
    else:
        where.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def _depth_axis(axes: Sequence[Axes], depths: list[int]) -> None:
    for ax in axes:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(depths))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda depth, _: f"{depth:.0f}"))
        ax.set_xlim(min(depths) / 1.15, max(depths) * 1.15)
    axes[0].set_ylabel("error of the last epoch (%)")


def _from_zero(ax: Axes, upright: bool) -> None:
    """The error axis begins at 0 unless the errors are far above."""
    low, high = ax.get_ylim() if upright else ax.get_xlim()
    if low < 0.5 * high:
        (ax.set_ylim if upright else ax.set_xlim)(-0.015 * high, high)


def _thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
