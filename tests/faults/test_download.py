"""A download that is cut in the middle is no data set, and the next one is."""

import http.server
import sys
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from depthlab.data import cifar
from depthlab.data.cifar import CIFAR10, NAMES
from depthlab.data.fetch import download
from depthlab.errors import Mistake

# Both only take what comes; the first checks its length.
PROGRAMS = {
    "urllib": "import sys, urllib.request; urllib.request.urlretrieve(sys.argv[1], 'cifar10.npz')",
    "careless": "import sys, urllib.request as u; open('cifar10.npz', 'wb').write(u.urlopen(sys.argv[1]).read())",
}


@pytest.fixture
def parts():
    noise = np.random.default_rng(0)
    shapes = {"train_x": (20, 32, 32, 3), "train_y": (20,), "test_x": (4, 32, 32, 3), "test_y": (4,)}
    return {name: noise.integers(0, 10, shapes[name], dtype=np.uint8) for name in NAMES}


@pytest.fixture
def server(parts, tmp_path):
    """Serves the set; `.share` of it before it hangs up, with its whole length announced if `.length`."""
    cifar.write(tmp_path / "cifar10.npz", parts)
    content = (tmp_path / "cifar10.npz").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.server.length:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: int(len(content) * self.server.share)])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_download_cut_in_the_middle(server, parts, tmp_path, program, length):
    def source(folder, patient):
        address = f"http://127.0.0.1:{server.server_port}/"
        command = [sys.executable, "-c", PROGRAMS[program], address]
        download(command, folder, title="a test", total=1000, patient=patient)
        return folder

    kind = replace(CIFAR10, sha256=cifar.digests(parts), images=(20, 4), sources={"here": source})
    load = partial(cifar.load, kind, str(tmp_path / "data"), "auto", 32)
    server.length = length
    for server.share in (0.0, 0.3, 0.99):
        with pytest.raises(Mistake, match=r"^data\.source=auto: no CIFAR-10 \(here: ") as mistake:
            load()
        assert "\n" not in str(mistake.value)
        assert [*(tmp_path / "data").iterdir()] == []
    server.share = 1.0
    assert all(np.array_equal(load()[name], parts[name]) for name in NAMES)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar10.npz"]
