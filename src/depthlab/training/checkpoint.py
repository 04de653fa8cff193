"""The last state of a run on the disk: network, momentum, position, random streams."""

from pathlib import Path
from typing import Any

import torch

from depthlab.errors import Mistake
from depthlab.files import replacing
from depthlab.training.loop import State


def save(path: Path, state: State, **more: Any) -> None:
    """Replaces the checkpoint at `path` atomically with `state`, the random streams, and `more`."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        random["cuda"] = torch.cuda.get_rng_state()
    with replacing(path) as file:
        torch.save(state.to_dict() | {"random": random} | more, file)


def load(path: Path, state: State, **expected: Any) -> dict[str, Any]:
    """Puts the checkpoint at `path` into `state` and the random streams; returns what `more` was at `save`.

    Raises Mistake on a damaged file, and where a value differs from the `expected` one. Runs no code from the file.
    """
    try:
        device = next(state.net.parameters()).device
        saved = torch.load(path, map_location=device, weights_only=True)
        for key, value in expected.items():
            if saved[key] != value:
                raise Mistake(f"{path}: a checkpoint of another config; delete it to start this run anew")
        state.load(saved)
        torch.set_rng_state(saved["random"]["cpu"].cpu())
        if "cuda" in saved["random"] and device.type == "cuda":
            torch.cuda.set_rng_state(saved["random"]["cuda"].cpu())
    except Mistake:
        raise
    except Exception as error:  # torch.load and load_state_dict raise anything on a damaged file
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise Mistake(f"{path}: damaged ({reason}); delete it to start this run anew") from error
    return saved
