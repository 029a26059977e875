"""A gallery in an object store: S3, as moto serves it on this machine."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gallery_features import save

from stf_jax.errors import UserError
from stf_jax.gallery.__main__ import main
from stf_jax.gallery.table import open_gallery
from stf_jax.gallery.writer import one_writer, unlock

BUCKET = "people"
WHERE = f"s3://{BUCKET}/night"


@pytest.fixture
def bucket(lancedb, monkeypatch: pytest.MonkeyPatch):
    """An empty bucket, which the environment's variables lead to."""
    boto3 = pytest.importorskip("boto3")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    # moto looks whether an object is there, then writes it: two requests at once would both do.
    one_request, answer = threading.Lock(), DomainDispatcherApplication.__call__

    def alone(self, environ, start_response):
        with one_request:
            return answer(self, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", alone)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    store = boto3.resource(
        "s3",
        endpoint_url=values["AWS_ENDPOINT"],
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_REGION"],
    )
    made = store.create_bucket(Bucket=BUCKET)
    yield made
    made.objects.delete()
    store.meta.client.close()
    server.stop()


def holds(bucket, part: bytes) -> bool:
    """Whether an object of the bucket has these bytes in it."""
    return any(part in item.get()["Body"].read() for item in bucket.objects.all())


def test_a_gallery_lives_in_a_bucket(bucket, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    door, _ = save(tmp_path, "door.npz", 1)
    assert main(["create", WHERE, hall]) == 0
    assert main(["add", WHERE, door, hall]) == 0
    table = open_gallery(WHERE).table
    assert table.count_rows() == 24
    output = str(tmp_path / "found")
    assert main(["search", WHERE, "--query", door, "--output", output, "--top", "3"]) == 0
    first = table.search().where("camera = 1").limit(1).to_list()[0]
    assert holds(bucket, first["thumbnail"])
    assert main(["remove", WHERE, "--camera", "1", "--purge"]) == 0
    assert not holds(bucket, first["thumbnail"])
    capsys.readouterr()
    assert main(["info", WHERE]) == 0
    assert capsys.readouterr().out.startswith(f"{WHERE}: 12 tracklets: 12 of camera 2\n")
    folder = tmp_path / "folder"
    assert main(["create", str(folder), hall]) == 0
    assert main(["create", WHERE, hall]) == 2
    assert "is a gallery already" in capsys.readouterr().err


def test_one_writer_at_a_time(bucket, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    assert main(["create", WHERE, hall]) == 0
    with one_writer(WHERE):
        for command in (["add", WHERE, hall], ["remove", WHERE, "--purge"]):
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"{WHERE}: is being written by process {os.getpid()} on " in said
        assert main(["info", WHERE]) == 0  # reading needs no lock
    assert main(["add", WHERE, hall]) == 0
    with pytest.raises(ZeroDivisionError), one_writer(WHERE):
        raise ZeroDivisionError
    assert main(["add", WHERE, hall]) == 0


def test_what_a_killed_writer_leaves_is_released_on_request(bucket, tmp_path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    assert main(["create", WHERE, hall]) == 0
    code = (
        "import os; from stf_jax.gallery.writer import one_writer\n"
        f"with one_writer({WHERE!r}): os._exit(9)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code])
    assert killed.wait() == 9
    capsys.readouterr()
    assert main(["add", WHERE, hall]) == 2
    said = capsys.readouterr().err
    assert f"by process {killed.pid} on " in said
    assert f"python -m stf_jax.gallery unlock {WHERE}\n" in said
    assert main(["unlock", WHERE]) == 0
    assert f"released the lock of process {killed.pid} on " in capsys.readouterr().out
    assert main(["add", WHERE, hall]) == 0
    assert main(["unlock", WHERE]) == 2
    assert main(["unlock", str(tmp_path)]) == 2


def test_of_many_writers_at_once_one_adds(bucket, tmp_path: Path) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    door, _ = save(tmp_path, "door.npz", 1)
    assert main(["create", WHERE, hall]) == 0
    command = [sys.executable, "-m", "stf_jax.gallery", "add", WHERE, door]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(writer.communicate()[1], writer.returncode) for writer in writers]
    assert {code for _, code in ended} <= {0, 2}
    assert any(code == 0 for _, code in ended)
    assert all("is being written by" in said for said, code in ended if code == 2)
    assert open_gallery(WHERE).table.count_rows() == 24


def test_no_two_writers_hold_a_gallery_at_once(bucket, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    code = (
        "import os, sys, time\n"
        "from stf_jax.errors import UserError\n"
        "from stf_jax.gallery.writer import one_writer\n"
        "held, end = 0, time.monotonic() + 5\n"
        "while time.monotonic() < end or not held:\n"
        "    try:\n"
        f"        with one_writer({WHERE!r}):\n"
        "            os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL))\n"
        "            os.unlink(sys.argv[1])\n"
        "            held += 1\n"
        "    except UserError as refused:\n"
        "        assert 'is being written by' in str(refused), refused\n"
    )
    command = [sys.executable, "-c", code, str(inside)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(writer.communicate()[1], writer.returncode) for writer in writers]
    assert ended == [("", 0)] * 3
    assert list(bucket.objects.all()) == []


def test_the_lock_of_another_is_left_alone(bucket) -> None:
    with one_writer(WHERE):
        unlock(WHERE)
        there = bucket.Object("night/writer.json")
        there.put(Body=b'{"process": 1, "host": "other", "start": "today"}')
    assert unlock(WHERE) == "process 1 on other since today"
    for body in (b"{}", b"[1]"):  # an object that is not ours
        there.put(Body=body)
        with pytest.raises(UserError, match="written by another process"), one_writer(WHERE):
            pass
        assert unlock(WHERE) == "another process"


def test_a_store_that_is_not_reached_is_a_line(bucket) -> None:
    with pytest.raises(UserError, match=r"s3://nobody/x: LanceDB cannot .* with credentials"):
        open_gallery("s3://nobody/x")
    with pytest.raises(UserError, match="no gallery; make one"):
        open_gallery(f"s3://{BUCKET}/other")
    for reach in (unlock, lambda where: one_writer(where).__enter__()):
        with pytest.raises(UserError, match=r"s3://nobody/x: .*(nothing to unlock|credentials)"):
            reach("s3://nobody/x")
