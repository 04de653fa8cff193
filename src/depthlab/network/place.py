"""Where an option stands in the network, for those that ask."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """What the house tells an option that has a parameter `place` before the star; by default, of a lone unit."""

    depth: int = 3
    """Weighted layers of the network."""
    units: int = 1
    """Units of the network."""
    unit: int = 1
    """The unit, from 1; 0 is the stem, units + 1 the tail."""
    since: int = 0
    """Units between the stem, or the last one that changed the shape, that one included, and this one."""
    changes: bool = False
    """Size or channels change in this unit."""
    last: bool = False
    """Of a norm: it belongs to the last layer of its unit's branch."""


ALONE = Place()


def at(option: Callable[..., T], place: Place) -> Callable[..., T]:
    """The option with its place, if it asks for one."""
    return partial(option, place=place) if _asks(getattr(option, "func", option)) else option


@cache
def _asks(function: Callable[..., object]) -> bool:
    return "place" in inspect.signature(function).parameters


def named(option: Callable[..., object]) -> str:
    """The option as it is typed."""
    return getattr(option, "func", option).__name__
