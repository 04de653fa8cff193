"""What other programs compute from an exported run is what the run's network computes."""

import os
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
import torchvision

import depthlab

TINY = "depth=8 width=4 recipe.iterations=4 device=cpu threads=1"


@pytest.fixture
def export(monkeypatch, capsys):
    """`export(run, "onnx")` is `python scripts/export.py RUN --to onnx`: exit code, errors."""
    import export

    def exported(run, to, *more):
        monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--to", to, *more])
        try:
            export.main()
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return exported


def trained(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    depthlab.run(words)
    (row,) = depthlab.runs("outputs")
    return Path(row["path"])


def assert_same(given, wanted):
    assert wanted.std() > 1e-3
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("words", ["data=digits skip=none", "data=synthetic unit=preact network.shortcut=B"])
def test_safetensors_go_back_in(tmp_path, monkeypatch, export, words):
    run = trained(tmp_path, monkeypatch, f"{TINY} {words}")
    assert export(run, "safetensors", "--out", "a/new/folder/net.safetensors") == (0, "")
    net = depthlab.network(f"{TINY} {words} weights=a/new/folder/net.safetensors").eval()
    for name, tensor in depthlab.load(run).net.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)


def test_where_it_may_be_written(tmp_path, monkeypatch, export):
    run = trained(tmp_path, monkeypatch, f"{TINY} data=digits")
    assert export(run, "safetensors", "--out", "new/") == (0, "")
    assert Path("new/network.safetensors").is_file()
    Path("link").symlink_to("new/network.safetensors")
    assert export(run, "safetensors", "--out", "link") == (0, "")
    assert Path("link").is_symlink()
    os.mkfifo("pipe")
    code, said = export(run, "safetensors", "--out", "pipe")
    assert (code, said.count("\n"), "is no ordinary file" in said) == (2, 1, True)


@pytest.mark.parametrize("words", ["data=digits precision=fp64"])  # half a minute each
def test_onnx_gives_the_same_outputs_for_any_number_of_images(tmp_path, monkeypatch, export, words):
    run = trained(tmp_path, monkeypatch, f"{TINY} {words}")
    Path("here").mkdir()
    assert export(run, "onnx", "--out", "here")[0] == 0
    loaded, session = depthlab.load(run), onnxruntime.InferenceSession("here/network.onnx")
    for count in (1, 5):
        x, _ = loaded.data.first("test", count)
        (given,) = session.run(None, {"images": x.contiguous().numpy()})
        with torch.no_grad():
            assert_same(torch.from_numpy(given).double(), loaded.net(x.double()))


def test_a_run_with_an_option_of_ones_own(tmp_path, monkeypatch, export):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "norm.py").write_text(
        "from torch.nn import GroupNorm\ndef mine(n): return GroupNorm(2, n)\n"
    )
    run = trained(tmp_path, monkeypatch, f"{TINY} data=digits options=mine norm=mine")
    code, said = export(run, "safetensors")
    assert (code, said.count("\n"), "options=FOLDER" in said) == (2, 1, True)
    assert export(run, "safetensors", "--options", "mine") == (0, "")


def test_torchvision_has_no_weights_that_are_made_of_others(tmp_path, monkeypatch, export):
    words = "depth=18 width=64 network=imagenet weight=standardised data=synthetic data.images=8 recipe.batch=4"
    run = trained(tmp_path, monkeypatch, f"{words} recipe.iterations=1 data.test_images=4 device=cpu threads=1")
    code, said = export(run, "torchvision")
    assert (code, said.count("\n"), "weight=standardised" in said) == (2, 1, True)


def test_torchvision_takes_what_it_gets(tmp_path, monkeypatch, export):
    words = "depth=18 width=64 network=imagenet data=synthetic data.images=8 recipe.batch=4 recipe.iterations=2"
    run = trained(tmp_path, monkeypatch, f"{words} data.test_images=4 device=cpu threads=1")
    assert export(run, "torchvision") == (0, "")
    net, loaded = torchvision.models.resnet18(num_classes=10).eval(), depthlab.load(run)
    net.load_state_dict(torch.load(run / "network.pth", weights_only=True))
    x, _ = loaded.data.first("test", 4)
    with torch.no_grad():
        assert_same(net(x), loaded.net(x))


def test_torchvisions_densenet_takes_what_it_gets(tmp_path, monkeypatch, export):
    words = "depth=121 network=densenet_imagenet data=synthetic data.size=32 data.images=8 data.test_images=4"
    run = trained(tmp_path, monkeypatch, f"{words} recipe.batch=4 recipe.iterations=1 device=cpu threads=1")
    assert export(run, "torchvision") == (0, "")
    net, loaded = torchvision.models.densenet121(num_classes=10).eval(), depthlab.load(run)
    net.load_state_dict(torch.load(run / "network.pth", weights_only=True))
    x, _ = loaded.data.first("test", 4)
    with torch.no_grad():
        assert_same(net(x), loaded.net(x))


def test_what_torchvision_does_not_have_is_one_line(tmp_path, monkeypatch, export):
    run = trained(tmp_path, monkeypatch, f"{TINY} data=digits skip=none")
    code, line = export(run, "torchvision")
    assert code == 2
    assert line == (
        "error: --to torchvision: it has ImageNet's resnet18 to resnet152 alone, not skip=none network.family=cifar "
        "depth=8 width=4\n"
    )
    run = depthlab.run("network=densenet depth=7 data=digits epochs=0 network.growth=2")
    code, line = export(f"outputs/digits/{run['name']}", "torchvision")
    assert (code, line) == (
        2,
        "error: --to torchvision: it has ImageNet's densenet121 to densenet201 alone, not network.family=cifar "
        "network.growth=2 network.compression=1.0 depth=7\n",
    )
    assert export("nowhere", "onnx") == (2, "error: nowhere: not the directory of a run\n")
