"""The command, `python train.py` in a clone and `depthlab` where it is installed."""

import os
import re
import signal
import sys
import warnings
from argparse import Namespace
from contextlib import nullcontext
from typing import NoReturn

from hydra import version
from hydra._internal import utils
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from depthlab import config
from depthlab.command.compose import lasting, mistakes, offered
from depthlab.command.words import meant, readable, sweeps
from depthlab.errors import Mistake, told_in_one_line
from depthlab.machine.allocator import start_uncached

if "OMP_WAIT_POLICY" not in os.environ:  # threads that wait long and busily starve each other on a busy machine
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, so that they are told in one line
# Hydra composes all for it, and once more for the run; the words say it, -m or `sweeps`.
Hydra.get_mode = lambda *_, **__: None  # pyrefly: ignore[bad-assignment]
utils.get_args = lambda args=None: get_args_parser().parse_intermixed_args(args)  # for completion
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")  # ours replace the plugins' own, as meant


def task(cfg: DictConfig) -> None:
    """One run; in a sweep an error belongs to its run alone."""
    from depthlab.run.start import run  # torch only now: --help and completion need none

    hydra = HydraConfig.get()
    sweep = hydra.mode is RunMode.MULTIRUN
    with nullcontext() if sweep else told_in_one_line(config.keys, config.owners, config.origin):
        for word in hydra.overrides.hydra:
            if not sweep and word.startswith("hydra/launcher="):
                raise Mistake(f"{word}: starts the runs of a sweep; add -m")
        run(cfg, hydra.runtime.choices, brief=sweep)


def main(flags: Namespace) -> None:
    """What hydra.main does, with flags and options that were read already: sys.argv stays what was typed."""
    if config.VERSION_BASE:
        version.setbase(config.VERSION_BASE["version_base"])
    _run_hydra(flags, get_args_parser(), task, config_path=str(config.CONFIGS), config_name="train")


def checked_flags(words: list[str]) -> Namespace:
    """The flags, and all options among the words as `overrides`. Raises Mistake, a line where argparse takes eight,
    at a flag that Hydra does not have or in a torn command.
    """

    def refuse(message: str) -> NoReturn:
        raise Mistake(message)

    parser = get_args_parser()
    parser.error, parser.allow_abbrev = refuse, False
    flags, rest = parser.parse_known_intermixed_args(words)
    if flags.resolve and not flags.cfg:
        raise Mistake("--resolve: goes with -c job, which shows the config")
    if flags.shell_completion and not any(
        re.fullmatch("(un)?(install|query)=(bash|zsh|fish)", word) for word in flags.overrides
    ):
        raise Mistake(
            '-sc: goes with install=bash, uninstall=bash or query=bash, as in eval "$(... -sc install=bash)"'
        )
    if flags.shell_completion and "COMP_LINE" not in os.environ and any("query=" in word for word in flags.overrides):
        raise Mistake('-sc query=...: asked by the shell itself, after eval "$(... -sc install=bash)"')
    if flags.package and not flags.cfg:
        raise Mistake(f"-p {flags.package}: goes with -c job, which shows that part of the config")
    if flags.experimental_rerun:
        raise Mistake("--experimental-rerun: not depthlab's; config=RUN/config.yaml makes a run again")
    if flags.config_name or flags.config_path:
        raise Mistake("-cn, -cp: the configs are depthlab's; --config-dir FOLDER adds yours to them")
    for word in rest:
        if word.startswith("-"):
            raise Mistake(f"{word}: no such flag; options are typed without dashes, as in depth=20 (--help: all)")
    commands = {
        "-r": flags.run,
        "-m": flags.multirun,
        "-c": flags.cfg,
        "--info": flags.info,
        "-sc": flags.shell_completion,
    }
    if len(several := [flag for flag, given in commands.items() if given]) > 1:
        raise Mistake(f"{' '.join(several)}: one of them at a time")
    return flags


def cli() -> None:
    """The command: a person's mistake is told in one line, exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that clean-up happens
    with told_in_one_line(config.keys, config.owners, config.origin):
        words = readable(sys.argv[1:])
        if meant(words, "recompute") not in (None, "false"):
            start_uncached()
        if "--version" in words:  # else Hydra tells its own
            from depthlab.run.start import describe

            print(*(f"{name} {number}" for name, number in describe.made_with()["versions"].items()), sep=", ")
            return
        flags = checked_flags(words)
        flags.multirun |= sweeps(words) and not (flags.run or flags.cfg or flags.info)
        with offered(flags.overrides, flags.config_dir), mistakes():
            flags.overrides = lasting(flags.overrides)
            if flags.help:
                print(config.help_text())
            else:
                main(flags)
