"""Captured passes, with a stand-in for the capture, which only a GPU can do."""

import pytest
import torch
from torch import nn

from depthlab.network.graph import graphed


class Image(torch.Tensor):
    """An image that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def captures(monkeypatch):
    """The modules that were captured, each run three times as torch does."""
    seen = []

    def capture(module, samples):
        assert module.training
        assert not module._forward_hooks
        for _ in range(3):
            module(*samples).sum().backward()
        seen.append((module, samples[0]))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork([]))
    return seen


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_the_capture_leaves_no_trace_and_comes_once(captures):
    usual, net = made(), made()
    x = torch.randn(8, 4)
    torch.manual_seed(1)
    expected = [usual(x) for _ in range(2)]
    forward = graphed(net)
    torch.manual_seed(1)
    for logits in expected:
        torch.testing.assert_close(forward(x.as_subclass(Image)).as_subclass(torch.Tensor), logits, rtol=0, atol=0)
    torch.testing.assert_close(net.state_dict(), usual.state_dict(), rtol=0, atol=0)
    ((module, sample),) = captures
    assert module[0] is net
    assert module is not net  # which evaluation and probes call
    assert sample.data_ptr() != x.data_ptr()


def test_a_cpu_needs_none(captures):
    net, x = made().eval(), torch.randn(8, 4)
    assert torch.equal(graphed(net)(x), net(x))
    assert not captures
