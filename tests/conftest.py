"""Fixtures: the command in this process, and one thread, with which tiny networks are several times faster."""

import logging
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from subprocess import PIPE, Popen
from types import ModuleType
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from depthlab.config import bind

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=100, help="how many commands test_fuzz.py types")


def presets(group: str) -> dict[str, dict]:
    """The YAML files of a group by name, interpolations resolved as in a run of 1,000 iterations."""
    run = OmegaConf.create({"recipe": {"iterations": 1000}, "precision": "fp32"})
    files = sorted((ROOT / "configs" / group).glob("*.yaml"))
    merged = {f.stem: OmegaConf.to_container(OmegaConf.merge(run, OmegaConf.load(f)), resolve=True) for f in files}
    return {name: {k: v for k, v in node.items() if k not in {*run, "defaults"}} for name, node in merged.items()}


ADDING = [name for name in presets("skip") if name != "concat"]
"""The skips of networks whose units add, and `none`."""


@cache
def option(module: ModuleType, preset: str) -> partial[Any]:
    """The option of a group's module that a preset chooses, its values filled in."""
    group = module.__name__.rpartition(".")[2]
    return bind(module, presets(group)[preset], group)


class Counted:
    """An object that counts how often one of its kind is made, as by a reader that unpickles."""

    made = 0

    def __init__(self) -> None:
        Counted.made += 1

    def __reduce__(self) -> tuple:
        return Counted, ()


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to hold so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@contextmanager
def another_process_holds(path: Path, then: str = "print('held', flush=True); sys.stdin.read()") -> Iterator[Popen]:
    """A process that has the lock at `path`, while it does `then`; it is killed at the end."""
    code = "import sys, pathlib; from depthlab.machine.files import locked\n"
    code += f"with locked(pathlib.Path(sys.argv[1])): {then}"
    with Popen([sys.executable, "-c", code, path], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread; afterwards, what a command in this process changes is as it was."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # torch's own
    log = logging.getLogger("depthlab")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = handlers, level, propagate


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Command:
    """`command("depth=20")` is `python train.py depth=20` in an empty folder: exit code, output, errors.

    The runs of a sweep stay in this process, as on a machine of one core.
    """
    import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        try:
            train.cli()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            GlobalHydra.instance().clear()  # for those who compose without it
        return Outcome(code, *capsys.readouterr())

    return run
