"""One run in several processes."""

import threading

from depthlab.machine.processes import together


def test_processes_start_from_any_thread():
    failed = []

    def start():
        try:
            together(abs, 1)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert failed == []
