"""What makes a run exact: seeds, hashes, atomic writes."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def seed(*key: object) -> int:
    """Key -> 63-bit seed: the first 8 bytes of SHA-256 of the comma-joined key, mod 2^63.

    The same on every machine and in any language; never call order, never `hash()`.

    >>> seed(0, "mlmc", 3)
    7652819002329597268
    """
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**63


def sha256(path: Path) -> str:
    """File -> hex SHA-256 of its content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Any JSON value -> hex SHA-256 of its canonical form (sorted keys, no blanks)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Header and rows -> a CSV file; no cell of ours needs quotes, and None is empty."""
    lines = [",".join(header)]
    for row in rows:
        lines.append(",".join("" if cell is None else str(cell) for cell in row))
    return "\n".join(lines) + "\n"


def sweep(path: Path) -> None:
    """Remove what a killed process left of writing a file; nobody else may be writing it."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink()
