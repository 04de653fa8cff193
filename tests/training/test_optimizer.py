"""Optimisers against steps written out by hand, exact matrices, and the recipe's word on rates and decay."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import presets
from depthlab import api
from depthlab.config import bind
from depthlab.errors import Mistake
from depthlab.network.levels import Pixelwise
from depthlab.training import optimizer
from depthlab.training.kfac import KFAC, _drawn, _inverse, factors, inverses
from depthlab.training.recipe import Recipe, Warmup

PRESETS = {name: node.get("optimizer", node) for name, node in presets("recipe/optimizer").items()}


def recipe(**changes):
    values = {"batch": 6, "iterations": 0, "rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.0}
    values |= {"decay_on": "all", "schedule_on": None, "warmup": Warmup(0.01, 0, 0, 0), "schedule": None}
    return Recipe(**(values | changes))


def make(name, net, changes=None, **constants):
    return bind(optimizer, PRESETS[name] | (changes or {}), "recipe.optimizer")(net, recipe(**constants))


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 3)
    return nn.Sequential(*layers).double()


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 2, 5, 5, generator=random, dtype=torch.float64)
    return x, torch.randint(3, (6,), generator=random)


def step(net, made, seed=0):
    x, y = batch(seed)
    logits = net(x)
    getattr(made, "look", lambda said: None)([logits])
    loss = F.cross_entropy(logits, y)
    made.zero_grad()
    loss.backward()
    made.step()
    return loss.item()


@pytest.mark.parametrize("name", PRESETS)
def test_each_lowers_the_loss(name):
    net = network()
    made = make(name, net, rate=0.01)
    losses = [step(net, made) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("decay_on", ["all", "weights", "convolutions"])
def test_decay_is_on_what_the_recipe_names(name, decay_on):
    net = network()
    made = make(name, net, decay=1e-2, decay_on=decay_on)
    fewest = {"all": 0, "weights": 2, "convolutions": 4}[decay_on]
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert len(decays) == len([*net.parameters()])
    assert all(decays[id(p)] == (1e-2 if p.dim() >= fewest else 0) for p in net.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_without_the_named_part_is_a_mistake(name):
    with pytest.raises(Mistake, match=r"recipe\.decay_on=convolutions: this network has none"):
        make(name, nn.Sequential(nn.Linear(3, 3)), decay_on="convolutions")


def test_a_missing_package_is_one_line_and_nothing_written(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.setattr(optimizer, "find_spec", lambda name: None)
    outcome = command("data=digits", "depth=8", "recipe/optimizer=muon")
    line = "error: recipe/optimizer=muon: not installed; pip install -e '.[optimizers]'\n"
    assert (outcome.code, outcome.err, [*tmp_path.iterdir()]) == (2, line, [])


MISTAKES = {
    "adamw": [("beta1", 1.0), ("beta2", -0.1)],
    "soap": [("every", 0), ("beta1", 1.5)],
    "kfac": [("damping", 0.0), ("average", 1.0), ("every", 0), ("clip", -1.0)],
}


@pytest.mark.parametrize(("name", "key", "value"), [(n, *pair) for n, pairs in MISTAKES.items() for pair in pairs])
def test_constants_out_of_their_range(name, key, value):
    with pytest.raises(Mistake, match=rf"^recipe\.optimizer\.{key}={value}: "):
        make(name, network(), {key: value})


@pytest.mark.parametrize("option", ["recompute=true", "devices=2", "graph=true", "compile=true"])
def test_kfac_needs_one_whole_pass(command, option):
    outcome = command("data=digits", "depth=8", "recipe/optimizer=kfac", option)
    assert outcome.code == 2
    assert "recipe/optimizer=kfac: looks inside a pass" in outcome.err


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.1), ("adamw", 0.001), ("muon", 0.01), ("soap", 0.003)])
def test_each_brings_its_usual_rate_which_the_typed_one_replaces(command, name, rate):
    for typed, wanted in (((), rate), (("recipe.rate=0.5",), 0.5)):
        outcome = command("data=digits", f"recipe/optimizer={name}", *typed, "-c", "job")
        assert f"\n  rate: {wanted}\n" in outcome.out


# Muon


def test_sums_of_bfloat16_products_are_float32s_rounded_once():
    torch.manual_seed(0)
    a, b, c = (torch.randn(3, 40, 40).bfloat16() for _ in range(3))
    exact = 2 * a.double() - 3 * (b.double() @ c.double())
    with optimizer.Float32Sums():
        batched, one = torch.baddbmm(a, b, c, beta=2, alpha=-3), torch.empty_like(a[0])
        torch.addmm(a[0], b[0], c[0], beta=2, alpha=-3, out=one)
        assert torch.mm(a[0].double(), b[0].double()).dtype == torch.float64
    assert torch.equal(batched[0], one)
    wrong = (batched.double() - exact).abs() / exact.abs().clamp_min(1e-3)
    assert wrong.quantile(0.99) <= 2**-8  # half a unit in the last of bfloat16's 8 bits
    assert (batched == exact.bfloat16()).double().mean() > 0.995


def test_muon_is_the_librarys_to_rounding():
    from pytorch_optimizer import Muon

    torch.manual_seed(0)
    net, steps = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4))), []
    twin = copy.deepcopy(net)
    ours = make("muon", net, rate=0.01)
    groups = [{**group, "params": [*_of(twin, net, group["params"])]} for group in ours.param_groups]
    for each, made in ((net, ours), (twin, Muon(groups, 0.01))):
        before = each[1].weight.detach().clone()
        each(torch.randn(8, 32, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        made.step()
        steps.append(each[1].weight.detach() - before)
    assert F.cosine_similarity(*(moved.flatten() for moved in steps), 0) > 0.9995
    assert float(steps[0].norm()) == pytest.approx(float(steps[1].norm()), rel=0.005)


def _of(twin, net, parameters):
    places = {id(p): q for p, q in zip(net.parameters(), twin.parameters(), strict=True)}
    return (places[id(p)] for p in parameters)


def test_muon_orthogonalises_hidden_weights_and_leaves_the_rest_to_adamw():
    net = network()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    made = make("muon", net, rate=0.01)
    for group in made.param_groups:
        group["lr"] = 0.01 * group.get("factor", 1)  # as the loop does
    step(net, made)
    moved = {name: (p.detach() - before[name]) for name, p in net.named_parameters()}
    for name in ("0.weight", "3.weight"):
        values = torch.linalg.svdvals(moved[name].flatten(1).float()) / 0.01
        assert 0.5 < values.min() < values.max() < 1.5  # Newton-Schulz's own spread
    for name in ("1.weight", "5.weight", "5.bias"):
        largest = moved[name].abs().max().item()
        assert largest == pytest.approx(0.15 * 0.01, rel=0.01)  # AdamW's first step: the rate in each value


def test_soaps_first_step_moves_nothing():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    made = make("soap", net)
    step(net, made)
    assert all(p.equal(old) for p, old in zip(net.parameters(), before, strict=True))
    step(net, made)
    assert not any(p.equal(old) for p, old in zip(net.parameters(), before, strict=True))


# K-FAC


@pytest.mark.parametrize("stride", [1, 2])
def test_factors_are_sums_over_images_and_positions(stride):
    """Written out with loops (Grosse & Martens 2016, theorem 1), the bias as one input more, always 1."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride, 1).double()
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    g = torch.randn_like(conv(x))
    a_wanted, g_wanted = torch.zeros(19, 19).double(), torch.zeros(3, 3).double()
    padded, positions = F.pad(x, (1, 1, 1, 1)), g[0, 0].numel()
    for n in range(4):
        for i in range(g.shape[2]):
            for j in range(g.shape[3]):
                patch = padded[n, :, stride * i : stride * i + 3, stride * j : stride * j + 3].flatten()
                a = torch.cat([patch, torch.ones(1).double()])
                a_wanted += torch.outer(a, a) / 4
                g_wanted += torch.outer(g[n, :, i, j], g[n, :, i, j]) / (4 * positions)
    torch.testing.assert_close(factors(conv, x, g), (a_wanted, g_wanted))


def test_of_one_image_the_kronecker_product_is_the_exact_fisher_matrix():
    """E over the labels of the gradient's outer product, by autograd, against A x G."""
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 4).double(), torch.randn(1, 3, dtype=torch.float64)
    p = layer(x).softmax(1)[0].detach()
    exact, g_exact = torch.zeros(16, 16).double(), torch.zeros(4, 4).double()
    for label in range(4):
        loss = F.cross_entropy(logits := layer(x), torch.tensor([label]))
        (g,) = torch.autograd.grad(loss, logits, retain_graph=True)
        weight, bias = torch.autograd.grad(loss, (layer.weight, layer.bias))
        gradient = torch.cat([weight, bias[:, None]], 1).flatten()
        exact += p[label] * torch.outer(gradient, gradient)
        a, g_one = factors(layer, x, g)
        g_exact += p[label] * g_one
    torch.testing.assert_close(torch.kron(g_exact, a), exact)


def test_a_linear_map_at_each_pixel_has_the_factors_of_a_1x1_convolution():
    torch.manual_seed(0)
    linear, conv = Pixelwise(2, 3).double(), nn.Conv2d(2, 3, 1).double()
    x, g = torch.randn(4, 2, 5, 6).double(), torch.randn(4, 3, 5, 6).double()
    torch.testing.assert_close(factors(linear, x, g), factors(conv, x, g))


def test_of_pixels_the_drawn_loss_has_the_square_of_their_means_fisher_matrix():
    """Of biases shared by all pixels and added to two logits of a step: the mean of diag(p) - p p^T, twice."""
    torch.manual_seed(0)
    one, bias = torch.randn(1, 3, 2, 2), torch.zeros(40_000, 3, requires_grad=True)
    logits = one + bias[:, :, None, None]
    torch.manual_seed(1)
    (g,) = torch.autograd.grad(_drawn(logits) + _drawn(logits), bias)
    p = one.softmax(1)[0].flatten(1).T
    exact = 2 * (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    torch.testing.assert_close(g.T @ g / len(g), exact, atol=0.01, rtol=0)


def test_inverses_are_damped_by_factored_tikhonov():
    """(A + pi sqrt(l) I) x (G + sqrt(l) / pi I) (Martens & Grosse 2015, section 6.3)."""
    torch.manual_seed(0)
    a, g = (m @ m.T for m in (torch.randn(5, 9).double(), 3 * torch.randn(4, 7).double()))
    pi = ((a.trace() / 5) / (g.trace() / 4)).sqrt()
    a_inverse, g_inverse = inverses(a, g, 0.25)
    torch.testing.assert_close(a_inverse @ (a + pi * 0.5 * torch.eye(5)), torch.eye(5).double())
    torch.testing.assert_close(g_inverse @ (g + 0.5 / pi * torch.eye(4)), torch.eye(4).double())


def test_a_step_is_the_damped_natural_gradient_within_the_trust_region():
    """Of a linear classifier, whose step is then one matrix; twice, with momentum and decay."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4)).double()
    made = KFAC(net, [{"params": net.parameters(), "weight_decay": 0.1}], 0.5, 0.9, damping=0.1, average=0.95, **CLIP)
    momentum, mean = torch.zeros(4, 4).double(), None
    for _ in range(2):
        x, y = torch.randn(6, 3).double(), torch.randint(4, (6,))
        w = torch.cat([net[0].weight, net[0].bias[:, None]], 1).detach().clone()
        state = torch.get_rng_state()
        logits = net(x)
        made.look([logits])
        made.zero_grad()
        F.cross_entropy(logits, y).backward()
        made.step()
        torch.set_rng_state(state)
        drawn = logits.detach().float().softmax(1).multinomial(1).squeeze(1)
        g = logits.detach().softmax(1) - F.one_hot(drawn, 4)
        a = torch.cat([x, torch.ones(6, 1).double()], 1)
        new = a.T @ a / 6, g.T @ g / 6
        mean = new if mean is None else tuple((old + now) / 2 for old, now in zip(mean, new, strict=True))
        a_inverse, g_inverse = inverses(*mean, 0.1)
        gradient = (logits.detach().softmax(1) - F.one_hot(y, 4)).T @ a / 6 + 0.1 * w
        move = g_inverse @ gradient @ a_inverse
        scale = min(1.0, (1e-3 / (0.25 * (move * gradient).sum())).sqrt().item())
        assert scale < 1
        momentum = 0.9 * momentum + scale * move
        moved = torch.cat([net[0].weight, net[0].bias[:, None]], 1)
        torch.testing.assert_close(moved, w - 0.5 * momentum, rtol=1e-5, atol=1e-7)


CLIP = {"every": 1, "clip": 1e-3}


def test_kfac_looks_every_so_many_steps_and_only_in_training():
    net = network()
    made = make("kfac", net, {"every": 3})
    seen = []
    for k in range(5):
        before = made.state[net[0].weight]["A"].clone()
        step(net, made, seed=k)
        seen.append(not made.state[net[0].weight]["A"].equal(before))
        net.eval()(batch()[0])
        assert not made.seen
        net.train()
    assert seen == [True, False, False, True, False]


def test_kfac_looks_at_each_of_the_losses_that_are_added():
    """Each G of two stacked hourglasses is that of both losses."""
    net = api.network("data=scenes network=hourglass depth=37 width=8 skip=identity network.levels=1").train()
    made = make("kfac", net, {"every": 1})
    x = torch.randn(3, 1, 8, 8)
    said = net(x)
    assert len(said) == 2
    outputs = [made.seen[layer][1] for layer in made.layers]
    torch.manual_seed(0)
    wanted = torch.autograd.grad([_drawn(logits) for logits in said], outputs, retain_graph=True)
    torch.manual_seed(0)
    made.look(said)
    for layer, g in zip(made.layers, wanted, strict=True):
        exact = g.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(made.state[layer.weight]["G"], exact.T @ exact / len(exact))
        assert made.state[layer.weight]["G"].any()


def test_a_copy_of_the_network_is_free_of_kfac():
    """As probes make: it runs, and the optimiser keeps nothing of it."""
    net = network()
    made = make("kfac", net, {"every": 1})
    copy.deepcopy(net).train()(batch()[0])
    assert not made.seen
    step(net, made)


def test_weights_that_are_made_from_others_take_sgds_steps():
    from depthlab.network.weight import plain, standardised

    net = nn.Sequential(standardised(2, 4, (3, 3), 1, False, gain=1.0, eps=1e-4), plain(4, 2, (1, 1), 2, False))
    made = make("kfac", net)
    assert [layer in made.layers for layer in net] == [False, True]


def test_a_factor_that_float32_finds_singular_is_inverted_in_float64():
    draw, found = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        v = torch.rand(2, generator=draw)
        matrix = v.outer(v)  # rounded, it may have an inverse that float32 does not see
        if torch.linalg.cholesky_ex(matrix).info and not torch.linalg.cholesky_ex(matrix.double()).info:
            found += 1
            torch.testing.assert_close(_inverse(matrix).double(), matrix.double().inverse(), rtol=1e-3, atol=0)
    assert found > 3


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of its import
def test_the_factors_are_those_of_curvlinops():
    """On one batch in float64, by the gradients of the true labels: each layer's Kronecker product."""
    from curvlinops import KFACLinearOperator

    net = api.network("depth=8 width=2 skip=none norm=none data=digits").double()
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights, loss = [layer.weight for layer in layers], nn.CrossEntropyLoss(reduction="sum")
    operator = KFACLinearOperator(net, loss, weights, [(x, y)], fisher_type="empirical")
    dense, seen, at = operator @ torch.eye(operator.shape[1], dtype=torch.float64), {}, 0
    for layer in layers:
        layer.register_forward_hook(lambda m, given, output: seen.update({m: (given[0].detach(), output)}))
    value = loss(net(x), y)
    for layer, g in zip(layers, torch.autograd.grad(value, [seen[layer][1] for layer in layers]), strict=True):
        a, g = factors(layer, seen[layer][0], g)
        inputs, size = layer.weight[0].numel(), layer.weight.numel()
        product = len(x) * torch.kron(g, a[:inputs, :inputs])  # a sum over images, without the bias
        torch.testing.assert_close(product, dense[at : at + size, at : at + size])
        at += size
    assert at == len(dense)


@pytest.mark.parametrize(
    "words", ["skip=rezero norm=none", "norm=fixup init=fixup", "skip=none norm=none init=normal"]
)
def test_kfac_begins_where_a_gradient_is_zero(command, words):
    outcome = command(
        "data=digits", "depth=20", "width=4", "recipe/optimizer=kfac", "recipe.iterations=12", *words.split()
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert ": finished, " in outcome.out


def test_inverses_of_a_zero_factor_are_those_of_its_damping():
    """Whatever the other's size: their product is 1 / damping on what is not there."""
    for size in (1.0, 10.0, 1e6):
        a, g = inverses(size * torch.eye(5), torch.zeros(3, 3), 0.01)
        assert a.isfinite().all()
        torch.testing.assert_close(a[0, 0] * g[0, 0], torch.tensor(100.0))
