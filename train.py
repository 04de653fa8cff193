"""Trains a plain or residual network of any depth: `python train.py depth=110 skip=identity`; --help lists all."""

import os
import signal
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from depthlab import config
from depthlab.errors import told_in_one_line

if "OMP_WAIT_POLICY" not in os.environ:  # threads that wait long and busily starve each other on a busy machine
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, so that they are told in one line
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")  # ours replace the plugins' own, as meant
CONFIGS = Path(__file__).resolve().parent / "configs"
owners = partial(config.owners, CONFIGS)
OmegaConf.register_new_resolver("options", lambda: config.help_text(CONFIGS), replace=True)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    """One run; in a sweep an error belongs to its run alone."""
    from depthlab import app  # torch only now: --help and completion need none

    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    with nullcontext() if sweep else told_in_one_line(config.keys, owners):
        app.run(cfg, HydraConfig.get().runtime.choices, brief=sweep)


def cli() -> None:
    """The command: a person's mistake is told in one line, exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that clean-up happens
    with told_in_one_line(config.keys, owners):
        main()


if __name__ == "__main__":
    cli()
