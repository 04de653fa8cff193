"""The loop against a second one written straight down, closed forms, and itself begun at every point."""

import io
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional

from depthlab.data.task import OfImages
from depthlab.machine import memory
from depthlab.training.loop import State, evaluate, train
from depthlab.training.optimizer import sgd
from depthlab.training.recipe import Recipe, Warmup

IMAGES, BATCH = 20, 6


class Data:
    """20 training, 7 test and 5 validation images of 2x3x3 in 4 classes; each epoch a permutation."""

    task, classes, shape, splits, views = OfImages(), 4, (2, 3, 3), ("test", "train", "validation"), 1

    def __init__(self, images=IMAGES, labels=None):
        random = torch.Generator().manual_seed(1)
        self.images = images
        sizes = {"train": images, "test": 7, "validation": 5}
        self.parts = {
            split: (torch.randn(n, 2, 3, 3, generator=random), torch.randint(4, (n,), generator=random))
            for split, n in sizes.items()
        }
        if labels is not None:
            self.parts["train"] = (self.parts["train"][0], torch.tensor(labels))

    def size(self, split):
        return len(self.parts[split][1])

    def order(self, seed, rows):
        """The first rows of all epochs, one after the other."""
        epochs = -(-rows // self.images)
        random = [torch.Generator().manual_seed(9 * seed + epoch) for epoch in range(epochs)]
        return torch.cat([torch.randperm(self.images, generator=r) for r in random])[:rows]

    def batches(self, size, *, seed, start=0):
        while True:
            rows = self.order(seed, (start + 1) * size)[start * size :]
            yield self.parts["train"][0][rows], self.parts["train"][1][rows]
            start += 1

    def evaluate(self, split, size):
        x, y = self.parts[split]
        yield from zip(x.split(size), y.split(size), strict=True)


class InOrder(Data):
    def order(self, seed, rows):
        return torch.arange(rows) % self.images


def recipe(**changes):
    values = {"batch": BATCH, "iterations": 0, "rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 1e-2}
    values |= {"decay_on": "all", "schedule_on": None, "warmup": Warmup(0.01, 0, 0.25, 0), "schedule": None}
    return Recipe(**(values | changes))


def halves(step, steps):
    return 1.0 if step < steps / 2 else 0.5


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))


def start(state, data, recipe, steps, *, schedule=halves, splits=("test",), depth=8, seed=3):
    keywords = {"depth": depth, "steps": steps, "seed": seed, "splits": splits, "autocast": nullcontext}
    return train(state, data, recipe, schedule, **keywords)


def fresh(recipe, net=None):
    net = net or network()
    return State(net, sgd(net, recipe))


def finish(state, *args, **kwargs):
    """All metrics of a run, each with its step."""
    return [(state.step, metrics) for metrics in start(state, *args, **kwargs) if metrics is not None]


def second_loop(data, steps, seed, rates, **options):
    """The same once more, without a generator, a window, or a function of ours."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1.0, fused=True, **options)
    found, losses, wrong, seen, epochs = [], 0.0, 0, 0, 0
    rows = data.order(seed, steps * BATCH).split(BATCH)
    for step in range(steps):
        x, y = data.parts["train"][0][rows[step]], data.parts["train"][1][rows[step]]
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        net.train()
        logits = net(x)
        loss = functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses, seen = losses + loss.item() * len(y), seen + len(y)
        wrong += int((logits.argmax(1) != y).sum())
        whole = (steps - step - 1) * BATCH > data.images - BATCH  # else the rest belongs to this epoch
        if ((step + 1) * BATCH // data.images > epochs and whole) or step + 1 == steps:
            epochs = (step + 1) * BATCH // data.images
            net.eval()
            with torch.no_grad():
                logits, y = net(data.parts["test"][0]), data.parts["test"][1]
            mistaken = int((logits.argmax(1) != y).sum())
            error = {"train_error": 100 * wrong / seen, "test_error": 100 * mistaken / len(y)}
            loss = {"train_loss": losses / seen, "test_loss": float(functional.cross_entropy(logits, y))}
            found.append((step + 1, error | loss | {"lr": rates[step]}))
            losses, wrong, seen = 0.0, 0, 0
    return net, found


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_loop_is_the_straight_one_bit_for_bit(nesterov):
    data, steps = Data(), 16
    mine = recipe(nesterov=nesterov)
    state = fresh(mine)
    metrics = finish(state, data, mine, steps)
    rates = 4 * [0.01] + 4 * [0.1] + 8 * [0.05]
    net, found = second_loop(data, steps, 3, rates, momentum=0.9, weight_decay=1e-2, nesterov=nesterov)
    theirs = net.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in state.net.state_dict().items())
    assert [step for step, _ in metrics] == [step for step, _ in found] == [4, 7, 10, 16]
    for (_, ours), (_, others) in zip(metrics, found, strict=True):
        assert ours == pytest.approx(others, rel=1e-6)
        assert ours["train_error"] == others["train_error"]


@pytest.mark.parametrize("decay_on", ["all", "weights"])
def test_weight_decay_is_on_all_or_on_weights_only(decay_on):
    """Momentum and decay written out: v = mu v + g + decay w, w = w - rate v."""
    data, mine = Data(), recipe(decay_on=decay_on, decay=0.5, warmup=Warmup(0.01, 0, 0, 0))
    state, net = fresh(mine), network()
    speed = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    batches = data.batches(BATCH, seed=3)
    steps = start(state, data, mine, 50, schedule=lambda step, steps: 0.1)
    for _ in range(3):
        next(steps)
        x, y = next(batches)
        gradients = torch.autograd.grad(functional.cross_entropy(net(x), y), list(net.parameters()))
        with torch.no_grad():
            for (name, p), gradient in zip(net.named_parameters(), gradients, strict=True):
                decay = 0.5 if decay_on == "all" or name in ("0.weight", "4.weight") else 0.0
                speed[name] = 0.9 * speed[name] + gradient + decay * p
                p -= 0.01 * speed[name]
    for ours, theirs in zip(state.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_network_without_biases_and_norms_has_one_group():
    assert len(sgd(nn.Linear(3, 2, bias=False), recipe(decay_on="weights")).param_groups) == 1


@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [
        (20, 6, 16),
        (20, 20, 5),
        (20, 19, 45),
        (20, 5, 12),
        (20, 1, 41),
        (7, 3, 20),
        (13, 8, 1),
        (10, 6, 3),
        (6, 4, 30),
    ],
)
def test_it_evaluates_where_an_epoch_ends_and_at_the_end(images, batch, steps):
    mine = recipe(batch=batch)
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 4))
    found = [step for step, _ in finish(fresh(mine, net), Data(images), mine, steps, splits=())]
    ends = {math.ceil(e * images / batch) for e in range(1, steps * batch // images + 1)}
    assert found == sorted({end for end in ends if (steps - end) * batch > images - batch} | {steps})


@pytest.mark.parametrize(("images", "batch"), [(20, 6), (20, 5), (13, 8), (7, 3), (20, 19), (6, 8)])
def test_whole_epochs_are_evaluated_one_by_one(images, batch):
    """An epoch of 2 1/2 batches ends, like the run, in the batch that holds its last image."""
    mine, net = recipe(batch=batch), nn.Sequential(nn.Flatten(), nn.Linear(18, 4))
    for epochs in range(1, 9):
        steps = [math.ceil(epoch * images / batch) for epoch in range(1, epochs + 1)]
        found = [step for step, _ in finish(fresh(mine, net), Data(images), mine, steps[-1], splits=())]
        assert found == sorted({*steps})


def test_it_yields_after_each_iteration_and_each_batch_of_an_evaluation(monkeypatch):
    monkeypatch.setattr(memory, "EVALUATION_BATCH", 3)
    mine = recipe()
    state = fresh(mine)
    yields = [
        (state.step, metrics is None) for metrics in start(state, Data(), mine, 8, splits=("test", "validation"))
    ]
    evaluated = 5 * [True]  # 7 test images are 3 batches of 3, 5 validation images 2
    wanted = [(step, [True]) for step in range(1, 9)]
    wanted[3] = (4, [True, *evaluated, False])
    wanted[7] = (8, [True, *evaluated, False])
    assert yields == [(step, none) for step, nones in wanted for none in nones]


def test_each_split_has_its_error_and_loss_and_the_training_images_are_called_clean():
    mine = recipe()
    ((_, metrics),) = finish(fresh(mine), Data(), mine, 1, splits=("test", "train", "validation"))
    splits = [f"{split}_{what}" for split in ("test", "clean_train", "validation") for what in ("error", "loss")]
    assert list(metrics) == ["train_error", "train_loss", "lr", *splits]


def test_no_iterations_is_one_evaluation_of_the_network_as_it_is():
    mine, data = recipe(), Data()
    state = fresh(mine)
    ((step, metrics),) = finish(state, data, mine, 0)
    (found,) = [r for r in evaluate(network(), data.evaluate("test", 7), data.task, nullcontext) if r]
    assert (step, metrics) == (0, {"test_error": found["error"], "test_loss": found["loss"]})


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_evaluation_is_the_mean_over_the_images_however_they_are_cut(size):
    data, net = Data(), network()
    with torch.no_grad():
        net(data.parts["train"][0])  # running statistics that are not 0 and 1
    *nones, found = evaluate(net, data.evaluate("test", size), data.task, nullcontext)
    assert nones == -(-7 // size) * [None]
    x, y = data.parts["test"]
    with torch.no_grad():
        p = net.eval()(x).double().softmax(1)
    assert found["error"] == pytest.approx(
        100 * sum(int(p[i].argmax()) != int(y[i]) for i in range(7)) / 7, rel=1e-12
    )
    assert found["loss"] == pytest.approx(-sum(math.log(p[i, y[i]]) for i in range(7)) / 7, rel=1e-5)


def test_views_of_an_image_have_their_softmax_averaged():
    data, net = Data(), network()
    x, y = data.parts["train"]  # 20 images: 5 labels with 4 views each
    batches = [(x[:12], y[:3]), (x[12:], y[3:5])]
    *_, found = evaluate(net, iter(batches), data.task, nullcontext)
    with torch.no_grad():
        p = net.eval()(x).double().softmax(1)
    p = torch.stack([p[4 * i : 4 * i + 4].mean(0) for i in range(5)])
    assert found["error"] == pytest.approx(
        100 * sum(int(p[i].argmax()) != int(y[i]) for i in range(5)) / 5, rel=1e-12
    )
    assert found["loss"] == pytest.approx(-sum(math.log(p[i, y[i]]) for i in range(5)) / 5, rel=1e-5)


class Views(Data):
    """Four views of each image; of the last batch this process has no image."""

    views = 4

    def evaluate(self, split, size):
        x, y = self.parts[split]
        count = size // self.views
        batches = zip(x.split(count), y.split(count), strict=True)
        yield from [(x.repeat_interleave(4, dim=0), y) for x, y in batches][:-1]


def test_all_processes_take_as_many_turns_however_many_views_there_are(monkeypatch):
    """7 test images in batches of 11 // 4 are four turns, also for a process that has nothing in the last."""
    monkeypatch.setattr(memory, "EVALUATION_BATCH", 11)
    mine = recipe(batch=20)
    turns = [metrics for metrics in start(fresh(mine), Views(), mine, 0, splits=("test",)) if metrics is None]
    assert len(turns) == 4


def test_evaluation_changes_nothing():
    net, data = network(), Data()
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    list(evaluate(net, data.evaluate("test", 3), data.task, nullcontext))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)


class Wrong(nn.Module):
    """Says class 0 whatever it sees: the labels decide the training error."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.bias + 50 * functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 4)


def test_the_warm_up_ends_once_though_the_error_rises_again():
    """8 wrong batches, 3 right ones (8 / 11 is the first share under 80 %), then wrong ones; epochs end after 20."""
    labels = [1] * 8 + [0] * 3 + [1] * 9
    mine = recipe(batch=1, momentum=0.0, decay=0.0, warmup=Warmup(0.001, 80, 1, 0))
    state = fresh(mine, Wrong())
    rates = []
    for metrics in start(state, InOrder(labels=labels), mine, 60, schedule=lambda step, steps: 0.1, splits=()):
        if metrics is None:
            rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == 11 * [0.001] + 49 * [0.1 * 0.1]


def test_the_warm_up_s_error_is_that_since_the_last_evaluation():
    """Epoch 1 is all wrong; in epoch 2 the first right image, the fourth, brings it to 75 %."""
    mine = recipe(batch=1, momentum=0.0, decay=0.0, warmup=Warmup(0.001, 80, 1, 0))
    state = fresh(mine, Wrong())
    data = InOrder(40, labels=20 * [1] + 3 * [1] + 17 * [0])
    data.images = 20  # epochs of 20 through labels of 40
    data.order = lambda seed, rows: torch.arange(rows) % 40
    rates = []
    for metrics in start(state, data, mine, 40, schedule=lambda step, steps: 0.1, splits=()):
        if metrics is None:
            rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates.count(0.001) == 24
    assert rates[24:] == 16 * [0.1 * 0.1]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_loss_that_is_not_finite_is_told_with_its_iteration_and_ends_the_run(step):
    data, mine = InOrder(), recipe()
    data.parts["train"][0][step * BATCH] = math.nan  # each later loss is nan too
    ((ended, metrics),) = finish(fresh(mine), data, mine, 30)
    assert (ended, metrics["diverged_at"]) == (4, step)
    assert math.isnan(metrics["train_loss"])


def test_a_network_that_diverges_later_ends_at_that_epochs_end():
    data, mine = Data(), recipe(warmup=Warmup(0.01, 0, 0, 0))
    found = finish(fresh(mine), data, mine, 30, schedule=lambda step, steps: 1e30 if step == 7 else 0.1)
    assert [s for s, _ in found] == [4, 7, 10]
    assert ["diverged_at" in metrics for _, metrics in found] == [False, False, True]
    assert found[-1][1]["diverged_at"] == 8


def saved(state):
    file = io.BytesIO()
    torch.save(state.to_dict(), file)
    return file.getvalue()


def restored(content, recipe):
    state = fresh(recipe, network())
    with torch.no_grad():
        for p in state.net.parameters():
            p.fill_(7.0)
    state.load(torch.load(io.BytesIO(content), weights_only=True))
    return state


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_comes_back_whole():
    mine = recipe(decay_on="weights")
    state = fresh(mine)
    run = start(state, Data(), mine, 16)
    while state.step < 6:
        next(run)
    again = restored(saved(state), mine)
    assert (again.step, again.warm) == (6, False)
    assert same(again.to_dict(), state.to_dict())
    assert again.report() == state.report() != {}


# the second warm-up ends in the middle by its error, so that `warm` is part of what must come back
WARMUPS = [Warmup(0.01, 0, 0.25, 0), Warmup(0.001, 70, 0.9, 0)]


@pytest.mark.parametrize("warmup", WARMUPS)
def test_begun_again_at_every_yield_it_ends_the_same(monkeypatch, warmup):
    """At each iteration, right before and after each evaluation, and between the batches of one."""
    monkeypatch.setattr(memory, "EVALUATION_BATCH", 4)
    data, steps, mine = Data(), 13, recipe(warmup=warmup, decay_on="weights")
    state = fresh(mine)
    states, yields = [saved(state)], [None]
    for metrics in start(state, data, mine, steps):
        states.append(saved(state))
        yields.append((state.step, metrics) if metrics else None)
    end, warm = saved(state), [torch.load(io.BytesIO(s), weights_only=True)["warm"] for s in states]
    assert warm[0]
    assert not warm[-1]
    for k, content in enumerate(states):
        again = restored(content, mine)
        assert finish(again, data, mine, steps) == [y for y in yields[k + 1 :] if y]
        assert same(again.to_dict(), torch.load(io.BytesIO(end), weights_only=True))


def test_the_schedule_changes_the_rate_of_the_named_part_alone():
    mine = recipe(schedule_on="weights", warmup=Warmup(0.01, 0, 0, 0))
    state = fresh(mine)
    finish(state, Data(), mine, 3, schedule=lambda step, steps: 0.5**step)
    rates = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    for parameter in state.net.parameters():
        assert rates[id(parameter)] == (mine.rate * 0.25 if parameter.dim() > 1 else mine.rate)


def test_a_last_step_that_breaks_the_network_is_divergence():
    """Its own loss was finite; that of the test images is not."""
    data, how = Data(), recipe(rate=1e30, warmup=Warmup(0.01, 0, 0, 0))
    ((step, metrics),) = finish(fresh(how), data, how, 1)
    assert math.isfinite(metrics["train_loss"])
    assert not math.isfinite(metrics["test_loss"])
    assert (step, metrics["diverged_at"]) == (1, 1)


def test_what_the_schedule_does_not_reach_warms_up_with_the_rest():
    mine = recipe(warmup=Warmup(rate=0.01, until_error=0.0, share=0.5, from_depth=0), schedule_on="weights")
    state = fresh(mine)
    seen = [[group["lr"] for group in state.optimizer.param_groups] for _ in start(state, Data(), mine, 8, splits=())]
    assert all(rate == 0.01 for rate in seen[0])
    assert {*seen[-2]} != {0.01}
