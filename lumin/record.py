"""Atomic writes, hashes, the manifest, and: is this output still true of its inputs?

manifest.json, in the outputs folder:

    settings   what the whole folder was made with (seed, cohort, size, precision, ...)
    stacks     short name -> where something was computed (chip, driver, package versions)
    stages     stage name -> inputs (hashes and settings), stack, files (path -> sha256), tensors
    unverified the same, for files that are listed but differ between equal runs (times, paths)
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from safetensors.numpy import load_file

MANIFEST = "manifest.json"


class RecordError(ValueError):
    """The outputs folder cannot be used as asked; the message says why and what to type."""


# ---- files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Path -> a temporary path beside it, renamed onto it on success and removed on failure.

    A reader sees the old file or the whole new one, never a part: the data reach the disk
    (fsync) before the name does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fchmod(file.fileno(), 0o644)  # mkstemp makes files that only their owner can read
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what a killed process left of writing a file; nobody else may be writing it."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink()


def write(path: Path, data: bytes | str) -> None:
    """Write a whole file atomically. Text is UTF-8 with the newlines it has."""
    with atomic(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(path: Path) -> str:
    """File -> hex SHA-256 of its content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Any JSON value -> hex SHA-256 of its canonical form (sorted keys, no blanks)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tensors(path: Path) -> dict[str, str]:
    """A .safetensors file -> name: SHA-256 of the tensor's little-endian values in C order."""
    return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in sorted(load_file(path).items())}


def source() -> str:
    """The source's commit, and whether it was changed since; "" where it is no git checkout."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + (", changed since" if changed else "")


# ---- one run at a time ---------------------------------------------------------------------------


@contextlib.contextmanager
def lock(out: Path, name: str = ".lock", shared: bool = False, patience: float = 0) -> Iterator[None]:
    """Hold a part of the outputs folder: alone, or beside others that hold it shared.

    Where another holds it, try for `patience` seconds before RecordError.
    """
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with open(out / name, "w") as file:
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise RecordError(
                        f"Another run is at work in {out}. Wait for it, or name another --out."
                    ) from error
                time.sleep(0.2)
        yield


# ---- the manifest --------------------------------------------------------------------------------


def read(out: Path) -> dict:
    """Outputs folder -> its manifest; an empty one where there is none."""
    path = out / MANIFEST
    if not path.exists():
        return {"settings": {}, "stacks": {}, "stages": {}, "unverified": {}}
    try:
        manifest = json.loads(path.read_text())
        if not _whole(manifest):
            raise ValueError("not what a run writes")
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}). Type --overwrite to begin again.") from error
    return manifest


def _whole(manifest: object) -> bool:
    """Has a manifest its four parts, and each stage what a stage has?"""
    parts = ("settings", "stacks", "stages", "unverified")
    if not (isinstance(manifest, dict) and all(isinstance(manifest.get(part), dict) for part in parts)):
        return False
    entries = [*manifest["stages"].values(), *manifest["unverified"].values()]
    return all(isinstance(value, dict) for value in [*manifest["stacks"].values(), *entries]) and all(
        isinstance(entry.get("stack"), str)
        and isinstance(entry.get("inputs"), dict)
        and isinstance(entry.get("files"), dict)
        and isinstance(entry.get("tensors", {}), dict)
        and all(isinstance(names, dict) for names in entry.get("tensors", {}).values())
        for entry in entries
    )


@contextlib.contextmanager
def _edit(out: Path) -> Iterator[dict]:
    """Change the manifest while no other process does."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".manifest.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(out / MANIFEST)
        manifest = read(out)
        yield manifest
        write(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def commit(out: Path, stage: str, files: Iterable[str], inputs: dict, stack: dict, part: str = "stages") -> None:
    """Enter a finished stage's files (relative to `out`), what they were made from, and where."""
    files = sorted(files)
    entry = {"inputs": inputs, "stack": digest(stack)[:12], "files": {name: sha256(out / name) for name in files}}
    weights = {name: tensors(out / name) for name in files if name.endswith(".safetensors")}
    with _edit(out) as manifest:
        manifest["stacks"][entry["stack"]] = stack
        manifest[part][stage] = entry | ({"tensors": weights} if weights else {})


def adopt(out: Path, source: Path, stage: str, part: str = "stages") -> None:
    """Enter a stage of another outputs folder as it is recorded there, its files as hard links where there are such.

    Links are safe since every writer replaces a file (`atomic`) and none writes into one.
    """
    theirs = read(source)
    entry = theirs[part][stage]
    for name in entry["files"]:
        with atomic(out / name) as file:
            file.unlink()  # os.link does not replace
            try:
                os.link(source / name, file)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source / name, file)
    with _edit(out) as manifest:
        manifest["stacks"][entry["stack"]] = theirs["stacks"][entry["stack"]]
        manifest[part][stage] = entry


def stale(out: Path, stage: str, inputs: dict, part: str = "stages") -> str:
    """Why a stage must be made again: its reason in words, or "" if outputs and inputs all match."""
    entry = read(out)[part].get(stage)
    if entry is None:
        return "not made yet"
    changed = sorted(
        key for key in entry["inputs"].keys() | inputs.keys() if entry["inputs"].get(key) != inputs.get(key)
    )
    return f"made from another {', '.join(changed)}" if changed else altered(out, entry["files"])


def altered(out: Path, files: dict[str, str]) -> str:
    """The first of the files that is missing or no longer has its hash, in words; "" if none."""
    for name, expected in files.items():
        if not (out / name).is_file():
            return f"{name} is missing"
        if sha256(out / name) != expected:
            return f"{name} was altered"
    return ""


def check(out: Path, settings: dict) -> None:
    """Refuse a folder that was begun with other settings: one folder holds one study."""
    old = read(out)["settings"]
    changed = [f"{key} {old[key]}, not {value}" for key, value in settings.items() if old.get(key, value) != value]
    if changed:
        raise RecordError(
            f"{out} was made with {'; '.join(changed)}. Type another --out, or --overwrite to replace it."
        )


def claim(out: Path, settings: dict, overwrite: bool = False, keep: Collection[str] = ()) -> None:
    """Enter the folder's settings; with `overwrite` after removing all that the manifest lists but `keep`."""
    if overwrite:
        clear(out, keep)
    check(out, settings)
    with _edit(out) as manifest:
        manifest["settings"] |= settings


def clear(out: Path, keep: Collection[str] = ()) -> None:
    """Remove what the manifest lists, but for `keep`, and the manifest; nothing else, nothing outside `out`."""
    with contextlib.suppress(RecordError):  # a damaged manifest lists nothing
        manifest = read(out)
        for entry in [*manifest["stages"].values(), *manifest["unverified"].values()]:
            for name in entry["files"]:
                path = out / name
                if name not in keep and path.is_file() and path.resolve().is_relative_to(out.resolve()):
                    path.unlink()
    (out / MANIFEST).unlink(missing_ok=True)
