"""Probes on a run: when each is due, on which images it looks, and what it leaves behind."""

import json
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from depthlab.data.dataset import DataSet
from depthlab.errors import Mistake, one_of
from depthlab.network.resnet import Network
from depthlab.probes.inside import untouched
from depthlab.run.directory import Record, Run

log = logging.getLogger("depthlab")
MOST = 2**32
"""Bytes of images that a probe is given, at most."""


@dataclass(frozen=True)
class Probe:
    """A probe as chosen: what measures, every so many epochs (None: at the end only), on which images (None: all)."""

    name: str
    measure: partial[Any]
    every: float | None
    split: str
    images: int | None
    file: str | None = None
    """The digest of one's own file that it is from."""

    def __post_init__(self) -> None:
        """Raises Mistake on an interval or a count that is not positive."""
        for key, value in (("every", self.every), ("images", self.images)):
            if value is not None and value <= 0:
                raise Mistake(f"probe.{self.name}.{key}={value}: a positive number, or null")

    @property
    def settings(self) -> Record:
        """All that decides what it measures, save when."""
        own = {"file": self.file} if self.file else {}
        return {"split": self.split, "images": self.images} | self.measure.keywords | own

    def measured(self, run: Run, step: int) -> bool:
        """Whether it has measured at iteration `step` of a run, as it is set now."""
        return any(r["step"] == step and r.get("settings") == self.settings for r in run.records(self.name))

    def check(self, data: DataSet) -> None:
        """Raises Mistake if the data has no such split, or the images would not fit in MOST bytes."""
        if self.split not in data.splits:
            raise one_of(f"probe.{self.name}.split", self.split, data.splits)
        size = data.size(self.split)
        most = MOST // (4 * math.prod(data.shape))
        if min(self.images or size, size) > most:
            given, shape = self.images or "null", "x".join(map(str, data.shape))
            raise Mistake(f"probe.{self.name}.images={given}: looks at all at once, at most {most} images of {shape}")

    def __call__(self, net: Network, data: DataSet, rate: float) -> Record:
        """What it measures on the network, which is left as it was. Raises Mistake on what no record can hold."""
        size = data.size(self.split)
        batch = data.first(self.split, min(self.images or size, size))
        with untouched(net), torch.enable_grad():
            found = self.measure(net, *batch, rate)
        if self.file:
            self._check_storable(found)
        return found

    def _check_storable(self, found: Any) -> None:
        """Raises Mistake where a probe of one's own measured what no record can hold."""
        if not isinstance(found, dict):
            raise Mistake(
                f"probe={self.name}: returns {type(found).__name__}; a dict is needed, as in {{'mean': 0.5}}"
            )
        for key, value in found.items():
            try:
                json.dumps({key: value})
            except TypeError:
                given = f"{key} is {type(value).__name__}"
                raise Mistake(f"probe={self.name}: {given}; numbers, texts, lists and dicts are stored") from None


def missing(probes: list[Probe], run: Run, summary: Record) -> list[Probe]:
    """The probes that have not measured the end of a finished run; a diverged network is not measured."""
    if summary["status"] == "diverged":
        return []
    return [probe for probe in probes if not probe.measured(run, summary["iterations"])]


def due(probes: list[Probe], run: Run, records: list[Record], step: int, steps: int) -> list[Probe]:
    """The probes that should look now, at iteration `step` of `steps`, and have not: at the start, after as many
    epochs as each wants, at the end; `records`: the evaluations so far.
    """
    if step != (records[-1]["step"] if records else 0) or (records and "diverged_at" in records[-1]):
        return []
    before, now = ([0.0, 0.0] + [record["epoch"] for record in records])[-2:]

    def wants(every: float | None) -> bool:
        if every is None or (records and step == steps):
            return bool(records) and step == steps
        return step == 0 or now // every > before // every

    return [probe for probe in probes if wants(probe.every) and not probe.measured(run, step)]


def check_finished(probes: list[Probe], run: Run, steps: int) -> None:
    """Raises Mistake where a finished run cannot be measured any more; says what of it cannot."""
    names = ",".join(probe.name for probe in probes)
    if not run.checkpoint.exists():
        raise Mistake(f"probe=[{names}]: {run.path.name} is finished and its checkpoint gone; rerun=true repeats it")
    for probe in probes:
        if probe.every is not None and steps and not probe.measured(run, 0):
            log.info(f"probe={probe.name}: of a finished run it sees the end alone; rerun=true shows its course")
