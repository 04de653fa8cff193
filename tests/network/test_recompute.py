"""Recomputed units against units whose activations are kept."""

from copy import deepcopy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from conftest import ADDING, option, presets
from depthlab import network
from depthlab.network import activation, init, norm, skip, unit


def made(depth=14, norms="batch", skips="identity", order="original", kind="resnet"):
    torch.manual_seed(0)
    parts = option(unit, order)(), option(skip, skips), option(norm, norms), option(activation, "relu")
    net = option(network, kind)((3, 8, 8), 5, depth, 8, None, *parts)
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
        x = x.to(net.head.weight.dtype)
        logits = net(x) if net.labels == "images" else net(x).flatten(-2).mean(-1).reshape(-1, 5)[-8:]
        loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.grad for p in net.parameters()], net.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize(
    ("norms", "skips", "order", "kind", "depth"),
    [(name, "identity", "original", "resnet", 14) for name in presets("norm")]
    + [("batch", name, "original", "resnet", 14) for name in ADDING]
    + [("batch", "identity", name, "resnet", 14) for name in presets("unit")]
    + [("batch", join, order, "densenet", 13) for join in ("concat", "none") for order in ("preact", "original")]
    + [(name, "concat", "preact", "densenet_bc", 16) for name in ("batch", "layer")]
    + [("batch", join, "original", "unet", 18) for join in ("concat", "identity", "none")]
    + [("batch", join, "preact", "hourglass", 55) for join in ("identity", "none")],
)
def test_every_step_is_the_usual_one_bit_for_bit(norms, skips, order, kind, depth):
    net = made(depth, norms, skips, order, kind)
    again = deepcopy(net)
    again.recompute = True
    usual, recomputed = steps(net), steps(again)
    torch.testing.assert_close(recomputed, usual, rtol=0, atol=0)


def test_the_sums_of_a_norm_that_reads_its_input_twice_have_another_order_in_a_dense_network():
    net = made(16, "momentum", "concat", "preact", "densenet_bc").double()
    again = deepcopy(net)
    again.recompute = True
    usual, recomputed = steps(net), steps(again)
    torch.testing.assert_close(recomputed, usual, rtol=1e-9, atol=1e-9)


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


@pytest.mark.parametrize(("kind", "skips", "depth"), [("unet", "concat", 46), ("hourglass", "identity", 55)])
def test_a_network_that_labels_pixels_keeps_less(kind, skips, depth):
    net, x = made(depth, skips=skips, order="preact", kind=kind), torch.randn(16, 3, 32, 32)
    usual = kept(net, x)
    net.recompute = True
    assert kept(net, x) < 0.6 * usual


def test_a_dense_network_keeps_each_channel_once():
    """Not once for each unit that reads it, which grows with the square of the depth."""
    net, x = made(40, skips="concat", order="preact", kind="densenet"), torch.randn(64, 3, 8, 8)
    usual = kept(net, x)
    net.recompute = True
    stages = [8 + 12 * 12 * (s + 1) for s in range(3)]  # the channels that leave each
    between = sum(64 * channels * (8 // 2**s) ** 2 * 4 for s, channels in enumerate(stages))
    again = sum(64 * channels * (8 // 2**s) ** 2 * 4 for s, channels in zip((1, 2), stages, strict=False))
    assert between <= kept(net, x) < 1.25 * (between + again)
    assert usual > 10 * (between + again)


def test_evaluation_keeps_nothing_and_is_the_same():
    net, x = made().eval(), torch.randn(4, 3, 8, 8)
    usual = net(x)
    net.recompute = True
    assert torch.equal(net(x), usual)
