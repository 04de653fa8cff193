"""The run directory: what is written, and how it is read back. No torch in here."""

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from depthlab.config import from_yaml, identity
from depthlab.errors import Mistake
from depthlab.machine.files import locked, replacing, sweep

Record = dict[str, Any]


class InUse(Mistake):
    """Another process has the run."""


class Run:
    """One run's directory: config.yaml, metrics.jsonl, probe-NAME.jsonl, summary.json, checkpoint.pt, train.log,
    TensorBoard events.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics = path / "config.yaml", path / "metrics.jsonl"
        self.summary, self.log = path / "summary.json", path / "train.log"
        self.checkpoint, self.previous = path / "checkpoint.pt", path / "checkpoint-previous.pt"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes the directory, and inside, it is this process's alone; what a killed one left half written goes.

        Raises InUse, which says who has it, where another process does, and Mistake where it cannot be written to.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock"))
                sweep(self.path)
            except BlockingIOError as error:
                raise InUse(f"{self.path}: in use by {error.strerror}; wait for its end, or stop it") from None
            except OSError as error:
                raise Mistake(f"output_dir: cannot write {self.path}: {error.strerror}") from None
            yield

    def wait(self) -> None:
        """Returns when no other process has the run."""
        while True:
            try:
                with locked(self.path / ".lock"):
                    return
            except BlockingIOError:
                time.sleep(0.5)

    def start(self, config: dict[str, Any], choices: Mapping[str, str], experiment: str | None = None) -> None:
        """Makes the directory, or joins one that stores the same config. Raises Mistake where neither is possible.

        `choices`, the chosen option of each group, stand in the config's first line, the experiment in a second.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.config.exists():
                stored = from_yaml(self.config.read_text(errors="replace"))
                if not isinstance(stored, dict) or identity(stored) != identity(config):
                    raise Mistake(f"{self.config}: not this run's config; move the directory away to start it anew")
            else:
                with replacing(self.config) as file:
                    chosen = " ".join(f"{group}={option}" for group, option in choices.items())
                    of = f"# experiment={experiment}\n" if experiment else ""
                    file.write(f"# {chosen}\n{of}{yaml.safe_dump(config, sort_keys=False)}".encode())
        except yaml.YAMLError:
            raise Mistake(f"{self.config}: damaged; move the directory away to start the run anew") from None
        except OSError as error:
            raise Mistake(f"output_dir: cannot write {self.path}: {error.strerror}") from None

    def experiment(self) -> str | None:
        """The experiment that made it; None where it was typed alone, or by a version that did not write it down."""
        with suppress(OSError):
            if found := re.match(r"#.*\n# experiment=(.+)\n", self.config.read_text(errors="replace")):
                return found[1]
        return None

    def finished(self) -> Record | None:
        """The summary of a finished or diverged run, else None."""
        damaged = Mistake(f"{self.summary}: damaged; delete it to finish the run from its checkpoint")
        try:
            summary = json.loads(self.summary.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Mistake(f"{self.summary}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise damaged from None
        if not isinstance(summary, dict) or "status" not in summary:
            raise damaged
        if summary.pop("sha256", None) not in (None, _sha256(json.dumps(summary).encode())):  # older ones have none
            raise damaged
        return summary

    def finish(self, summary: Record) -> None:
        """Writes the summary, with digests of the metrics and of itself, which makes the run a finished one; then one
        checkpoint is enough.
        """
        summary = _finite(summary)
        if self.metrics.exists():
            summary["metrics_sha256"] = _sha256(self.metrics.read_bytes())
        summary["sha256"] = _sha256(json.dumps(summary).encode())
        with replacing(self.summary) as file:
            file.write(json.dumps(summary, indent=1).encode())
        self.previous.unlink(missing_ok=True)

    def records(self, probe: str | None = None) -> list[Record]:
        """The metrics, one record an evaluation, or what a probe measured; a torn last line is dropped."""
        path = self._records(probe)
        if not path.exists():
            return []
        lines = path.read_text(errors="replace").split("\n")
        try:
            records = [json.loads(line) for line in lines[:-1]]
            if all(isinstance(record, dict) and isinstance(record.get("step"), int) for record in records):
                return records
        except (ValueError, RecursionError):
            pass
        raise Mistake(f"{path}: damaged; move the directory away to start the run anew")

    def curves(self, summary: Record) -> list[Record]:
        """The metrics of a finished run. Raises Mistake where they are not those that it ended with."""
        if self.metrics.exists() and summary.get("metrics_sha256") not in (None, _sha256(self.metrics.read_bytes())):
            raise Mistake(f"{self.metrics}: damaged; delete {self.summary.name} to restore it from the checkpoint")
        return self.records()

    def keep(self, records: list[Record], probe: str | None = None) -> None:
        """Replaces the records: a continued run drops what came after its checkpoint."""
        with replacing(self._records(probe)) as file:
            file.writelines(_line(record) for record in records)

    def append(self, record: Record, probe: str | None = None) -> None:
        """Adds a record and makes sure that it is on the disk."""
        with self._records(probe).open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def probes(self) -> list[str]:
        """The probes that have measured here."""
        return sorted(path.stem.removeprefix("probe-") for path in self.path.glob("probe-*.jsonl"))

    def _records(self, probe: str | None) -> Path:
        return self.path / f"probe-{probe}.jsonl" if probe else self.metrics

    def set_aside(self) -> None:
        """Moves the directory away, to `.replaced` beside it, so that the run can be repeated and nothing is lost."""
        aside = self.path.parent / ".replaced"
        aside.mkdir(exist_ok=True)
        number = next(n for n in range(1, 1_000_000) if not (aside / f"{self.path.name}-{n}").exists())
        for events in self.path.glob("*tfevents*"):  # else TensorBoard would show them as another run
            events.rename(events.with_name(events.name.replace("tfevents", "set-aside")))
        shutil.move(self.path, aside / f"{self.path.name}-{number}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _line(record: Record) -> bytes:
    return json.dumps(_finite(record)).encode() + b"\n"


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
