"""What is in the figures: series, labels, colours, the drops of the learning rate."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from made import run
from matplotlib.colors import to_hex

from depthlab.reports import figure
from depthlab.reports.collect import load, rows

STEPPED = [0.1, 0.1, 0.01]


def made(folder):
    return rows(load(folder)[0])


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def seen(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def marks(ax, kind):
    return [line for line in ax.lines if line.get_label() == f"_{kind}"]


@pytest.fixture
def depths(tmp_path):
    """Three seeds of 20, 56 and 110 layers, plain and residual, the deep plain one bad."""
    for depth, end in ((20, 9.0), (56, 13.0), (110, 16.0)):
        for seed in range(3):
            plain = {"train": (80.0, 40.0, end + seed), "test": (90.0, 50.0, end + 2 * seed)}
            run(tmp_path, depth, "none", seed, lr=STEPPED, **plain)
            run(tmp_path, depth, "identity", seed, lr=STEPPED, train=(70, 30, 5), test=(75, 35, 7))
    return made(tmp_path)


def test_plain_left_residual_right_one_colour_a_depth(depths):
    drawn = figure.curves(depths)
    left, right = seen(drawn)
    assert [left.get_title(), right.get_title()] == ["plain", "residual"]
    assert legend(drawn) == ["training", "test", "20 layers", "56 layers", "110 layers"]
    assert left.get_ylim() == right.get_ylim()
    for ax, skip in ((left, "none"), (right, "identity")):
        colours = [lines(ax)[f"depth={d} skip={skip}: test_error"].get_color() for d in (20, 56, 110)]
        assert len(set(colours)) == 3
        assert colours == [handle.get_color() for handle in drawn.legends[0].legend_handles[2:]]
    markers = [handle.get_marker() for handle in drawn.legends[0].legend_handles[2:]]
    assert len(set(markers)) == 3


def test_thin_training_bold_test_mean_over_seeds_in_a_band(depths):
    ax = seen(figure.curves(depths))[0]
    train, test = (lines(ax)[f"depth=20 skip=none: {metric}"] for metric in ("train_error", "test_error"))
    assert train.get_linewidth() < 1 < test.get_linewidth()
    assert [*train.get_xdata()] == [100, 200, 300]
    assert [*train.get_ydata()] == [80, 40, 10]
    assert [*test.get_ydata()] == [90, 50, 11]
    band = ax.collections[1].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (9, 90)
    assert figure.series(depths[1], "test_error")[-1] == (300, 11, 9, 13)


def test_drops_of_the_rate_are_lines_in_each_panel(depths):
    for ax in seen(figure.curves(depths)):
        assert [line.get_xdata()[0] for line in marks(ax, "drop")] == [250]


@pytest.mark.parametrize(
    ("lr", "steps"),
    [
        ([0.1, 0.1, 0.01, 0.01, 0.001], [250, 450]),
        ([0.01, 0.1, 0.1, 0.06], []),  # a warm-up, a small step
        ([0.1, 0.08, 0.03, 0.001], []),  # a smooth descent
        ([0.1, 0.01, 0.01], [150]),
        ([0.1, 0.01, 0.0001], []),  # one cycle in three looks
        ([0.1, 0.01], []),  # two do not tell
        ([0.1], []),
        ([0.1, None, 0.1, 0.01], [350]),
    ],
)
def test_what_a_drop_is(tmp_path, lr, steps):
    run(tmp_path, lr=lr, train=[50.0] * len(lr), test=[50.0] * len(lr))
    assert figure.drops(load(tmp_path)[0][0]) == steps


def test_ends_are_never_cut_off_and_beginnings_are_where_all_ends_are_low(depths, tmp_path):
    low, high = figure.error_limits(depths)
    assert low == 0
    assert 20 < high < 75  # the highest end is seen, the first evaluation is not
    run(tmp_path / "bad", 20, test=(90, 85, 91))
    run(tmp_path / "bad", 56, test=(90, 10, 5))
    assert figure.error_limits(made(tmp_path / "bad"))[1] >= 91
    run(tmp_path / "one", 20, test=(90, 10, 2))
    run(tmp_path / "one", 56, train=(92, 80, 60), test=(90, 80, 60))
    assert figure.error_limits(made(tmp_path / "one")) == (0, 100)  # one that has not learned is seen from its start
    run(tmp_path / "far", train=(80, 75, 70), test=(81, 76, 72))
    low, high = figure.error_limits(made(tmp_path / "far"))
    assert 40 < low < 70
    assert high > 80
    run(tmp_path / "zero", train=(0, 0), test=(0, 0))
    assert figure.error_limits(made(tmp_path / "zero")) == (0, 1)


def test_a_single_seed_is_no_dot_beside_its_own_mean(tmp_path):
    run(tmp_path, 20)
    run(tmp_path, 56)
    rows = made(tmp_path)
    assert [figure._survivors(row, "test_error") for row in rows] == [[], []]
    run(tmp_path, 56, seed=1)
    assert [len(figure._survivors(row, "test_error")) for row in made(tmp_path)] == [0, 2]


def test_rows_without_depth_have_a_colour_each_and_one_panel(tmp_path):
    for skip in ("identity", "scaled", "conv"):
        run(tmp_path, 110, skip)
    drawn = figure.curves(made(tmp_path))
    (ax,) = seen(drawn)
    assert len(lines(ax)) == 6
    assert legend(drawn) == ["training", "test", "skip=conv", "skip=identity", "skip=scaled"]
    assert len({to_hex(handle.get_color()) for handle in drawn.legends[0].legend_handles[2:]}) == 3


def test_an_axis_that_is_cut_says_where(depths, tmp_path):
    assert seen(figure.curves(depths))[0].get_ylabel() == f"error (%), cut at {figure.error_limits(depths)[1]:g}"
    run(tmp_path / "whole", train=(80, 75, 70), test=(81, 76, 72))
    assert seen(figure.curves(made(tmp_path / "whole")))[0].get_ylabel() == "error (%)"


def test_a_row_at_the_start_alone_has_no_panel(tmp_path):
    run(tmp_path, 20, "none")
    untrained = run(tmp_path, 20, "identity", train=(90.0,), test=(90.0,))
    records = [json.loads(line) for line in (untrained / "metrics.jsonl").read_text().splitlines()]
    (untrained / "metrics.jsonl").write_text("".join(json.dumps(record | {"step": 0}) + "\n" for record in records))
    both = made(tmp_path)
    assert len(seen(figure.curves(both))) == 1
    assert len(seen(figure.curves(both[:1]))) == len(seen(figure.curves(both[1:]))) == 1


def test_many_rows_are_split_into_panels_with_legends_of_their_own(tmp_path):
    for skip in ("identity", "none"):
        run(tmp_path, 110, skip)
    for bias in range(11):
        run(tmp_path, 110, "gate", config={"skip": {"bias": -bias}})
    panels = seen(figure.curves(made(tmp_path)))
    assert [ax.get_title() for ax in panels] == ["plain", "skip=gate", "residual"]
    colours = [line.get_color() for line in panels[1].lines]
    assert len(set(colours)) == 11
    assert [text.get_text() for text in panels[1].get_legend().get_texts()][:2] == ["skip.bias=-10", "skip.bias=-9"]


def test_final_errors_over_depth(depths):
    drawn = figure.final(depths)
    for ax, name in zip(drawn.axes, ("training", "test"), strict=True):
        assert ax.get_title() == name
        assert [*ax.xaxis.get_major_locator().locs] == [20, 56, 110]
        assert len(marks(ax, "seed")) == 6
        assert all(ax.get_ylim()[0] < y < ax.get_ylim()[1] for line in marks(ax, "seed") for y in line.get_ydata())
    plain = drawn.axes[1].containers[0]
    assert plain.get_label() == "plain"
    assert [*plain.lines[0].get_ydata()] == [11, 15, 18]
    (bars,) = plain.lines[2]
    assert bars.get_segments()[0][:, 1].tolist() == [9, 13]  # 11 ± 2
    assert sorted(marks(drawn.axes[1], "seed")[0].get_ydata()) == [9, 11, 13]
    assert legend(drawn) == ["plain", "residual"]


def test_final_errors_of_other_rows_stand_on_lines_with_their_labels(tmp_path):
    labels = sorted(["none", "identity", *(f"a_shortcut_with_a_long_name_{i}" for i in range(12))])
    for skip in labels:
        run(tmp_path, 110, skip)
    drawn = figure.final(made(tmp_path))
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == [f"skip={label}" for label in labels]
    assert drawn.axes[0].get_ylim()[0] > drawn.axes[0].get_ylim()[1]
    assert drawn.get_figheight() > 3


def test_a_diverged_seed_is_a_cross_and_its_row_has_no_mean(tmp_path):
    run(tmp_path, skip="identity", seed=0)
    run(tmp_path, skip="identity", seed=1, status="diverged", train=(80, 60, math.nan), test=(80, 60, math.nan))
    (row,) = made(tmp_path)
    (ax,) = seen(figure.curves([row]))
    (cross,) = marks(ax, "diverged")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (200, 60)
    for ax in figure.final([row]).axes:
        assert len(marks(ax, "diverged")) == 1
        assert len(marks(ax, "seed")[0].get_xdata()) == 1
        assert not ax.containers


@pytest.mark.parametrize("draw", [figure.curves, figure.final])
def test_all_that_can_happen_can_be_drawn(tmp_path, draw):
    lost = {"train": (math.nan,), "test": (math.nan,), "status": "diverged"}
    run(tmp_path / "a", **lost)
    run(tmp_path / "b", train=(50.0,), test=(50.0,))
    run(tmp_path / "c", **lost)
    run(tmp_path / "c", 56, train=(50.0,), test=(50.0,))
    run(tmp_path / "d", skip="$x_1^{2$ <&>")
    for name in "abcd":
        figure.save(draw(made(tmp_path / name)), tmp_path / name / "figure")


def test_the_same_runs_give_the_same_bytes(depths, tmp_path):
    for draw in (figure.curves, figure.final):
        texts = [figure.save(draw(depths), tmp_path / name) for name in ("one", "two")]
        assert texts[0] == texts[1]
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        assert "<text" in texts[0]


def test_inside_a_page_an_svg_has_no_address_and_ids_of_its_own(depths, tmp_path):
    svg = figure.inline(figure.save(figure.curves(depths), tmp_path / "x"), "c0")
    assert svg.startswith("<svg")
    assert "http" not in svg
    assert 'id="figure_1"' not in svg
    assert 'id="c0-figure_1"' in svg
    assert "url(#c0-" in svg


def test_an_unfinished_run_ends_in_a_ring_and_says_its_iteration(tmp_path):
    for depth in (20, 56):
        run(tmp_path, depth)
    (run(tmp_path, 56, "identity") / "summary.json").unlink()
    drawn = figure.curves(rows([result for kind in load(tmp_path)[:2] for result in kind]))
    plain, residual = seen(drawn)
    (ring,) = marks(residual, "unfinished")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (300, 15.0)
    assert [text.get_text() for text in residual.texts] == ["56 layers, unfinished: iteration 300 of 1,000"]
    assert marks(plain, "unfinished") == []


def test_depths_that_are_near_have_one_label(depths):
    near = dict(zip((20, 56, 110), (8, 38, 40), strict=True))
    drawn = figure.final([replace(row, facts=row.facts | {"depth": near[row.facts["depth"]]}) for row in depths])
    drawn.draw_without_rendering()
    for ax in drawn.axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["8", "", "40"]


def test_labels_of_several_lines_have_room(tmp_path):
    run(tmp_path)
    drawn = figure.final([replace(row, label="norm.momentum=0.1 " * 6) for row in made(tmp_path) * 8])
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn.axes[0].get_yticklabels()]
    assert all(below.y1 <= above.y0 for above, below in pairwise(boxes))


def test_names_are_broken_between_words(tmp_path):
    name = "looks-linear in the centre, mirrored ReLU"
    run(tmp_path)
    named = [replace(row, label=f"depth=110 {name}".replace(" ", "\N{NO-BREAK SPACE}")) for row in made(tmp_path)]
    (label,) = figure.final(named).axes[0].get_yticklabels()
    assert label.get_text() == f"depth=110 {name.replace(' ReLU', chr(10) + 'ReLU')}"
    assert figure.filled(name, 31) == name.replace(" mirrored", "\nmirrored")
