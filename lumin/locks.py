"""Locks between processes, on the file systems of clusters as well."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lumin.errors import Busy, UserError


@contextlib.contextmanager
def lock(path: Path, shared: bool = False, patience: float = 0, busy: str = "") -> Iterator[None]:
    """Hold a lock file alone, or beside others that hold it shared; its last holder removes it.

    Where another process holds it, try for `patience` seconds, then raise Busy(`busy`).
    """
    until = time.monotonic() + patience
    while (file := _held(path, shared)) is None:
        if time.monotonic() >= until:
            raise Busy(busy or f"Another process holds {path}. Wait for it to end.")
        time.sleep(0.2)
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # others hold it, too, or the folder is gone
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _held(path: Path, shared: bool) -> IO | None:
    """The lock's open file once it is ours; None where another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Readable and writable: NFS grants a shared lock to readers, a sole one to writers
            file = open(path, "a+")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise UserError(
                f"{path} cannot be locked ({error.strerror}). Name another --out, on a file "
                "system with locks, or have the lock service of this one started."
            ) from error
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # its last holder has removed it in between
