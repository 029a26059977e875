"""hf:// through the real huggingface_hub, against a server on this machine that speaks as the hub.

The hub's address is read when huggingface_hub is imported, hence the subprocesses.
"""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stf_jax.models.weights.files import write_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Locates each argument; prints a JSON list of the path or the error.
LOCATE = """
import json, sys, time
from stf_jax.errors import UserError
from stf_jax.models.weights.location import locate_weights

found = []
for location in sys.argv[1:]:
    begun = time.monotonic()
    try:
        found.append(str(locate_weights(location)))
    except UserError as error:
        found.append(f"error: {error}")
    assert time.monotonic() - begun < 5, location
print(json.dumps(found))
"""


class Hub:
    """A hub of one file on a local port; `requests` has (method, path) of each request."""

    def __init__(self, content: bytes) -> None:
        self.requests: list[tuple[str, str]] = []
        requests = self.requests
        paths = {f"/owner/repo/resolve/{name}/dir/w.npz" for name in ("main", "v1.0", COMMIT)}

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            requests.append((request.command, request.path))
            here = request.path in paths
            request.send_response(200 if here else 404)
            request.send_header("X-Repo-Commit", COMMIT)
            if here:
                request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            else:
                request.send_header("X-Error-Code", "EntryNotFound")
            body = content if here else b""
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(body)

        methods = {"do_GET": answer, "do_HEAD": answer, "log_message": lambda *_: None}
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), methods)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def gets(self) -> int:
        """Files fetched since the last call."""
        count = sum(method == "GET" and "/resolve/" in path for method, path in self.requests)
        self.requests.clear()
        return count


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    write_tensors(tmp_path / "w.npz", {"w": np.arange(1000.0)})
    return (tmp_path / "w.npz").read_bytes()


@pytest.fixture
def hub(weights: bytes) -> Iterator[Hub]:
    hub = Hub(weights)
    yield hub
    hub.close()


def environment(home: Path, address: str, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1"}
    return kept | {"STF_JAX_WEIGHTS": str(home / "placed"), **more}


def locate(env: dict[str, str], *locations: str) -> list[str]:
    command = [sys.executable, "-c", LOCATE, *locations]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_fetched_once_checked_and_reported_when_offline(hub: Hub, weights: bytes, tmp_path) -> None:
    address, home = "hf://owner/repo/dir/w.npz", tmp_path
    good, bad = hashlib.sha256(weights).hexdigest(), "0" * 64

    (first,) = locate(environment(home, hub.address), address)
    assert Path(first).read_bytes() == weights
    assert hub.gets() == 1

    found = locate(
        environment(home, hub.address),
        address,
        f"{address}#sha256={good}",
        f"{address}#sha256={bad}",
        f"hf://owner/repo@v1.0/dir/w.npz#sha256={good}",
        "hf://owner/repo/other.npz",
    )
    assert hub.gets() == 0  # all of it from the cache: v1.0 is the same commit
    assert found[:2] == [first, first]
    assert found[2].startswith(f"error: {first}: found sha256 {good}, expected {bad}")
    assert Path(found[3]).read_bytes() == weights
    assert found[4].startswith("error: hf://owner/repo/other.npz: not to be had (")
    assert "\n" not in found[4]

    hub.close()  # the network is gone
    placed = home / "placed" / "owner" / "repo" / "dir" / "x.pth"
    # Refused; known to be offline; a server that takes the connection and says nothing more.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for env, why in (
            (environment(home, hub.address), "ConnectError: "),
            (environment(home, hub.address, HF_HUB_OFFLINE="1"), "OfflineModeIsEnabled: "),
            (environment(home, mute), ""),
        ):
            there, missing = locate(env, f"{address}#sha256={good}", "hf://owner/repo/dir/x.pth")
            assert there == first
            assert "\n" not in missing
            assert f"not to be had ({why}" in missing
            url = f"{env['HF_ENDPOINT']}/owner/repo/resolve/main/dir/x.pth"
            hint = f"without network, fetch {url} elsewhere and put it at {placed}"
            assert missing.endswith(hint)


def test_the_command_reads_from_the_hub(hub: Hub, weights: bytes, tmp_path) -> None:
    source = f"hf://owner/repo/dir/w.npz#sha256={hashlib.sha256(weights).hexdigest()}"
    command = [sys.executable, "-m", "stf_jax.weights", "inspect", source]
    env = environment(tmp_path, hub.address)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].split() == ["w", "1000", "float64", "18243.7"]
    assert hub.gets() == 1
