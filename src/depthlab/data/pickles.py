"""Arrays out of a pickle without running any of it: a name in it stays a name, and nothing is imported or called."""

import io
import pickle
import re
from typing import Any

import numpy as np


class Named:
    """What a pickle would import, call and fill: its module and name, its arguments and its state, kept as data."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.args: tuple[Any, ...] = ()
        self.state: Any = None

    def __call__(self, *args: Any) -> Any:
        if self.names == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return args[0].encode("latin1")
        made = Named(*self.names)
        made.args = args
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle._Unpickler):  # the one in Python: a crafted file makes the one in C take memory without end
    def find_class(self, module: str, name: str) -> Any:
        return Named(module, name)


def unpickled(file: bytes) -> dict[str, Any]:
    """A pickled dict with names for keys, numpy's arrays in it as arrays; ValueError if it is none."""
    try:
        content = _Reader(io.BytesIO(file), encoding="bytes").load()
        items = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
        return {key: array(value) if isinstance(value, Named) else value for key, value in items.items()}
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError("it is no pickled dict of plain values and arrays") from error


def array(made: Named) -> np.ndarray:
    """The array of whole numbers that numpy pickled, in either of its ways; ValueError for anything else."""
    if made.names[-1] == "_reconstruct":
        _, shape, kind, fortran, content = made.state
        order = "F" if fortran else "C"
    elif made.names[-1] == "_frombuffer":
        content, kind, shape, order = made.args
    else:
        raise ValueError(".".join(made.names))
    code, endian = (word.decode() if isinstance(word, bytes) else word for word in (kind.args[0], kind.state[1]))
    if not re.fullmatch("[<>|][iu][1248]", endian + code):
        raise ValueError(f"an array of {endian}{code}")
    return np.frombuffer(content, endian + code).reshape(shape, order=order)
