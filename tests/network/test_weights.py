"""Weights from elsewhere against a second implementation of the networks that they come from, and torchvision's."""

import pickle
import re

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.nn import functional

from conftest import Counted
from depthlab.errors import Mistake
from depthlab.network import activation, densenet, norm, resnet, skip, unit
from depthlab.network.resnet import from_torchvision
from depthlab.network.weights import fit, given, read


class Block(nn.Module):
    """Two convolutions and a shortcut as the PyTorch scripts for CIFAR write them: without parameters (A), or a
    projection (B)."""

    def __init__(self, channels, out, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        self.pad = out // 4 if option == "A" and stride > 1 else None
        if option == "B" and stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        h = self.shortcut(x)
        if self.pad:
            h = functional.pad(x[..., ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        f = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (h + f).relu()


class Theirs(nn.Module):
    def __init__(self, depth, option="A", width=16, classes=10):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(Block(width, width, 1, option) for _ in range(n)))
        self.layer2 = nn.Sequential(*(Block(width * (1 + (i > 0)), 2 * width, 2 - (i > 0), option) for i in range(n)))
        self.layer3 = nn.Sequential(
            *(Block(2 * width * (1 + (i > 0)), 4 * width, 2 - (i > 0), option) for i in range(n))
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))


def trained(net, seed=0):
    """As after training: no norm is the identity, no running statistic that of the start."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def ours(
    depth, *, family="cifar", shortcut="A", classes=10, width=16, join=skip.identity, block=None, stride_in="3x3"
):
    shape = (3, 32, 32) if family == "cifar" else (3, 64, 64)
    parts = unit.original(), join, norm.batch, activation.relu
    return resnet(
        shape, classes, depth, width, block, *parts, family=family, shortcut=shortcut, stride_in=stride_in
    ).eval()


def saved(path, content, write=torch.save):
    write(content, path)
    return given(str(path))


def filled(net, file):
    start = fit(read(**file), net, file["file"])
    start.fill(net)
    return net, start


@torch.no_grad()
def assert_same(net, theirs, side=32):
    x = torch.randn(4, 3, side, side)
    wanted = theirs(x)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(net(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize(("depth", "width"), [(20, 16), (32, 16), (56, 16), (20, 4)])
def test_other_peoples_cifar_networks_give_their_outputs(tmp_path, depth, width, option):
    theirs = trained(Theirs(depth, option, width))
    names = {
        f"module.{name}": t for name, t in theirs.state_dict().items() if "num_batches" not in name
    }  # as in 2018
    file = saved(tmp_path / "net.th", {"best_prec1": 91.7, "state_dict": names})
    net, start = filled(ours(depth, shortcut=option, width=width), file)
    assert_same(net, theirs)
    assert (start.naming, start.new_head) == ("cifar", False)


def test_the_order_of_the_channels_matters(tmp_path):
    """The check above can fail: as they are, the weights of option A are another network here."""
    theirs, net = trained(Theirs(20)), ours(20)
    net.load_state_dict(from_torchvision(theirs.state_dict()))
    with pytest.raises(AssertionError):
        assert_same(net, theirs)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: safetensors.torch.save_file(state, path)])
@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions(tmp_path, depth, write):
    theirs = trained(getattr(torchvision.models, f"resnet{depth}")())
    file = saved(tmp_path / "net", theirs.state_dict(), write)
    net, start = filled(ours(depth, family="imagenet", shortcut="B", classes=1000, width=64), file)
    assert_same(net, theirs, 64)
    assert start.naming == "torchvision"


@pytest.mark.parametrize("published", [False, True])  # whose files write norm.1 for norm1, and count no batches
def test_torchvisions_densenet(tmp_path, published):
    theirs = trained(torchvision.models.densenet121())
    state = theirs.state_dict()
    if published:
        state = {n: t for n, t in state.items() if "num_batches" not in n}
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", n): t for n, t in state.items()}
    parts = unit.preact(), skip.concat, norm.batch, activation.relu
    keys = {"family": "imagenet", "growth": 32, "bottleneck": True, "compression": 0.5}
    net = densenet((3, 64, 64), 1000, 121, 64, None, *parts, **keys).eval()
    net, start = filled(net, saved(tmp_path / "net", state))
    assert_same(net, theirs, 64)
    assert start.naming == "densenet"
    usual = CONFIG | {"skip": {"name": "concat"}, "unit": {"name": "preact"}, "network": {"name": "densenet"}}
    assert start.unusual(usual) == []
    assert start.unusual(usual | {"norm": {"name": "layer"}}) == ["norm=batch"]


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"net": s, "step": 3}, lambda s: {"model": {"net": s}}])
def test_ours_as_they_are_and_inside_checkpoints(tmp_path, wrapped):
    theirs = trained(ours(8, join=skip.conv))
    net, start = filled(ours(8, join=skip.conv), saved(tmp_path / "net.pt", wrapped(theirs.state_dict())))
    assert_same(net, theirs)
    assert start.naming == "depthlab"


def test_half_precision_becomes_the_networks(tmp_path):
    theirs = trained(Theirs(8)).half()
    net, _ = filled(ours(8), saved(tmp_path / "net.pt", theirs.state_dict()))
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32, torch.int64}
    assert_same(net, theirs.float())


def test_a_head_for_other_classes_stays_new(tmp_path):
    theirs, net = trained(Theirs(8, classes=10)), ours(8, classes=100)
    head = net.head.weight.clone()
    net, start = filled(net, saved(tmp_path / "net.pt", theirs.state_dict()))
    assert start.new_head
    assert torch.equal(net.head.weight, head)
    assert torch.equal(net.stem.conv1.weight, theirs.conv1.weight)


CONFIG = {
    "skip": {"name": "identity"},
    "unit": {"name": "original"},
    "norm": {"name": "batch"},
    "activation": {"name": "relu"},
    "data": {"normalize": "imagenet"},
    "network": {"stride_in": "1x1"},
    "block": "basic",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"data": {"normalize": "pixel_mean"}}, ["data.normalize=imagenet"]),
        ({"data": {}}, []),
        ({"block": "bottleneck"}, ["network.stride_in=3x3"]),
        ({"skip": {"name": "none"}, "activation": {"name": "tanh"}}, ["skip=identity", "activation=relu"]),
    ],
)
def test_what_the_networks_of_a_file_want_is_told(changes, told):
    net = trained(Theirs(8))
    assert fit(net.state_dict(), ours(8), "f").unusual(CONFIG | changes) == told
    assert fit(ours(8).state_dict(), ours(8), "f").unusual(CONFIG | changes) == []


MISFITS = [
    (lambda: Theirs(20).state_dict(), "weights=f: the names of PyTorch's CIFAR ResNets (layer1, linear) of depth=20 "
     "width=16, does not fit this network: it has also layer1.1.conv1.weight, "),
    (lambda: ours(8, width=8).state_dict(), "stem.conv1.weight is (8, 3, 3, 3) and here (16, 3, 3, 3), "),
    (lambda: Theirs(8, "B").state_dict(), "it has also layer2.0.shortcut.0.weight, "),
    (lambda: {k: v for k, v in ours(8).state_dict().items() if "norm1.bias" not in k},
     "it lacks stem.norm1.bias, stages.0.0.branch.norm1.bias, stages.1.0.branch.norm1.bias and 1 more"),
    (lambda: {k: v for k, v in ours(8).state_dict().items() if "head" not in k}, "it lacks head.weight, head.bias"),
    (lambda: {k: v for k, v in Theirs(8, width=4).state_dict().items() if "bn1" not in k},
     "it lacks bn1.weight, bn1.bias, bn1.running_mean and 13 more; conv1.weight is (4, 3, 3, 3) and here "),
    (lambda: torchvision.models.resnet18().state_dict(), "it has also layer1.1.conv1.weight, layer1.1.bn1.weight, "),
    (lambda: torchvision.models.densenet121().state_dict(), "it lacks stages.0.0.branch.norm1.weight, "),
    (lambda: torchvision.models.densenet121().state_dict(), "it has also features.denseblock1.denselayer1."),
    (lambda: Theirs(8).state_dict() | {"aux.weight": torch.ones(1)}, "it has also aux.weight"),
    (lambda: {"features.0.weight": torch.ones(1), "features.1.weight": torch.ones(1)},
     "weights=f: features.0.weight, features.1.weight: neither depthlab's names, nor torchvision's names (layer1, "
     "fc), nor the names of PyTorch's CIFAR ResNets (layer1, linear), nor torchvision's names of a DenseNet "
     "(features, classifier)"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "told"), MISFITS)
def test_what_does_not_fit_is_told_in_one_line(state, told):
    with pytest.raises(Mistake) as mistake:
        fit(state(), ours(8), "f")
    assert told in str(mistake.value)
    assert "\n" not in str(mistake.value)


def sparse():
    return {"a": torch.eye(2).to_sparse(), "b": torch.ones(1)}


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: torch.save({"state_dict": Counted()}, path), "could run code; save the state dict alone)"),
        (lambda path: path.write_bytes(pickle.dumps(Counted())), "neither safetensors nor a state dict of torch ("),
        (lambda path: path.write_bytes(b"hello"), "(damaged, or another format)"),
        (lambda path: path.write_bytes(b""), "(damaged, or another format)"),
        (lambda path: path.write_bytes(b'\x09\0\0\0\0\0\0\0{"a": 3}.'), "(damaged, or another format)"),
        (lambda path: torch.save([torch.ones(1)], path), "it holds no tensors by name"),
        (lambda path: torch.save({"epoch": 3}, path), "it holds no tensors by name"),
        (lambda path: torch.save(sparse(), path), "a is not an ordinary tensor"),
    ],
)
def test_what_is_no_file_of_weights_is_told_and_never_run(tmp_path, monkeypatch, write, told):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "file")
    Counted.made = 0
    with pytest.raises(Mistake) as mistake:
        read(**given("file"))
    assert told in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert Counted.made == 0


def test_a_file_is_known_by_its_content(tmp_path):
    one, two = saved(tmp_path / "one", {"a": torch.ones(2)}), saved(tmp_path / "two", {"a": torch.zeros(2)})
    assert one["sha256"] != two["sha256"]
    assert given({"file": one["file"], "sha256": two["sha256"]}) == {"file": one["file"], "sha256": two["sha256"]}
    with pytest.raises(Mistake, match="not the content that was there before"):
        read(one["file"], two["sha256"])


@pytest.mark.parametrize("value", [["a"], {"sha256": "a"}, {"file": 3}, {"file": "a", "more": "b"}])
def test_another_value_is_a_mistake(value):
    with pytest.raises(Mistake, match=r"^weights: a file, or options of the run"):
        given(value)


@pytest.mark.parametrize(
    ("value", "told"), [("nowhere", "No such file"), (".", "Is a directory"), ("a\0", "not the")]
)
def test_a_file_that_is_not_there_is_a_mistake(value, told):
    with pytest.raises(Mistake, match=told):
        given(value)
