"""When a probe is due, and that a run does not notice it."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from depthlab.probes import PIXELS
from depthlab.run import probing
from depthlab.run.directory import Run
from depthlab.run.probing import Probe, due

SHORT = (
    "data=digits",
    "data.augment=true",
    "data.subset=200",
    "depth=8",
    "width=4",
    "skip=dropout",
    "recipe.batch=32",
)
SHORT += ("recipe.iterations=14", "threads=1")
ALL = sorted({path.stem for path in (ROOT / "configs/probe").glob("*.yaml")} - PIXELS)
LOOK = "probe=[activations,gradients]"


def probe(every, **keys):
    return Probe("made", partial(lambda net, x, y, rate, **keys: {}, **keys), every, "train", 4)


def schedule(tmp_path, every, epochs, steps_an_epoch=10):
    """The iterations at which a probe looks in a run of so many epochs."""
    run, records, looks, one = Run(tmp_path), [], [], probe(every)
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "probe-made.jsonl").unlink(missing_ok=True)
    steps = epochs * steps_an_epoch
    for step in range(steps + 1):
        for evaluated in (False, True):
            if evaluated and (step % steps_an_epoch or (step == 0 and steps)):
                continue
            if evaluated:
                records.append({"step": step, "epoch": step / steps_an_epoch})
            for each in due([one], run, records, step, steps):
                looks.append(step)
                run.append({"step": step, "settings": each.settings}, "made")
    return looks


@pytest.mark.parametrize(
    ("every", "epochs", "looks"),
    [
        (1, 3, [0, 10, 20, 30]),
        (2, 5, [0, 20, 40, 50]),
        (100, 3, [0, 30]),
        (None, 3, [30]),
        (1, 0, [0]),
        (None, 0, [0]),
        (0.5, 2, [0, 10, 20]),
    ],
)
def test_a_probe_looks_at_the_start_every_so_many_epochs_and_at_the_end(tmp_path, every, epochs, looks):
    assert schedule(tmp_path / "run", every, epochs) == looks


@given(every=st.none() | st.integers(1, 9), epochs=st.integers(0, 12))
def test_it_looks_once_at_a_time_and_always_at_the_end(tmp_path_factory, every, epochs):
    looks = schedule(tmp_path_factory.mktemp("runs") / "run", every, epochs)
    assert looks == sorted({*looks})
    assert looks[-1] == 10 * epochs


def test_other_settings_are_another_measurement(tmp_path):
    run = Run(tmp_path)
    run.append({"step": 5, "settings": probe(1, size=3).settings}, "made")
    assert probe(None, size=3).measured(run, 5)
    assert not probe(1, size=4).measured(run, 5)
    assert not probe(1, size=3).measured(run, 6)


def outcome(folder="outputs"):
    (run,) = Path(folder, "digits").glob("resnet*")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tensors = [saved["net"], {str(k): v["momentum_buffer"] for k, v in saved["optimizer"]["state"].items()}]
    flat = [t for part in (*tensors, saved["random"]) for t in part.values()]
    return flat, [{k: v for k, v in record.items() if k != "seconds"} for record in records], run


def looks(run, name):
    return [json.loads(line) for line in (run / f"probe-{name}.jsonl").read_text().splitlines()]


def test_a_run_with_all_probes_is_bit_for_bit_the_run_without(command):
    small = {name: yaml.safe_load((ROOT / f"configs/probe/{name}.yaml").read_text()) for name in ALL}
    fewer = [
        f"probe.{name}.images=16" for name, node in small.items() if node["images"] is None or node["images"] > 16
    ]
    fewer = [option for option in fewer if "line" not in option]
    assert command(*SHORT).code == 0
    tensors, records, run = outcome()
    Path("outputs").rename("without")
    done = command(*SHORT, f"probe=[{','.join(ALL)}]", *fewer)
    assert done.code == 0, done.err
    with_probes = outcome()
    assert with_probes[2].name == run.name
    assert all(torch.equal(a, b) for a, b in zip(tensors, with_probes[0], strict=True))
    assert records == with_probes[1]
    assert {*ALL} == {path.stem.removeprefix("probe-") for path in with_probes[2].glob("probe-*")}


def test_a_probe_on_a_finished_run_measures_its_checkpoint_and_once(command):
    assert command(*SHORT).code == 0
    run = outcome()[2]
    before = {
        path: path.read_bytes() for path in map(run.joinpath, ("summary.json", "metrics.jsonl", "checkpoint.pt"))
    }
    first = command(*SHORT, LOOK)
    assert first.code == 0
    assert "probe=gradients: of a finished run it sees the end alone; rerun=true shows its course" in first.out
    assert [look["step"] for look in looks(run, "gradients")] == [14]
    assert before == {path: path.read_bytes() for path in before}
    again = command(*SHORT, LOOK)
    assert "done before" in again.out
    assert [look["step"] for look in looks(run, "gradients")] == [14]
    assert command(*SHORT, LOOK, "probe.gradients.images=32").code == 0
    assert [look["settings"]["images"] for look in looks(run, "gradients")] == [256, 32]
    (run / "checkpoint.pt").unlink()
    gone = command(*SHORT, LOOK, "probe.gradients.images=31")
    assert gone.code == 2
    assert "is finished and its checkpoint gone; rerun=true repeats it" in gone.err


def test_at_initialisation(command):
    assert command(*SHORT, "epochs=0", LOOK).code == 0
    (run,) = Path("outputs/digits").glob("resnet*")
    assert [look["step"] for look in looks(run, "activations")] == [0]
    assert len(looks(run, "activations")[0]["unit_variance"]) == 4


def test_an_interrupted_probe_is_measured_again(command, monkeypatch):
    """Ctrl-C in the middle of a look ends it at once; the same command looks again, at every point once."""
    from depthlab.run import probing

    straight, count = probing.Probe.__call__, 0

    def interrupting(self, *given):
        nonlocal count
        count += 1
        if count in (2, 4):
            import signal

            signal.raise_signal(signal.SIGINT)
        return straight(self, *given)

    monkeypatch.setattr(probing.Probe, "__call__", interrupting)
    stops = []
    while (stop := command(*SHORT, LOOK)).code:
        stops.append(stop.code)
        assert len(stops) < 5
    assert stops == [130, 130]
    _, records, run = outcome()
    for name in ("activations", "gradients"):
        assert [look["step"] for look in looks(run, name)] == [0, *(record["step"] for record in records)]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("probe=[gradient]", "did you mean gradients?"),
        ("probe=gradients probe.gradients.images=0", "probe.gradients.images=0: a positive number, or null"),
        ("probe=gradients probe.gradients.every=-1", "probe.gradients.every=-1"),
        ("probe=gradients probe.gradients.split=testing", "did you mean test?"),
        (
            "probe=gradients probe.gradients.split=validation",
            "probe.gradients.split=validation: (allowed: test, train)",
        ),
        ("probe=gradients probe.gradients.sizes=[1]", "each from 2 to"),
        ("probe.gradients.images=3", "probe.gradients"),
        ("+probe.gradients=3", "probe.gradients: choose it as probe=[gradients]"),
        ("+probe.gradients.images=3", "probe.gradients: choose it as probe=[gradients]"),
    ],
)
def test_mistakes_are_one_line(command, typed, said):
    result = command(*SHORT, *typed.split())
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert said in result.err


def test_settings_that_fail_at_the_end_lose_nothing(command):
    """What a probe cannot do is said, the trained network is saved, and the same command without it goes on."""
    options = ("probe=lesion", "probe.lesion.draws=0")
    assert command(*SHORT, *options).code == 2
    run = outcome()[2]
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 14
    assert "14 iterations" in command(*SHORT).out


def test_a_second_look_at_initialisation_keeps_the_first(command):
    for images in (16, 32):
        assert command(*SHORT, "epochs=0", "probe=gradients", f"probe.gradients.images={images}").code == 0
    (run,) = Path("outputs/digits").glob("resnet*")
    assert [look["settings"]["images"] for look in looks(run, "gradients")] == [16, 32]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_ctrl_c_in_a_probe_leaves_the_next_one_for_later(command, monkeypatch):
    import signal

    from depthlab.probes import inside

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)

    module = sys.modules["depthlab.probes.activations"]  # the package has a function of this name
    monkeypatch.setattr(module, "growth", interrupted)
    assert command(*SHORT, "probe=[activations,gradients]").code == 130
    (run,) = Path("outputs/digits").glob("resnet*")
    assert not [*run.glob("probe-*")]
    monkeypatch.setattr(module, "growth", inside.growth)
    assert command(*SHORT, "probe=[activations,gradients]").code == 0
    assert {len(looks(run, name)) for name in ("activations", "gradients")} == {3}


def test_a_look_at_the_start_stays_whatever_comes_after_it(command, monkeypatch):
    """Ctrl-C in a later probe, with nothing trained; and a summary that was deleted, as a damaged one is to be."""
    import signal

    module = sys.modules["depthlab.probes.activations"]
    growth = module.growth
    monkeypatch.setattr(module, "growth", lambda *given: signal.raise_signal(signal.SIGINT))
    words = (*SHORT, "epochs=0")
    assert command(*words, "probe=[gradients,activations]").code == 130
    (run,) = Path("outputs/digits").glob("resnet*")
    (look,) = (run / "probe-gradients.jsonl").read_text().splitlines()
    monkeypatch.setattr(module, "growth", growth)
    assert command(*words, "probe=[gradients,activations]").code == 0
    (run / "summary.json").unlink()
    assert command(*words, "probe=[norm_effects]").code == 0
    assert (run / "probe-gradients.jsonl").read_text().splitlines() == [look]
    assert len(looks(run, "activations")) == len(looks(run, "norm_effects")) == 1


def test_more_images_than_memory_holds_are_refused_before_the_run(command, monkeypatch):
    monkeypatch.setattr(probing, "MOST", 4 * 64 * 100)
    words = ("data=digits", "data.subset=200", "depth=8", "width=4", "epochs=0", "probe=lesion")
    outcome = command(*words)
    line = "error: probe.lesion.images=null: looks at all at once, at most 100 images of 1x8x8\n"
    assert (outcome.code, outcome.err) == (2, line)
    assert command(*words, "probe.lesion.images=100").code == 0
