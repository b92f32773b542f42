"""Downloads, against a real S3 server on loopback that loses, cuts, alters, refuses and delays."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from conftest import SHARED
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from lumin import exact, locks
from lumin.cmmd import clinical, download
from lumin.errors import UserError

PATIENTS = {"D1-0001": 2, "D1-0002": 4, "D2-0749": 2}


def quiet(done, total):
    """A progress that nobody watches."""


def download_from(endpoint, folder, progress=quiet):
    """What a data folder lacks of the small CMMD, from a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ENDPOINT", endpoint)
        download.download(folder, download.incomplete(folder), progress)


def uid(patient):
    return f"1.2.826.0.1.{patient[1]}.{int(patient[3:])}"


def image(patient, number, series="", pixels=60_000):
    """The bytes of one mammogram, as DICOM."""
    header = FileMetaDataset()
    header.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=header)
    ds.SOPClassUID = header.MediaStorageSOPClassUID = (
        DigitalMammographyXRayImageStorageForPresentation
    )
    ds.SOPInstanceUID = header.MediaStorageSOPInstanceUID = f"{uid(patient)}.{number}"
    ds.SeriesInstanceUID, ds.PatientID = series or uid(patient), patient
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel = 100, pixels // 100, 8, 1
    ds.PixelData = bytes([number]) * pixels
    ds["PixelData"].VR = "OB"
    file = pydicom.filebase.DicomBytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def objects():
    """Key -> content of every object of a small CMMD."""
    return {
        f"prefix-{p}/object-{i}.dcm": image(p, i) for p, n in PATIENTS.items() for i in range(n)
    }


@pytest.fixture(scope="module")
def moto():
    """A real S3 server on loopback -> (its port, a client)."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    secrets = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    yield port, boto3.client("s3", endpoint_url=f"http://{host}:{port}", **secrets)
    running.stop()


class Between(ThreadingHTTPServer):
    """A proxy before the S3 server that does harm as told, and counts what it was asked for."""

    daemon_threads = True

    def __init__(self, port):
        self.port, self.asked, self.paths = port, Counter(), []
        self.refuse = 0  # so many requests for an object are answered 503
        self.delay = 0.0  # seconds before an object
        self.cut = 0  # so many objects end in the middle
        self.alter = lambda body: body  # of objects
        self.listing = lambda body: body  # of lists
        super().__init__(("127.0.0.1", 0), Forward)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        with contextlib.suppress(ConnectionError):
            self.answer()

    def answer(self):
        server, is_object = self.server, self.path.endswith(".dcm")
        server.paths.append(self.path)
        upstream = http.client.HTTPConnection("127.0.0.1", server.port)
        upstream.request(
            self.command, self.path, headers={k: v for k, v in self.headers.items() if k != "Host"}
        )
        answer = upstream.getresponse()
        status, body, length = answer.status, answer.read(), None
        if self.command == "GET" and is_object:
            server.asked[
                self.path.rpartition("/")[0].rpartition("/")[2] + "/" + Path(self.path).name
            ] += 1
            time.sleep(server.delay)
            body = server.alter(body)
            if server.refuse:
                server.refuse -= 1
                status, body = (
                    503,
                    (
                        b"<Error><Code>SlowDown</Code><Message>Reduce your request"
                        b" rate.</Message></Error>"
                    ),
                )
            elif server.cut:
                server.cut -= 1
                body, length = body[: len(body) // 2], len(body)
        elif self.command == "GET":
            body = server.listing(body)
        self.send_response(status)
        for name, value in answer.getheaders():
            if name.lower() not in (
                "content-length",
                "transfer-encoding",
                "connection",
                "date",
                "server",
            ):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        if length:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(moto, tmp_path, monkeypatch):
    """A small CMMD in the bucket and its manifest -> the proxy before it; `put` and `remove` change
    the bucket.
    """
    port, client = moto
    client.create_bucket(Bucket=download.BUCKET)
    server = Between(port)
    server.put = lambda key, body: client.put_object(
        Bucket=download.BUCKET, Key=key, Body=body, ACL="public-read"
    )
    server.remove = lambda key: client.delete_object(Bucket=download.BUCKET, Key=key)
    everything = objects()
    for key, body in everything.items():
        server.put(key, body)
    rows = ["PatientID,SeriesInstanceUID,prefix,instances,bytes"]
    for patient, count in PATIENTS.items():
        size = sum(
            len(body) for key, body in everything.items() if key.startswith(f"prefix-{patient}/")
        )
        rows.append(f"{patient},{uid(patient)},prefix-{patient},{count},{size}")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(download, "MANIFEST", manifest)
    monkeypatch.setattr(download, "RETRIES", 1)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    for item in client.list_objects_v2(Bucket=download.BUCKET).get("Contents", []):
        server.remove(item["Key"])
    client.delete_bucket(Bucket=download.BUCKET)


def expected():
    """Path in the data folder -> content."""
    found = {}
    for key, body in objects().items():
        patient = key[len("prefix-") :][:7]
        found[f"{patient}/{uid(patient)}/{Path(key).name}"] = body
    return found


def tree(folder):
    """Path -> content of all DICOM-like files, temporary ones included."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".dcm" in p.name
    }


def all_but(*patients):
    return {path: body for path, body in expected().items() if path[:7] not in patients}


# ---- the manifest --------------------------------------------------------------------------------


def test_manifest_is_all_of_cmmd():
    rows = download.read_series()
    assert (
        len(rows)
        == len({s.patient for s in rows})
        == len({s.uid for s in rows})
        == len({s.prefix for s in rows})
        == 1775
    )
    assert sum(s.instances for s in rows) == 5202
    assert round(sum(s.bytes for s in rows) / 1e6, 2) == 22861.93
    for s in rows:  # they become paths and commands
        assert re.fullmatch(r"D[12]-\d{4}", s.patient)
        assert re.fullmatch(r"[0-9.]{10,64}", s.uid)
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", s.prefix)


@pytest.mark.skipif(not SHARED.exists(), reason="the index of the Imaging Data Commons is not here")
def test_manifest_is_the_public_index():
    lines = (SHARED / "cmmd/idc_series.csv").read_text().splitlines()[1:]
    index = [line.split(",") for line in lines]
    assert [
        [s.patient, s.uid, s.prefix, str(s.instances), f"{s.bytes / 1e6:.6f}"]
        for s in download.read_series()
    ] == [
        [patient, series, prefix, count, f"{float(size):.6f}"]
        for patient, series, prefix, _, count, size in index
    ]


def test_what_a_folder_lacks_that_is_not_there_is_all_and_makes_none(tmp_path):
    lacking = download.incomplete(tmp_path / "a/b")
    assert (len(lacking), sum(lacking.values())) == (1775, 22_861_926_932)
    assert download.existing(tmp_path / "a/b") == tmp_path
    assert not (tmp_path / "a").exists()


# ---- downloads that succeed ----------------------------------------------------------------------


def test_whole_download(bucket, tmp_path):
    seen = []
    download_from(bucket.url, tmp_path / "a b'[*]/data", lambda *at: seen.append(at))
    folder = tmp_path / "a b'[*]/data"
    assert tree(folder) == expected()
    total = sum(map(len, expected().values()))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert len(seen) == 8
    assert "10.7937/tcia.eqde-4b16" in (folder / "LICENCE.txt").read_text()
    verdict = json.loads((folder / "VERIFIED.json").read_text())
    assert verdict["bytes"] == total
    assert download.incomplete(folder) == {}
    assert not (folder / ".download").exists()


def test_a_verified_folder_needs_no_network_and_no_reading(bucket, tmp_path, monkeypatch):
    download_from(bucket.url, tmp_path / "data")
    monkeypatch.setattr(download, "flaw", None)
    download_from("http://127.0.0.1:9", tmp_path / "data")


def test_a_copied_folder_is_verified_without_network(bucket, tmp_path):
    for path, body in expected().items():
        exact.write(tmp_path / "data" / path, body)
    download_from("http://127.0.0.1:9", tmp_path / "data")
    assert (tmp_path / "data/VERIFIED.json").exists()


@pytest.mark.parametrize("layout", ["flat", "as the NBIA retriever lays it out"])
def test_a_copy_in_another_layout_is_used_and_only_the_rest_is_fetched(bucket, tmp_path, layout):
    data = tmp_path / "data"
    for number, (path, body) in enumerate(expected().items()):
        patient, series, _ = path.split("/")
        place = f"manifest-1/CMMD/{patient}/07-18-2010-NA-79377/{series[:5]}/1-{number}.dcm"
        exact.write(data / (f"{number:08}.dcm" if layout == "flat" else place), body)
    copied = tree(data)
    assert download.incomplete(data) == {}
    download_from("http://127.0.0.1:9", data)  # nobody is there
    assert (data / "VERIFIED.json").exists()
    (data / "VERIFIED.json").unlink()
    lost = next(path for path in data.rglob("*.dcm") if b"D1-0002" in path.read_bytes())
    lost.unlink()
    assert len(download.incomplete(data)) == 1
    download_from(bucket.url, data)
    fetched = tree(data).keys() - copied.keys()
    assert {path.split("/")[0] for path in fetched} == {"D1-0002"}
    assert len(fetched) == PATIENTS["D1-0002"]


@pytest.mark.slow
def test_a_file_lost_after_verification_is_fetched_again(bucket, tmp_path):
    download_from(bucket.url, tmp_path / "data")
    (tmp_path / "data" / next(iter(expected()))).unlink()
    bucket.asked.clear()
    seen = []
    download_from(bucket.url, tmp_path / "data", lambda *at: seen.append(at))
    assert tree(tmp_path / "data") == expected()
    assert bucket.asked.total() == 1
    assert seen == sorted(seen)
    assert len(set(seen[-1])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("harm", [b"", b"x" * 100, None], ids=["empty", "truncated", "altered"])
def test_a_damaged_file_in_the_folder_is_replaced(bucket, tmp_path, harm):
    download_from(bucket.url, tmp_path / "data")
    (tmp_path / "data/VERIFIED.json").unlink()
    path = tmp_path / "data" / next(iter(expected()))
    path.write_bytes(image("D1-0001", 0, series="1.2.826.0.1.1.2") if harm is None else harm)
    download_from(bucket.url, tmp_path / "data")
    assert tree(tmp_path / "data") == expected()


@pytest.mark.slow
def test_some_503s_and_cuts_are_retried(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 3)
    bucket.refuse, bucket.cut = 2, 2
    download_from(bucket.url, tmp_path / "data")
    assert tree(tmp_path / "data") == expected()
    assert bucket.asked.total() > 8


@pytest.mark.slow
def test_a_users_own_s3_settings_do_not_lead_elsewhere(bucket, tmp_path, monkeypatch):
    settings = {
        "S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_PROFILE": "none",
        "AWS_REGION": "eu-north-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    download_from(bucket.url, tmp_path / "data")
    assert tree(tmp_path / "data") == expected()
    # The bucket itself is asked for once, to see whether there is a network, and never for its
    # region.
    assert sum(path.strip("/") == download.BUCKET for path in bucket.paths) == 1


KILLED = """
import signal, sys
from pathlib import Path
from lumin.cmmd import download
# a background job begins with SIGINT ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
download.MANIFEST, download.WORKERS = Path(sys.argv[1]), 2
download.ENDPOINT = sys.argv[3]
folder = Path(sys.argv[2])
lacking = download.incomplete(folder)
download.download(folder, lacking, lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(bucket, tmp_path, how):
    bucket.delay = 1.0
    folder, root = tmp_path / "data", Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(download.MANIFEST), str(folder), bucket.url]
    run = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    run.stdout.readline()
    run.send_signal(how)
    run.wait()
    run.stdout.close()
    kept = {path: body for path, body in tree(folder).items() if not path.startswith(".download")}
    assert 0 < len(kept) < 8
    assert kept.items() <= expected().items()
    assert not (folder / "VERIFIED.json").exists()
    bucket.delay = 0.0
    bucket.asked.clear()
    download_from(bucket.url, folder)
    assert tree(folder) == expected()
    lacking = {f"prefix-{path[:7]}/{Path(path).name}" for path in expected().keys() - kept.keys()}
    assert lacking <= bucket.asked.keys()
    # What was complete is not asked for again; s5cmd may still have had two under way.
    assert bucket.asked.total() <= len(lacking) + 2


def test_an_object_without_md5_is_judged_by_size_and_header(tmp_path):
    path, s = tmp_path / "object.dcm", download.Series("D1-0001", uid("D1-0001"), "prefix", 2, 0)
    path.write_bytes(body := image("D1-0001", 0))
    listed = download.Listed(s, "key", "path", len(body), "0123456789abcdef0123456789abcdef-2")
    assert download.flaw(path, s, listed) == ""
    assert download.flaw(path, s, listed._replace(bytes=len(body) + 2)).startswith("truncated: ")
    assert download.flaw(path, s, listed._replace(etag=listed.etag[:32])).startswith("altered: MD5")


# ---- downloads that fail -------------------------------------------------------------------------


def message_of(error):
    return "\n".join([str(error), *error.details])


def failing(bucket, folder):
    with pytest.raises(UserError) as caught:
        download_from(bucket.url, folder)
    message = message_of(caught.value)
    assert "python repro.py download" in message
    assert not (folder / "VERIFIED.json").exists()
    assert not (folder / ".download").exists()
    return message


def test_missing_object(bucket, tmp_path):
    bucket.remove("prefix-D1-0002/object-3.dcm")
    message = failing(bucket, tmp_path / "data")
    assert "1 series" in message
    assert f"D1-0002, series {uid('D1-0002')}: 3 files" in message
    assert tree(tmp_path / "data") == all_but("D1-0002")


@pytest.mark.slow
def test_missing_series(bucket, tmp_path):
    for i in range(2):
        bucket.remove(f"prefix-D2-0749/object-{i}.dcm")
    assert re.search("D2-0749, .*: 0 files", failing(bucket, tmp_path / "data"))
    assert tree(tmp_path / "data") == all_but("D2-0749")


def test_truncated_object(bucket, tmp_path):
    bucket.put("prefix-D1-0001/object-1.dcm", image("D1-0001", 1)[:5000])
    assert re.search(r"D1-0001, .*: 2 files of .* bytes, not 2", failing(bucket, tmp_path / "data"))
    assert tree(tmp_path / "data") == all_but("D1-0001")


@pytest.mark.slow
def test_truncated_on_the_way(bucket, tmp_path):
    bucket.cut = 1000
    message = failing(bucket, tmp_path / "data")
    assert "3 series" in message
    assert "unexpected EOF" in message
    assert tree(tmp_path / "data") == {}
    bucket.cut = 0
    download_from(bucket.url, tmp_path / "data")
    assert tree(tmp_path / "data") == expected()


@pytest.mark.parametrize(
    "body",
    [image("D1-0001", 0, series="1.2.826.0.1.1.2"), image("D1-0002", 0, series="1.2.826.0.1.1.1")],
    ids=["series", "patient"],
)
def test_altered_object(bucket, tmp_path, body):
    bucket.put("prefix-D1-0001/object-0.dcm", body)
    assert re.search(
        r"D1-0001, .*object-0.dcm altered: by its tags of patient 'D1-000\d', series '1",
        failing(bucket, tmp_path / "data"),
    )
    left = tree(tmp_path / "data")
    assert left.keys() == expected().keys() - {f"D1-0001/{uid('D1-0001')}/object-0.dcm"}
    assert left.items() <= expected().items()


def test_altered_object_that_is_no_dicom(bucket, tmp_path):
    bucket.put("prefix-D1-0001/object-0.dcm", b"x" * len(image("D1-0001", 0)))
    assert re.search(
        r"D1-0001, .*altered: by its tags of patient ''", failing(bucket, tmp_path / "data")
    )


def test_pixels_altered_on_the_way(bucket, tmp_path):
    bucket.alter = lambda body: body[:-1] + b"\xff"
    assert re.search(
        r"D1-0001, .*altered: MD5 [0-9a-f]{32}, where", failing(bucket, tmp_path / "data")
    )
    assert tree(tmp_path / "data") == {}


@pytest.mark.slow
def test_503_without_end(bucket, tmp_path):
    bucket.refuse = 1000
    message = failing(bucket, tmp_path / "data")
    assert "3 series" in message
    assert "status code: 503" in message
    assert tree(tmp_path / "data") == {}


@pytest.mark.slow
def test_too_slow(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALLED", 0.5)
    bucket.delay = 10
    before = time.monotonic()
    assert "too slow" in failing(bucket, tmp_path / "data")
    assert time.monotonic() - before < 3
    assert tree(tmp_path / "data") == {}


EVIL = [
    "../../evil.dcm",
    "../evil.dcm",
    "/evil.dcm",
    "x/../../evil.dcm",
    "..",
    "-evil.dcm",
    "evil .dcm",
    "evil.dcm;evil.dcm",
]


def test_a_key_cannot_leave_the_folder(bucket, tmp_path):
    """Each of the eight files under another bad name: nothing is asked for, nothing is written."""
    names = dict(zip(objects(), EVIL, strict=True))

    def listing(body):
        for key, name in names.items():
            body = body.replace(key.encode(), f"{Path(key).parent}/{name}".encode())
        return body

    bucket.listing = listing
    message = failing(bucket, tmp_path / "x/data")
    assert "3 series" in message
    assert message.count("no name of a file") == 3
    assert not any("evil" in path or ".." in path for path in bucket.paths)
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_one_bad_key_costs_one_series(bucket, tmp_path):
    bucket.listing = lambda body: body.replace(
        b"prefix-D1-0001/object-0.dcm", b"prefix-D1-0001/../../evil.dcm"
    )
    assert re.search(
        r"D1-0001, .*'../../evil.dcm', which is no name", failing(bucket, tmp_path / "x/data")
    )
    assert tree(tmp_path) == {f"x/data/{path}": body for path, body in all_but("D1-0001").items()}


def test_no_network(bucket, tmp_path):
    with socket.socket() as deaf:  # bound, so that nobody else gets the port, and not listening
        deaf.bind(("127.0.0.1", 0))
        bucket.url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        before = time.monotonic()
        assert "no connection (" in failing(bucket, tmp_path / "data")
        assert time.monotonic() - before < 5


def test_no_answer(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "REACH", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bucket.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        assert "no connection (" in failing(bucket, tmp_path / "data")
        assert time.monotonic() - before < 5
    assert download.REACH * len(clinical.URLS) < 10


def test_a_name_that_is_looked_up_for_ever(tmp_path, monkeypatch):
    done = threading.Event()

    def look_up(*_, **__):
        done.wait(5)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(download, "REACH", 0.2)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12)
    )  # or that is told
    before = time.monotonic()
    with pytest.raises(UserError, match=r"no connection \(no answer in 0.2 s\)"):
        download_from("http://idc.invalid", tmp_path / "data")
    assert time.monotonic() - before < 3
    done.set()


def test_a_full_disk_is_told_before_anything_is_fetched(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"0\.00 GB are to come, 0\.00 GB are free"):
        download_from(bucket.url, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_strange_file_in_a_series_is_named_and_left(bucket, tmp_path):
    strange = tmp_path / f"data/D1-0001/{uid('D1-0001')}/mine.dcm"
    exact.write(strange, b"mine")
    assert f"3 files of 120,924 bytes, not 2 of 120,920, in {strange.parent}" in failing(
        bucket, tmp_path / "data"
    )
    assert strange.read_bytes() == b"mine"


def test_two_downloads_into_one_folder(bucket, tmp_path):
    with (
        locks.lock(tmp_path / "data/.download.lock"),
        pytest.raises(UserError, match="Another download is at work"),
    ):
        download_from(bucket.url, tmp_path / "data")


def test_a_folder_that_cannot_be(bucket, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"stopped: .*file"):
        download_from(bucket.url, tmp_path / "file/data")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("kill -9 $$", "s5cmd ended with code -9"),
        ("echo panic: out of memory", "s5cmd stopped: panic: out of memory"),
        ('echo \'{"error": "no room"}\'; exit 1', "s5cmd stopped: no room"),
    ],
)
def test_s5cmd_itself_fails(bucket, tmp_path, monkeypatch, script, says):
    program = tmp_path / "bin/s5cmd"
    exact.write(program, f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(download.s5cmd, "__file__", str(tmp_path / "__init__.py"))
    assert says in failing(bucket, tmp_path / "data")


@pytest.mark.slow
def test_a_full_disk_on_the_way(bucket, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        download_from(bucket.url, tmp_path / "data")
    assert tree(tmp_path / "data") == {}
