"""Which GPU a process takes, with counts in place of GPUs."""

import subprocess
import sys
from contextlib import ExitStack

import pytest


@pytest.fixture
def taking(tmp_path):
    """`taking(count)` is the GPU that a new process took, which holds it until the end of the test."""
    code = "import sys; from depthlab.machine.gpus import take\n"
    code += "print(*take(int(sys.argv[1])), flush=True); sys.stdin.read()"
    with ExitStack() as stack:

        def take(count, **environment):
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(count)],
                env={"TMPDIR": str(tmp_path)} | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return int(process.stdout.readline()), process

        yield take


def test_each_process_takes_another_gpu_and_what_are_too_many_share_evenly(taking):
    assert [taking(3)[0] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_gpu_of_a_killed_process_is_free_again(taking):
    assert taking(2)[0] == 0
    _, second = taking(2)
    second.kill()
    second.wait()
    assert taking(2)[0] == 1


def test_gpus_are_told_apart_by_their_names_not_by_their_place(taking):
    assert taking(2, CUDA_VISIBLE_DEVICES="2,3")[0] == 0
    assert taking(2, CUDA_VISIBLE_DEVICES="3,2")[0] == 0
    assert taking(4)[0] == 0


def test_a_single_gpu_needs_no_lock(taking, tmp_path):
    assert taking(1)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_process_keeps_its_gpu(tmp_path):
    code = "from depthlab.machine.gpus import take; print(*take(2), *take(2))"
    done = subprocess.run([sys.executable, "-c", code], env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == "0 0\n"


def test_a_run_of_many_processes_takes_many_gpus_none_twice(taking, tmp_path):
    taking(4)
    _, second = taking(4)
    taking(4)
    second.kill()
    second.wait()  # 1 and 3 are free
    code = "from depthlab.machine.gpus import take; print(take(4, 2), take(4, 4), take(4))"
    done = subprocess.run([sys.executable, "-c", code], env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == "[1, 3] [1, 3, 0, 2] [1]\n"
