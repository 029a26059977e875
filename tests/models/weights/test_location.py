import hashlib
import threading
from pathlib import Path

import huggingface_hub
import pytest

from stf_jax.errors import UserError
from stf_jax.models.weights import location
from stf_jax.models.weights.location import locate_weights, weights_folder

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STF_JAX_WEIGHTS", str(tmp_path / "placed"))
    return tmp_path


@pytest.fixture
def hub(folder, monkeypatch):
    """A hub with one file for every request; records the requests."""
    requests = []
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)

    def download(repository, file, *, revision=None):
        requests.append((repository, file, revision))
        path = folder / "cache" / Path(file).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return requests


@pytest.fixture(params=["refused", "no answer"])
def offline(folder, monkeypatch, request):
    """Why; nothing is downloaded then, which huggingface_hub would try for half a minute."""
    over = threading.Event()

    def ask(*args, **kwargs):
        if request.param == "refused":
            raise ConnectionRefusedError("no network\nhere")
        over.wait(60)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(location, "_ANSWER_SECONDS", 0.1)
    yield {"refused": "ConnectionRefusedError: no network"}.get(request.param, "no answer within")
    over.set()


def error_of(address) -> str:
    with pytest.raises(UserError) as caught:
        locate_weights(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_itself(folder):
    path = folder / "w.npz"
    assert "no such file" in error_of(path)
    path.write_bytes(CONTENT)
    assert locate_weights(path) == path
    assert locate_weights(str(path)) == path
    assert locate_weights(f"{path}#sha256={DIGEST.upper()}") == path


@pytest.mark.parametrize(
    ("address", "requests"),
    [
        ("hf://timm/resnet50.a1_in1k/model.npz", ("timm/resnet50.a1_in1k", "model.npz", None)),
        ("hf://a/b@v1.0/c/d.pth", ("a/b", "c/d.pth", "v1.0")),
        ("hf://b/d.pth", ("b", "d.pth", None)),
    ],
)
def test_hub_files_are_requested(hub, address, requests):
    assert locate_weights(address).read_bytes() == CONTENT
    assert hub == [requests]


def test_digest_is_checked(hub, folder):
    good = locate_weights(f"hf://a/b/w.npz#sha256={DIGEST}")
    assert good.read_bytes() == CONTENT
    other = "0" * 64
    message = error_of(f"hf://a/b/w.npz#sha256={other}")
    assert DIGEST in message
    assert other in message
    assert str(good) in message
    assert "64 hexadecimal digits" in error_of(f"hf://a/b/w.npz#sha256={DIGEST[:-1]}")
    assert "64 hexadecimal digits" in error_of(f"{good}#sha256={DIGEST[:-1]}g")


@pytest.mark.parametrize("address", ["hf://", "hf://a", "hf://a//b", "hf://a/b/", "hf://a/../b/c"])
def test_malformed_addresses(hub, address):
    assert "expected hf://OWNER/REPOSITORY/FILE" in error_of(address)
    assert not hub


def test_offline_says_what_to_fetch_and_where_to_put_it(offline, folder):
    placed = folder / "placed" / "a" / "b" / "c" / "w.npz"
    message = error_of("hf://a/b/c/w.npz")
    assert f"not to be had ({offline}" in message
    assert "without network, fetch https://huggingface.co/a/b/resolve/main/c/w.npz " in message
    assert message.endswith(f"put it at {placed}")
    # Doing so helps.
    placed.parent.mkdir(parents=True)
    placed.write_bytes(CONTENT)
    assert locate_weights("hf://a/b/c/w.npz") == placed
    assert locate_weights(f"hf://a/b@v2/c/w.npz#sha256={DIGEST}") == placed


def test_offline_a_cached_file_serves(offline, folder, monkeypatch):
    path = folder / "w.npz"
    path.write_bytes(CONTENT)
    wanted = {"a/b": str(path), "a/c": huggingface_hub.file_download._CACHED_NO_EXIST}
    cached = lambda repository, file, revision: wanted[repository]  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert locate_weights("hf://a/b/w.npz") == path
    assert "not to be had" in error_of("hf://a/c/w.npz")


def test_folder_without_the_variable(monkeypatch):
    monkeypatch.delenv("STF_JAX_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert weights_folder() == Path("/somewhere/.cache/stf_jax/weights")


def test_a_home_that_nobody_has():
    assert "~nosuchuser/w.npz: no such home folder; write the path" in error_of("~nosuchuser/w.npz")
