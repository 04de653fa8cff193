"""Recomputed units against units whose activations are kept."""

from copy import deepcopy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from conftest import option, presets
from depthlab import network
from depthlab.network import activation, init, norm, skip, unit


def made(depth=14, norms="batch", skips="identity", order="original"):
    torch.manual_seed(0)
    parts = option(unit, order)(), option(skip, skips), option(norm, norms), option(activation, "relu")
    net = option(network, "resnet")((3, 8, 8), 5, depth, 8, None, *parts)
    net.activation = "relu"
    option(init, "kaiming")(net)
    return net


def steps(net, count=3):
    """Losses, last gradients, and everything that the network holds after some steps of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    chance = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    losses = []
    for _ in range(count):
        x, y = torch.randn(8, 3, 8, 8, generator=chance), torch.randint(5, (8,), generator=chance)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.grad for p in net.parameters()], net.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize(
    ("norms", "skips", "order"),
    [(name, "identity", "original") for name in presets("norm")]
    + [("batch", name, "original") for name in presets("skip")]
    + [("batch", "identity", name) for name in presets("unit")],
)
def test_every_step_is_the_usual_one_bit_for_bit(norms, skips, order):
    net = made(norms=norms, skips=skips, order=order)
    again = deepcopy(net)
    again.recompute = True
    usual, recomputed = steps(net), steps(again)
    torch.testing.assert_close(recomputed, usual, rtol=0, atol=0)


def kept(net, x):
    """Bytes that a forward pass keeps for the backward pass, parameters aside."""
    storages = {}
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x).sum().backward()
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


def test_what_is_kept_is_what_passes_between_units():
    net, x = made(depth=56), torch.randn(64, 3, 8, 8)
    usual = kept(net, x)
    net.recompute = True
    between = sum(64 * 8 * 2**s * (8 // 2**s) ** 2 * 4 * 9 for s in range(3))
    assert 4 * between <= usual  # a unit keeps the outputs of its two layers before and after their activation
    assert between <= kept(net, x) < 1.25 * between  # and what the stem and the tail keep


def test_evaluation_keeps_nothing_and_is_the_same():
    net, x = made().eval(), torch.randn(4, 3, 8, 8)
    usual = net(x)
    net.recompute = True
    assert torch.equal(net(x), usual)
