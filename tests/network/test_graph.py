"""Captured passes, with a stand-in for the capture, which only a GPU can do."""

import pytest
import torch
from torch import nn

from depthlab.config import bind
from depthlab.network import activation, norm, skip, unit
from depthlab.network.graph import compiled, graphed
from depthlab.network.resnet import resnet


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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_all_units_are_compiled_in_training_and_evaluation_and_their_results_stay():
    import torch._dynamo
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    parts = unit.original(), skip.identity, norm.batch, activation.relu
    net = resnet((3, 8, 8), 10, 20, 8, None, *parts, family="cifar", shortcut=None, stride_in="1x1")
    x, names = torch.randn(4, 3, 8, 8), [*net.state_dict()]
    usual = [net.train()(x), net.eval()(x)]
    before = {name: value.clone() for name, value in net.state_dict().items() if "running" in name}
    compiled(net, backend=counter)
    seen = [net.eval()(x), net.train()(x)]
    torch.testing.assert_close(seen, usual[::-1])
    assert [*net.state_dict()] == names
    assert bind(unit, "original", "unit")  # what torch.compile leaves in a module is no option
    assert any(not torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert (
        counter.frame_count == 10
    )  # the first unit, later ones, and two stages' first and later ones; in both modes
