"""A file is replaced whole or not at all."""

import os
import signal
import socket

import pytest

from conftest import another_process_holds
from depthlab.machine.files import locked, replacing, sweep


def test_what_is_written_takes_the_files_place(tmp_path):
    path = tmp_path / "file"
    for content in (b"first, longer", b"second"):
        with replacing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
        assert [*tmp_path.iterdir()] == [path]


def test_before_the_end_the_old_file_stands_and_the_new_one_is_in_the_same_folder(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert len([*tmp_path.iterdir()]) == 2  # a rename between file systems would not be atomic
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_exception_leaves_all_as_it_was(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def write():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("file", old)] if old is not None else [])


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_too(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"), replacing(path) as file:
        file.write(b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_it_is_on_the_disk_before_it_takes_the_place_and_then_its_name_is(tmp_path, monkeypatch):
    path, calls = tmp_path / "file", []

    def seen(number):
        size = None if os.path.samestat(os.fstat(number), tmp_path.stat()) else os.fstat(number).st_size
        calls.append((size, path.exists()))

    monkeypatch.setattr(os, "fsync", seen)
    with replacing(path) as file:
        file.write(b"12345")
    assert calls == [(5, False), (None, True)]


def test_a_file_system_that_cannot_tell_of_a_folder_is_no_error(tmp_path, monkeypatch):
    sync = os.fsync

    def refusing(number):
        if os.path.samestat(os.fstat(number), tmp_path.stat()):
            raise OSError(22, "Invalid argument")
        sync(number)

    monkeypatch.setattr(os, "fsync", refusing)
    with replacing(tmp_path / "file") as file:
        file.write(b"12345")
    assert (tmp_path / "file").read_bytes() == b"12345"


def test_the_old_file_is_kept_and_one_of_the_two_is_whole_at_any_moment(tmp_path, monkeypatch):
    path, keep = tmp_path / "file", tmp_path / "old"
    move, seen = os.replace, []

    def looking(source, target):
        move(source, target)
        seen.append([p.read_bytes() for p in (path, keep) if p.exists()])

    monkeypatch.setattr(os, "replace", looking)
    for content in (b"1", b"2", b"3"):
        with replacing(path, keep) as file:
            file.write(content)
    assert seen == [[b"1"], [b"1"], [b"2", b"1"], [b"2"], [b"3", b"2"]]


def test_sweeping_takes_the_halves_alone(tmp_path):
    for name in (".checkpoint.pt.123", ".file.7", ".lock", ".hidden.txt", "file.123", "checkpoint.pt"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".hidden.txt", "file.123", "checkpoint.pt"}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_lock_is_one_processs_and_ends_with_it_however_it_ends(tmp_path, end):
    path = tmp_path / "new" / ".lock"
    with another_process_holds(path) as process:
        words = rf"process {process.pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$"
        for _ in range(2):
            with pytest.raises(BlockingIOError, match=words), locked(path):
                pass
        process.send_signal(end) if end else process.communicate("")
        process.wait()
    with locked(path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")


def test_a_lock_does_not_live_on_in_data_workers(tmp_path):
    """Killed alone, they find out seconds later, and the same command must go on at once."""
    path = tmp_path / ".lock"
    fork = "import os, time; child = os.fork() or time.sleep(60); print('held', flush=True); print(child, flush=True)"
    with another_process_holds(path, f"{fork}; sys.stdin.read()") as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        with locked(path):
            os.kill(child, 0)  # it lives
        os.kill(child, signal.SIGKILL)


def test_a_lock_in_a_folder_that_was_moved_away_is_none(tmp_path, monkeypatch):
    """Another process gets it just as its owner has set the folder aside."""
    import fcntl

    path, lock, moved = tmp_path / "run" / ".lock", fcntl.lockf, tmp_path / "aside"

    def late(file, operation):
        if not moved.exists():
            path.parent.rename(moved)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "lockf", late)
    with locked(path):
        assert path.read_text()
        assert (moved / ".lock").read_text() == ""


@pytest.mark.parametrize("number", [37, 38, 95])
def test_without_locks_it_goes_on_without(tmp_path, monkeypatch, number):
    def none(file, operation):
        raise OSError(number, "No locks")

    monkeypatch.setattr("fcntl.lockf", none)
    with locked(tmp_path / ".lock"):
        pass
