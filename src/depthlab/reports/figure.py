"""The figures, in the papers' style: error against iterations (`curves`), and final errors over rows (`final`)."""

import math
import re
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import Affine2D, ScaledTranslation, Transform

from depthlab.reports.collect import NO_BREAK, Result, Row, spread

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
MARKERS = "os^DvP<>*hpd"
MANY = len(OKABE_ITO)
"""With more rows than this, colours are cut from a sequential palette, and panels are split."""
WIDTHS = {"training": 0.8, "test": 1.7}
"""Of the lines, in points."""
BAR: dict[str, Any] = {"elinewidth": 1.3, "capsize": 2.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
DOT: dict[str, Any] = {"alpha": 0.6, "markersize": 4.5, "markeredgewidth": 0, "label": "_seed"}
CROSS: dict[str, Any] = {"marker": "X", "markersize": 6.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
CROSS |= {"clip_on": False, "zorder": 4, "label": "_diverged"}
RING: dict[str, Any] = {"marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.5}
RING |= {"clip_on": False, "zorder": 4, "label": "_unfinished"}
METRICS = "train_error", "test_error"
Style = tuple[str, str]
"""Colour and marker."""


@rc_context(STYLE)
def curves(rows: list[Row]) -> Figure:
    """Error (%) against iterations, thin for training, bold for test: the mean over seeds in a band from the lowest
    to the highest.

    Plain rows stand left and residual ones right; where depths differ, each has its colour, the same in all panels.
    A cross marks where a run diverged, a ring how far an unfinished one has come, a vertical line where the learning
    rate drops. Rows that were evaluated at the start alone have no curve, unless none has.
    """
    rows = [row for row in rows if any(step for step, *_ in series(row, "test_error"))] or rows
    panels, by_depth = panels_of(rows), differ_in_depth(rows)
    keys = {title: [key_of(row, inside, by_depth) for row in inside] for title, inside in panels.items()}
    everywhere = [key for inside in keys.values() for key in inside]
    shared = by_depth or len(set(everywhere)) <= MANY  # one legend for all panels
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    height = (2.9 if columns < 3 else 2.4) + (0 if shared else 0.09 * max(map(len, keys.values())))
    figure = Figure(figsize=(4.6 if columns == 1 else 6.9, lines * height), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    low, high = error_limits(rows)
    highest = max((each[3] for row in rows for metric in METRICS for each in series(row, metric)), default=0.0)
    for number, ax in enumerate(axes.flat):
        ax.set(ylim=(low - 0.015 * (high - low), high), visible=number < len(panels))
        ax.grid(axis="x", visible=False)
        if number % columns == 0:
            ax.set_ylabel("error (%)" + f", cut at {high:g}" * (high < highest))
        if number + columns >= len(panels) or not shared:
            ax.set_xlabel("iterations")
            ax.tick_params(labelbottom=True)
    for ax, (title, inside) in zip(axes.flat, panels.items(), strict=False):
        styles = styles_of(everywhere if shared else keys[title])
        for number, (row, key) in enumerate(zip(inside, keys[title], strict=True)):
            _curve(ax, row, styles[key], number, len(inside))
        going = [(key, r) for row, key in zip(inside, keys[title], strict=True) for r in row.results if r.unfinished]
        words = "\n".join(f"{key}, unfinished: {result.progress}" for key, result in going)
        ax.text(0.99, 0.98, words, transform=ax.transAxes, ha="right", va="top", fontsize=6.5)
        for step in sorted({step for row in inside for result in row.results for step in drops(result)}):
            ax.axvline(step, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5, label="_drop")
        ax.set_title(filled(title, 50 if columns < 3 else 31))
        if not shared:
            add_legend(ax, styles, 46 if columns < 3 else 30)
    last = axes.flat[0]
    last.set_xlim(left=0)
    last.xaxis.set_major_formatter(FuncFormatter(_thousands if last.get_xlim()[1] >= 10_000 else "{:g}".format))
    widths = [Line2D([], [], color="#444444", linewidth=width, label=word) for word, width in WIDTHS.items()]
    add_legend(figure, styles_of(everywhere) if shared and len(rows) > 1 else {}, 84, widths)
    return figure


@rc_context(STYLE)
def final(rows: list[Row]) -> Figure:
    """Training and test errors (%) of the last epoch: a dot a seed, mean ± standard deviation over seeds.

    Over depth, a line for each kind of row, where depths differ; else, or with many kinds, each row on a line of its
    own. A diverged seed is a cross at the edge, and its row has no mean.
    """
    kinds: dict[str, list[Row]] = {}
    for row in _plain_first(rows):
        kinds.setdefault(_kind(row), []).append(row)
    by_depth = differ_in_depth(rows) and len(kinds) <= MANY
    lines = max(label.count("\n") + 1 for label in map(_wrapped, rows))
    height = max(2.9, 2.2 + 0.16 * len(kinds)) if by_depth else 0.7 + (0.1 + 0.12 * lines) * max(len(rows), 3)
    figure = Figure(figsize=(6.9, height), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, metric, title in zip(axes, ("train_error", "test_error"), ("training", "test"), strict=True):
        ax.set_title(title)
        (_over_depth if by_depth else _over_rows)(ax, kinds if by_depth else {"": rows}, metric)
    for ax in axes:
        low, high = ax.get_ylim() if by_depth else ax.get_xlim()
        if low < 0.5 * high:  # from 0, unless the errors are far above
            (ax.set_ylim if by_depth else ax.set_xlim)(-0.015 * high, high)
    if by_depth:
        axes[0].set_ylabel("error of the last epoch (%)")
        add_legend(figure, styles_of(list(kinds)), 84)
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
    held before, or to one that it holds if that was the first evaluation (a smooth descent has no drops).
    """
    points = [(r["step"], r["lr"]) for r in result.records if r.get("lr") is not None and "step" in r]
    found = []
    for i in range(1, len(points)):
        (before, high), (after, low) = points[i - 1], points[i]
        level = [rate for _, rate in (points[i - 2 : i] if i > 1 else points[1:3])]
        if len(level) == 2 and math.isclose(*level, rel_tol=1e-6) and high > 2 * low:
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
    """The error axis (%), on which all final errors are seen: where they are low, the beginning is cut, at three
    times what is usual at the end. It begins at 0 unless all errors are far above.
    """
    seeds = [p for row in rows for r in row.results for metric in METRICS if (p := _points_of(r, metric))]
    if not seeds:
        return 0.0, 100.0
    values, ends = [value for points in seeds for _, value in points], [points[-1][1] for points in seeds]
    usual = statistics.median(ends)
    top = min(max(1.1 * max(ends), 3 * usual, 1.0), 1.03 * max(max(values), 1.0), 100.0)
    unit = 5 if top > 10 else 1
    top = min(math.ceil(top / unit) * unit, 100) if top <= 50 else 100
    return (0.0 if min(values) < top / 2 else math.floor((min(values) - 2) / 10) * 10.0), float(top)


def _points_of(result: Result, metric: str) -> list[tuple[float, float]]:
    return [(r["step"], r[metric]) for r in result.records if r.get(metric) is not None and "step" in r]


def _curve(ax: Axes, row: Row, style: Style, number: int, of: int) -> None:
    """One row's two curves; markers of the test curve are shifted, so that those of `of` rows do not hide others."""
    colour, marker = style
    for metric, width, shade in (("train_error", WIDTHS["training"], 0.08), ("test_error", WIDTHS["test"], 0.15)):
        points = series(row, metric)
        if not points:
            continue
        steps, means, lows, highs = zip(*points, strict=True)
        every = max(1, len(steps) // 6)
        marks: dict[str, Any] = {"marker": marker, "markevery": (number * every // of, every), "markersize": 4}
        marks |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
        ax.fill_between(steps, lows, highs, color=colour, alpha=shade, linewidth=0, zorder=1.5)
        line = ax.plot(
            steps, means, color=colour, linewidth=width * (0.7 if of > MANY else 1), label=f"{row.label}: {metric}"
        )[0]
        if metric == "test_error" or len(steps) == 1:
            line.set(**marks)
    for result in row.results:
        if result.summary.get("status") == "diverged" and (seen := _points_of(result, "train_error")):
            ax.plot(*seen[-1], color=colour, **CROSS)
        if result.unfinished and (seen := _points_of(result, "test_error")):
            ax.plot(*seen[-1], color=colour, **RING)


def _over_depth(ax: Axes, kinds: dict[str, list[Row]], metric: str) -> None:
    """Errors over depth, a line a kind of row, moved a little, so that bars at one depth do not hide each other."""
    depths = sorted({row.facts["depth"] for inside in kinds.values() for row in inside})
    beside = _moved(ax, ax.transData, -0.06, 0)
    for number, (kind, inside) in enumerate(kinds.items()):
        colour, marker = styles_of(list(kinds))[kind]
        aside = (depths[-1] / depths[0]) ** (0.03 * ((number + 0.5) / len(kinds) - 0.5))
        whole = sorted((row.facts["depth"] * aside, *bar(row, metric)) for row in inside if not _diverged(row))
        if whole:
            x, y, bars = zip(*whole, strict=True)
            ax.errorbar(x, y, yerr=bars, color=colour, marker=marker, linewidth=1.5, markersize=5, label=kind, **BAR)
        for row in inside:
            at = row.facts["depth"] * aside
            seeds = _survivors(row, metric)
            ax.plot([at] * len(seeds), seeds, ".", color=colour, transform=beside, **DOT)
            if _diverged(row):
                ax.plot([at], [0.98], color=colour, transform=ax.get_xaxis_transform(), **CROSS)
    ax.set_xscale("log")
    ax.set(xlabel="layers", xlim=(depths[0] / 1.15, depths[-1] * 1.15))
    ax.grid(axis="x", visible=False)
    apart, labels = 1.3 * (depths[-1] / depths[0]), {}
    for depth in reversed(depths):  # of two that would print over each other the deeper has a label
        if depth * apart**0.08 < min(labels, default=math.inf):
            labels[depth] = str(depth)
    ax.set_xticks(depths, [labels.get(depth, "") for depth in depths])
    ax.xaxis.set_minor_locator(NullLocator())


def _over_rows(ax: Axes, kinds: dict[str, list[Row]], metric: str) -> None:
    """Errors along x, each row at its place along y, from the top."""
    rows = [row for inside in kinds.values() for row in inside]
    beside = _moved(ax, ax.transData, 0, 0.07)
    for place, row in enumerate(rows):
        if not _diverged(row):
            mean, deviation = bar(row, metric)
            ax.errorbar([mean], [place], xerr=[deviation], color=OKABE_ITO[0], marker="o", markersize=4.5, **BAR)
        seeds = _survivors(row, metric)
        ax.plot(seeds, [place] * len(seeds), ".", color=OKABE_ITO[0], transform=beside, **DOT)
        if _diverged(row):
            ax.plot([0.98], [place], color=OKABE_ITO[1], transform=ax.get_yaxis_transform(), **CROSS)
    ax.set_yticks(range(len(rows)), map(_wrapped, rows))
    ax.set(xlabel="error of the last epoch (%)", ylim=(len(rows) - 0.5, -0.7))


def _wrapped(row: Row) -> str:
    return filled(row.label, 48)


def filled(text: str, room: int) -> str:
    """A text in lines of at most `room` letters, broken between words, inside a row's name, too."""
    return textwrap.fill(text.replace(NO_BREAK, " "), room, break_on_hyphens=False)


def bar(row: Row, metric: str) -> tuple[float, float]:
    """Mean and standard deviation of a metric, 0 for a single seed."""
    mean, _, deviation = spread(row.values(metric))
    return mean, 0.0 if math.isnan(deviation) else deviation


def _survivors(row: Row, metric: str) -> list[float]:
    """The seeds' errors, where there are several."""
    seeds = [result.value(metric) for result in row.results if result.summary.get("status") != "diverged"]
    return seeds if len(row.results) > 1 else []


def _diverged(row: Row) -> bool:
    return any(result.summary.get("status") == "diverged" for result in row.results)


def _moved(ax: Axes, transform: Transform, right: float, up: float) -> Transform:
    """A transform, and then so many inches."""
    figure = cast(Figure, ax.get_figure(root=True))
    return transform + ScaledTranslation(right, up, cast(Affine2D, figure.dpi_scale_trans))


def panels_of(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by panel, plain ones first: by all but the depth where depths differ, else by plain and residual, and by
    the first thing that tells them apart where many would share a panel.
    """
    panels: defaultdict[str, list[Row]] = defaultdict(list)
    rows = _plain_first(rows)
    kinds = {row.facts.get("skip") == "none" for row in rows}
    for row in rows:
        named = _words(row)["skip=none" if row.facts.get("skip") == "none" else "skip=identity"]
        panels[_kind(row) if differ_in_depth(rows) else named if len(kinds) > 1 else ""].append(row)
    split: dict[str, list[Row]] = {}
    for title, inside in panels.items():
        firsts = [row.label.split(" ")[0] for row in inside]
        for row, first in zip(inside, firsts, strict=True):
            alone = len(inside) <= MANY or differ_in_depth(rows) or firsts.count(first) == 1
            split.setdefault(title if alone else first, []).append(row)
    return split


def _kind(row: Row) -> str:
    """A row's label without its depth, with the papers' words for the two kinds of networks."""
    words = _words(row)
    return " ".join(words.get(word, word) for word in row.label.split(" ") if not word.startswith("depth="))


def _words(row: Row) -> dict[str, str]:
    """What a person calls the networks without and with a skip: where it joins levels, they are not residual."""
    levels = row.facts.get("network.name") in ("hourglass", "unet")
    without, joined = ("not connected", "connected") if levels else ("plain", "residual")
    return {"skip=none": without, "skip=identity": joined}


def key_of(row: Row, panel: list[Row], by_depth: bool) -> str:
    """What a curve is called in the legend: its depth, or its label without what all rows of its panel share."""
    words = row.label.split(" ")
    told = [word for word in words if not all(word in other.label.split(" ") for other in panel)]
    return f"{row.facts['depth']} layers" if by_depth else " ".join(told) or row.label


def _plain_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.facts.get("skip") != "none")


def differ_in_depth(rows: list[Row]) -> bool:
    """Whether there are several depths."""
    return len({row.facts["depth"] for row in rows}) > 1


def styles_of(keys: Sequence[str]) -> dict[str, Style]:
    """A colour and a marker for each: from light to dark for depths and for many, else colours without order."""
    keys = list(dict.fromkeys(keys))
    ordered = all(re.fullmatch(r"\d+ layers", key) for key in keys)
    keys = sorted(keys, key=lambda key: int(key.split(" ")[0])) if ordered else keys
    cut = [to_hex(colormaps["viridis_r"](0.18 + 0.77 * i / max(1, len(keys) - 1))) for i in range(len(keys))]
    colours = cut if ordered or len(keys) > MANY else OKABE_ITO
    return {key: (colours[i], MARKERS[i % len(MARKERS)]) for i, key in enumerate(keys)}


def add_legend(where: Axes | Figure, styles: dict[str, Style], room: int, first: Sequence[Line2D] = ()) -> None:
    """A legend below a panel, or below the whole figure, in columns as the labels have `room` for (in letters)."""
    marks = {"linewidth": WIDTHS["test"], "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
    handles: list[Line2D] = [
        *first,
        *(Line2D([], [], color=c, marker=m, label=filled(k, room), **marks) for k, (c, m) in styles.items()),
    ]
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).split("\n"))
    columns = max(1, min(len(handles), room // (longest + 5)))
    if isinstance(where, Figure):
        where.legend(handles=handles, loc="outside lower center", ncols=columns)
    else:
        below = _moved(where, where.transAxes, 0, -0.38)
        where.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns
        )


def _thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if value else "0"
