"""Scale invariance where it is exact, the noise of batch means against 1 / sqrt(size), effective rates by hand."""

import importlib

import pytest
import torch
from test_inside import made
from test_loss_along_gradient import Y, at

from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.network.norm import _Batch
from depthlab.probes import norm_effects as probe
from depthlab.probes.inside import layers
from depthlab.probes.norm_effects import batch_noise

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
X += torch.randn(64, 3, 1, 1, generator=torch.Generator().manual_seed(2))  # an image's own mean
Y = Y.repeat(4)
KEYS = {"factor": 10.0, "sizes": [4, 16], "draws": 3, "seed": 0}


@pytest.mark.parametrize("norms", [norm.batch, norm.layer, norm.instance])
@pytest.mark.parametrize("factor", [10.0, 0.01])
def test_a_norm_makes_the_scale_of_weights_not_matter(norms, factor):
    net = made(depth=8, norms=norms).double()
    for module in net.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30
    found = probe(net, X, Y, 0.1, **KEYS | {"factor": factor})
    assert len(found["output_changes"]) == 7
    assert found["output_change"] == max(found["output_changes"]) < 1e-12
    assert found["gradient_factors"] == pytest.approx([1 / factor] * 7, rel=1e-9)
    assert found["gradient_factor"] == pytest.approx(1 / factor, rel=1e-9)


def test_without_a_norm_a_plain_relu_network_passes_the_factor_on():
    net = made(depth=8, norms=norm.none, join=skip.none).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    found = probe(net, X, Y, 0.1, **KEYS)
    assert found["output_changes"] == pytest.approx([9.0] * 7)
    at(net, X, Y)
    place, (_, layer, _) = 3, layers(net)[3]
    before = layer.weight.grad.norm().item()
    with torch.no_grad():
        layer.weight.mul_(10)
    at(net, X, Y)
    assert found["gradient_factors"][place] == pytest.approx(layer.weight.grad.norm().item() / before)


def test_layers_that_no_norm_follows_are_left_out():
    assert len(probe(made(depth=8, order=unit.preact).double(), X, Y, 0.1, **KEYS)["output_changes"]) == 4
    assert len(probe(made(depth=8, norms=norm.none).double(), X, Y, 0.1, **KEYS)["output_changes"]) == 7


def test_noise_of_the_first_layers_means_is_that_of_the_mean_of_independent_images():
    net = made(depth=8).double().train()
    found = batch_noise(net, [net.stem.conv1], X, [4, 25], 500, torch.Generator().manual_seed(0))
    with torch.no_grad():
        signal = net.stem.conv1(X)
    of_images = signal.mean((2, 3)).var(0, correction=0).sum() / signal.var((0, 2, 3), correction=0).sum()
    assert found == pytest.approx([(of_images / size).sqrt().item() for size in (4, 25)], rel=0.07)


def test_noise_falls_with_the_root_of_the_size():
    net = made(depth=8).double()
    found = probe(net, X, Y, 0.1, **KEYS | {"sizes": [4, 16, 64], "draws": 100})
    assert len(found["noise"]) == 3
    assert found["noise_exponent"] == pytest.approx(-0.5, abs=0.06)
    alone = probe(net, X, Y, 0.1, **KEYS | {"sizes": [4]})["noise_exponent"]
    assert alone != alone


def test_exponent_is_the_slope_of_the_logarithms(monkeypatch):
    module = importlib.import_module("depthlab.probes.norm_effects")
    monkeypatch.setattr(module, "batch_noise", lambda *_: [5 * 4**-0.3, 5 * 16**-0.3])
    assert probe(made(depth=8).double(), X, Y, 0.1, **KEYS)["noise_exponent"] == pytest.approx(-0.3)


def test_draws_come_from_the_seed():
    net = made(depth=8).double()
    first, again, other = (probe(net, X, Y, 0.1, **KEYS | {"seed": seed})["noise"] for seed in (0, 0, 1))
    assert first == again != other


def test_effective_rates():
    net = made(depth=8).double()
    found = probe(net, X, Y, 0.3, **KEYS)
    rates = [0.3 / layer.weight.square().sum().item() for _, layer, _ in layers(net)]
    assert found["effective_rates"] == pytest.approx(rates)
    assert found["effective_rate"] == pytest.approx(sum(rates) / 7)


def test_costs_what_it_says():
    net, images = made(depth=8).double(), []
    net.register_forward_hook(lambda _, given, __: images.append(len(given[0])))
    probe(net, X, Y, 0.1, **KEYS)
    assert images[:8] == [64] * 8
    assert sum(images[8:]) == 64 + 3 * (4 + 16)  # and all images once, for the signal's deviation
    assert any(isinstance(module, _Batch) for module in net.modules())


@pytest.mark.parametrize("wrong", [{"factor": 0.0}, {"sizes": []}, {"sizes": [1, 4]}, {"draws": 1}])
def test_keys_that_make_no_sense(wrong):
    with pytest.raises(Mistake, match=r"probe\.norm_effects: .*a positive factor, at least 2 draws"):
        probe(made(depth=8).double(), X, Y, 0.1, **KEYS | wrong)


def test_a_network_without_a_layer_before_a_norm_is_refused():
    with pytest.raises(Mistake, match="probe=norm_effects: no layer of this network stands directly before a norm"):
        probe(made(depth=8, order=unit.norm_after_activation).double(), X, Y, 0.1, **KEYS)
