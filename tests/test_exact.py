"""Locks: alone or shared, gone after use, and one message where the file system has none."""

import errno
import fcntl
import os
import threading
from contextlib import ExitStack

import pytest

from lumin.errors import Busy, UserError
from lumin.locks import lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder/stages.lock"


def test_a_lock_is_gone_after_use(path):
    with lock(path):
        assert path.exists()
    assert not path.exists()


def test_of_two_that_share_a_lock_the_last_removes_it(path):
    first, second = ExitStack(), ExitStack()
    first.enter_context(lock(path, shared=True))
    second.enter_context(lock(path, shared=True))
    first.close()
    assert path.exists()
    with pytest.raises(Busy), lock(path):
        pass
    second.close()
    assert not path.exists()
    with lock(path):
        pass


def test_who_is_refused_leaves_the_lock_where_it_is(path):
    with lock(path):
        with pytest.raises(Busy, match="at work"), lock(path, busy="Another run is at work."):
            pass
        with pytest.raises(Busy, match=f"holds {path}"), lock(path, shared=True):
            pass
        assert path.exists()


def test_a_lock_that_was_removed_in_between_is_taken_anew(path, monkeypatch):
    """Its last holder removes the file after this process has opened it, before it locks it."""
    whole, removed = fcntl.flock, []

    def flock(file, kind):
        if not removed:
            removed.append(file.name)
            path.unlink()
        return whole(file, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(path):
        assert removed
        assert path.exists()
        monkeypatch.undo()
        with pytest.raises(Busy), lock(path):
            pass
    assert not path.exists()


def test_a_lock_that_another_has_made_anew_in_between_is_not_ours(path, monkeypatch):
    """What is locked must be the file that others find under its name."""
    whole, others = fcntl.flock, ExitStack()

    def flock(file, kind):
        monkeypatch.setattr(fcntl, "flock", whole)
        path.unlink()
        others.enter_context(lock(path))
        return whole(file, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(Busy), lock(path):
        pass
    assert path.exists()
    others.close()
    assert not path.exists()


def test_many_at_once_are_one_after_the_other(path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with lock(path, patience=60):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert not path.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF])
def test_a_file_system_without_locks_is_one_message(path, monkeypatch, code):
    def flock(file, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=f"{path} cannot be locked.*--out") as error, lock(path):
        pass
    assert os.strerror(code) in str(error.value)
    assert not isinstance(error.value, Busy)
