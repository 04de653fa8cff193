"""Pictures of what networks see: images, the labels of their pixels, and what each network says, side by side."""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from depthlab.reports.collect import Row
from depthlab.reports.figure import STYLE
from depthlab.reports.verdict import matches

COLOURS = ("#f2f2f2", *colormaps["tab10"].colors)  # pyrefly: ignore[missing-attribute]
"""Of class 0, the background, and of ten others; further ones begin again with the first of the ten."""
SIDE = 0.92
"""Inches of a picture."""


def pictures(rows: list[Row], spec: dict[str, Any]) -> Figure:
    """An image a line: itself, its labels, then what the first seed of each row says whose facts stand in `pictures`,
    under the name there; at the foot the share of wrong pixels in these images.
    """
    looks = {}
    for name, facts in spec["pictures"].items():
        results = [result for row in rows if matches(row, facts) for result in row.results]
        seen = [look for result in results for look in result.at_end("predictions")[-1:]]
        looks |= {name: seen[0]} if seen else {}
    return side_by_side(looks)


@rc_context(STYLE)
def side_by_side(looks: dict[str, dict[str, Any]]) -> Figure:
    """What `predictions` has measured, by the name of the network that looked."""
    first = next(iter(looks.values()))
    columns = {"image": first["image"], "truth": first["truth"]}
    columns |= {name: look["said"] for name, look in looks.items()}
    lines = len(first["image"])
    high = SIDE * lines + 0.4
    figure = Figure(figsize=(SIDE * len(columns), high))
    grid = figure.subplots(lines, len(columns), squeeze=False)
    figure.subplots_adjust(0.005, 0.2 / high, 0.995, 1 - 0.2 / high, 0.05, 0.05)
    for column, (name, shown) in enumerate(columns.items()):
        for line, picture in enumerate(shown):
            _picture(grid[line][column], picture, name == "image")
        grid[0][column].set_title(name, pad=3)
        if name in looks:
            grid[-1][column].set_xlabel(f"{looks[name]['wrong']:.1f} % wrong", labelpad=2)
    return figure


def _picture(ax: Axes, picture: Sequence[Sequence[int]], grey: bool) -> None:
    if grey:
        ax.imshow(picture, cmap="gray_r", vmin=0, vmax=255, interpolation="none")
    else:
        classes = max(map(max, picture)) + 1
        colours = [COLOURS[0], *(COLOURS[1 + i % 10] for i in range(classes))]
        ax.imshow(picture, cmap=ListedColormap(colours), vmin=-0.5, vmax=classes + 0.5, interpolation="none")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, linewidth=0.4, color="#999999")
