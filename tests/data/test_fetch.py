"""Downloads by another program: their end, their failure, their crawling, their interruption."""

import subprocess
import sys
import time

import pytest

from depthlab.data import fetch
from depthlab.data.fetch import Failed, download, grown, reason


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(fetch, "POLL", 0.02)
    monkeypatch.setattr(fetch, "PATIENCE", 0.3)


@pytest.fixture
def started(monkeypatch):
    """The processes that a download started."""
    processes = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return processes


def run(folder, code, *, total=10**9, patient=True):
    download([sys.executable, "-c", code], folder, title="a test", total=total, patient=patient)


def test_a_download_writes_in_its_folder(tmp_path):
    run(tmp_path, "open('file', 'w').write('x' * 1000)", total=1000)
    assert grown(tmp_path) == 1000


def test_a_failure_gives_its_reason(tmp_path):
    with pytest.raises(Failed, match=r"^ValueError: no such set$"):
        run(tmp_path, "raise ValueError('no such set')")
    with pytest.raises(Failed, match=r"^it ended with 3$"):
        run(tmp_path, "raise SystemExit(3)")


def test_the_reason_of_npm_is_its_code():
    said = "npm error code ENOTFOUND\nnpm error network request failed\nnpm error A complete log: x\n"
    assert reason(said) == "npm error code ENOTFOUND"
    assert reason("") == ""


def test_a_crawling_download_is_left(tmp_path, started):
    begin = time.monotonic()
    with pytest.raises(Failed, match="only 0 kB/s"):
        run(tmp_path, "import time; time.sleep(60)", patient=False)
    assert time.monotonic() - begin < 10
    assert started[0].returncode is not None


def test_patience_and_completeness_keep_a_slow_download(tmp_path):
    slow = "import time; open('file', 'w').write('x' * 1000); time.sleep(0.5)"
    run(tmp_path, slow, patient=True)
    run(tmp_path, slow, patient=False, total=1000)


def test_an_interrupt_ends_the_program(tmp_path, started, monkeypatch):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "grown", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "import time; time.sleep(60)")
    assert started[0].returncode is not None
