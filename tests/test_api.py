"""depthlab from Python: the command's words, its runs, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import depthlab
from conftest import ROOT
from depthlab import Mistake, api, config
from depthlab.command.words import over


@contextmanager
def setting(put, get, value, usual):
    """Inside, a setting of the caller's has this value; a call has left it so."""
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(usual)


SETTINGS = {
    "default dtype": (torch.set_default_dtype, torch.get_default_dtype, torch.float64, torch.float32),
    "bfloat16 products": (  # another result on CPUs with instructions for it
        torch.set_float32_matmul_precision,
        torch.get_float32_matmul_precision,
        "medium",
        "highest",
    ),
    "no oneDNN": (
        lambda value: setattr(torch.backends.mkldnn, "enabled", value),
        lambda: torch.backends.mkldnn.enabled,
        False,
        True,
    ),
}


SHORT = "data=digits depth=8 width=4 recipe.iterations=3"


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_the_import_is_cheap():
    code = "import sys, depthlab; assert not {'torch', 'hydra', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_are_there_and_documented():
    for name in depthlab.__all__:
        assert getattr(api, name).__doc__
        assert name in dir(depthlab)
    with pytest.raises(AttributeError, match="nothing"):
        _ = depthlab.nothing


def test_the_network_is_that_of_the_command_bit_for_bit():
    depthlab.run(f"{SHORT} epochs=0 skip=scaled skip.scale=0.7 seed=3")
    (run,) = Path("outputs/digits").iterdir()
    saved = torch.load(run / "checkpoint.pt", weights_only=True)["net"]
    built = depthlab.network(f"{SHORT} skip=scaled skip.scale=0.7 seed=3").state_dict()
    assert built.keys() == saved.keys()
    assert all(torch.equal(built[name], saved[name]) for name in built)


@pytest.mark.parametrize("words", ["depth=110 skip=none", ["depth=110", "skip=none"]])
def test_networks_of_cifar_need_no_data(words):
    net = depthlab.network(words)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in net.parameters()) == 1_727_962  # He et al. 2015, Table 6: 1.7 million
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("flush", [True, False])
def test_subnormal_numbers_are_treated_as_before(flush):
    torch.set_flush_denormal(flush)
    depthlab.run(SHORT)
    assert (torch.tensor(2.0**-140) * 1 == 0) == flush


def test_nothing_global_is_left_behind():
    torch.manual_seed(5)
    torch.set_num_threads(2)
    random = torch.get_rng_state()
    depthlab.network(SHORT)
    depthlab.run(SHORT)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == 2
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(ROOT / "configs"), **config.VERSION_BASE):  # while a Hydra app runs
        assert len(depthlab.network(SHORT).units) == 3
        assert compose("train", ["depth=14"]).depth == 14


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("dpth=3", "dpth: no such option; did you mean depth?"),
        ("depth=21", "depth=21: basic blocks make 6n+2 layers: nearest 20 and 26"),
        ("skip.scale=2", "skip.scale: the chosen skip has no such option; skip=rescaled, "),
        ("-m seed=0,1", "-m: a flag of the command; from Python one call is one run: for depth in (8, 20): depthlab"),
        (
            "seed=0,1",
            "seed=0,1: several runs, and from Python one call is one run: for depth in (8, 20): depthlab.run(",
        ),
        ("experiment=lambda", "experiment: is a sweep"),
    ],
)
def test_a_mistake_is_one_line_without_hydras_behind_it(words, line):
    with pytest.raises(Mistake) as raised:
        depthlab.run(words)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert [*Path().iterdir()] == []


def test_a_run_returns_its_summary_and_is_not_repeated(capsys):
    summary = depthlab.run(SHORT)
    (run,) = Path("outputs/digits").iterdir()
    assert summary["final"] == json.loads((run / "summary.json").read_text())["final"]
    assert capsys.readouterr().out.count("\n") == 1
    assert depthlab.run(SHORT).items() >= summary.items()
    assert "done before" in capsys.readouterr().out
    assert depthlab.run(f"{SHORT} seed=1", brief=False)["seed"] == 1
    assert "  network  residual" in capsys.readouterr().out


def test_ctrl_c_saves_and_the_same_call_goes_on(capsys):
    words = "data=digits depth=8 width=4 epochs=200"
    argv = [*sys.argv]

    def interrupt():
        while not [path for path in Path().glob("outputs/*/*/metrics.jsonl") if path.read_text()]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt, match="stopped and saved; the same call goes on"):
        depthlab.run(words)
    assert "to continue: the same call\n" in capsys.readouterr().out
    assert sys.argv == argv
    (row,) = depthlab.runs()
    assert row["status"] == "unfinished"
    (run,) = Path("outputs/digits").iterdir()
    done = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < done < 200 * 1437 // 64
    assert (run / "summary.json").exists() is False


def test_a_thread_can_run_too():
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(depthlab.run(SHORT)))
    thread.start()
    thread.join()
    assert summaries[0]["status"] == "finished"


def test_a_run_read_back_has_the_error_that_it_ended_with():
    summary = depthlab.run("data=digits depth=8 width=4 epochs=1 precision=fp64")
    (row,) = depthlab.runs()
    read = depthlab.load(row["path"])
    x, y = read.data.first("test", 360)
    assert not read.net.training
    wrong = (read.net(x).argmax(1) != y).double().mean().item()
    assert 100 * wrong == pytest.approx(summary["final"]["test_error"])
    assert read.config["depth"] == 8


def test_what_is_no_run_is_named():
    depthlab.run(SHORT)
    (run,) = Path("outputs/digits").iterdir()
    for folder, line in {
        "nowhere": "nowhere: not the directory of a run",
        "outputs/digits": f"outputs/digits: not the directory of a run; it holds 1, such as {run.name}",
    }.items():
        with pytest.raises(Mistake) as raised:
            depthlab.load(folder)
        assert str(raised.value) == line
    content = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(content[:1000] + b"x" + content[1001:])
    with pytest.raises(Mistake, match="damaged"):
        depthlab.load(run)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(Mistake, match=r"checkpoint\.pt: not there"):
        depthlab.load(run)


def test_a_row_a_run_and_a_row_an_evaluation():
    depthlab.run(f"{SHORT} skip=scaled skip.scale=0.7 probe=[gradients] probe.gradients.images=32")
    depthlab.run(over(SHORT.split(), "recipe.iterations=30", "seed=1", "folder=deep/er"))
    rows = {row["seed"]: row for row in depthlab.runs("outputs")}
    assert (rows[0]["skip"], rows[0]["skip.scale"], rows[0]["status"]) == ("scaled", 0.7, "finished")
    assert 0 <= rows[1]["best_test_error"] <= rows[1]["test_error"] <= 100
    assert json.loads(json.dumps([*rows.values()])) == [*rows.values()]
    curves = depthlab.curves()
    assert [curve["step"] for curve in curves if curve["seed"] == 1] == [30]
    assert all(curve["test_error"] >= 0 for curve in curves)
    looks = depthlab.curves("outputs", "gradients")
    assert {look["step"] for look in looks} == {0, 3}
    assert depthlab.runs(rows[1]["path"]) == [rows[1]]
    (Path(rows[1]["path"]) / "summary.json").write_text("[")
    assert {row["status"] for row in depthlab.runs()} == {"finished", "broken"}
    with pytest.raises(Mistake, match="nowhere: no such folder"):
        depthlab.runs("nowhere")


def test_a_probe_of_the_runs_precision_takes_float32_where_there_is_no_run():
    net, (x, y) = depthlab.network(SHORT), depthlab.images(SHORT).first("train", 8)
    assert 0 < 1 - depthlab.probe(net, x, y, "gradient_precision")["cosine_fp32"] < 1e-6


def test_a_probe_measures_as_in_a_run_and_leaves_the_network_alone():
    depthlab.run(f"{SHORT} epochs=0 probe=[gradients] probe.gradients.images=32")
    (look,) = depthlab.curves(probe="gradients")
    net = depthlab.network(SHORT)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x, y = depthlab.images(SHORT).first("train", 32)
    found = depthlab.probe(net, x, y, "gradients")
    assert found["unit"] == pytest.approx(look["unit"])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert "layer_factor_8" in depthlab.probe(net, x, y, "gradients", sizes=[8])


def test_a_probe_takes_any_module_that_has_what_it_asks_for():
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    found = depthlab.probe(net, x, y, "loss_along_gradient", rate=0.01)
    assert found["losses"][0] < found["loss_high"] + 1
    with pytest.raises(Mistake, match=r"^probe=gradients: a Sequential has no stem; see"):
        depthlab.probe(net, x, y, "gradients")
    with pytest.raises(Mistake, match="did you mean gradients"):
        depthlab.probe(net, x, y, "gradient")
    with pytest.raises(Mistake, match=r"probe\.gradients\.siz="):
        depthlab.probe(net, x, y, "gradients", siz=3)


def test_threads_take_turns():
    """torch's random streams are one for all threads: at the same time they would draw from each other's."""
    words = [f"{SHORT} skip=dropout seed={seed}" for seed in range(4)]
    alone = [depthlab.run(f"{word} output_dir=alone")["final"] for word in words]
    with ThreadPoolExecutor(4) as pool:
        together = [summary["final"] for summary in pool.map(depthlab.run, words)]
    assert together == alone


def test_a_run_of_ones_own_images_is_read_back_wherever_they_lie_now(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 4
    np.savez("images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    depthlab.run("data=folder data.root=images.npz depth=8 width=4 recipe.iterations=2 recipe.batch=20")
    (row,) = depthlab.runs()
    assert row["iterations"] == 2  # not the 20 epochs that the data set brings
    Path("images.npz").rename("elsewhere.npz")
    with pytest.raises(Mistake, match=r"images\.npz"):
        depthlab.load(row["path"])
    assert depthlab.load(row["path"], root="elsewhere.npz").data.images == 40


def test_a_probe_of_which_no_run_has_heard_is_named():
    depthlab.run(f"{SHORT} probe=[gradients]")
    assert depthlab.curves("outputs", "gradients")
    assert depthlab.curves("outputs", "activations") == []
    with pytest.raises(Mistake, match="probe=gradient: did you mean gradients"):
        depthlab.curves("outputs", "gradient")


def test_torn_quotes_are_a_mistake():
    with pytest.raises(Mistake, match="no closing quotation"):
        depthlab.network("data=digits output_dir='my runs")


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        *(pytest.param(partial(setting, *those), id=name) for name, those in SETTINGS.items()),
    ],
)
def test_what_is_around_a_call_does_not_change_its_result(around):
    words = "data=digits depth=8 recipe.iterations=3"
    wanted = depthlab.run(f"{words} output_dir=wanted")["final"]
    with around():
        assert depthlab.run(words)["final"] == wanted
        (row,) = depthlab.runs()
        loaded = depthlab.load(row["path"])
        x, y = loaded.data.first("test", 8)
        assert (x.dtype, loaded.net.head.weight.dtype) == (torch.float32, torch.float32)
        assert depthlab.images(words).first("test", 8)[0].equal(x)
        weights = f"{words} weights={row['path']}/checkpoint.pt"
        assert depthlab.network(weights).head.weight.equal(loaded.net.head.weight)
        seen = depthlab.probe(loaded.net, x, y, "gradients")
    assert seen == depthlab.probe(loaded.net, x, y, "gradients")
    assert torch.get_default_device() == torch.device("cpu")


def test_a_network_from_a_file_says_whose_names_it_has(capsys):
    net = torchvision.models.resnet18(num_classes=10)
    torch.save(net.state_dict(), "r18.pth")
    words = "depth=18 network=imagenet width=64 data=synthetic activation=tanh weights=r18.pth"
    depthlab.network(words)
    said = capsys.readouterr()
    assert said.out.startswith("weights: r18.pth, by torchvision's names (layer1, fc)\n")
    assert "most networks by these names want activation=relu, and this one has not" in said.out + said.err
