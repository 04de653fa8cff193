"""A person's mistake in one line: the option, what was given, what is allowed, the nearest valid value."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

# What other programs call them.
ALIASES = {"lr": "recipe.rate", "learning_rate": "recipe.rate", "batch_size": "recipe.batch", "batch": "recipe.batch"}
ALIASES |= {"weight_decay": "recipe.decay", "momentum": "recipe.momentum", "dataset": "data", "lambda": "skip.scale"}
ALIASES |= {"optimizer": "recipe/optimizer", "schedule": "recipe/schedule"}

# What OmegaConf calls values, and what a person does.
KINDS = {"converted to Integer": "a whole number", "converted to Float": "a number", "valid bool": "true or false"}
KINDS |= {"to string": "a word or a text", "is not a ListConfig": "a list, as in [a, b]"}
KINDS |= {"to Dict[": "keys with their values, as in {key: value}"}

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""What a terminal obeys instead of showing it, and ends of lines."""


class Mistake(Exception):
    """A mistake of the person at the keyboard. Its text is one line; the command exits with 2."""


def as_typed(value: object) -> str:
    """A value as it is typed: null, true, 0.1."""
    python = f"{value:g}" if isinstance(value, float) else str(value)
    return {"None": "null", "True": "true", "False": "false"}.get(python, python)


def one_of(option: str, given: object, allowed: Iterable[object]) -> Mistake:
    """The mistake of a value outside a list: `skip=identiy: did you mean identity? (allowed: conv, ...)`."""
    return Mistake(f"{option}={as_typed(given)}: {hint(as_typed(given), allowed)}")


def within(option: str, given: float, low: float, high: float = inf, reason: str = "", *, ends: str = "[]") -> None:
    """Mistake unless a number lies in a range: `data.subset=0: from 1 to 1437 (reason)`.

    `ends`: as intervals are written, `[)` for low <= given < high; infinity and nan are in no range.
    """
    above, under = ends[0] == "(", ends[1] == ")"
    if (low < given if above else low <= given) and (given < high if under or high == inf else given <= high):
        return
    bounds = f"{'above' if above else 'at least'} {low}"
    bounds += f" and {'under' if under else 'at most'} {high}" if high < inf else ""
    allowed = f"from {low} to {high}" if ends == "[]" and high < inf else bounds
    raise Mistake(f"{option}={given}: {allowed}" + f" ({reason})" * bool(reason))


def wrong_value(option: str, text: str, given: object = None) -> Mistake:
    """The mistake behind OmegaConf's text on a value of a wrong type: `depth=abc: a whole number`.

    `given`: the value, where the text does not say it.
    """
    if re.search("Incompatible value 'None'|is not Optional", text):
        return Mistake(f"{option}=null: a value is needed")
    if key := re.search("Interpolation key '(.*?)' not found", text):
        shell = f"; a variable of the shell is ${{oc.env:{key[1]}}}" if re.fullmatch(r"\w+", key[1]) else ""
        return Mistake(f"{option}: ${{{key[1]}}} is no option{shell}")
    if "is not a subclass of" in text:
        return Mistake(f"{option}: is set key by key, as in {option}.KEY=VALUE")
    text = re.sub("^\\w+ raised while resolving interpolation: ", "", text)
    value = re.match(r"(?:Invalid value|Value) '(.*?)'(?: of type '\w+')?,? (.*)", text)
    given = value[1] if value else given
    allowed = next((kind for words, kind in KINDS.items() if words in text), value[2] if value else text)
    if (names := re.fullmatch(r"expected one of \[(.*)\]", allowed)) and given is not None:
        return one_of(option, given, names[1].split(", "))
    return Mistake(f"{option}: {allowed}" if given is None else f"{option}={as_typed(given)}: {allowed}")


def installed() -> bool:
    """Whether the command is `depthlab`, not `python train.py` in a clone."""
    return Path(sys.argv[0]).name.removesuffix(".exe") in ("depthlab", "depthlab-report")


def extra(name: str) -> str:
    """The command that installs an extra of ours."""
    return f"pip install 'depthlab[{name}]'" if installed() else f"pip install -e '.[{name}]'"


def not_yaml(file: str, error: Any) -> Mistake:
    """The mistake behind what PyYAML says of a file."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
    line = f", line {mark.line + 1}" if mark else ""
    return Mistake(f"{file}{line}: no YAML; is it indented as the lines around it? ({problem})")


def hint(given: str, allowed: Iterable[object]) -> str:
    """The nearest of the allowed names, if one is near, and all of them."""
    names = [str(a) for a in allowed]
    alike = {name.lower(): name for name in reversed(names)}
    close = [name for name in names if name.endswith(f".{given}")]  # as of recipe.rate, where rate is typed
    close += [alike[name] for name in get_close_matches(given.lower(), alike, n=1, cutoff=0.5)]
    return (f"did you mean {close[0]}? " if close else "") + f"(allowed: {', '.join(names)})"


Keys, Owners, Origin = Callable[[], Iterable[str]], Callable[[str], list[str]], Callable[[str, str], str]
"""What a person can set; the options of a group that have a key; where an option of one's own may come from."""


@contextmanager
def told_in_one_line(
    keys: Keys = list, owners: Owners = lambda key: [], origin: Origin = lambda group, name: ""
) -> Iterator[None]:
    """Inside, a person's mistake ends the command with one line on standard error and exit code 2; a full disk or
    another failure of the system, with 1. `keys()`, `owners(key)`, `origin(group, name)`: what the line can hint at.
    """
    try:
        try:
            yield
        except Exception as error:
            if stop := _stop(error):
                raise stop from None
            raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unread():
            raise SystemExit(128 + signal.SIGPIPE) from None
        told, code = mistake(error, keys, owners, origin), 2
        line = None if told is None else str(told)
        if line is None and isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            line, code = f"{where}{error.strerror or error}; the same command continues", 1
        if line is None and (memory := _memory(error)):
            line, code = memory, 1
        if line is None:
            raise
        other = os.environ.get("LOCAL_RANK", "0") != "0"
        if other and isinstance(error, Mistake | ConnectionError):
            time.sleep(3)  # torchrun ends all when one has ended: the first of each machine says what all say
        if not (other and isinstance(error, ConnectionError)):
            print(f"error: {CONTROL.sub(' ', line)}", file=sys.stderr)
        raise SystemExit(code) from None


def _unread() -> bool:
    """Whether who read standard output has gone, as in `--help | head`; then nothing more is written there."""
    try:
        print(flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return True
    return False


def _memory(error: Exception) -> str | None:
    """What helps where memory is short, of the process, a GPU or the data workers; None for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in text:
        return f"a data worker was killed, as where shared memory is short: data.workers=0 has none ({text[:100]})"
    short = any(words in text for words in ("out of memory", "can't allocate memory", "not enough memory"))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short):
        less = "recompute=true or a smaller recipe.batch takes less; the same command continues"
        return f"memory is short; {less} ({text[:100]})"
    return None


def _stop(error: BaseException | None) -> BaseException | None:
    """The Ctrl-C or exit behind an error: what it interrupted, as OmegaConf in its clean-up, can hide it."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__context__
    return error


def mistake(error: Exception, keys: Keys, owners: Owners, origin: Origin) -> Mistake | None:
    """The mistake behind an exception of ours, Hydra's or OmegaConf's; None for a defect."""
    if isinstance(error, Mistake):
        return error
    line, file = _one_line(error, keys, owners, origin), re.match("In '(.*?)': .* while composing", str(error))
    return None if line is None else Mistake(f"{file[1]}.yaml: {line}" if file else line)


def _no_such(group: str, given: str, options: Iterable[str], origin: Origin) -> str:
    """The line on an option that a group does not have."""
    here = f"; {told}" if (told := origin(group, given)) else ""
    near = hint(given, options)
    if near.startswith("(") or "defines it" in here:
        return f"{group}={given}: no such {group}{here} {near}"
    return f"{group}={given}: {near}{here}"


def _one_line(error: Exception, keys: Keys, owners: Owners, origin: Origin) -> str | None:
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return str(not_yaml(error.problem_mark.name, error))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, given = error.missing_cfg_file.rpartition("/")
        return _no_such(group, given, error.options, origin)
    if isinstance(error, MissingConfigException) and (word := re.search(r"load '(probe)/(\w+)'", str(error))):
        return _no_such(word[1], word[2], [option.partition("=")[2] for option in owners("probe.every")], origin)
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return "an option of a group is chosen by its name, as in skip=none"
    if re.search("Ambiguous value for argument|requires --multirun", str(error)):
        return "values with commas are a sweep: add -m"
    if word := re.search(r"item is already at '(.*?)'", str(error)):
        return f"{word[1]}: is there already; leave the + out"
    if word := re.search(r"Could not override '([^']*)'\.(?: No match|\s+Did you mean)", str(error)):
        return f"{word[1]}: no such option; {hint(word[1], keys())}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form option=value"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key, text = cause.full_key, str(cause).split("\n", 1)[0]
        parent = key.rpartition(".")[0]
        if "not in" not in text:
            return str(wrong_value(key, text))
        siblings = [k for k in keys() if k.rpartition(".")[0] == parent]
        if siblings:
            meant = f"did you mean {ALIASES[key]}?" if key in ALIASES else hint(key, siblings)
            return f"{key}: no such option; {meant}"
        if parent == "probe":
            return f"{key}: choose it, as in probe=[{key.rpartition('.')[2]}]"
        if having := owners(key):
            have = "has" if len(having) == 1 else "have"
            return f"{key}: the chosen {parent} has no such option; {', '.join(having)} {have} it"
        there = [f"{parent}.{name}" for name in cause.parent_node or () if name != "name"]
        return f"{key}: no such option; {hint(key, there) if there else f'the chosen {parent} takes none'}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = re.sub(r"^In '.*?': \w+ raised while composing config:", "", str(error))
        return re.sub(r"\s+", " ", text.split("full_key:")[0]).strip()
    return None
