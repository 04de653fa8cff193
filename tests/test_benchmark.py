"""The benchmark's parts on a network that takes no time; its numbers are for quiet machines."""

from itertools import islice

import pytest
import torch

import benchmark
from depthlab.training.optimizer import SGD

CPU = torch.device("cpu")


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setitem(benchmark.CASES, "tiny", "data=digits depth=8 width=4 data.subset=100 recipe.batch=32")
    plan = benchmark.planned(benchmark.typed("tiny", ["recipe.rate=0.05"]))
    assert plan.cfg.recipe.rate == 0.05
    return plan


def test_both_loops_train_the_same_network_for_whole_epochs(made):
    images = made.options["data"](CPU)
    steps = []

    def counting(straight):
        def counted(self, *arguments, **keywords):
            steps.append(sum(p.numel() for group in self.param_groups for p in group["params"]))
            return straight(self, *arguments, **keywords)

        return counted

    for loop, kind in ((benchmark.ours, SGD), (benchmark.reference, torch.optim.SGD)):
        steps.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "step", counting(kind.step))
            epochs = list(islice(loop(made, images, CPU), 2))
        assert all(0 < epoch.steps < epoch.all for epoch in epochs)
        assert len(steps) in (
            7,
            8,
        )  # 200 images in batches of 32: cut from a stream, or the last of each epoch smaller
        assert set(steps) == {sum(p.numel() for p in made.build(images.shape, images.classes).parameters())}


def test_traffic_is_what_is_read_and_written():
    a, b = torch.ones(1000), torch.ones(1000, dtype=torch.float64)
    with benchmark.Traffic() as traffic:
        a.add_(1)
        b + b
    assert traffic.total == 2 * 4000 + 3 * 8000


def test_the_limit_is_the_products_rate(made):
    images = made.options["data"](CPU)
    operations = benchmark.describe.multiply_adds(made, images.shape, images.classes)
    assert benchmark.limit(made, images, CPU, {"gflops": 6e-9 * operations}) == pytest.approx(1)


def test_the_table_has_a_line_a_network():
    row = {"case": "tiny", "ours": 200.0, "reference": 100.0, "step_ratio": 2.0, "epoch_ratio": 3.0}
    table = benchmark.markdown({"machine": "none"}, [row])
    assert "| tiny | 200 | 100 | 2 | 3 |" in table
