"""Figures of what probes measured: what is drawn, and theory beside it."""

import json
import shutil

import pytest
from made import run

from depthlab.reports.collect import load, rows
from depthlab.reports.profile import drawn, sketch
from depthlab.reports.table import gather, having, markdown, table

EXPERIMENT = {
    "title": "Inside",
    "source": "a paper",
    "runs": ["depth=20,56 skip=none"],
    "seeds": [0, 1, 2],
    "claims": [
        {"claim": "it doubles", "metric": "inside.factor", "of": {"depth": 20}, "equals": 2, "within": 0.1},
        {"claim": "it halves", "metric": "inside.factor", "of": {"depth": 20}, "equals": 0.5, "within": 0.1},
        {"claim": "it is bounded", "metric": "inside.factor", "of": {"depth": 56}, "least": 1},
        {
            "claim": "both grow alike",
            "metric": "inside.factor",
            "of": {"depth": 56},
            "equals": {"depth": 20},
            "within": 0.5,
        },
        {"claim": "nobody looked", "metric": "inside.other", "of": {"depth": 20}, "most": 1},
        {"claim": "nobody ran", "metric": "inside.factor", "of": {"depth": 110}, "most": 1},
    ],
    "figures": [
        {"title": "Sizes after each unit", "y": "inside.sizes", "log": True},
        {"title": "None", "y": "inside.no"},
    ],
}


def looks(depth, seed):
    sizes = [2.0**i + 0.1 * seed for i in range(4)]
    surface = [[1.0 + a * a + b * b for a in range(3)] for b in range(3)]
    values = {"sizes": sizes, "loss": surface, "alpha": [-1, 0, 1], "beta": [-1, 0, 1]}
    end = {"factor": (2 if depth == 20 else 1.2) + 0.01 * seed}
    return [{"factor": 9.0} | values, {"factor": 9.0} | values, end | values]


@pytest.fixture
def folder(tmp_path):
    for depth in (20, 56):
        for seed in range(3):
            run(tmp_path / "inside", depth, seed=seed, probes={"inside": looks(depth, seed)})
    return tmp_path / "inside"


def made(folder):
    return rows(load(folder)[0])


def lines(ax, dashed):
    return [line for line in ax.lines if (line.get_label() == "theory") is dashed]


def test_a_list_is_drawn_over_its_places_with_theory_beside_it(folder):
    theory = [{"of": {"depth": 20}, "factor": 2}, {"of": {"depth": 20}, "step": 1, "at": 1}]
    theory += [{"of": {"depth": 56}, "factor": 2, "backwards": True}, {"of": {"depth": 56}, "value": 7}]
    spec = {"y": "inside.sizes", "title": "sizes", "x": "layer", "first": 1, "theory": theory}
    (ax,) = drawn(spec, made(folder)).axes
    curves, laws = lines(ax, False), lines(ax, True)
    assert [line.get_label() for line in curves] == ["depth=20", "depth=56"]
    assert list(curves[0].get_xdata()) == [1, 2, 3, 4]
    assert list(curves[0].get_ydata()) == pytest.approx([1.1, 2.1, 4.1, 8.1])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((1.0, 8.2))
    assert [list(law.get_ydata()) for law in laws] == [
        pytest.approx([1.1, 2.2, 4.4, 8.8]),
        pytest.approx([1.1, 2.1, 3.1, 4.1]),
        pytest.approx([8.1 * 8, 8.1 * 4, 8.1 * 2, 8.1]),
        [7, 7, 7, 7],
    ]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("layer", "sizes", "linear")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["theory", "20 layers", "56 layers"]


def test_a_number_is_drawn_over_the_iterations(folder):
    (ax,) = drawn({"y": "inside.factor", "title": "factor"}, made(folder)).axes
    assert list(ax.lines[1].get_xdata()) == [100, 200, 300]
    assert list(ax.lines[1].get_ydata()) == pytest.approx([9, 9, 1.21])
    assert ax.get_xlabel() == "iterations"


def test_a_list_of_lists_is_drawn_as_contours_a_panel_a_row(folder):
    figure = drawn({"y": "inside.loss", "title": "loss"}, made(folder))
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 2
    assert all(ax.collections for ax in panels)


def test_a_sketch_writes_powers_of_ten_as_they_are_read():
    shown = sketch({"loss": [1e-3, 1.0, 1e3]})
    assert shown is not None
    shown.canvas.draw()
    ticks = {tick.get_text() for tick in shown.axes[0].get_yticklabels()}
    assert ticks & {"10⁻²", "10⁻³"}  # which of them depends on matplotlib's version


def test_a_sketch_has_a_panel_a_list_and_none_for_numbers_alone():
    assert sketch({"factor": 1.0}) is None
    shown = sketch(looks(20, 0)[0] | {"names": ["a", "b"], "holes": [1.0, None, 3.0]})
    assert {ax.get_title() for ax in shown.axes if ax.get_visible()} == {"sizes", "loss", "holes"}


def test_verdicts_and_columns(folder):
    (sheet,) = gather(folder, EXPERIMENT).sheets
    found = {verdict.claim: (verdict.word, verdict.because) for verdict in sheet.verdicts}
    assert found["it doubles"] == ("reproduced", "inside.factor 2.01 ± 0.01 against 2 (to within 0.1), 3 seeds")
    assert found["it halves"][0] == "contradicted"
    assert found["it is bounded"] == ("reproduced", "inside.factor 1.21 ± 0.01 against at least 1, 3 seeds")
    assert found["both grow alike"][0] == "contradicted"
    known = "allowed: alpha, beta, factor, loss, sizes"
    assert found["nobody looked"] == ("not run", f"inside.other was not measured, or is no number; ({known})")
    assert found["nobody ran"] == ("not run", "no run of depth=110")
    heading, *cells = table(sheet)
    assert heading[-1] == "factor"
    assert [line[-1] for line in cells] == ["2.01 ± 0.01", "1.21 ± 0.01"]


def test_figures_that_were_measured_are_in_the_report(folder):
    report = gather(folder, EXPERIMENT)
    assert [*report.sheets[0].captions] == ["curves-digits", "final-digits", "sizes-digits"]
    assert "![Sizes after each unit](sizes-digits.svg)" in markdown(report)


def test_measured_at_initialisation_alone_there_are_no_errors(tmp_path):
    path = run(tmp_path / "inside", 20, probes={"inside": looks(20, 0)})
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    records = [{key: value for key, value in record.items() if key != "train_error"} for record in records]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (sheet,) = gather(tmp_path / "inside", EXPERIMENT).sheets
    assert [*sheet.captions] == ["sizes-digits"]
    assert table(sheet)[0] == ["row", "seeds", "parameters", "factor"]


def test_other_settings_are_left_out_and_a_broken_probe_is_named(folder):
    files = sorted(folder.glob("*/probe-inside.jsonl"))
    with files[0].open("a") as file:
        file.write(json.dumps({"step": 300, "settings": {"images": 8}, "factor": 5.0}) + "\n")
    files[1].write_text("nonsense\n")
    results, _, broken = load(folder)
    assert len(results) == 5
    assert results[0].value("inside.factor") == 5.0
    assert len(results[0].probes["inside"]) == 1
    assert files[1].parent.name in broken[0]


def word(folder, claim):
    (sheet,) = gather(folder, EXPERIMENT | {"claims": [{"claim": "c", "metric": "inside.factor"} | claim]}).sheets
    return sheet.verdicts[0].word


def test_a_diverged_seed_decides_nothing(tmp_path):
    for seed, status in enumerate(("finished", "diverged", "diverged")):
        found = {"inside": [{"factor": 1.0}] * 3} if status == "finished" else {}
        run(tmp_path / "inside", 20, seed=seed, status=status, probes=found)
    assert word(tmp_path / "inside", {"of": {"depth": 20}, "least": 1}) == "undecided"
    assert word(tmp_path / "inside", {"of": {"depth": 20}, "equals": 1, "within": 0.1}) == "undecided"


def test_a_look_in_the_middle_is_not_the_end(tmp_path):
    run(tmp_path / "inside", 20, probes={"inside": [{"factor": 1.0}]})  # at iteration 100 of 300
    assert word(tmp_path / "inside", {"of": {"depth": 20}, "least": 0}) == "not run"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 2.0, 2: 3.0}, "reproduced"),
        ({0: 1.0, 1: 2.0, 3: 7.0}, {1: 2.0, 2: 9.0, 3: 7.0}, "reproduced"),  # the seeds in common
        ({0: 1.0, 1: 2.0}, {1: 2.0, 2: 9.0}, "undecided"),  # one is no spread
        ({0: 6.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 6.0, 2: 1.0}, "undecided"),  # differences that cancel
        ({0: 2.0, 1: 3.0, 2: 4.1}, {0: 1.0, 1: 2.0, 2: 3.0}, "contradicted"),
        ({0: 1.0}, {1: 1.0}, "not run"),
    ],
)
def test_rows_are_compared_seed_by_seed(tmp_path, first, second, expected):
    for depth, values in ((20, first), (56, second)):
        for seed, value in values.items():
            run(tmp_path / "inside", depth, seed=seed, probes={"inside": [{"factor": value}] * 3})
    assert word(tmp_path / "inside", {"of": {"depth": 20}, "equals": {"depth": 56}, "within": 0.1}) == expected


def test_errors_against_parameters_have_a_line_for_each_kind(tmp_path):
    for depth, skip in ((20, "none"), (8, "none"), (20, "identity")):
        for seed, error in ((0, 10.0), (1, 14.0)):
            run(tmp_path, depth=depth, skip=skip, seed=seed, test=(85.0, 45.0, error + depth))
    found, _, _ = load(tmp_path)
    kinds = {"plain": {"skip": "none"}, "residual": {"skip": "identity"}, "other": {"skip": "conv"}}
    spec = {"name": "parameters", "title": "t", "y": "test_error", "against": "parameters", "lines": kinds}
    (ax,) = drawn(spec, having(spec, rows(found))).axes
    plotted = {bars.get_label(): bars.lines[0] for bars in ax.containers}
    assert [*plotted["plain"].get_xdata()] == [8000, 20000]
    assert [*plotted["plain"].get_ydata()] == [20, 32]
    assert [*plotted["residual"].get_ydata()] == [32]
    assert "other" not in plotted
    assert having(spec | {"lines": {"other": {"skip": "conv"}}}, rows(found)) == []


def test_a_course_runs_forward_whatever_seed_looked_more_often(tmp_path):
    run(tmp_path / "inside", 20, seed=0, probes={"inside": [{"factor": 1.0}, {"factor": 1.0, "step": 300}]})
    run(tmp_path / "inside", 20, seed=1, probes={"inside": [{"factor": 1.0}] * 3})
    (ax,) = drawn({"y": "inside.factor", "title": "factor"}, made(tmp_path / "inside")).axes
    assert list(ax.lines[0].get_xdata()) == [100, 200, 300]


def test_numbers_over_depth_with_the_depth_that_is_predicted(tmp_path):
    for depth in (20, 40, 60):
        for seed in range(2):
            look = {"cosine": 1 - depth / 80, "bits": depth / 4 + 0.2 * seed}
            run(tmp_path, depth=depth, seed=seed, probes={"p": [{}, {}, look]})
    found, _, _ = load(tmp_path)
    lines = {"TF32": {"y": "p.cosine", "predicted": ["p.bits", 10.1]}, "other": {"y": "p.cosine"}}
    figure = drawn({"title": "t", "y": "p.cosine", "lines": lines}, rows(found))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["predicted", "TF32", "other"]
    del lines["TF32"]["predicted"]
    foreseeing_nothing = drawn({"title": "t", "y": "p.cosine", "lines": lines}, rows(found))
    assert [text.get_text() for text in foreseeing_nothing.legends[0].get_texts()] == ["TF32", "other"]
    (ax,) = figure.axes
    plotted = {line.get_label(): line for line in ax.lines}
    assert [*plotted["TF32"].get_ydata()] == [0.75, 0.5, 0.25]
    assert [*plotted["TF32: predicted"].get_xdata()] == pytest.approx([40, 40])
    assert "other: predicted" not in plotted


def test_a_number_that_is_not_known_has_no_figure_and_takes_none_from_others(tmp_path):
    figure = {"title": "t", "y": "inside.factor"}
    run(tmp_path, depth=20, probes={"inside": [{"factor": None}] * 3})
    assert having(figure, made(tmp_path)) == []
    run(tmp_path, depth=56, probes={"inside": [{"factor": 1.2}] * 3})
    (shown,) = having(figure, made(tmp_path))
    assert shown.facts["depth"] == 56
    assert len(drawn(figure, [shown]).axes) == 1


def test_theory_begins_at_a_place_that_is_there(tmp_path):
    run(tmp_path, depth=20, probes={"inside": looks(20, 0)})
    for at, count in ((3, 1), (4, 0)):  # of four sizes
        figure = {"title": "t", "y": "inside.sizes", "theory": [{"of": {}, "factor": 2, "at": at}]}
        (ax,) = drawn(figure, made(tmp_path)).axes
        assert len(lines(ax, dashed=True)) == count


def test_over_one_depth_there_is_nothing_to_draw(tmp_path):
    run(tmp_path, depth=20, probes={"p": [{"cosine": 0.5}] * 3})
    assert having({"title": "t", "y": "p.cosine", "lines": {"TF32": {"y": "p.cosine"}}}, made(tmp_path)) == []


@pytest.mark.parametrize(
    "value", [[[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]], [{"a": 1}, {"a": 2}], [[1.0], [2.0]], [1.0, [2.0]]]
)
def test_a_sketch_leaves_out_what_it_cannot_draw(value):
    assert sketch({"odd": value}) is None
    shown = sketch({"odd": value, "plain": [1.0, 2.0]})
    assert {ax.get_title() for ax in shown.axes if ax.get_visible()} == {"plain"}


def test_a_copy_of_a_run_is_no_other_seed(tmp_path):
    first = run(tmp_path, depth=20)
    shutil.copytree(first, tmp_path / "copied")
    found, _, broken = load(tmp_path)
    assert len(found) == 1
    assert broken == [f"{first.name}: the same run as copied"]
