"""The manifest of an outputs folder, and: is an output still true of what it was made from?

manifest.json:

    settings   what the whole folder was made with (seed, cohort, size, precision, ...)
    stacks     short name -> where something was computed (chip, driver, package versions)
    stages     stage name -> inputs (hashes and settings), stack, files (path -> sha256)
    unverified the same, for files that are listed but differ between equal runs (times, paths)

SHA256SUMS has the same hashes for `sha256sum -c`. What is in flight, such as locks and
checkpoints, lies in the hidden folder .lumin, which is gone when a run is done.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from lumin.errors import UserError
from lumin.exact import atomic, digest, sha256, sweep, write
from lumin.locks import lock

MANIFEST, SUMS, IN_FLIGHT = "manifest.json", "SHA256SUMS", ".lumin"
ARCHIVE = "archive.zip"  # which archive.py makes of the others
PARTS = ("settings", "stacks", "stages", "unverified")


def source() -> str:
    """The source's commit, and whether it was changed since; "" where it is no git checkout."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        head, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.strip() + (", changed since" if changed else "")


@contextlib.contextmanager
def claim_folder(
    out: Path, name: str = "stages", shared: bool = False, patience: float = 1
) -> Iterator[None]:
    """Hold a part of the outputs folder: alone, or beside others that hold it shared.

    A second of patience, since another process may hold a lock for an instant to remove it.
    """
    busy = f"Another run is at work in {out}. Wait for it, or name another --out."
    try:
        with lock(out / IN_FLIGHT / f"{name}.lock", shared, patience, busy):
            yield
    finally:
        for path in (out / IN_FLIGHT).glob("*.lock"):  # a killed process left it, or one holds it
            with contextlib.suppress(UserError), lock(path):
                pass
        with contextlib.suppress(OSError):  # not empty, or gone
            (out / IN_FLIGHT).rmdir()


# ---- reading and writing -------------------------------------------------------------------------


def read(out: Path) -> dict:
    """Outputs folder -> its manifest; an empty one where there is none."""
    path = out / MANIFEST
    if not path.exists():
        return {part: {} for part in PARTS}
    try:
        manifest = json.loads(path.read_text())
        if not _whole(manifest):
            raise ValueError("not what a run writes")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Use --overwrite to begin again, or get it anew."
        ) from error
    return manifest


def _whole(manifest: object) -> bool:
    """Has a manifest its four parts, and each stage what a stage has?"""
    if not isinstance(manifest, dict):
        return False
    if not all(isinstance(manifest.get(part), dict) for part in PARTS):
        return False
    return all(isinstance(stack, dict) for stack in manifest["stacks"].values()) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("stack"), str)
        and isinstance(entry.get("inputs"), dict)
        and isinstance(entry.get("files"), dict)
        for entry in entries(manifest)
    )


def entries(manifest: Mapping) -> list[dict]:
    """All stages that a manifest lists, compared between runs or not."""
    return [*manifest["stages"].values(), *manifest["unverified"].values()]


@contextlib.contextmanager
def _edit(out: Path) -> Iterator[dict]:
    """Change the manifest, and with it SHA256SUMS, while no other process does."""
    with claim_folder(out, "manifest", patience=600):
        for name in (MANIFEST, SUMS):
            sweep(out / name)
        manifest = read(out)
        yield manifest
        files: dict[str, str] = {}
        for entry in entries(manifest):
            files |= entry["files"]
        # The manifest last: a stage counts once it is in there, and its hashes are there as well
        write(out / SUMS, "".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())))
        write(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def commit(
    out: Path,
    stage: str,
    files: Iterable[str],
    inputs: Mapping,
    stack: Mapping,
    part: str = "stages",
) -> None:
    """Enter a finished stage's files (relative to `out`), what they were made from, and where."""
    hashes = {name: sha256(out / name) for name in files}
    entry = {"inputs": inputs, "stack": digest(stack)[:12], "files": hashes}
    with _edit(out) as manifest:
        manifest["stacks"][entry["stack"]] = stack
        manifest[part][stage] = entry


def adopt(out: Path, source: Path, stage: str, part: str = "stages") -> None:
    """Enter a stage of another outputs folder as it is recorded there, its files as hard links.

    Links are safe since every writer replaces a file (`atomic`) and none writes into one.
    """
    theirs = read(source)
    entry = theirs[part][stage]
    for name in entry["files"]:
        sweep(out / name)
        with atomic(out / name) as file:
            file.unlink()  # os.link does not replace
            try:
                os.link(source / name, file)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source / name, file)
    with _edit(out) as manifest:
        manifest["stacks"][entry["stack"]] = theirs["stacks"][entry["stack"]]
        manifest[part][stage] = entry


# ---- what is still true --------------------------------------------------------------------------


def stale(out: Path, stage: str, inputs: Mapping, part: str = "stages") -> str:
    """Why a stage must be made again, in words; "" if outputs and inputs all match."""
    entry = read(out)[part].get(stage)
    if entry is None:
        return "not made yet"
    recorded = entry["inputs"]
    changed = [k for k in recorded.keys() | inputs.keys() if recorded.get(k) != inputs.get(k)]
    if changed:
        return f"changed since: {', '.join(sorted(changed))}"
    for name, sha in entry["files"].items():
        if what := altered(out, name, sha):
            return f"{name} {what}"
    return ""


def altered(out: Path, name: str, sha: str) -> str:
    """What is wrong with a file that should have this SHA-256, in words; "" if nothing."""
    if not (out / name).is_file():
        return "is missing"
    return "" if sha256(out / name) == sha else "was altered"


def check(
    out: Path,
    settings: Mapping,
    advice: str = "Use another --out, or --overwrite to replace it.",
) -> None:
    """Refuse a folder that was begun with other settings: one folder holds one study."""
    old = read(out)["settings"]
    changed = [f"{k} {old[k]}, not {new}" for k, new in settings.items() if old.get(k, new) != new]
    if changed:
        raise UserError(f"{out} was made with {'; '.join(changed)}. {advice}")


def claim(
    out: Path, settings: Mapping, overwrite: bool = False, keep: Collection[str] = ()
) -> None:
    """Enter the folder's settings; with `overwrite` first remove all that it lists but `keep`."""
    if overwrite:
        clear(out, keep)
    check(out, settings)
    with _edit(out) as manifest:
        manifest["settings"] |= settings


def clear(out: Path, keep: Collection[str] = ()) -> None:
    """Remove what the manifest lists, but for `keep`, and the manifest; nothing outside `out`."""
    with contextlib.suppress(UserError):  # a damaged manifest lists nothing
        manifest = read(out)
        for entry in entries(manifest):
            for name in entry["files"]:
                path = out / name
                inside = path.resolve().is_relative_to(out.resolve())
                if name not in keep and path.is_file() and inside:
                    path.unlink()
    (out / MANIFEST).unlink(missing_ok=True)
