"""Disturbed runs, as processes of their own, and what is left of them.

A server that has done one run forks each other one, and the fork prepares its own disturbance. Each fault ends in one
of two ways: IDENTICAL, the same command ends with the weights and curves of an undisturbed run, or REFUSED, it stops
with one line. All else is an AssertionError.
"""

import errno
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = (
    *("data=digits", "data.augment=true", "data.subset=200", "data.validation=20", "threads=1", "device=cpu"),
    *("depth=8", "width=4", "skip=dropout", "recipe.batch=32", "recipe.iterations=16", "checkpoint_every=0"),
)
IDENTICAL, REFUSED = "identical", "refused"
TOLD = "\nstopping after this iteration; once more stops at once\n"
SIZE = 1_000_000
"""Bytes of a small disk; a run of RUN needs half of it."""


def serve() -> None:
    """Forks a run for each line on standard input, and waits for one when told to."""
    sys.path.insert(0, str(ROOT))
    import torch
    import train
    from hydra.core.global_hydra import GlobalHydra
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        sys.argv = ["train.py", *RUN, f"output_dir={folder}"]
        train.cli()
    GlobalHydra.instance().clear()
    assert threading.active_count() == 1  # so that forks are whole
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if isinstance(job, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        elif not (answer := os.fork()):
            _become(**job)
        print(answer, flush=True)


def _become(folder: str, arguments: list[str], fault: str | None, at: int) -> None:
    """The command in this process; it does not come back."""
    import train

    code = 1
    try:
        signal.alarm(120)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        sys.argv = ["train.py", *arguments]
        if fault:
            FAULTS[fault](at)
        train.cli()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows is not the command's
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _nth(at: int, owner: object, name: str, act: Callable) -> None:
    """At its at-th call, the owner's function becomes act(function, *arguments)."""
    straight, calls = getattr(owner, name), itertools.count(1)

    def disturbed(*args: object, **keys: object) -> object:
        return act(straight, *args, **keys) if next(calls) == at else straight(*args, **keys)

    setattr(owner, name, disturbed)


def _after(straight: Callable, *args: object, **keys: object) -> None:
    straight(*args, **keys)
    _die()


def _half_saved(straight: Callable, saved: object, file: io.BufferedWriter) -> None:
    straight(saved, whole := io.BytesIO())
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    _die()


def _half_line(straight: Callable, run: object, record: object, probe: object = None) -> None:
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 7, "epoch": 1.')
    _die()


def _fail(number: int) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _jump(at: int) -> None:
    """Every clock that a person can set jumps a day, forwards or backwards, all the time."""
    straight, drawn = time.time, random.Random(at)
    time.time = lambda: straight() + drawn.choice((-86_400, 0, 86_400))
    monotonic, drift = time.monotonic, itertools.count()
    time.monotonic = lambda: monotonic() + next(drift) * drawn.choice((0, 3600))


def _places() -> dict[str, Callable[[int], None]]:
    def place(module: str, names: str, act: Callable) -> Callable[[int], None]:
        def inject(at: int) -> None:
            *path, name = names.split(".")
            owner = __import__(module, fromlist=["_"])
            for part in path:
                owner = getattr(owner, part)
            _nth(at, owner, name, act)

        return inject

    return {
        "killed in a step": place("depthlab.training.optimizer", "SGD.step", _after),
        "killed in a half-written checkpoint": place("torch", "save", _half_saved),
        "killed before a rename": place("os", "replace", _die),
        "killed after a rename": place("os", "replace", _after),
        "killed before an fsync": place("os", "fsync", _die),
        "killed in a half-written line": place("depthlab.run.directory", "Run.append", _half_line),
        "killed before the summary": place("depthlab.run.directory", "Run.finish", _die),
        "killed after the summary": place("depthlab.run.directory", "Run.finish", _after),
        "no space left at an fsync": place("os", "fsync", _fail(errno.ENOSPC)),
        "no space left at a rename": place("os", "replace", _fail(errno.ENOSPC)),
        "an input/output error at an fsync": place("os", "fsync", _fail(errno.EIO)),
        "the clock jumps": _jump,
    }


FAULTS = _places()
CALLS = {"torch.save": 20, "os.replace": 44, "os.fsync": 90}


@dataclass
class Ended:
    """How a run ended, and what it said."""

    code: int
    out: str
    err: str

    def clean(self) -> bool:
        """Whether it ended well, or was stopped, or said in one line why not."""
        said = self.err.replace(TOLD, "")
        if self.code in (1, 2):
            return said.startswith("error: ") and said.count("\n") == 1
        return said in ("", "interrupted\n")


class Lab:
    """Starts runs in folders below `root`, and knows how an undisturbed one ends."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, itertools.count()
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._answer() == "ready"
        folder, began = self.folder(), time.monotonic()
        assert self.run(folder).code == 0
        self.seconds = time.monotonic() - began
        self.finished, self.wanted = folder, result(folder)
        self.stopped = self.folder()
        assert self.run(self.stopped, "killed in a half-written checkpoint", 14).code == -9
        assert len([*self.stopped.glob("outputs/digits/*/checkpoint*.pt")]) == 2

    def close(self) -> None:
        """Ends the server, which has no children left."""
        self.server.communicate()

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def _ask(self, job: object) -> int:
        assert self.server.stdin is not None
        print(json.dumps(job), file=self.server.stdin, flush=True)
        return int(self._answer())

    def folder(self, like: Path | None = None) -> Path:
        """A new one, or a copy."""
        folder = self.root / str(next(self.count))
        shutil.copytree(like, folder) if like else folder.mkdir()
        return folder

    def start(self, folder: Path, fault: str | None = None, at: int = 0, arguments: tuple[str, ...] = RUN) -> int:
        """Starts the command in a folder; the process's number."""
        return self._ask({"folder": str(folder), "arguments": arguments, "fault": fault, "at": at})

    def wait(self, folder: Path, process: int) -> Ended:
        """Waits for its end."""
        code = self._ask(process)
        return Ended(code, *(Path(f"{folder}.{name}").read_text() for name in ("out", "err")))

    def run(self, folder: Path, fault: str | None = None, at: int = 0, arguments: tuple[str, ...] = RUN) -> Ended:
        """Starts the command and waits for its end."""
        return self.wait(folder, self.start(folder, fault, at, arguments))

    def ends_alike(self, folder: Path) -> str:
        """IDENTICAL, once the same command has ended as if undisturbed, and left nothing half written."""
        ended = self.run(folder)
        assert (ended.code, ended.err) == (0, ""), ended
        assert alike(result(folder), self.wanted)
        (run,) = folder.glob("outputs/digits/*")
        extra = {p.name for p in run.iterdir() if "tfevents" not in p.name} - FILES
        assert not extra, extra
        return IDENTICAL

    def refused(self, folder: Path, words: str) -> str:
        """REFUSED, if the command stops with one line that holds the words, and changes nothing."""
        before = content(folder)
        ended = self.run(folder)
        assert ended.code == 2, ended
        assert ended.clean(), ended
        assert words in ended.err, ended
        assert content(folder) == before
        return REFUSED


FILES = {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoint.pt", "train.log"}
FILES |= {"checkpoint-previous.pt"}  # stays where a run was killed right after its summary


def content(folder: Path) -> dict[Path, bytes]:
    """All that matters: not who used it last, what was left half written, what was said, and what is only shown."""
    files = [p for p in folder.rglob("[!.]*") if p.is_file() and p.name != "train.log"]
    return {p: p.read_bytes() for p in files if "tfevents" not in p.name}


def result(folder: Path, name: str = "*") -> dict:
    """Weights, momentum, random streams and curves of a folder's one run of that name, without the times."""
    import torch

    (run,) = folder.glob(f"outputs/digits/{name}")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    for name in ("clock", "git_commit"):  # the server may have started before the last commit
        saved.pop(name)
    summary = json.loads((run / "summary.json").read_text())
    curves = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in curves + saved["records"]:
        record.pop("seconds")
    return {"saved": saved, "curves": curves} | {
        key: summary[key] for key in ("status", "final", "best", "iterations")
    }


def alike(a: object, b: object) -> bool:
    """Equal to the last bit."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


@contextmanager
def disk(folder: Path):
    """A small one in a folder; PermissionError where the system lets nobody mount it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("this system mounts nothing")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# Each fault, once: a function of the laboratory and of what chooses where it happens.


def killed_at(place: str, most: int) -> Callable[[Lab, random.Random], str]:
    def fault(lab: Lab, choice: random.Random) -> str:
        folder, at = lab.folder(), choice.randint(1, most)
        ended = lab.run(folder, place, at)
        assert ended.code in (-9, 0), ended
        return lab.ends_alike(folder)

    return fault


def failing_at(place: str, most: int) -> Callable[[Lab, random.Random], str]:
    def fault(lab: Lab, choice: random.Random) -> str:
        folder, at = lab.folder(), choice.randint(1, most)
        ended = lab.run(folder, place, at)
        assert ended.code in (0, 1, 2), ended
        assert ended.clean(), ended
        return lab.ends_alike(folder)

    return fault


def signalled(*numbers: int) -> Callable[[Lab, random.Random], str]:
    def fault(lab: Lab, choice: random.Random) -> str:
        folder = lab.folder()
        process = lab.start(folder)
        for number in numbers:
            time.sleep(choice.uniform(0, lab.seconds / len(numbers)))
            os.kill(process, number)  # as long as nobody waits for it, its number is its own
        ended = lab.wait(folder, process)
        assert ended.code in (0, -numbers[-1], 128 + numbers[0], 128 + numbers[-1]), ended
        assert ended.clean(), ended
        return lab.ends_alike(folder)

    return fault


def clock(lab: Lab, choice: random.Random) -> str:
    folder = lab.folder(lab.stopped)
    ended = lab.run(folder, "the clock jumps", choice.randint(1, 1000))
    assert (ended.code, ended.err) == (0, ""), ended
    return lab.ends_alike(folder)


def cut(path: Path, choice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: choice.randrange(path.stat().st_size)])


def flipped(path: Path, choice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
    path.write_bytes(content)


Damage = Callable[[Path, random.Random], None]


def damaged(pattern: str, damage: Damage, words: str | None = None, *, finished: bool = False):
    """Files of a stopped or finished run; `words`: what the one line holds, where there may be one."""

    def fault(lab: Lab, choice: random.Random) -> str:
        folder = lab.folder(lab.finished if finished else lab.stopped)
        for path in folder.glob(f"outputs/digits/*/{pattern}"):
            damage(path, choice)
        if words is None:
            return lab.ends_alike(folder)
        before, ended = content(folder), lab.run(folder)
        if ended.code == 0:  # the damage does not matter, as in a space of the config
            assert ended.err == "", ended
            return lab.ends_alike(folder)
        assert ended.code == 2, ended
        assert ended.clean(), ended
        assert words in ended.err, ended
        assert content(folder) == before
        return REFUSED

    return fault


def two_at_once(lab: Lab, choice: random.Random) -> str:
    folder = lab.folder()
    alias = folder.with_name(f"{folder.name}-second")
    alias.symlink_to(folder)
    first = lab.start(folder)
    time.sleep(choice.uniform(0, lab.seconds))
    second = lab.start(alias)
    ends = [lab.wait(folder, first), lab.wait(alias, second)]
    assert all(end.clean() for end in ends), ends
    assert 0 in {end.code for end in ends}, ends
    for end, other in zip(ends, (second, first), strict=True):
        assert end.code == 0 or f"in use by process {other} on " in end.err, ends
    return lab.ends_alike(folder)


def disk_full(lab: Lab, choice: random.Random) -> str:
    folder = lab.folder()
    with disk(folder):
        (folder / "filler").write_bytes(bytes(SIZE - choice.randint(0, 300) * 1000))
        ended = lab.run(folder)
        assert ended.clean(), ended
        (folder / "filler").unlink()
        return lab.ends_alike(folder)


def read_only(lab: Lab, choice: random.Random) -> str:
    folder = lab.folder()
    with disk(folder):
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        lab.refused(folder, "output_dir: cannot write")
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        process = lab.start(folder)
        time.sleep(choice.uniform(0, lab.seconds))
        subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True)  # refused while a file is written
        ended = lab.wait(folder, process)
        assert ended.clean(), ended
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        return lab.ends_alike(folder)


def file_limit(lab: Lab, choice: random.Random) -> str:
    folder = lab.folder()
    ended = lab.run(folder, "no file larger", choice.randint(1, 120_000))
    assert ended.code in (0, 1, 2), ended
    assert ended.clean(), ended
    return lab.ends_alike(folder)


def _limit(at: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))


FAULTS["no file larger"] = _limit


def sweep_killed(runs: int, kills: int) -> Callable[[Lab, random.Random], str]:
    """Its workers and itself, two runs at once, again and again; each time the same command continues it."""
    sweep = [sys.executable, ROOT / "train.py", "-m", *RUN, f"seed=range({runs})", "hydra.launcher.n_jobs=2"]

    def fault(lab: Lab, choice: random.Random) -> str:
        alone, folder = lab.folder(), lab.folder()
        subprocess.run(sweep, cwd=alone, check=True, capture_output=True)
        left, starts, ended = kills, 0, None
        while ended != 0:
            starts += 1
            assert starts <= 3 * kills + 1, "no end"
            errors = Path(f"{folder}.err")  # no pipe: workers hold it open after the end of their sweep
            with errors.open("w") as err:
                process = subprocess.Popen(sweep, cwd=folder, stdout=subprocess.DEVNULL, stderr=err)
                before = _finished(folder)
                while process.poll() is None:
                    time.sleep(choice.uniform(0, 1))
                    if left and _finished(folder) > before:  # it has begun
                        with suppress(ProcessLookupError):
                            os.kill(choice.choice([process.pid, *_workers(process.pid)]), signal.SIGKILL)
                        left -= 1
                        before = _finished(folder) + choice.randint(0, 2 * runs // (kills + 1))
            ended = process.returncode
            assert ended in (0, 1, -9), ended
            assert "Traceback" not in errors.read_text(), errors.read_text()
        assert not left, "too few runs for so many kills"
        time.sleep(3)
        assert not _workers(1, folder), "workers outlive their sweep"
        found, wanted = (
            {run.name.rpartition("-")[0]: run for run in f.glob("outputs/digits/*")} for f in (folder, alone)
        )
        assert len(found) == len(wanted) == runs
        assert found.keys() == wanted.keys()
        for run in wanted.values():
            assert alike(result(folder, run.name), result(alone, run.name))
        report = subprocess.run(
            [sys.executable, ROOT / "scripts" / "report.py", "outputs/digits"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert (report.returncode, report.stderr) == (0, ""), report
        assert re.search(rf"depth=\d+ skip=\w+ norm=\w+ +{runs} ", report.stdout), report.stdout
        assert "unfinished" not in report.stdout
        print(f"  a sweep of {runs} runs: {kills} kills, {starts} starts", file=sys.stderr)
        return IDENTICAL

    return fault


def _finished(folder: Path) -> int:
    return len([*folder.glob("outputs/digits/*/summary.json")])


def _workers(parent: int, folder: Path | None = None) -> list[int]:
    """Joblib's processes below another one, in a folder or in any."""
    listed = subprocess.check_output(["ps", "-ww", "-eo", "pid,ppid,args"], text=True).splitlines()
    children = [line.split(None, 2) for line in listed]
    pids = [int(pid) for pid, above, name in children if above == str(parent) and "Loky" in name]
    return [pid for pid in pids if folder in (None, Path(f"/proc/{pid}/cwd").resolve())]


CONFIG = "config.yaml: "
Fault = Callable[[Lab, random.Random], str]
ALL: dict[str, tuple[Fault, int, int]] = {  # how often in the tests, and in the long version
    "SIGKILL at random": (signalled(signal.SIGKILL), 1, 50),
    "SIGKILL in a step": (killed_at("killed in a step", 16), 1, 10),
    "SIGKILL in a half-written checkpoint": (killed_at("killed in a half-written checkpoint", 20), 1, 15),
    "SIGKILL before a rename": (killed_at("killed before a rename", 44), 2, 30),
    "SIGKILL after a rename": (killed_at("killed after a rename", 44), 1, 30),
    "SIGKILL before an fsync": (killed_at("killed before an fsync", 80), 1, 20),
    "SIGKILL in a half-written line": (killed_at("killed in a half-written line", 2), 1, 4),
    "SIGKILL before the summary": (killed_at("killed before the summary", 1), 1, 2),
    "SIGKILL after the summary": (killed_at("killed after the summary", 1), 1, 2),
    "SIGTERM": (signalled(signal.SIGTERM), 1, 15),
    "SIGINT": (signalled(signal.SIGINT), 1, 15),
    "SIGINT twice": (signalled(signal.SIGINT, signal.SIGINT), 1, 20),
    "disk full": (disk_full, 1, 25),
    "file size limit": (file_limit, 1, 15),
    "ENOSPC at an fsync": (failing_at("no space left at an fsync", 80), 1, 15),
    "ENOSPC at a rename": (failing_at("no space left at a rename", 44), 1, 15),
    "EIO at an fsync": (failing_at("an input/output error at an fsync", 80), 1, 10),
    "output read-only, before and in the run": (read_only, 1, 8),
    "clock jumps": (clock, 1, 6),
    "checkpoint truncated": (damaged("checkpoint.pt", cut), 1, 15),
    "checkpoint bit flipped": (damaged("checkpoint.pt", flipped), 1, 30),
    "previous checkpoint bit flipped": (damaged("checkpoint-previous.pt", flipped), 1, 4),
    "both checkpoints truncated": (damaged("checkpoint*.pt", cut, "damaged too"), 1, 6),
    "both checkpoints bit flipped": (damaged("checkpoint*.pt", flipped, "damaged too"), 1, 15),
    "metrics truncated": (damaged("metrics.jsonl", cut), 1, 8),
    "metrics bit flipped": (damaged("metrics.jsonl", flipped), 1, 15),
    "config truncated": (damaged("config.yaml", cut, CONFIG), 1, 8),
    "config bit flipped": (damaged("config.yaml", flipped, CONFIG), 1, 30),
    "TensorBoard file truncated": (damaged("*tfevents*", cut), 1, 6),
    "TensorBoard file bit flipped": (damaged("*tfevents*", flipped), 1, 6),
    "log bit flipped": (damaged("train.log", flipped), 1, 2),
    "lock file bit flipped": (damaged(".lock", flipped), 1, 2),
    "summary truncated": (damaged("summary.json", cut, "summary.json: damaged", finished=True), 1, 10),
    "summary bit flipped": (damaged("summary.json", flipped, "summary.json: damaged", finished=True), 1, 40),
    "two at once": (two_at_once, 1, 20),
    "SIGKILL in joblib sweeps of 8": (sweep_killed(8, 2), 0, 3),
    "SIGKILL in a joblib sweep of 200": (sweep_killed(200, 40), 0, 1),
}


if __name__ == "__main__":
    serve()
