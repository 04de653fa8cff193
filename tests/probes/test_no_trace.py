"""Probes that move weights leave the network and the random stream as they were, bit for bit."""

from functools import partial

import pytest
import torch
from test_inside import made, same, snapshot

from depthlab import probes
from depthlab.network import skip
from depthlab.run.probing import Probe

PROBES = [
    partial(probes.loss_surface, points=3, line_points=3, reach=1.0, seed=0),
    partial(probes.loss_along_gradient, steps=[0.1, 0.2]),
    partial(probes.covariate_shift, step=None),
    partial(probes.norm_effects, factor=10.0, sizes=[2, 4], draws=2, seed=0),
    partial(probes.gradient_precision, formats=["fp64", "fp32", "tf32", "bf16", "4"]),
    partial(probes.sensitivity, size=1e-6, seed=0),
]


class Images:
    """32 images of 8x8."""

    splits = ("train",)

    def size(self, split):
        return 32

    def first(self, split, count):
        return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))[:count], torch.arange(count) % 10


@pytest.mark.parametrize("measure", PROBES)
def test_no_trace(measure):
    net = made(depth=8, join=lambda channels: skip.dropout(channels, p=0.5, rescale=False))
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    net.eval()
    net.units[1].train()
    before, probe = snapshot(net), Probe("made", measure, None, "train", 16)
    first = probe(net, Images(), 0.1)
    assert same(before, snapshot(net))
    assert all(isinstance(value, float | list) for value in first.values())
    torch.rand(3)
    assert probe(net, Images(), 0.1) == first
