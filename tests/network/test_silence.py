"""A silent layer gives zeros, and after a step it does not."""

import pytest
import torch
from torch import nn

import depthlab
from conftest import option, presets
from depthlab.errors import Mistake
from depthlab.network import norm, weight
from depthlab.network.silence import silence


def made(kind):
    if kind == "batch":
        return norm.batch(6)
    return nn.Linear(6, 6) if kind == "linear" else option(weight, kind)(6, 6, (3, 3), 1, True)


@pytest.mark.parametrize("kind", [*presets("weight"), "batch", "linear"])
def test_it_gives_zeros_and_learns(kind):
    torch.manual_seed(0)
    layer, x = made(kind), torch.randn(8, 6) if kind in ("batch", "linear") else torch.randn(4, 6, 5, 5)
    silence(layer)
    assert not layer(x).any()
    wanted = torch.randn_like(x)
    (layer(x) - wanted).square().mean().backward()
    learning = [p for name, p in layer.named_parameters() if name != "bias" and p.grad.abs().max() > 1e-4]
    assert learning  # a bias alone would tell no two images apart
    torch.optim.SGD(learning, lr=0.1).step()
    assert layer(x).std() > 1e-4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("unit=relu_before_addition", "a branch that ends in a ReLU"),
        ("unit=relu_before_addition activation=mirrored_relu", "a branch that ends in a ReLU"),
        ("skip=rezero", "the skip begins at zero"),
        ("skip=skipinit", "the skip begins at zero"),
        ("network=densenet", "channels beside others"),
        ("unit=relu_before_addition activation=tanh", ""),
        ("skip=layerscale", ""),
        ("unit=preact", ""),
    ],
)
def test_branches_of_zeros_that_never_learn_are_refused(words, said):
    words = f"data=digits width=4 init=kaiming init.zero_last=true depth={7 if 'densenet' in words else 8} {words}"
    if not said:
        assert depthlab.network(words)
        return
    with pytest.raises(Mistake, match=f"init.zero_last=true: {said}"):
        depthlab.network(words)
