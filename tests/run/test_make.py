"""A stage is made where it is stale, of what it says, and is entered once its files are there."""

import contextlib
from dataclasses import replace
from importlib.metadata import version

import pytest

from lumin import exact
from lumin.errors import Busy
from lumin.run import make, manifest
from lumin.run.make import Stage


@pytest.fixture
def out(tmp_path):
    """An outputs folder that has the one file that the stage reads."""
    exact.write(tmp_path / "cohort.csv", "patient\n")
    return tmp_path


@pytest.fixture
def stage(out):
    """A stage whose file is its input in capitals."""

    def shout():
        return {"split.csv": (out / "cohort.csv").read_text().upper()}

    return Stage("split", ("cohort.csv",), {"seed": 0}, shout, ("scipy",))


def entry(out):
    return manifest.read(out)["stages"].get("split")


def test_a_stage_is_made_once(out, stage):
    assert make.make(out, stage)
    assert (out / "split.csv").read_text() == "PATIENT\n"
    assert not make.make(out, stage)


def test_a_stage_is_made_again_when_a_file_that_it_reads_changes(out, stage):
    make.make(out, stage)
    exact.write(out / "cohort.csv", "group\n")
    assert stage.stale(out) == "changed since: cohort.csv"
    assert make.make(out, stage)
    assert (out / "split.csv").read_text() == "GROUP\n"
    assert stage.stale(out) == ""


def test_a_stage_is_made_again_when_a_setting_changes(out, stage):
    make.make(out, stage)
    another = replace(stage, settings={"seed": 1})
    assert another.stale(out) == "changed since: seed"
    assert make.make(out, another)
    assert entry(out)["inputs"]["seed"] == 1


def test_a_stage_that_lacks_what_it_reads_says_so(out, stage):
    make.make(out, stage)
    (out / "cohort.csv").unlink()
    assert stage.stale(out) == "cohort.csv is not there yet"


def test_a_stage_is_not_made_while_another_process_makes_one(out, stage, monkeypatch):
    monkeypatch.setattr(make, "WAIT", 0)
    with manifest.claim_folder(out, "split"), pytest.raises(Busy):
        make.make(out, stage)
    assert make.make(out, stage)


def test_what_another_process_has_made_meanwhile_is_not_made_again(out, stage, monkeypatch):
    claim = manifest.claim_folder

    @contextlib.contextmanager
    def claimed(folder, name, **how):
        with claim(folder, name, **how):
            if name == "split":  # as if the other had just let go
                make.remake(out, replace(stage, make=lambda: {"split.csv": "theirs"}))
            yield

    monkeypatch.setattr(manifest, "claim_folder", claimed)
    assert not make.make(out, stage)
    assert (out / "split.csv").read_text() == "theirs"


def test_what_is_up_to_date_needs_no_lock(out, stage, monkeypatch):
    """So a folder that is only readable, or at work elsewhere, can be asked for it."""
    make.make(out, stage)
    monkeypatch.setattr(manifest, "claim_folder", None)
    assert not make.make(out, stage)


def test_what_changes_while_a_stage_is_made_is_noticed(out, stage):
    """It may have been read before: what is entered is what was there at the beginning."""

    def during():
        files = stage.make()
        exact.write(out / "cohort.csv", "group\n")
        return files

    make.make(out, replace(stage, make=during))
    assert stage.stale(out) == "changed since: cohort.csv"


def test_a_stage_is_entered_after_its_last_file_is_written(out, stage, monkeypatch):
    """Whoever is killed in between makes the stage again."""
    seen = []
    monkeypatch.setattr(
        make, "write", lambda path, data: seen.append(entry(out)) or exact.write(path, data)
    )
    make.make(out, replace(stage, make=lambda: {"split.csv": "a", "seeds.csv": "b"}))
    assert seen == [None, None]
    files = {name: exact.sha256(out / name) for name in ("split.csv", "seeds.csv")}
    assert entry(out)["files"] == files


def test_a_stage_that_fails_is_not_entered_and_leaves_what_was_there(out, stage):
    def fail():
        raise KeyboardInterrupt

    make.make(out, stage)
    before = entry(out)
    exact.write(out / "cohort.csv", "group\n")
    with pytest.raises(KeyboardInterrupt):
        make.make(out, replace(stage, make=fail))
    assert (out / "split.csv").read_text() == "PATIENT\n"
    assert entry(out) == before


def test_a_file_that_its_function_has_written_itself_is_entered_as_it_is(out, stage):
    exact.write(out / "images.npy", "pixels")
    make.make(out, replace(stage, make=lambda: {"images.npy": None}))
    assert entry(out)["files"] == {"images.npy": exact.sha256(out / "images.npy")}
    assert (out / "images.npy").read_text() == "pixels"


def test_where_it_was_made_and_by_which_packages_is_entered(out, stage):
    make.make(out, stage)
    stack = manifest.read(out)["stacks"][entry(out)["stack"]]
    assert stack == {"scipy": version("scipy")}


def test_what_is_not_compared_between_runs_is_entered_apart(out, stage):
    make.make(out, replace(stage, part="unverified"))
    assert entry(out) is None
    assert manifest.read(out)["unverified"].keys() == {"split"}
    assert replace(stage, part="unverified").stale(out) == ""
