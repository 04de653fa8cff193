"""depthlab: why very deep networks get worse even on their training data, and what cures it.

From Python, by the words of the command (docs/python.md):

    import depthlab
    net = depthlab.network("depth=56 skip=none data=digits")    # as the command would build it
    x, y = depthlab.images("data=digits").first("train", 256)
    depthlab.probe(net, x, y, "gradients")["layer_factor"]
    summary = depthlab.run("depth=20 data=digits epochs=2")     # trained, saved, recognised when it is done
    rows = depthlab.runs("outputs")                             # pandas.DataFrame(rows)
    curves = depthlab.curves("outputs")                         # a row an evaluation
    trained = depthlab.load("outputs/digits/RUN")               # .net, .config, .data
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlab.api import Loaded, curves, images, load, network, probe, run, runs
    from depthlab.errors import Mistake

__all__ = ["Loaded", "Mistake", "curves", "images", "load", "network", "probe", "run", "runs"]


class Callable(ModuleType):
    """A module that is also the function of its name in `depthlab.api`: depthlab.network("depth=20")."""

    def __call__(self, *given: Any, **settings: Any) -> Any:
        return getattr(import_module("depthlab.api"), self.__name__.rpartition(".")[2])(*given, **settings)


def __getattr__(name: str) -> Any:  # torch and Hydra only when something is asked for
    if name not in __all__:
        raise AttributeError(f"module 'depthlab' has no attribute '{name}'")
    if name in ("network", "run"):
        return import_module(f"depthlab.{name}")
    return getattr(import_module("depthlab.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
