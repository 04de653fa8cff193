"""What a person types, as Hydra's grammar takes it: paths of any kind, whole numbers, a sweep's options."""

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException

from depthlab.config import GROUPS, OPTIONS, UNSCIENTIFIC, Config, again, texts
from depthlab.errors import Mistake, hint
from depthlab.training.recipe import Recipe, Warmup

PATHS = ("output_dir", "folder", "data.root", "data.source", "weights", "options")
KNOWN = {*OPTIONS, *(field.name for field in fields(Config))}
ALONE = {*PATHS, *UNSCIENTIFIC, "experiment", "config"}
"""What is not swept."""
WHOLE = {
    prefix + field.name
    for prefix, kind in (("", Config), ("recipe.", Recipe), ("recipe.warmup.", Warmup))
    for field in fields(kind)
    if field.type in (int, int | None)
}
"""Options that are whole numbers."""
NUMBER = re.compile(r"(?<![\w.+-])[+-]?\d+(?:\.\d*(?:[eE]\+?\d+)?|[eE]\+?\d+)(?![\w.])")


def readable(words: list[str]) -> list[str]:
    """The words of a command, made such that Hydra reads them as they are meant. Raises Mistake where it cannot."""
    for word in words:
        if named := re.match(rf"\+*({'|'.join(GROUPS)})\.name=(.*)", word):  # the choice would be another one
            raise Mistake(f"{word}: an option is chosen by its group: {named[1]}={named[2]}")
    words = [word for word in again(_once(words)) if word.lstrip("+").lower() != "experiment=null"]
    sweep = sweeps(words)
    return [_flag(word) if word.startswith("-") else _readable(word, sweep) for word in words]


def _once(words: Sequence[str]) -> list[str]:
    """The words, those that are typed again left out. Raises Mistake where an option has two values, as a shell makes
    of `depth={8,14}`, and where two options say how long a run is.
    """
    if sum(bool(re.match(r"(--config-dir|-cd)(=|$)", word)) for word in words) > 1:
        raise Mistake("--config-dir: one folder")
    kept, given = list[str](), dict[str, list[str]]()
    for word in words:
        if "=" in word and not word.startswith("-"):
            before = given.setdefault(_key(word), [])
            if any(_value(word) == _value(other) for other in before):
                continue
            before.append(word.lstrip("+"))
        kept.append(word)
    for key, several in given.items():
        if len(several) > 1:
            values = ",".join(word.partition("=")[2] for word in several)
            how = f"; several runs are a sweep, {key}={values}" * (key not in ALONE and not key.startswith("hydra"))
            how = "; probe=[A,B]" if key == "probe" else how
            raise Mistake(f"{' '.join(several)}: {len(several)} values for one option{how}")
    lengths = [given[key][0] for key in ("epochs", "recipe.iterations") if key in given]
    if len(lengths) == 2 and all(map(_value, lengths)):  # with epochs=0 the twin alone is trained
        raise Mistake(f"{' '.join(lengths)}: each says how long; leave one out")
    return kept


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]


def _value(word: str) -> Any:
    """What an option is given; its text where Hydra does not understand it."""
    parsed = _parsed(word.lstrip("+"))
    return word.partition("=")[2] if parsed is None else parsed.value()


def over(words: Sequence[str], *more: str) -> list[str]:
    """The words of a command and more, which are instead of those of the same option."""
    given = {_key(word) for word in more}
    return [*(word for word in words if _key(word) not in given), *more]


def sweeps(words: Sequence[str]) -> bool:
    """Whether they make several runs: an experiment does so without -m."""
    sign = re.compile(r"-m$|--multirun$|\+?experiment=(?!null$)|hydra\.mode=MULTIRUN$")
    return any(sign.match(word) for word in words)


def several(word: str) -> bool:
    """Whether a readable word gives an option several values."""
    parsed = _parsed(word)
    return parsed is not None and parsed.is_sweep_override()


def meant(words: Sequence[str], key: str) -> str | None:
    """The text that readable words give an option; None where they give none, or null."""
    given = [word for word in words if word.lstrip("+").startswith(f"{key}=")]
    if not given or (parsed := _parsed(given[-1])) is None:
        return None
    value = parsed.value()
    return value if value is None or isinstance(value, str) else given[-1].partition("=")[2]


def _flag(word: str) -> str:
    key, given, value = word.partition("=")  # a shell expands ~ where it begins a word
    return f"{key}={os.path.expanduser(value)}" if given and key == "--config-dir" else word


def _readable(word: str, sweep: bool) -> str:
    if word.startswith("~"):
        raise Mistake(f"{word}: nothing is taken away; give another value, as in skip=none or epochs=null")
    key, given, value = word.partition("=")
    if not given:
        return word
    if key.startswith("+") and key.lstrip("+") in KNOWN:
        return _readable(word.lstrip("+"), sweep)
    if key in PATHS:
        quote = value[:1] if value[:1] in ("'", '"') and value[1:].endswith(value[:1]) else ""
        bare = os.path.expanduser(value[1:-1] if quote else value)
        if bare in ("", "???"):
            raise Mistake(f"{word}: expected a file or folder")
        if bare.startswith("~"):
            raise Mistake(f"{word}: {bare.partition('/')[0]} is nobody's home; a folder of this name is ./{bare}")
        word = f"{key}={quote}{bare}{quote}"
        parsed = _parsed(word)
        number = parsed is not None and isinstance(parsed.value(), int | float)  # as 1e3, which is a folder here
        if parsed is None or number or (not sweep and not quote and several(word)):
            word = f"{key}={QuotedString(bare, Quote.double).with_quotes()}"
    elif key in WHOLE:
        if not sweep and re.fullmatch(r"\d{1,3}(,\d{3})+", value):
            whole = value.replace(",", "")
            raise Mistake(f"{word}: one number is written {key}={whole}; several are a sweep: add -m")
        word = f"{key}={NUMBER.sub(_whole, value)}"
    _check(key, word)
    if sweep and re.match(rf"({'|'.join(GROUPS)})\.", key):
        return f"++{word}"  # whether it is there is known only when the group's option is
    return word


def _check(key: str, word: str) -> None:
    """Raises Mistake on what Hydra would refuse in its own words."""
    parsed = _parsed(word)
    if word.endswith("=???") or (parsed is None and re.search(r"=,|,\s*(,|$)", word)):
        raise Mistake(f"{word}: a value is missing")
    if parsed is None:
        quoted = f"; other signs than letters and digits are quoted twice, as in '{key}=\"...\"'"
        plain = re.fullmatch(r"[\w./+]+", key) is not None
        raise Mistake(f"{word}: not of the form option=value{quoted * plain}")
    if key == "probe" and (file := re.search(r"([\w-]+)\.yaml", word)):
        raise Mistake(f"{word}: {hint(file[1], texts(key))}")
    if key == "weights" and (twice := _named_twice(word)):
        raise Mistake(f"{word}: two values for {twice}")
    meant = parsed.value()
    values = meant.list if isinstance(meant, ChoiceSweep) else [meant]
    if any(isinstance(value, Sweep) for value in values if value is not meant):
        raise Mistake(f"{word}: a sweep inside a sweep; separate all values by commas alone")
    if isinstance(meant, RangeSweep) and meant.step == 0:
        raise Mistake(f"{word}: a step of 0")
    if isinstance(meant, IntervalSweep):
        raise Mistake(f"{word}: an interval is no list of values; separate them by commas")
    names = [name for value in values for name in (value if isinstance(value, list) and key == "probe" else [value])]
    if key in OPTIONS and None in names:
        allowed = texts(key)
        near = hint("none", allowed) if "none" in allowed else f"(allowed: {', '.join(allowed)})"
        raise Mistake(f"{key}=null: {'none is probe=[]' if key == 'probe' else near}")
    if key in OPTIONS and any(isinstance(name, int | float | list | dict) for name in names):
        how = "probe=[A,B]" if key == "probe" else f"{key}=A; several: -m {key}=A,B"
        raise Mistake(f"{word}: an option of a group is chosen by its name, as in {how}")


def _named_twice(word: str) -> str | None:
    """The first name that stands twice within one pair of braces, of which Hydra takes the last value."""
    while braces := re.search(r"\{([^{}]*)\}", word):
        names = re.findall(r"([\w.]+)\s*:", braces[1])
        for name in names:
            if names.count(name) > 1:
                return name
        word = word.replace(braces[0], "")
    return None


def _whole(found: re.Match[str]) -> str:
    number = float(found[0])
    return f"{number:.0f}" if number.is_integer() and abs(number) < 2**63 else found[0]


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except HydraException:
        return None
