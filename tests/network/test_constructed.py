"""The constructed deep network computes what the shallow one does, by their outputs."""

from itertools import product

import pytest
import torch

from conftest import option
from depthlab.errors import Mistake
from depthlab.network import activation, norm, skip, unit, weight
from depthlab.network.constructed import check, construct
from depthlab.network.resnet import resnet


def made(depth, joins="none", normed="batch", order="original", width=4, act="relu"):
    parts = option(unit, order)(), option(skip, joins), option(norm, normed), option(activation, act), weight.plain
    net = resnet((1, 8, 8), 10, depth, width, None, *parts, family="cifar", shortcut=None, stride_in="1x1")
    for number, layer in enumerate(net.modules()):  # as after training: no norm is the identity
        if isinstance(layer, norm._BatchNorm):
            generator = torch.Generator().manual_seed(number)
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.double()


X = torch.randn(32, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normed", ["batch", "none", "ghost"])
@pytest.mark.parametrize(
    ("joins", "order"), [("none", "original"), *product(["identity", "rezero"], ["original", "preact"])]
)
def test_computes_what_the_shallow_one_does(joins, order, normed):
    torch.manual_seed(0)
    shallow, net = made(8, joins, normed, order), made(26, joins, normed, order)
    before = torch.get_rng_state()
    construct(net, shallow, X)
    assert (net.training, shallow.training) == (True, True)
    assert torch.equal(torch.get_rng_state(), before)
    other = torch.randn_like(X)  # images that it was not made with
    torch.testing.assert_close(net.eval()(other), shallow.eval()(other), rtol=0, atol=1e-9)


def test_without_a_norm_in_training_mode_too():
    shallow, net = made(8, normed="none"), made(26, normed="none")
    construct(net, shallow, X)
    torch.testing.assert_close(net(X), shallow(X), rtol=0, atol=1e-9)


def test_in_training_batch_norm_passes_on_nearly_the_same():
    """A batch has other statistics than all images: the identity holds in the mean, not for each batch."""
    shallow, net = made(8), made(26)
    construct(net, shallow, X)
    shallow.stages.eval(), shallow.stem.eval(), shallow.tail.eval(), net.stem.eval()
    for stage in net.stages:
        stage[0].eval()
    torch.testing.assert_close(net(X), shallow(X), rtol=0, atol=1e-4)  # of all images: eps alone is left


@pytest.mark.parametrize(
    "parts",
    [{"normed": "group"}, {"normed": "layer"}, {"order": "preact"}, {"act": "tanh"}, {"act": "leaky_relu"}],
)
def test_where_an_added_layer_cannot_be_the_identity(parts):
    if parts == {"act": "leaky_relu"}:  # of outputs of leaky ReLUs, which can be negative
        parts |= {"normed": "none"}
    with pytest.raises(Mistake, match=r"weights: here an added layer cannot be the identity"):
        construct(made(14, **parts), made(8, **parts), X)


@pytest.mark.parametrize("shallow", [{"depth": 20}, {"depth": 8, "normed": "none"}, {"depth": 8, "width": 8}])
def test_only_the_depth_may_differ(shallow):
    with pytest.raises(Mistake, match="only the depth may differ"):
        check(made(14), made(**shallow))
