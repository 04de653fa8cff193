"""A file is replaced whole or not at all."""

import os

import pytest

from depthlab.files import replacing


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


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    path, calls = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda number: calls.append((os.fstat(number).st_size, path.exists())))
    with replacing(path) as file:
        file.write(b"12345")
    assert calls == [(5, False)]
