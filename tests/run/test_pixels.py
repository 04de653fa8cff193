"""Labels per pixel from the command: what is measured, shown and reported, and what is refused."""

import json
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from depthlab import api
from depthlab.command.words import over
from depthlab.reports.command import experiment_of, write
from depthlab.training import loop

SHORT = ("data=scenes", "width=4", "depth=8", "network.levels=1", "data.images=64", "data.test_images=20")
SHORT += ("recipe.batch=16", "recipe.iterations=8")
PIXELS = ("iou", "border_error", "border_iou", "interior_error", "interior_iou")


def the_run():
    (run,) = Path("outputs/scenes").glob("[!.]*")
    return run


def test_a_run_measures_shows_and_reports(command):
    outcome = command(*SHORT, "probe=[predictions]", "probe.predictions.images=2", "evaluate_train=true")
    assert outcome.code == 0, outcome.err
    run = the_run()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    final = json.loads((run / "summary.json").read_text())["final"]
    for split in ("test", "clean_train"):
        names = {f"{split}_{kind}" for kind in ("error", "loss", *PIXELS)}
        assert names <= {*final} & {*records[-1]}
        assert all(0 <= final[name] <= 100 for name in names)
    assert (
        f"iou {final['test_iou']:.2f} %, border error {final['test_border_error']:.2f} %, border iou" in outcome.out
    )

    loaded = api.load(run)  # the same numbers, from the network itself
    x, y = loaded.data.first("test", 20)
    with torch.no_grad():
        said = loaded.net(x).argmax(1)
    assert final["test_error"] == pytest.approx(100 * (said != y).double().mean().item())
    (look,) = [json.loads(line) for line in (run / "probe-predictions.jsonl").read_text().splitlines()]
    assert (look["said"], look["truth"]) == (said[:2].tolist(), y[:2].tolist())
    assert look["wrong"] == pytest.approx(100 * (said != y)[:2].double().mean().item())
    for image, pixels in zip(look["image"], x[:2, 0], strict=True):
        shown = torch.tensor(image).double()
        assert (shown.min(), shown.max()) == (0, 255)
        assert torch.corrcoef(torch.stack([shown.flatten(), pixels.double().flatten()]))[0, 1] > 0.9999

    events = EventAccumulator(str(run)).Reload()
    assert events.Images("probe/predictions")[-1].step == 8
    for tag, name in (("error/test", "test_error"), ("iou/test", "test_iou"), ("iou/test_border", "test_border_iou")):
        assert events.Scalars(tag)[-1].value == pytest.approx(final[name])
    assert events.Scalars("error/test_border")[-1].value == pytest.approx(final["test_border_error"])

    write(Path("outputs/scenes"), experiment_of(Path("outputs/scenes")))
    report = Path("outputs/scenes/report/report.md").read_text()
    assert "| test iou | test border error | test border iou | test interior error | test interior iou |" in report
    assert f"| {final['test_border_iou']:.2f} | {final['test_interior_error']:.2f} |" in report


@pytest.mark.parametrize("word", ["recipe/optimizer=adamw", "recipe/optimizer=kfac", "network=hourglass"])
def test_stopped_and_gone_on_it_ends_bit_for_bit_the_same(command, monkeypatch, word):
    run = over([*SHORT, word], *["depth=37"] * (word == "network=hourglass"))  # two, stacked

    def ended():
        saved = torch.load(the_run() / "checkpoint.pt", weights_only=True)
        return saved["net"], [{k: v for k, v in r.items() if k != "seconds"} for r in saved["records"]]

    assert command(*run).code == 0
    net, records = ended()
    Path("outputs").rename("undisturbed")
    straight = loop.train

    def stopping(*args, **kwargs):
        for count, metrics in enumerate(straight(*args, **kwargs)):
            if count == 6:
                signal.raise_signal(signal.SIGINT)
            yield metrics

    monkeypatch.setattr("depthlab.run.build.train", stopping)
    assert command(*run).code == 130
    monkeypatch.setattr("depthlab.run.build.train", straight)
    assert command(*run).code == 0
    again, records_again = ended()
    assert records_again == records
    assert again.keys() == net.keys()
    assert all(torch.equal(net[name], again[name]) for name in net)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "data=scenes network=resnet",
            "network=resnet: labels images, and data=scenes has labels of pixels (allowed: ",
        ),
        (
            "data=scenes network=densenet_bc",
            "network=densenet_bc: labels images, and data=scenes has labels of pixels",
        ),
        (
            "data=digits network=unet",
            "network=unet: labels pixels, and data=digits has labels of images (allowed: densen",
        ),
        ("data=scenes weights={depth:18} depth=32", "weights={...}: not with network=unet, whose units are no chain"),
        (
            "data=scenes probe=[lesion]",
            "probe=lesion: of a chain of units that labels images, and this network labels p",
        ),
        (
            "data=digits probe=[predictions]",
            "probe=predictions: of labels of pixels, and this network labels images (al",
        ),
        (
            "data=digits skip=concat",
            "skip=concat: joins in network=densenet and network=unet; the others add (skip=identity)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(command, words, told):
    outcome = command(*words.split())
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {told}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["covariate_shift", "loss_along_gradient", "loss_surface", "norm_effects", "sensitivity"]
)
def test_probes_that_need_no_chain_measure(name):
    net = api.network([word for word in SHORT if not word.startswith("recipe")])
    x, y = api.images("data=scenes data.images=8 data.test_images=1").first("train", 8)
    few = {"loss_surface": {"points": 3, "line_points": 3}, "norm_effects": {"sizes": [2, 4], "draws": 2}}
    values = api.probe(net, x, y, name, **few.get(name, {}))
    assert all(value == value for value in values.values() if isinstance(value, float))
