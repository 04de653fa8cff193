"""Trains a plain or residual network of any depth: `python train.py depth=110 skip=identity`; --help lists all."""

from depthlab.command.cli import cli

if __name__ == "__main__":
    cli()
