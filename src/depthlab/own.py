"""Options of a person's own: `options=FOLDER`, whose skip.py, norm.py, ... hold functions in the form of depthlab's.

Their files run because the folder was typed, never because a stored config names it.
"""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import yaml

from depthlab.config import CONFIGS, from_yaml, public
from depthlab.errors import Mistake

FORMS: dict[str, tuple[str, ...]] = {
    "skip": ("channels",),
    "unit": (),
    "norm": ("channels",),
    "init": ("net",),
    "activation": (),
    "weight": ("channels", "out", "kernel", "stride", "bias"),
    "data": ("device",),
    "probe": ("net", "x", "y", "rate"),
}
"""The groups that a folder can add to, and what an option is given before the star; a `place` if it asks for one."""

PREFIX = "depthlab_options_"
"""What the names of the folder's modules begin with."""


def modules(folder: str | None) -> dict[str, ModuleType]:
    """The modules in a folder by their group, each with the beginning of its file's SHA-256 as `digest`; none without
    a folder. Raises Mistake on a folder that holds none, and on a file that fails or holds no option.
    """
    if folder is None:
        return {}
    where = Path(folder).expanduser().absolute()
    try:
        found = {group: file.read_bytes() for group in FORMS if (file := where / f"{group}.py").is_file()}
    except OSError as error:
        raise Mistake(f"options={folder}: {(error.strerror or str(error)).lower()}") from None
    if not found:
        held = "holds none of " + ", ".join(f"{group}.py" for group in FORMS)
        raise Mistake(f"options={folder}: {held if where.is_dir() else 'no such folder'}")
    return {group: _module(where / f"{group}.py", group, content) for group, content in found.items()}


def texts(folder: str | None) -> dict[str, dict[str, str]]:
    """The folder's options by group and name, each as the YAML file that it would have among depthlab's."""
    return {
        group: {name: _text(group, name, option) for name, option in public(module).items()}
        for group, module in modules(folder).items()
    }


@contextmanager
def blamed(chosen: Iterable[str]) -> Iterator[None]:
    """Inside, an error is a Mistake in the options of one's own that are `chosen` ("skip=mine"), if any are: it names
    the last line of their files that led to it, or the options themselves, as where a forward returns nothing.
    """
    try:
        yield
    except (Mistake, OSError):
        raise
    except Exception as error:
        names = ", ".join(chosen)
        if not names:
            raise
        files = {str(module.__file__) for name, module in sys.modules.items() if name.startswith(PREFIX)}
        last = _last(error, files)
        where = f"{last.filename}, line {last.lineno}" if last else names
        told = str(error).strip().split("\n")[0]
        raise Mistake(f"{where}: {type(error).__name__}: {told}") from error


def _last(error: Exception, files: Collection[str]) -> traceback.FrameSummary | None:
    """The last place in these files on the way to an error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return frames[-1] if frames else None


@cache  # a file whose text has changed is another one
def _module(file: Path, group: str, content: bytes) -> ModuleType:
    module = ModuleType(PREFIX + group)
    module.__dict__.update(__file__=str(file), digest=hashlib.sha256(content).hexdigest()[:8])
    sys.modules[module.__name__] = module  # where dataclasses look
    try:
        with patch("sys.path", [str(file.parent), *sys.path]):  # where its own imports may lie
            exec(compile(content, file, "exec"), module.__dict__)
    except Exception as error:
        last = _last(error, {str(file)})
        line = error.lineno if isinstance(error, SyntaxError) else last.lineno if last else None
        text = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
        raise Mistake(f"{file}{f', line {line}' * (line is not None)}: {text}") from error
    if not public(module):
        raise Mistake(f"{file}: defines no option, a function or class with a small first letter")
    return module


def _text(group: str, name: str, option: Callable[..., Any]) -> str:
    where = f"options: {group}.py: {name}"
    if (CONFIGS / group / f"{name}.yaml").exists():
        raise Mistake(f"{where} is the name of one of depthlab's own; choose another")
    try:
        signature = inspect.signature(option, eval_str=True)
    except NameError as error:
        raise Mistake(f"{where}: {error}") from None
    form = f"{name}({', '.join([*FORMS[group], '*', 'key=value'])})"
    keys = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    try:
        signature.bind(*FORMS[group], **keys, **dict.fromkeys({"place"} & {*signature.parameters}))
    except TypeError:
        raise Mistake(f"{where}{signature}: is called as {form}, keys of its own as it likes") from None
    given = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "place"]
    if early := given[len(FORMS[group]) :]:
        raise Mistake(f"{where}{signature}: {', '.join(early)} belongs behind the star, as in {form}")
    for key, value in keys.items():
        if value is inspect.Parameter.empty:
            raise Mistake(f"{where}: {key} needs a usual value, as in {key}=1.0")
    about = (option.__doc__ or f"in {group}.py of options=FOLDER").strip().split("\n")[0]
    package, values = group, {"name": name, **keys}
    if group == "data":  # brings a network and a recipe, too
        package, values = "_global_", _usual("data", "folder") | {"data": values}
    elif group == "probe":
        package, values = f"probe.{name}", _usual("probe", "activations") | keys
    try:
        return f"# @package {package}\n# {about}\n{yaml.safe_dump(values, sort_keys=False)}"
    except yaml.YAMLError:
        raise Mistake(f"{where}: usual values are numbers, words, true, false, null, and lists of them") from None


def _usual(group: str, name: str) -> dict[str, Any]:
    """What the YAML file of one of depthlab's options holds."""
    return from_yaml((CONFIGS / group / f"{name}.yaml").read_text())
