"""One run on many processes: each takes its slice of every batch, and they add up what they computed (data parallel).

A process talks to the others twice an iteration: DistributedDataParallel averages the gradients while the backward
pass goes on, and the processes agree whether to go on, in a group of gloo's beside NCCL, so that no GPU waits for it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from depthlab.data.dataset import generator
from depthlab.machine.processes import one_line

T = TypeVar("T")

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun tells each process in its environment."""

PATIENCE = timedelta(days=7)
"""How long the others wait for what the first alone does: probes, files."""


@dataclass(frozen=True)
class Ranks:
    """A process's place among the `world` of its run, by default alone. All call the same methods in one order."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Its place among those on this machine."""
    here: int = 1
    """How many are on this machine."""
    gpu: int | None = None
    """The GPU that was given to it; None: any."""
    port: int | None = None
    """Where the store of a run on this machine listens; None: as torchrun's environment says."""
    control: Any = None
    """The group in which they agree."""

    def parallel(self, net: nn.Module) -> nn.Module:
        """The network whose backward pass averages the gradients over the processes.

        All begin with the first's weights, and each iteration with its running statistics.
        """
        if self.world == 1:
            return net
        _synchronise(net, self.world)
        return DistributedDataParallel(net)

    @contextmanager
    def alone(self, net: nn.Module) -> Iterator[None]:
        """Inside, a synchronised norm sees this process's images alone: for what the others do not do."""
        try:
            _synchronise(net, 1)
            yield
        finally:
            _synchronise(net, self.world)

    def gathered(self, values: Tensor) -> Tensor:
        """The values (...) of all processes, (world, ...)."""
        if self.world == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def level(self, net: nn.Module) -> None:
        """Gives all the running statistics of the first."""
        for buffer in net.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, 0)

    def agree(self, *wishes: float) -> list[float]:
        """The greatest of each wish over the processes: what one wants, all do."""
        if self.world == 1:
            return list(wishes)
        values = torch.tensor(wishes, dtype=torch.float64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return values.tolist()

    def wait(self) -> None:
        """Goes on when all are here."""
        self.agree(0)

    def first_says(self, value: T) -> T:
        """The first's value, for all."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.control)
        return box[0]

    @contextmanager
    def first_here_first(self) -> Iterator[None]:
        """Inside is first the first of each machine, which may fetch what the others then find."""
        if self.local:
            self.wait()
        yield
        if not self.local:
            self.wait()

    def own_chance(self, seed: int, step: int) -> None:
        """Gives each process but the first a random stream of its own, for dropout."""
        if self.rank:
            torch.manual_seed(generator(seed, step, self.rank).initial_seed())


ALONE = Ranks()


def _synchronise(net: nn.Module, processes: int) -> None:
    """Synchronised norms see the images of so many processes."""
    for module in net.modules():
        if hasattr(module, "processes"):
            module.processes = processes  # pyrefly: ignore[bad-argument-type]


def torchruns() -> Ranks:
    """The place that torchrun has given to this process; alone without torchrun, which sets all that is asked for."""
    if not all(os.environ.get(key, "").isdecimal() for key in PLACE) or "MASTER_ADDR" not in os.environ:
        return ALONE
    rank, world, local, here = (int(os.environ[key]) for key in PLACE)
    return Ranks(rank, world, local, here, local) if world > 1 else ALONE


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[Ranks]:
    """Inside, the processes of the run can talk. Raises ConnectionError where another one has ended."""
    if ranks.world == 1:
        yield ranks
        return
    cuda = device.type == "cuda"
    options: dict[str, Any] = {"device_id": device} if cuda else {}
    if ranks.port:
        store = dist.TCPStore("127.0.0.1", ranks.port, is_master=False)
        options |= {"store": store, "rank": ranks.rank, "world_size": ranks.world}
    try:
        dist.init_process_group("nccl" if cuda else "gloo", **options)
        yield replace(ranks, control=dist.new_group(backend="gloo", timeout=PATIENCE))
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/" in str(error):
            ended = "another process of the run has ended, or cannot be reached"
            raise ConnectionError(f"{ended} ({one_line(error)})") from error
        raise
    except SystemExit:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()
