"""What an experiment's YAML file may hold under `experiment`: a class for each part, a field for each key.

A claim is an `Ordering`, a `Value`, `Bounds` or a `Prediction`; docs/extending.md has the keys in tables.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from depthlab.config import texts, typed
from depthlab.errors import Mistake, hint

Facts = dict[str, Any]
"""What selects a row: options and their values, `{depth: 56, skip: none}`."""


@dataclass
class Ordering:
    """A metric is higher in one row than in another."""

    claim: str
    higher: Facts
    lower: Facts
    metric: str = "train_error"
    paired: bool = False
    crosses: float | None = None


@dataclass
class Value:
    """A metric is a number or, seed by seed, what it is in another row."""

    claim: str
    metric: str
    of: Facts
    equals: float | Facts
    within: float
    crosses: float | None = None


@dataclass
class Bounds:
    """A metric is at least, or at most, so much."""

    claim: str
    metric: str
    of: Facts
    least: float | None = None
    most: float | None = None
    crosses: float | None = None


@dataclass
class Crossing:
    """The depth at which a metric crosses a level."""

    metric: str
    crosses: float


@dataclass
class Prediction:
    """A metric crosses a level at the depth at which another one crosses its own."""

    claim: str
    metric: str
    of: Facts
    crosses: float
    predicted: Crossing
    within: float


@dataclass
class Published:
    """A published number, and the interval of what reruns of it report."""

    of: Facts
    value: Any
    within: list[float]
    metric: str = "test_error"


@dataclass
class Law:
    """Theory, as a dashed line beside the rows that it is `of`."""

    of: Facts = field(default_factory=dict)
    factor: float = 1
    step: float = 0
    value: float | None = None
    at: int = 0
    backwards: bool = False


@dataclass
class Measured:
    """A figure of what a probe measured: over iterations where it is a number, over units where it is a list."""

    title: str
    y: str
    name: str | None = None
    of: Facts = field(default_factory=dict)
    x: str = "unit"
    ylabel: str | None = None
    log: bool = False
    first: int = 0
    theory: list[Law] = field(default_factory=list)


@dataclass
class Line:
    """A line of a figure over depth."""

    y: str
    predicted: list[Any] = field(default_factory=list)


@dataclass
class OverDepth:
    """A figure of numbers at the end over depth, a line for each."""

    title: str
    y: str
    lines: dict[str, Line]
    name: str | None = None
    of: Facts = field(default_factory=dict)
    ylabel: str | None = None


@dataclass
class Against:
    """A figure of a metric over a number of the summary, a line for each kind of row."""

    title: str
    y: str
    against: Literal["parameters", "multiply_adds", "depth", "width"]
    lines: dict[str, Facts]
    name: str
    of: Facts = field(default_factory=dict)
    ylabel: str | None = None
    log: bool = False


@dataclass
class Pictures:
    """A figure of what networks see, a column for each row."""

    title: str
    y: str
    pictures: dict[str, Facts]
    name: str | None = None
    of: Facts = field(default_factory=dict)


@dataclass
class Scale:
    """What an experiment is on one data set."""

    seeds: list[int] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


Claim = Ordering | Value | Bounds | Prediction
Figure = Measured | OverDepth | Against | Pictures


@dataclass
class Experiment:
    """A sweep, its seeds, and what it should show."""

    seeds: list[int]
    runs: list[str]
    claims: list[Claim] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    scales: dict[str, Scale] = field(default_factory=dict)
    title: str | None = None
    source: str | None = None
    time: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    published_at: Facts = field(default_factory=dict)


def check(name: str, experiment: Any) -> None:
    """Raises Mistake, in a line that begins with `experiment=NAME`, on a key that an experiment does not have, one
    that is missing, and a value of a wrong kind.
    """
    try:
        _check("", experiment, Experiment)
        scales = {f"scales.{data}.": scale for data, scale in experiment.get("scales", {}).items()}
        for path, lists in {"": experiment, **scales}.items():
            for key in {"seeds", "runs"} & {*lists}:
                if not lists[key]:
                    raise Mistake(f"{path}{key}: at least one")
            for place, line in enumerate(lists.get("runs", [])):
                _words(f"{path}runs[{place}]", line)
        for key in ("claims", "published"):
            for place, claim in enumerate(experiment.get(key, [])):
                _check_interval(f"{key}[{place}]", claim)
        for key in ("scales", "time"):
            for data in experiment.get(key, {}):
                if data not in (known := texts("data")):
                    raise Mistake(f"{key}.{data}: no such data set; {hint(data, known)}")
        for place, figure in enumerate(experiment.get("figures", [])):
            if "." not in figure["y"] and "against" not in figure:
                raise Mistake(f"figures[{place}].y={figure['y']}: what a probe measures, PROBE.KEY")
    except Mistake as mistake:
        raise Mistake(f"experiment={name}: {mistake}") from None


def _words(path: str, line: str) -> None:
    try:
        shlex.split(line)
    except ValueError as error:
        raise Mistake(f"{path}={line}: {str(error).lower()}") from None


def _check_interval(path: str, claim: Mapping[str, Any]) -> None:
    """Whether what a claim allows is an interval that holds something."""
    within = claim.get("within", 0.0)
    if isinstance(within, list):
        if len(within) != 2 or within[0] > within[1]:
            raise Mistake(f"{path}.within={within}: the least and the most, as in [6.3, 7.0]")
    elif within < 0:
        raise Mistake(f"{path}.within={within}: from 0 on")
    if claim.get("least", -math.inf) > claim.get("most", math.inf):
        raise Mistake(f"{path}: least={claim['least']:g} is above most={claim['most']:g}")


def _check(path: str, given: Any, kind: Any) -> None:
    """Whether what stands at a path is of a kind: a class above, one of several, lists and dicts of them, a value."""
    if isinstance(kind, UnionType) and any(map(is_dataclass, get_args(kind))):
        kind = max(get_args(kind), key=lambda one: _alike(given, one))
    elif kind == float | Facts:
        kind = Facts if isinstance(given, Mapping) else float
    inner = get_args(kind)[-1:]
    if is_dataclass(kind):
        _check_keys(path, _mapping(path, given), kind)
    elif get_origin(kind) is dict:
        for key, value in _mapping(path, given).items():
            _check(f"{path}.{key}", value, inner[0])
    elif get_origin(kind) is list and isinstance(given, list):
        for place, value in enumerate(given):
            _check(f"{path}[{place}]", value, inner[0])
    elif get_origin(kind) is list:
        raise Mistake(f"{path}={'null' if given is None else given}: a list, as in [a, b]")
    else:
        typed(path, given, kind)


def _check_keys(path: str, given: Mapping[str, Any], kind: Any) -> None:
    known, kinds = fields(kind), get_type_hints(kind)
    at = {str(key): f"{path}.{key}".lstrip(".") for key in [*given, *kinds]}
    for key in given:
        if key not in kinds:
            raise Mistake(f"{at[str(key)]}: no such key; {hint(str(key), kinds)}")
    for key in (f.name for f in known if f.default is f.default_factory is MISSING):
        if given.get(key) is None:
            raise Mistake(f"{at[key]}: is missing")
    for key, value in given.items():
        if value is None:
            raise Mistake(f"{at[key]}: needs a value; or leave it out")
        _check(at[key], value, kinds[key])


def _mapping(path: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise Mistake(f"{f'{path}=' * bool(path)}{given}: keys with their values, as in {{key: value}}")
    return given


def _alike(given: Any, kind: Any) -> int:
    """How many keys a kind has, or nearly has."""
    known = [f.name for f in fields(kind)]
    return sum(bool(get_close_matches(str(key), known, 1)) for key in given) if isinstance(given, Mapping) else 0
