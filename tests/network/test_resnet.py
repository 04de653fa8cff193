"""Networks against He et al.'s published counts, torchvision's networks, and loops."""

import re
from itertools import product

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import ADDING, option, presets
from depthlab.errors import Mistake
from depthlab.network import activation, init, norm, resnet, skip, unit
from depthlab.network.resnet import BLOCKS, IMAGENET, Network, ZeroPad, from_torchvision

LAYERS = {"basic": 2, "bottleneck": 3, "single": 1}
TORCHVISION = {depth: f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
STRIDES = ("1x1", "3x3")


def enumerate_presets(group):
    return list(enumerate(presets(group)))


def cifar(
    depth, block=None, order=unit.original, join=skip.identity, made=norm.batch, *, shape=(3, 32, 32), **changes
):
    classes, width = changes.pop("classes", 10), changes.pop("width", 16)
    choices = {"family": "cifar", "shortcut": "A", "stride_in": "1x1"} | changes
    return resnet(shape, classes, depth, width, block, order(), join, made, activation.relu, **choices)


def imagenet(depth, block=None, order=unit.original, join=skip.identity, **changes):
    choices = {"family": "imagenet", "shortcut": "B", "shape": (3, 224, 224), "classes": 1000, "width": 64} | changes
    return cifar(depth, block, order, join, **choices)


def on_meta(build, *arguments, **changes):
    with torch.device("meta"):
        return build(*arguments, **changes).eval()


def count(net):
    return sum(p.numel() for p in net.parameters())


def weights(net):
    """The convolutions and linear maps on the main path."""
    beside = {m for u in net.units for part in (u.shortcut, u.skip) if part is not None for m in part.modules()}
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in beside]


def multiply_adds(net, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() / 2


# published counts


TABLE_6 = {  # depth: exact parameters, the paper's; the paper's millions of multiply-adds (published.md, 1b)
    20: (269_722, "0.27", 40.6),
    32: (464_154, "0.46", 68.9),
    44: (658_586, "0.66", 97.2),
    56: (853_018, "0.85", 125.5),
    110: (1_727_962, "1.7", 252.9),
    1202: (19_421_274, "19.4", 2829),
}


@pytest.mark.parametrize("depth", TABLE_6)
def test_table_6(depth):
    exact, millions, operations = TABLE_6[depth]
    net = on_meta(cifar, depth)
    digits = len(millions.partition(".")[2])
    assert count(net) == exact
    assert f"{count(net) / 1e6:.{digits}f}" == millions
    assert round(multiply_adds(net, (3, 32, 32)) / 1e6, 0 if depth == 1202 else 1) == operations
    if depth < 1000:
        assert count(on_meta(cifar, depth, join=skip.none)) == exact
        assert count(on_meta(cifar, depth, shortcut="B")) == exact + 2752
        assert count(on_meta(cifar, depth, "single")) == exact  # the same layers, each a unit


@pytest.mark.parametrize(("depth", "millions"), [(164, 1.7), (1001, 10.2)])
def test_bottlenecks_of_table_4(depth, millions):
    """He et al. 2016 print 10.2M for the layers' weights alone; with the norms' it would be 10.3M."""
    net = on_meta(cifar, depth, "bottleneck", unit.preact, shortcut="B")
    norms = sum(count(m) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert round((count(net) - norms) / 1e6, 1) == millions
    assert count(net) / 1e6 == pytest.approx(millions, rel=0.015)


@pytest.mark.parametrize(
    ("depth", "shortcut", "billions", "tolerance"),
    [
        (18, "A", 1.8, 0.05),
        (34, "A", 3.6, 0.05),  # Fig. 3 and Table 2: option A
        (50, "B", 3.8, 0.06),  # 3.858: over 3.8 by more than its rounding; 101 and 152, built alike, agree
        (101, "B", 7.6, 0.05),
        (152, "B", 11.3, 0.05),
    ],
)
def test_imagenet_multiply_adds(depth, shortcut, billions, tolerance):
    net = on_meta(imagenet, depth, shortcut=shortcut)
    operations = multiply_adds(net, (3, 224, 224))
    assert operations / 1e9 == pytest.approx(billions, abs=tolerance)
    if shortcut == "A":
        plain = on_meta(imagenet, depth, join=skip.none)
        assert (multiply_adds(plain, (3, 224, 224)), count(plain)) == (operations, count(net))


@pytest.mark.parametrize("depth", TORCHVISION)
def test_torchvisions_published_counts(depth):
    published = torchvision.models.get_model_weights(TORCHVISION[depth]).IMAGENET1K_V1.meta
    net = on_meta(imagenet, depth, stride_in="3x3")
    assert count(net) == published["num_params"]
    assert round(multiply_adds(net, (3, 224, 224)) / 1e9, 3) == published["_ops"]


# depth


@pytest.mark.parametrize("order", presets("unit"))
@pytest.mark.parametrize(
    ("build", "block", "depth"),
    [
        *((cifar, block, 3 * LAYERS[block] * n + 2) for block, n in product(BLOCKS, (1, 2, 5))),
        *((imagenet, None, depth) for depth in IMAGENET),
    ],
)
def test_weighted_layers(build, block, depth, order):
    net = on_meta(build, depth, block, option(unit, order), skip.none)
    assert len(weights(net)) == depth


def accepted(family, depth, block):
    try:
        return on_meta(cifar if family == "cifar" else imagenet, depth, block, width=1)
    except Mistake as mistake:
        return str(mistake)


@settings(max_examples=60, deadline=None)
@given(st.integers(-20, 70), st.sampled_from([None, *BLOCKS]))
def test_cifar_depths(depth, block):
    answer = accepted("cifar", depth, block)
    period = 3 * LAYERS[block or "basic"]
    valid = [period * n + 2 for n in range(1, 40)]
    assert isinstance(answer, Network) == (depth in valid)
    if isinstance(answer, Network):
        assert len(weights(answer)) == depth
        assert len(answer.units) == (depth - 2) / LAYERS[block or "basic"]
        return
    head, *hints = answer.split("; ")
    assert head.startswith(f"depth={depth}: {block or 'basic'} blocks make {period}n+2 layers: nearest ")
    nearest = {max((v for v in valid if v < depth), default=None), min(v for v in valid if v > depth)} - {None}
    assert set(map(int, re.findall(r"\d+", head.partition("nearest ")[2]))) == nearest
    assert all(isinstance(accepted("cifar", near, block), Network) for near in nearest)
    fits = [b for b in BLOCKS if isinstance(accepted("cifar", depth, b), Network)]
    assert hints == ([" and ".join(f"block={b} fits" for b in fits)] if fits else [])


@settings(max_examples=30, deadline=None)
@given(st.integers(-20, 250))
def test_imagenet_depths(depth):
    assume(depth not in IMAGENET)
    answer = accepted("imagenet", depth, None)
    nearest = [*[d for d in IMAGENET if d < depth][-1:], *[d for d in IMAGENET if d > depth][:1]]
    nearest = " and ".join(map(str, nearest))
    assert answer == f"depth={depth}: nearest {nearest} (allowed: 18, 34, 50, 101, 152, 200)"


@pytest.mark.parametrize(
    ("family", "depth", "block", "message"),
    [
        ("cifar", 21, None, "depth=21: basic blocks make 6n+2 layers: nearest 20 and 26"),
        ("cifar", 2, None, "depth=2: basic blocks make 6n+2 layers: nearest 8"),
        ("cifar", 29, None, "depth=29: basic blocks make 6n+2 layers: nearest 26 and 32; "
                            "block=bottleneck fits and block=single fits"),
        ("cifar", 26, "bottleneck", "depth=26: bottleneck blocks make 9n+2 layers: nearest 20 and 29; "
                                    "block=basic fits and block=single fits"),
        ("cifar", 20, "botleneck", "block=botleneck: did you mean bottleneck? (allowed: basic, bottleneck, single)"),
        ("imagenet", 50, "basic", "block=basic: the ImageNet network of depth 50 is made of bottleneck blocks"),
        ("imagenet", 34, "single", "block=single: the ImageNet network of depth 34 is made of basic blocks"),
        ("imagenet", 20, None, "depth=20: nearest 18 and 34 (allowed: 18, 34, 50, 101, 152, 200)"),
    ],
)  # fmt: skip
def test_mistakes(family, depth, block, message):
    assert accepted(family, depth, block) == message


def test_its_units_add():
    with pytest.raises(Mistake, match=r"^skip=concat: joins in network=densenet"):
        cifar(8, join=skip.concat)


@pytest.mark.parametrize("depth", IMAGENET)
def test_the_usual_block_may_be_named(depth):
    block = "basic" if depth < 50 else "bottleneck"
    assert isinstance(accepted("imagenet", depth, block), Network)


# against torchvision


def randomised(net):
    """Affine parts and running statistics that cannot be overlooked."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.5)
            nn.init.normal_(m.running_mean, std=0.5)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return net


@pytest.mark.parametrize("depth", TORCHVISION)
def test_is_torchvisions(depth):
    torch.manual_seed(0)
    theirs = randomised(getattr(torchvision.models, TORCHVISION[depth])()).eval()
    ours = on_meta(imagenet, depth, stride_in="3x3")
    ours.load_state_dict(from_torchvision(theirs.state_dict()), assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(x)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
        if depth in (18, 50):
            ours.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()}, assign=True)
            torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-5, atol=1e-5)
            after = from_torchvision(theirs.state_dict())
            assert ours.state_dict().keys() == after.keys()
            for name, tensor in ours.state_dict().items():
                torch.testing.assert_close(tensor, after[name])


# shapes


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("stride_in", STRIDES)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (5, 7, 9), (2, 1, 33)])
def test_shapes(shape, block, stride_in, shortcut):
    choices = {"shape": shape, "classes": 7, "width": 6, "shortcut": shortcut, "stride_in": stride_in}
    net = on_meta(cifar, 3 * LAYERS[block] + 2, block, **choices)
    x, expansion = net.stem(torch.empty(2, *shape, device="meta")), 4 if block == "bottleneck" else 1
    for s, stage in enumerate(net.stages):
        x = stage(x)
        size = [-(-side // 2**s) for side in shape[1:]]
        assert list(x.shape) == [2, 6 * 2**s * expansion, *size]
    assert net(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(("size", "join"), [(224, skip.identity), (225, skip.none), (33, skip.none)])
@pytest.mark.parametrize("depth", IMAGENET)
def test_shapes_of_imagenet(depth, join, size):
    """Table 1: 112, 56, 28, 14, 7 pixels; 64 to 512 channels, four times as many out of bottlenecks."""
    net = on_meta(imagenet, depth, join=join, shape=(3, size, size))
    sides = [-(-size // 2**k) for k in range(1, 6)]
    x = net.stem[:-1](torch.empty(2, 3, size, size, device="meta"))
    assert x.shape == (2, 64, sides[0], sides[0])
    x = net.stem[-1](x)
    for stage, side, channels in zip(net.stages, sides[1:], (64, 128, 256, 512), strict=True):
        x = stage(x)
        assert x.shape == (2, channels * (4 if depth >= 50 else 1), side, side)
    assert net.head(net.tail(x)).shape == (2, 1000)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("missing", [0, 1, 5])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 7), (2, 1, 1, 6)])
def test_zero_padding(shape, missing, stride):
    x = torch.randn(shape)
    y = ZeroPad(stride, missing)(x)
    wanted = torch.zeros(shape[0], shape[1] + missing, -(-shape[2] // stride), -(-shape[3] // stride))
    for n, c, i, j in product(*map(range, shape)):
        if i % stride == j % stride == 0:
            wanted[n, c, i // stride, j // stride] = x[n, c, i, j]
    assert y.equal(wanted)


# where the shape changes


def test_narrow_strided_projections_are_plain_convolutions():
    """They pick their pixels themselves, as oneDNN's own weight gradient was wrong; the result is the same."""
    net = cifar(8, width=4, shortcut="B")
    narrow, wide = (u.shortcut.conv1 for u in net.units[1:])
    assert type(narrow) is not nn.Conv2d
    assert type(wide) is nn.Conv2d
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(narrow(x), nn.functional.conv2d(x, narrow.weight, None, 2))


@pytest.mark.parametrize("stride_in", STRIDES)
@pytest.mark.parametrize(
    ("build", "depth", "block", "one", "three"),
    [
        (cifar, 20, "basic", (2, 1), (2, 1)),
        (cifar, 29, "bottleneck", (2, 1, 1), (1, 2, 1)),
        (cifar, 11, "single", (2,), (2,)),
        (imagenet, 18, None, (2, 1), (2, 1)),
        (imagenet, 50, None, (2, 1, 1), (1, 2, 1)),
    ],
)
def test_stride_in(build, depth, block, one, three, stride_in):
    net = on_meta(build, depth, block, shortcut="B", stride_in=stride_in)
    for s, stage in enumerate(net.stages):
        for i, u in enumerate(stage):
            strides = tuple(m.stride[0] for m in u.branch if isinstance(m, nn.Conv2d))
            halves = s > 0 and i == 0
            assert strides == ((one if stride_in == "1x1" else three) if halves else (1,) * len(one))
            if isinstance(u.shortcut, nn.Sequential):
                assert u.shortcut.conv1.stride[0] == 1 + halves


@pytest.mark.parametrize(
    ("build", "depth", "block"),
    [(cifar, 20, None), (cifar, 29, "bottleneck"), (imagenet, 34, None), (imagenet, 50, None)],
)
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_shortcuts(build, depth, block, shortcut):
    """Section 3.3: A pads where the shape changes, B projects there, C projects everywhere."""
    net = on_meta(build, depth, block, shortcut=shortcut)
    wide = depth in (29, 50)
    for s, stage in enumerate(net.stages):
        for i, u in enumerate(stage):
            changes = i == 0 and (s > 0 or wide)
            wanted = {"A": (nn.Identity, ZeroPad), "B": (nn.Identity, nn.Sequential), "C": (nn.Sequential,) * 2}
            assert type(u.shortcut) is wanted[shortcut][changes]
            if type(u.shortcut) is nn.Sequential:
                assert u.shortcut.conv1.kernel_size == (1, 1)


@pytest.mark.parametrize("build", [cifar, imagenet])
@pytest.mark.parametrize("preset", presets("norm"))
def test_layers_have_biases_where_there_is_no_norm(build, preset):
    net = on_meta(build, {cifar: 14, imagenet: 18}[build], made=option(norm, preset), shortcut="B")
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.bias is not None for m in convs} == {preset == "none"}
    assert net.head.bias is not None


# all together


@pytest.mark.parametrize(("i", "order"), enumerate_presets("unit"))
@pytest.mark.parametrize(("j", "join"), [*enumerate(ADDING)])
def test_every_combination_trains(i, order, j, join):
    """One step of each unit, skip and norm, and each two of these with each block."""
    for k, made in enumerate_presets("norm"):
        block = sorted(BLOCKS)[(i + j + k) % len(BLOCKS)]
        torch.manual_seed(0)
        choices = {"shape": (3, 8, 8), "width": 4, "shortcut": "ABC"[(i + j) % 3], "stride_in": STRIDES[k % 2]}
        parts = option(unit, order), option(skip, join), option(norm, made)
        net = cifar(3 * LAYERS[block] + 2, block, *parts, **choices)
        net.activation = "relu"
        option(init, "kaiming")(net)
        logits = net(torch.randn(4, 3, 8, 8))
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        assert logits.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()), (made, block)
        assert net.stem.conv1.weight.grad.abs().max() > 0, (made, block)
        torch.optim.SGD(net.parameters(), 0.1).step()
        assert net.eval()(torch.randn(4, 3, 8, 8)).isfinite().all(), (made, block)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_signal_is_an_image_whose_kernels_are_one_row(block):
    """The same network as with 3x3 kernels, whose other rows would see the padding alone."""
    torch.manual_seed(0)
    depth, shape = 3 * LAYERS[block] + 2, (1, 1, 40)
    line = cifar(depth, block, width=4, shape=shape).eval()
    assert {m.kernel_size for m in line.modules() if isinstance(m, nn.Conv2d)} <= {(1, 3), (1, 1)}
    wide = cifar(depth, block, width=4, shape=(1, 2, 1)).eval()
    state = {
        name: torch.nn.functional.pad(value, (0, 0, 1, 1)) if value.shape[3:] == (3,) else value
        for name, value in line.state_dict().items()
    }
    wide.load_state_dict(state)
    x = torch.randn(5, *shape)
    assert torch.allclose(line(x), wide(x), atol=1e-6)
    assert line.stages(line.stem(x)).shape[2:] == (1, 10)
