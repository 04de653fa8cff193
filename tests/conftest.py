"""Fixtures: the command in this process, and one thread, with which tiny networks are several times faster."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Command:
    """`command("depth=20")` is `python train.py depth=20` in an empty folder: exit code, output, errors."""
    import train

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        try:
            train.cli()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return Outcome(code, *capsys.readouterr())

    return run
