"""Figures of what probes measured: over units or layers (`profile`), over iterations (`course`), over two directions
in weight space (`surface`); theory as a dashed line.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import chain
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from depthlab.reports.collect import Result, Row, crossings
from depthlab.reports.figure import (
    BAR,
    OKABE_ITO,
    STYLE,
    add_legend,
    bar,
    differ_in_depth,
    filled,
    key_of,
    panels_of,
    styles_of,
)
from depthlab.reports.seen import pictures, side_by_side
from depthlab.reports.verdict import matches

THEORY: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (4, 2))}
Spec = dict[str, Any]
"""A figure of an experiment: `y` (probe.key), `title`; maybe `x`, `ylabel`, `log`, `first` (the index of the first
value), `of` (facts of the rows to show), `theory` (each `of`, and `factor`, `step` or `value`, maybe `at`,
`backwards`). Over depth, `lines`: by name each `y`, a number, and maybe `predicted`, a metric and the level whose
crossing is a vertical line. With `against`, a number of the summary as the parameters, `y` is a metric over it, and
`lines` holds by name the facts of each line's rows. With `pictures`, by name the facts of a row each, it shows what
they see (`predictions.said`)."""


def drawn(spec: Spec, rows: list[Row]) -> Figure:
    """The figure of rows that all have such a value, by its kind: a number, a list, or a list of lists."""
    if "pictures" in spec:
        return pictures(rows, spec)
    if "against" in spec:
        return against(rows, spec)
    if "lines" in spec:
        return over_depth(rows, spec)
    value = next(_last(result, spec)[0] for row in rows for result in row.results if _last(result, spec))
    if not isinstance(value, list):
        return course(rows, spec)
    return (surface if isinstance(value[0], list) else profile)(rows, spec)


@rc_context(STYLE)
def profile(rows: list[Row], spec: Spec) -> Figure:
    """A list over its places, as units, layers or lags: the mean over seeds in a band from lowest to highest."""
    figure, axes = _panels(rows, spec)
    for ax, inside, look in axes:
        for row in inside:
            lists = [[_number(v) for v in values[0]] for r in row.results if (values := _last(r, spec))]
            length = min(map(len, lists))
            x = [place + spec.get("first", 0) for place in range(length)]
            columns = list(zip(*(values[:length] for values in lists), strict=True))
            colour, marker = look[row.label]
            ax.fill_between(x, *_band(columns), color=colour, alpha=0.18, linewidth=0)
            means = [statistics.fmean(column) for column in columns]
            dots: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markevery": max(1, length // 12)}
            ax.plot(x, means, color=colour, linewidth=1.4, label=row.label, **dots)
            for law in spec.get("theory", []):
                if matches(row, law.get("of", {})):
                    _theory(ax, x, means, law)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@rc_context(STYLE)
def course(rows: list[Row], spec: Spec) -> Figure:
    """A number over the iterations: the mean over seeds in a band from the lowest to the highest."""
    figure, axes = _panels(rows, {"x": "iterations"} | spec)
    for ax, inside, look in axes:
        for row in inside:
            by_step: dict[int, list[float]] = {}
            for result in row.results:
                for record in _records(result, spec):
                    by_step.setdefault(record["step"], []).append(_number(record[_key(spec)]))
            steps, columns = zip(*sorted(by_step.items()), strict=True)
            colour, marker = look[row.label]
            ax.fill_between(steps, *_band(columns), color=colour, alpha=0.18, linewidth=0)
            means = [statistics.fmean(column) for column in columns]
            ax.plot(steps, means, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=row.label)
    return figure


@rc_context(STYLE)
def over_depth(rows: list[Row], spec: Spec) -> Figure:
    """Numbers at the end over depth, a panel for each kind of row and a line for each number: the mean over seeds in
    a band from lowest to highest; dashed: the depth that is predicted, mean over seeds.
    """
    panels = {title: inside for title, inside in panels_of(rows).items() if len(inside) > 1}
    words = [title.split(" ") for title in panels]
    shared = {word for word in words[0] if len(panels) > 1 and all(word in title for title in words)}
    styles, columns = styles_of(list(spec["lines"])), min(len(panels), 3)
    count = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.9 if columns > 1 else 4.6, 0.5 + 1.75 * count), layout="constrained")
    grid = list(figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, (ax, (title, inside)) in enumerate(zip(grid, panels.items(), strict=False)):
        inside = sorted(inside, key=lambda row: row.facts["depth"])
        depths = [row.facts["depth"] for row in inside]
        for name, line in spec["lines"].items():
            colour, marker = styles[name]
            values = [[v for v in row.values(line["y"]) if math.isfinite(v)] or [math.nan] for row in inside]
            ax.fill_between(depths, *_band(values), color=colour, alpha=0.18, linewidth=0)
            means = [statistics.fmean(column) for column in values]
            ax.plot(depths, means, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=name)
            metric, level = line.get("predicted", (None, 0.0))
            for kind in crossings(inside, level) if metric else []:
                at = statistics.fmean(kind.values(metric))
                if at < depths[-1]:
                    ax.axvline(at, **(THEORY | {"color": colour, "linewidth": 1.1}), label=f"{name}: predicted")
        told = " ".join(word for word in title.split(" ") if word not in shared)
        ax.set(title=filled(told, 30), ylim=(-0.15, 1.05))
        if number % columns == 0:
            ax.set_ylabel(spec.get("ylabel", _key(spec).replace("_", " ")))
        if number + columns >= len(panels):
            ax.set_xlabel("layers")
            ax.tick_params(labelbottom=True)
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    foreseen = any("predicted" in line for line in spec["lines"].values())
    add_legend(figure, styles, 84, [Line2D([], [], label="predicted", **THEORY)] * foreseen)
    return figure


@rc_context(STYLE)
def against(rows: list[Row], spec: Spec) -> Figure:
    """A metric at the end over a number of the summary, on a logarithmic axis: a line for each kind of row through
    its rows in the order of that number, mean ± standard deviation over seeds.
    """
    kinds = {name: [row for row in rows if matches(row, facts)] for name, facts in spec["lines"].items()}
    styles = styles_of([name for name, inside in kinds.items() if inside])
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    ax = figure.subplots()
    for name, (colour, marker) in styles.items():
        points = sorted((row.results[0].summary[spec["against"]], *bar(row, spec["y"])) for row in kinds[name])
        x, y, bars = zip(*points, strict=True)
        ax.errorbar(x, y, yerr=bars, color=colour, marker=marker, linewidth=1, markersize=4.5, label=name, **BAR)
    ax.set(xscale="log", yscale="log" if spec.get("log") else "linear")
    ax.set(xlabel=spec["against"], ylabel=spec.get("ylabel", spec["y"].replace("_", " ")))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    add_legend(figure, styles, 60)
    return figure


@rc_context(STYLE)
def surface(rows: list[Row], spec: Spec) -> Figure:
    """Contours of a value over two directions, one panel a row, of its first seed, all on one logarithmic scale that
    ends where a fifth of all values lies above; lines of round values are labelled (Li et al. 2018, Fig. 5).
    """
    by_depth = differ_in_depth(rows)
    panels = [
        (", ".join(filter(None, (title, key_of(row, inside, by_depth)))), row)
        for title, inside in panels_of(rows).items()
        for row in inside
    ]
    records = [_records(next(r for r in row.results if _last(r, spec)), spec)[-1] for _, row in panels]
    logs = [_logs(record[_key(spec)]) for record in records]
    finite = [v for values in logs for line in values for v in line if math.isfinite(v)]
    levels = _levels(min(finite), statistics.quantiles(finite, n=5)[-1] if len(finite) > 1 else max(finite))
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 2.05 * lines + 0.2), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (title, _), record, values in zip(grid.flat, panels, records, logs, strict=False):
        _contours(ax, record, values, levels)
        _label_contours(ax, record, values, levels)
        ax.set_title(title)
        ax.locator_params(nbins=4)
    for ax in list(grid.flat)[len(panels) :]:
        ax.set_visible(False)
    scale = ScalarMappable(Normalize(levels[0], levels[-1]), "viridis_r")
    bar = figure.colorbar(scale, ax=grid, extend="max", fraction=0.05, aspect=30, pad=0.03)
    bar.set_label(spec.get("ylabel", _key(spec).replace("_", " ")))
    bar.set_ticks(_round(levels), labels=[f"{10**level:g}" for level in _round(levels)])
    return figure


@rc_context(STYLE)
def sketch(values: dict[str, Any]) -> Figure | None:
    """What one look of a probe gave, for TensorBoard: a small panel a list; None if it gave numbers alone."""
    if "said" in values:
        return side_by_side({"network": values})
    lists = {k: v for k, v in values.items() if isinstance(v, list) and len(v) > 1 and not isinstance(v[0], str)}
    lists = {k: v for k, v in lists.items() if k not in ("alpha", "beta") and _drawable(v)}
    if not lists:
        return None
    columns = min(len(lists), 3)
    lines = math.ceil(len(lists) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.2 * lines))  # a layout engine would take most of the time of a look
    spaces = {"left": 0.2 / columns, "right": 0.98, "bottom": 0.2 / lines, "top": 1 - 0.12 / lines}
    grid = list(
        figure.subplots(lines, columns, squeeze=False, gridspec_kw=spaces | {"wspace": 0.3, "hspace": 0.4}).flat
    )
    for ax, (key, value) in zip(grid, lists.items(), strict=False):
        if isinstance(value[0], list):
            logs = _logs(value)
            finite = [v for line in logs for v in line if math.isfinite(v)] or [0.0]
            _contours(ax, values, logs, _levels(min(finite), max(finite)))
        else:
            numbers = [_number(v) for v in value]
            ax.plot(numbers, ".-", color=OKABE_ITO[0], linewidth=1)
            positive = [v for v in numbers if v > 0 and math.isfinite(v)]
            if len(positive) == len(numbers) and max(positive) > 100 * min(positive):
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(_power)
        ax.set_title(key)
    for ax in grid[len(lists) :]:
        ax.set_visible(False)
    return figure


def _drawable(values: list[Any]) -> bool:
    """Whether it is a list of numbers, or lines of them of one length, two at least."""
    lines = [line for line in values if isinstance(line, list)]
    if lines and (len(lines) < len(values) or len({*map(len, lines)}) > 1 or len(lines[0]) < 2):
        return False
    flat = chain.from_iterable(lines) if lines else values
    return all(value is None or isinstance(value, int | float) for value in flat)


def _panels(rows: list[Row], spec: Spec) -> tuple[Figure, list[tuple[Axes, list[Row], dict[str, tuple[str, str]]]]]:
    """A figure with an axis for each panel of rows, with what its rows look like."""
    parts, by_depth = panels_of(rows), differ_in_depth(rows)
    columns = min(len(parts), 3)
    lines = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(4.6 if columns == 1 else 6.9, 2.9 * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, sharex=len(parts) == 1, sharey=True, squeeze=False).flat)
    found = []
    for number, (ax, (title, inside)) in enumerate(zip(grid, parts.items(), strict=False)):
        names = [key_of(row, inside, by_depth) for row in inside]
        styles = styles_of(names)
        look = {row.label: styles[name] for row, name in zip(inside, names, strict=True)}
        ax.set(title=title, xlabel=spec.get("x", "unit"), yscale="log" if spec.get("log") else "linear")
        if number % columns == 0:
            ax.set_ylabel(spec.get("ylabel", _key(spec).replace("_", " ")))
        if spec.get("log"):
            ax.yaxis.set_major_formatter(FuncFormatter(_power))
            ax.yaxis.set_minor_formatter(NullFormatter())
        laws = [law for law in spec.get("theory", []) if any(matches(row, law.get("of", {})) for row in inside)]
        dashes = [Line2D([], [], label="theory", **THEORY)] if laws else []
        if len(inside) > 1 or len(parts) == 1 or by_depth or dashes:
            add_legend(ax, styles, 46 if columns < 3 else 30, dashes)
        found.append((ax, inside, look))
    for ax in grid[len(parts) :]:
        ax.set_visible(False)
    return figure, found


def _theory(ax: Axes, x: Sequence[float], means: Sequence[float], law: dict[str, Any]) -> None:
    """The line y0 factor^i + step i, i places from the first mean (or the mean `at` a place; `backwards`: before the
    last one), or a constant `value`.
    """
    at = law.get("at", len(x) - 1 if law.get("backwards") else 0)
    away = [at - i if law.get("backwards") else i - at for i in range(len(x))]
    if "value" in law:
        line = [law["value"]] * len(x)
    elif at < len(means):
        line = [means[at] * law.get("factor", 1) ** i + law.get("step", 0) * i for i in away]
    else:
        return  # the networks have fewer places
    ax.plot(x, line, zorder=3, label="theory", **THEORY)


def _power(value: float, _: object) -> str:
    """10⁻⁴ in letters, as figures hold no formulas."""
    return "10" + f"{math.log10(value):.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _levels(low: float, high: float) -> list[float]:
    return [low + (max(high - low, 1e-6)) * i / 14 for i in range(15)]


def _label_contours(ax: Axes, record: dict[str, Any], logs: list[list[float]], levels: list[float]) -> None:
    """Lines of round values, with their values."""
    held = [[min(v, levels[-1] + 1) for v in line] for line in logs]
    wanted = [level for level in _round(levels) if min(map(min, held)) < level < max(map(max, held))]
    if wanted:
        black: dict[str, Any] = {"colors": "black", "linewidths": 0.6, "linestyles": "solid"}
        lines = ax.contour(record["alpha"], record["beta"], held, wanted, **black)
        for label in ax.clabel(lines, fmt=lambda level: f"{10**level:g}", fontsize=6.5):
            label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _round(levels: list[float]) -> list[float]:
    """The logarithms of round values among levels: the powers of ten, or, where there are few, also 2 and 5 times."""
    low, high = levels[0], levels[-1]
    powers = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1,), (1, 2, 5)):
        found = [v for power in powers for digit in digits if low <= (v := power + math.log10(digit)) <= high]
        if len(found) >= 3:
            return found
    return [low, high]


def _contours(ax: Axes, record: dict[str, Any], logs: list[list[float]], levels: list[float]) -> None:
    x, y = record.get("alpha", range(len(logs[0]))), record.get("beta", range(len(logs)))
    held = [[min(max(v, levels[0]), levels[-1]) if math.isfinite(v) else levels[-1] for v in line] for line in logs]
    ax.contourf(x, y, held, levels, cmap="viridis_r")
    ax.contour(x, y, held, levels, colors="white", linewidths=0.35, linestyles="solid")
    ax.set_aspect("equal")
    ax.grid(visible=False)


def _logs(values: list[list[float | None]]) -> list[list[float]]:
    return [[math.log10(v) if v is not None and v > 0 else math.inf for v in line] for line in values]


def _band(columns: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [min(column) for column in columns], [max(column) for column in columns]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _key(spec: Spec) -> str:
    return spec["y"].partition(".")[2]


def _records(result: Result, spec: Spec) -> list[dict[str, Any]]:
    return [r for r in result.probes.get(spec["y"].partition(".")[0], []) if r.get(_key(spec)) is not None]


def _last(result: Result, spec: Spec) -> list[Any]:
    """The value at the end, in a list; empty if it was not measured there."""
    probe, _, key = spec["y"].partition(".")
    return [record[key] for record in result.at_end(probe)[-1:] if record.get(key) is not None]
