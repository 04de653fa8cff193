"""Pictures of what networks see."""

from made import run
from matplotlib.image import AxesImage

from depthlab.reports import figure, profile
from depthlab.reports.collect import load, rows
from depthlab.reports.table import having

TRUTH = [[[0, 0, 1], [0, 12, 1]], [[0, 0, 0], [3, 3, 3]]]
IMAGE = [[[0, 9, 255], [0, 99, 255]], [[0, 0, 0], [255, 255, 255]]]
SPEC = {
    "y": "predictions.said",
    "pictures": {"with": {"skip": "concat"}, "without": {"skip": "none"}, "never": {"depth": 1}},
}


def look(said, wrong):
    return {"image": IMAGE, "truth": TRUTH, "said": said, "wrong": wrong}


def pixels(ax):
    (image,) = [child for child in ax.get_children() if isinstance(child, AxesImage)]
    return image.get_array().tolist(), image.cmap(image.norm(image.get_array())).round(3).tolist()


def test_image_truth_and_what_each_network_says_stand_side_by_side(tmp_path):
    good, bad = TRUTH, [[[0, 0, 0], [0, 12, 1]], TRUTH[1]]
    for seed in (1, 0):
        run(
            tmp_path,
            skip="concat",
            seed=seed,
            probes={"predictions": [look(bad, 50.0), look(bad, 9.0), look(good, seed)]},
        )
    run(tmp_path, skip="none", probes={"predictions": [look(bad, 8.25)] * 3})
    axes = profile.drawn(SPEC, rows(load(tmp_path)[0])).axes
    grid = [axes[:4], axes[4:]]
    assert [ax.get_title() for ax in grid[0]] == ["image", "truth", "with", "without"]
    for line in range(2):
        shown = [pixels(ax)[0] for ax in grid[line]]
        assert shown == [IMAGE[line], TRUTH[line], good[line], bad[line]]
    assert [ax.get_xlabel() for ax in grid[1]] == ["", "", "0.0 % wrong", "8.2 % wrong"]  # the first seed, at its end
    (_, colours), (_, others) = pixels(grid[0][1]), pixels(grid[1][1])
    assert colours[0][0] == others[0][0] != colours[0][2]  # the background has one colour, a class another
    assert len({str(colours[0][0]), str(colours[0][2]), str(colours[1][1]), str(others[1][0])}) == 4


def test_tensorboard_shows_them_too():
    axes = profile.sketch(look(TRUTH, 0.0)).axes
    assert [ax.get_title() for ax in axes[:3]] == ["image", "truth", "network"]


def test_who_has_not_come_to_the_end_is_not_shown(tmp_path):
    run(tmp_path, skip="none", seed=0, probes={"predictions": [look(TRUTH, 1.0)]})  # two evaluations too few
    assert having(SPEC, rows(load(tmp_path)[0])) == []
    run(tmp_path, skip="none", seed=1, probes={"predictions": [look(TRUTH, 2.0)] * 3})
    run(tmp_path, skip="identity", probes={"predictions": [look(TRUTH, 3.0)] * 3})
    (row,) = shown = having(SPEC, rows(load(tmp_path)[0]))
    assert row.facts["skip"] == "none"
    assert profile.drawn(SPEC, shown).axes[-1].get_xlabel() == "2.0 % wrong"


def test_networks_whose_levels_are_joined_are_not_called_residual(tmp_path):
    for network, names in (("unet", ["not connected", "connected"]), ("resnet", ["plain", "residual"])):
        for joined in ("none", "identity"):
            run(tmp_path / network, skip=joined, config={"network": {"name": network}})
        assert [*figure.panels_of(rows(load(tmp_path / network)[0]))] == names
