"""A run on its way: trained, watched, saved, and stopped when it is told to."""

import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import NoReturn

import torch

from depthlab import config
from depthlab.data.dataset import DataSet
from depthlab.machine.processes import Job
from depthlab.network.weights import Start
from depthlab.run import build, describe
from depthlab.run.console import Progress
from depthlab.run.directory import Record
from depthlab.run.interruption import Interruption
from depthlab.run.plan import Plan
from depthlab.run.probing import Probe, due
from depthlab.run.tensorboard import TensorBoard
from depthlab.training import checkpoint
from depthlab.training.distributed import Ranks
from depthlab.training.loop import Metrics, State, set_rate

log = logging.getLogger("depthlab")

LONG = 3600.0
"""Seconds from which on a run on the CPU gets a warning."""


@dataclass
class Clock:
    """Seconds of a run over all its starts: in all, and in training iterations only."""

    seconds: float = 0.0
    training: float = 0.0
    step: int = 0

    def __post_init__(self) -> None:
        self.skip()

    def skip(self) -> None:
        """What has passed since the last tick does not count."""
        self.last = time.monotonic()

    def tick(self, step: int) -> bool:
        """Adds the seconds since the last tick; whether they were an iteration's."""
        seconds = time.monotonic() - self.last
        self.skip()
        self.seconds += seconds
        trained = step > self.step
        self.training += seconds * trained
        self.step = step
        return trained


class Part:
    """One process's part of a run: the same iterations as the others, and no word."""

    def __init__(self, planned: Plan, images: DataSet, where: torch.device, ranks: Ranks) -> None:
        self.planned, self.images, self.where, self.ranks = planned, images, where, ranks
        self.steps = build.iterations(planned.cfg, images)
        self.net = build.network(planned, images, where)
        self.state = State(self.net, planned.optimizer(self.net, planned.cfg.recipe))
        self.interruption = Interruption(tells=not ranks.rank and not Job.running)  # its sweep tells

    def run(self) -> Record:
        """Goes on until all have ended; SystemExit where all stop."""
        with self.interruption.watching():
            for _ in chain([None], self.loop()):
                signal, _ = self.agree(late=False)
                if signal:
                    self.stop(signal)
        self.ranks.wait()
        return {}

    def loop(self, *, over: bool = False) -> Iterator[Metrics | None]:
        """The iterations to come, and their evaluations; none if the first process says that all is `over`."""
        return build.loop(self.planned, self.images, self.where, self.state, self.steps, self.ranks, over=over)

    def agree(self, *, late: bool) -> tuple[int, bool]:
        """The signal for which all stop now, or 0, and whether the first saves, which then has the counts of all."""
        signal, saves = self.ranks.agree(self.interruption.signal or 0, late)
        if signal or saves:
            self.state.hand_in(self.ranks)
        return int(signal), bool(signal or saves)

    def stop(self, signal: int) -> NoReturn:
        """Ends the process when all are here."""
        self.ranks.wait()
        raise SystemExit(128 + signal)


class Session(Part):
    """The first process's part, which alone looks inside, saves and says how it goes."""

    board: TensorBoard
    progress: Progress

    def __init__(
        self,
        planned: Plan,
        images: DataSet,
        where: torch.device,
        ranks: Ranks,
        *,
        facts: Record,
        level: int,
        start: Start | None,
        done: Record | None,
    ) -> None:
        """`facts`: what is known of it; `level`: at which it is told; `start`: weights to begin with; `done`: the
        summary of a finished run of which only probes are left.
        """
        super().__init__(planned, images, where, ranks)
        self.home, self.digest = planned.run, config.digest(planned.config)
        self.facts, self.level, self.start, self.done = facts, level, start, done
        self.clock, self.saved = Clock(), time.monotonic()
        self.records: list[Record] = []

    def run(self) -> Record:
        """Goes on from where it is to its end; returns the summary. SystemExit where it is stopped, and saved."""
        self.resume()
        self.announce()
        training = self.loop(over=self.over)
        with self.interruption.watching(), self.shown() as self.board, self.bar() as self.progress:
            self.look()
            self.save_or_stop(late=False)
            self.clock.skip()
            for metrics in training:
                self.count()
                if metrics is not None:
                    self.record(metrics)
                    self.look()
                    self.clock.skip()
                self.save_or_stop(late=time.monotonic() - self.saved >= self.planned.cfg.checkpoint_every)
            summary = self.done or self.finish()
        self.ranks.wait()
        log.info(describe.result(summary))
        if self.interruption.signal is not None:  # it came when all was done
            raise SystemExit(128 + self.interruption.signal)
        log.log(self.level, "tensorboard --logdir %s", shlex.quote(self.planned.cfg.output_dir))
        return summary

    def resume(self) -> None:
        """Takes up the last checkpoint; without one, begins at `start`. What was recorded after it is dropped."""
        home = self.home
        if self.done:
            home.previous.unlink(missing_ok=True)  # of a run that was killed as it ended: it is not the end's
        saved = checkpoint.resume(home.checkpoint, home.previous, self.state, digest=self.digest)
        limit = math.inf if self.done else self.state.next_record
        if saved is not None:
            self.clock = Clock(**saved["clock"])
            if not self.done and (changed := describe.changed(saved, describe.made_with())):
                log.warning(f"{home.path.name}: goes on with other software than before: {changed}")
            self.records = saved["records"] if "records" in saved else _before(limit, home.records())
        elif self.start:
            self.start.fill(self.net)
        elif twin := self.planned.twin:
            build.from_twin(self.net, twin, self.images, self.where)
        if saved is None:  # a norm that changes over the run begins at its beginning
            for name, buffer in self.net.named_buffers():
                if name.endswith("num_batches_tracked"):
                    buffer.zero_()
        home.keep(self.records)
        for probe in home.probes():
            home.keep(_before(max(limit, 1), home.records(probe)), probe)  # a look at the start stays true

    def announce(self) -> None:
        """Says what the run will do."""
        describe.reset_peak_memory(self.where)
        for line in describe.announcement(self.planned, self.images, self.steps, self.state.step, self.facts):
            log.log(self.level, line)
        if self.start and (line := describe.unusual(self.planned, self.start)):
            log.warning(line)

    @property
    def over(self) -> bool:
        """Whether it has made its last evaluation."""
        return bool(self.records) and (self.records[-1]["step"] >= self.steps or "diverged_at" in self.records[-1])

    def shown(self) -> TensorBoard:
        """What TensorBoard shows of it."""
        return TensorBoard(self.home.path, max(self.state.next_record, 1), describe.hyperparameters(self.planned))

    def bar(self) -> Progress:
        """Its progress on the console."""
        batch, images = self.planned.cfg.recipe.batch, self.images
        epochs = (self.steps - self.state.step) * batch / images.images
        tested = sum(map(images.size, build.splits(self.planned, images)))
        test_pass = tested / batch / 3  # in iterations: forward is a third of one
        shown = self.level != logging.DEBUG
        return Progress(shown, self.steps, self.state.step, batch, (epochs + 1) * test_pass, self.state.report)

    def count(self) -> None:
        """After an iteration, or a batch of an evaluation: time goes on. Says once how long it will take."""
        seconds = self.progress.step() if self.clock.tick(self.state.step) else None
        if seconds and seconds >= 60:
            log.info("%s: about %s to go", self.home.path.name, describe.duration(seconds))
        if seconds and seconds >= LONG and self.where.type == "cpu":
            log.warning("that is long on a CPU; shorter: epochs=1, data=cifar10_small, data=digits, or device=cuda")

    def record(self, metrics: Metrics) -> None:
        """Keeps an evaluation."""
        step, seen = self.state.step, self.state.step * self.planned.cfg.recipe.batch
        position = {"step": step, "epoch": seen / self.images.images, "images": seen, "seconds": self.clock.seconds}
        self.records.append(position | metrics)
        self.home.append(self.records[-1])
        self.board.add(step, metrics)
        log.debug("  ".join(f"{key} {value:.6g}" for key, value in self.records[-1].items()))

    def look(self) -> None:
        """The probes that are due measure, until a signal comes; all is saved before, whatever happens in one."""
        if self.steps and not self.state.step:  # else the last iteration has set it
            cfg = self.planned.cfg
            set_rate(self.state, cfg.recipe, self.planned.schedule, cfg.depth, self.steps, lambda: math.nan)
        looks = due(self.planned.probes, self.home, self.records, self.state.step, self.steps)
        if looks and not self.done and self.state.step:
            self.save()
        for probe in looks:
            if self.interruption.signal is not None:
                return
            with self.ranks.alone(self.net), self.interruption.at_once():
                self.measure(probe)

    def measure(self, probe: Probe) -> None:
        """Keeps what a probe finds."""
        step, rate = self.state.step, self.state.optimizer.param_groups[0]["lr"]
        values = probe(self.net, self.images, rate)
        epoch = self.records[-1]["epoch"] if self.records else 0.0
        about = {"step": step, "epoch": epoch, "rate": rate, "settings": probe.settings}
        self.home.append(about | values, probe.name)
        self.board.look(probe.name, step, values)
        level = self.level if step == self.steps else logging.DEBUG
        log.log(level, describe.found(probe.name, step, values))

    def save_or_stop(self, *, late: bool) -> None:
        """Saves where it is `late`, and stops, saved, where a process has heard a signal."""
        signal, saves = self.agree(late=late)
        if saves and not self.interruption.broke:  # else it was saved before the probe, which may not have tidied up
            self.save()
        if signal:
            self.progress.close()
            one_of_many = f"{self.home.path.name}: " if self.level < logging.INFO else ""
            where = f"at iteration {self.state.step:,} of {self.steps:,}"
            log.info(f"{one_of_many}stopped and saved {where}; to continue: {_command(self.ranks)}")
            self.stop(signal)

    def save(self) -> None:
        """Writes a checkpoint."""
        self.board.flush()
        more = {"digest": self.digest, "clock": asdict(self.clock), "records": self.records} | describe.made_with()
        checkpoint.save(self.home.checkpoint, self.state, keep=self.home.previous, **more)
        self.saved = time.monotonic()

    def finish(self) -> Record:
        """Saves, and writes the summary, which makes the run a finished one."""
        self.save()
        summary = describe.summary(self.planned, self.records, self.facts, self.clock.training)
        self.home.finish(summary)
        return summary


def _before(limit: float, records: list[Record]) -> list[Record]:
    return [record for record in records if record["step"] < limit]


def _command(ranks: Ranks) -> str:
    """What continues this run."""
    if sys.argv[0] == "depthlab.run":
        return "the same call"
    if ranks.world == 1 or ranks.port:
        return config.typed_again()
    if ranks.here < ranks.world:
        return "the same torchrun command on each machine"
    return shlex.join(["torchrun", "--nproc-per-node", str(ranks.world), *sys.argv])
