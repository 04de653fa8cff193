"""depthlab from Python: what the command does, by the same words; a person's mistake raises Mistake, in one line.

`words` are those behind `python train.py`, as one text ("depth=56 skip=none") or as a list of them.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from depthlab import config, probes
from depthlab.command.compose import ONE, Composed, compose, mistakes
from depthlab.config import CONFIGS, from_yaml
from depthlab.data.dataset import DataSet
from depthlab.errors import Mistake, one_of
from depthlab.network import weights
from depthlab.network.resnet import Network
from depthlab.network.rounding import float32_products_inside
from depthlab.probes.inside import untouched
from depthlab.reports import collect
from depthlab.reports.collect import Result
from depthlab.run import build, describe, start
from depthlab.run.console import log_to_console
from depthlab.run.directory import Record, Run
from depthlab.run.plan import HOUSE, Plan, plan

log = logging.getLogger("depthlab")
Words = str | Sequence[str]
CPU = torch.device("cpu")
ONE_AT_A_TIME = RLock()
CLASSES = {"cifar10": 10, "cifar100": 100}
"""Data sets whose shape is known without them."""


@dataclass(frozen=True)
class Loaded:
    """A run read back."""

    net: Network
    """As its last checkpoint has it, in evaluation mode, on the CPU."""
    config: dict[str, Any]
    """What its config.yaml holds."""
    _data: Callable[[], DataSet]

    @cached_property
    def data(self) -> DataSet:
        """Its data set, on the CPU: `x, y = run.data.first("test", 100)`. Read, or fetched, when it is asked for."""
        with mistakes(), _untouched():
            return self._data()


@mistakes()
def network(words: Words) -> Network:
    """The network that the command would train, weights filled from the seed, or from `weights=FILE`, in training
    mode, on the CPU. Of a file it is said whose names were found in it.

    Only the sets that tell neither size nor classes by themselves (imagenet, own images) are looked at for it.
    """
    with _untouched():
        planned = _planned(words)
        net = _network(planned)
        if planned.twin:
            build.from_twin(net, planned.twin, planned.images(CPU), CPU)
        elif file := planned.config["weights"]:
            found = weights.fit(weights.read(**file), net, file["file"])
            found.fill(net)
            log_to_console()
            log.info("weights: %s", describe.weights(planned, found))
            if line := describe.unusual(planned, found):
                log.warning(line)
    return net


@mistakes()
def images(words: Words) -> DataSet:
    """The command's data set, on the CPU: `.first("test", 100)` gives images and labels; `.classes`, `.shape`."""
    with _untouched():
        return _planned(words).images(CPU)


@mistakes()
def run(words: Words, *, brief: bool = True) -> Record:
    """Trains as the command does, or recognises that it is done; returns the summary. `brief`: one line is said.

    The first Ctrl-C ends it after an iteration, saved, as KeyboardInterrupt; the same call goes on. From a thread
    other than the main one, where Python hears no signals, nothing stops it. Random streams and the number of threads
    are afterwards what they were.
    """
    with ONE_AT_A_TIME:
        composed, typed = _composed(words), sys.argv
        if composed.cfg.experiment:
            raise Mistake("experiment: is a sweep; start it as a command, and read it with depthlab.runs")
        sys.argv = ["depthlab.run", words if isinstance(words, str) else shlex.join(words)]
        try:
            with _untouched():
                return start.run(*composed, brief=brief)
        except SystemExit as stop:
            if stop.code == 130:
                raise KeyboardInterrupt("stopped and saved; the same call goes on") from None
            raise
        finally:
            sys.argv = typed


@mistakes()
def load(folder: str | Path, *, options: str | Path | None = None, root: str | Path | None = None) -> Loaded:
    """A run's network, config and data set, from its directory, and of own images from these. Runs no code from it;
    what its checkpoint holds is checked against what was written. `options`: the folder of one's own options that the
    run chose from; `root`: where own images lie now, if they were moved. Raises Mistake on a directory that is no
    run, or has no sound checkpoint.
    """
    home = Run(Path(folder).expanduser())
    if not home.config.is_file():
        inside = [path.parent.name for path in sorted(home.path.glob("*/config.yaml"))]
        runs = f"; it holds {len(inside)}, such as {inside[0]}" if inside else ""
        raise Mistake(f"{folder}: not the directory of a run{runs}")
    more = {"options": options, "data.root": root}
    planned = _planned([f"config={home.config}", *(f"{key}={value}" for key, value in more.items() if value)])
    planned.run, stored = home, from_yaml(home.config.read_text())
    if "root" in stored["data"]:  # wherever they lie now, it is the run's
        planned.config["data"]["root"] = stored["data"]["root"]
    if planned.config["options"] != stored.get("options"):
        raise Mistake(f"options={options}: not the files that the run was made with")
    with _untouched():
        net = build.trained(planned, _network(planned))
    return Loaded(net.eval(), stored, lambda: planned.images(CPU))


@mistakes()
def runs(folder: str | Path = "outputs") -> list[Record]:
    """A row a run in a folder, at any depth, for `pandas.DataFrame(rows)`.

    `run`, `path`, `status` (finished, diverged, unfinished, broken), the chosen options (`depth`, `skip`,
    `skip.scale`, ...), the last epoch's errors (%) and losses, `best_test_error`, sizes and speed. A broken run has
    `run`, `status` and `problem`, a line.
    """
    rows = []
    for found in _found(Path(folder)):
        if isinstance(found, str):
            name, _, problem = found.partition(": ")
            rows.append({"run": name, "status": "broken", "problem": problem})
            continue
        summary = found.summary
        best = {f"best_{key}": value for key, value in summary.get("best", {}).items() if key == "test_error"}
        sizes = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        rows.append(_about(found) | found.facts | summary["final"] | best | sizes)
    return rows


@mistakes()
def curves(folder: str | Path = "outputs", probe: str | None = None) -> list[Record]:
    """A row an evaluation of each run in a folder, or a row a look of a probe.

    `run`, `path`, `status`, the chosen options, then what was measured: `step`, `epoch`, `train_error`, ... (what a
    probe measures goes before an option of the same name, as `unit`). Raises Mistake on a probe of which no run has
    heard.
    """
    rows, known = [], {*probes.__all__}
    for found in _found(Path(folder)):
        if isinstance(found, Result):
            run = Run(found.path)
            known |= {*run.probes()}
            looks = found.probes.get(probe or "") or (run.records(probe) if found.unfinished else [])
            rows += [_about(found) | found.facts | record for record in (looks if probe else found.records)]
    if probe and probe not in known:
        raise one_of("probe", probe, sorted(known))
    return rows


@mistakes()
def probe(net: nn.Module, x: Tensor, y: Tensor, name: str, *, rate: float = 0.1, **settings: Any) -> Record:
    """What a probe measures on a network: numbers and lists by name, as `src/depthlab/probes/NAME.py` defines them.

    x: images (N, C, H, W), y: labels (N,), on the network's device. `rate`: the learning rate that some probes look
    along. `settings`: instead of those in `configs/probe/NAME.yaml`. The network is left as it was. Any module will
    do that has what the probe asks for (`stem`, `units`, ...: `depthlab.network.resnet.Network`); Mistake if not.
    """
    if name not in probes.__all__:
        raise one_of("probe", name, probes.__all__)
    probes.check(name, str(getattr(net, "labels", "images")))
    usual = from_yaml((CONFIGS / "probe" / f"{name}.yaml").read_text().replace("${precision}", "fp32"))
    own = {key: value for key, value in usual.items() if key not in HOUSE}
    measure = config.bind(probes, own | settings | {"name": name}, f"probe.{name}")
    try:
        with _untouched(), untouched(net):
            x, y = (part.clone() if part.is_inference() else part for part in (x, y))
            return measure(net, x, y, rate)
    except AttributeError as error:
        if not isinstance(error.obj, nn.Module):
            raise
        has = f"a {type(error.obj).__name__} has no {error.name}"
        raise Mistake(f"probe={name}: {has}; see depthlab.network.resnet.Network for what it asks for") from None


def _composed(words: Words) -> Composed:
    try:
        given = shlex.split(words) if isinstance(words, str) else list(words)
    except ValueError as error:
        raise Mistake(f"{words}: {str(error).lower()}") from None
    if flags := [word for word in given if word.startswith("-")]:
        raise Mistake(f"{flags[0]}: a flag of the command; {ONE}")
    return compose(given)


def _planned(words: Words) -> Plan:
    with _untouched():
        return plan(*_composed(words))


def _network(planned: Plan) -> Network:
    data = planned.config["data"]
    if data["name"] in CLASSES:
        seen: Any = SimpleNamespace(shape=(3, data["size"], data["size"]), classes=CLASSES[data["name"]])
    else:
        seen = planned.images(CPU)
    return build.network(planned, cast(DataSet, seen), CPU)


@contextmanager
def _untouched() -> Iterator[None]:
    """Inside, depthlab sets torch's random streams, threads, treatment of subnormal numbers and precision as it
    likes; torch.export, for one, refuses a precision that is not the usual one. All threads of the process share
    these, so that one of them is inside at a time. What the caller has set that would make another result does not
    reach inside: the default dtype and device, autocast, no_grad, the precision of products, oneDNN switched off.
    """
    with ONE_AT_A_TIME:
        benchmark, onednn = torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled
        threads = torch.get_num_threads()
        dtype = torch.get_default_dtype()
        flushed = not (torch.tensor(2.0**-140, dtype=torch.float32, device=CPU) * 1).item()  # torch has no getter
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        try:
            with ExitStack() as inside:
                inside.enter_context(torch.inference_mode(False))
                inside.enter_context(torch.enable_grad())
                for kind in ("cpu", "cuda"):
                    if torch.is_autocast_enabled(kind):
                        inside.enter_context(torch.autocast(kind, enabled=False))
                if torch.get_default_device() != CPU:
                    inside.enter_context(CPU)
                torch.set_default_dtype(torch.float32)
                inside.enter_context(torch.random.fork_rng(devices))
                inside.enter_context(float32_products_inside("ieee"))
                torch.backends.mkldnn.enabled = True  # pyrefly: ignore[bad-assignment]
                yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled = benchmark, onednn
            torch.set_flush_denormal(flushed)


def _found(folder: Path) -> list[Result | str]:
    """The runs at any depth, hidden folders aside, and a line for each broken one."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise Mistake(f"{folder}: no such folder")
    homes = {file.parent for file in folder.rglob("config.yaml")}
    homes = {home for home in homes if not any(part.startswith(".") for part in home.relative_to(folder).parts)}
    found: list[Result | str] = []
    for parent in sorted({home.parent for home in homes}):
        finished, unfinished, broken = collect.load(parent)
        found += [result for result in [*finished, *unfinished] if result.path in homes]
        found += [line for line in broken if parent / line.partition(": ")[0] in homes]
    return found


def _about(result: Result) -> Record:
    return {"run": result.path.name, "path": str(result.path), "status": result.summary["status"]}
