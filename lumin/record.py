"""Atomic writes, hashes, the manifest, and: is this output still true of its inputs?"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

MANIFEST = "manifest.json"


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
