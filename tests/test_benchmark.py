"""The benchmark's parts on a network that takes no time; its numbers are for quiet machines."""

import json
import sys
from itertools import islice

import pytest
import torch

import benchmark
from depthlab.training.optimizer import SGD

CPU = torch.device("cpu")
CUDA = torch.Tensor.cuda


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


PEER = {
    "resnet.py": """
from torch import nn

def resnet8():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
""",
    "trainer.py": """
import argparse
import resnet
import torch
import torchvision.datasets as datasets
import torchvision.transforms as transforms

parser = argparse.ArgumentParser()
for name in ("--arch", "--save-dir"):
    parser.add_argument(name, required=True)
parser.add_argument("-b", "--batch-size", type=int)
seen = []

def main():
    global args
    args = parser.parse_args()
    net = torch.nn.DataParallel(resnet.__dict__[args.arch]()).cuda()
    to = transforms.ToTensor()
    kinds = [datasets.CIFAR10("./data", train=train, transform=to) for train in (True, False)]
    feed, test = (torch.utils.data.DataLoader(kind, batch_size=args.batch_size) for kind in kinds)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for epoch in range(200):
        train(feed, net, torch.nn.CrossEntropyLoss().cuda(), optimizer, epoch)
        validate(test, net, torch.nn.CrossEntropyLoss())

def train(feed, net, criterion, optimizer, epoch):
    print("epoch", epoch)
    for x, y in feed:
        loss = criterion(net(x.cuda()), y.cuda())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(("train", epoch, len(x)))

def validate(test, net, criterion):
    for x, y in test:
        criterion(net(x.cuda()), y.cuda())
        seen.append(("test", len(x)))
""",
}


def test_the_peers_own_code_takes_turns(made, tmp_path, monkeypatch, capsys):
    for name, text in PEER.items():
        (tmp_path / name).write_text(text)
    images, seen = made.options["data"](CPU), []
    imported = benchmark.import_module

    def watched(name):
        module = imported(name)
        module.seen = seen
        return module

    monkeypatch.setattr(benchmark, "import_module", watched)
    epochs = list(islice(benchmark.peer(tmp_path, made, images, CPU), 2))
    assert all(0 < epoch.steps < epoch.all for epoch in epochs)
    test, last = divmod(images.size("test"), 32)
    for number in range(2):
        turn = [("train", number, size) for size in (32, 32, 32, 4)] + [("test", 32)] * test + [("test", last)]
        assert seen[number * len(turn) :][: len(turn)] == turn
    assert len(seen) == 2 * len(turn)
    assert "trainer" not in sys.modules
    assert torch.Tensor.cuda is CUDA
    assert capsys.readouterr().out == ""


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


def test_options_behind_the_dashes_are_the_cases(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "resnet20", f"--output={tmp_path}", "--", "data.images=256"])
    monkeypatch.setattr(benchmark, "ceilings", lambda where: {"gflops": 1.0, "gigabytes": 1.0})
    monkeypatch.setattr(benchmark, "measure", lambda case, more, *_: {"case": case, "more": " ".join(more)})
    benchmark.main()
    (written,) = tmp_path.glob("*-data-images-256.json")
    assert json.loads(written.read_text())["rows"] == [{"case": "resnet20", "more": "data.images=256"}]
