"""The manifest: nothing good is lost, and nothing that changed passes for true."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumin import exact
from lumin.errors import UserError
from lumin.run import manifest

ROOT = Path(__file__).parents[2]
STACK = {"torch": "2.11.0"}


def parts(folder: Path) -> list[str]:
    """Temporary files that were left behind."""
    return [path.name for path in folder.rglob("*.part")]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An outputs folder with two stages and an unverified one."""
    for name in ("cohort.csv", "split.csv", "run.json"):
        exact.write(tmp_path / name, f"content of {name}\n")
    manifest.claim(tmp_path, {"seed": 0, "height": 64})
    manifest.commit(tmp_path, "prepare", ["cohort.csv"], {"size": [64, 32]}, STACK)
    manifest.commit(
        tmp_path,
        "split",
        ["split.csv"],
        {"cohort.csv": exact.sha256(tmp_path / "cohort.csv")},
        STACK,
    )
    manifest.commit(tmp_path, "run", ["run.json"], {}, {}, part="unverified")
    return tmp_path


# ---- files ---------------------------------------------------------------------------------------


def test_a_write_is_whole_and_readable_by_others(tmp_path):
    exact.write(tmp_path / "a/b/c.csv", "é\r\n")
    assert (tmp_path / "a/b/c.csv").read_bytes() == b"\xc3\xa9\r\n"
    assert (tmp_path / "a/b/c.csv").stat().st_mode & 0o777 == 0o644
    exact.write(tmp_path / "a/b/c.csv", b"\x00\x01")
    assert (tmp_path / "a/b/c.csv").read_bytes() == b"\x00\x01"
    assert parts(tmp_path) == []


def test_what_a_killed_run_left_of_the_manifest_goes_with_the_next_entry(made):
    (made / ".manifest.json.k1ll3d.part").write_text("{")
    manifest.commit(made, "split", ["split.csv"], {}, STACK)
    assert parts(made) == []


def test_a_failure_leaves_the_old_content(tmp_path):
    path = tmp_path / "weights.safetensors"
    exact.write(path, "old")

    def half():
        with exact.atomic(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert parts(tmp_path) == []


def test_the_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    path, seen = tmp_path / "table.md", []
    exact.write(path, "old")
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(path.read_text()), real(file)))
    exact.write(path, "new")
    assert seen == ["old"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_full_disk_loses_nothing(made, monkeypatch, call):
    before = {path.name: path.read_bytes() for path in made.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        exact.write(made / "cohort.csv", "new")
    with pytest.raises(OSError, match="No space left"):
        manifest.commit(made, "table1", ["cohort.csv"], {}, STACK)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == ""


def test_a_full_disk_while_writing(made, monkeypatch):
    def full(path, data):
        with open(path, "wb") as file:
            file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        exact.write(made / "cohort.csv", "new content")
    assert (made / "cohort.csv").read_text() == "content of cohort.csv\n"
    assert parts(made) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_of_the_system(made):
    made.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            exact.write(made / "cohort.csv", "new")
        assert (made / "cohort.csv").read_text() == "content of cohort.csv\n"
    finally:
        made.chmod(0o755)


def test_hashes_are_those_of_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        exact.sha256(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180
    assert exact.digest({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()
    assert exact.digest({"a": [2], "b": 1}) == exact.digest({"b": 1, "a": [2]})


@pytest.mark.parametrize(
    ("status", "expected"), [("", "1a2b"), (" M train.py\n", "1a2b, changed since")]
)
def test_the_source_is_its_commit_and_whether_it_was_changed(monkeypatch, status, expected):
    says = {"rev-parse": "1a2b\n", "status": status}
    monkeypatch.setattr(
        subprocess, "run", lambda words, **_: SimpleNamespace(stdout=says[words[3]])
    )
    assert manifest.source() == expected


# ---- one run at a time ---------------------------------------------------------------------------


def hold(out: Path, shared: bool) -> subprocess.Popen:
    """Another process that holds the folder until its input ends."""
    code = (
        "import sys; from pathlib import Path; from lumin.run.manifest import claim_folder\n"
        f"with claim_folder(Path(sys.argv[1]), shared={shared}): print('held', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    other = hold(tmp_path, shared=False)
    try:
        with (
            pytest.raises(UserError, match=rf"Another run is at work in {tmp_path}.*--out"),
            manifest.claim_folder(tmp_path),
        ):
            pass
        with pytest.raises(UserError), manifest.claim_folder(tmp_path, shared=True):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    with manifest.claim_folder(tmp_path):  # a lock ends with its process, however that ended
        pass


@pytest.mark.slow
def test_who_shares_may_share(tmp_path):
    with manifest.claim_folder(tmp_path, shared=True), manifest.claim_folder(tmp_path, shared=True):
        with pytest.raises(UserError), manifest.claim_folder(tmp_path):
            pass
        with manifest.claim_folder(tmp_path, "mlmc.3"):
            pass


@pytest.mark.slow
def test_who_is_patient_waits_for_the_other(tmp_path):
    with manifest.claim_folder(tmp_path), pytest.raises(UserError), manifest.claim_folder(tmp_path):
        pass
    other = ExitStack()
    other.enter_context(manifest.claim_folder(tmp_path))
    threading.Timer(0.1, other.close).start()
    with manifest.claim_folder(tmp_path, patience=60):
        pass


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), manifest.claim_folder(tmp_path):
        raise ZeroDivisionError
    with manifest.claim_folder(tmp_path):
        pass


# ---- is it still true? ---------------------------------------------------------------------------


def test_up_to_date(made):
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == ""
    assert manifest.stale(made, "split", {"cohort.csv": exact.sha256(made / "cohort.csv")}) == ""


@pytest.mark.parametrize(
    ("stage", "inputs", "why"),
    [
        ("table1", {}, "not made yet"),
        ("prepare", {"size": [1326, 512]}, "changed since: size"),
        ("prepare", {}, "changed since: size"),
        ("prepare", {"size": [64, 32], "version": 2}, "changed since: version"),
        ("prepare", {"size": [1, 1], "version": 2}, "changed since: size, version"),
    ],
)
def test_why_a_stage_is_made_again(made, stage, inputs, why):
    assert manifest.stale(made, stage, inputs) == why


def test_an_altered_output_is_made_again(made):
    (made / "cohort.csv").write_text("content of cohort.csw\n")
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == "cohort.csv was altered"
    (made / "cohort.csv").unlink()
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == "cohort.csv is missing"
    (made / "cohort.csv").mkdir()
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == "cohort.csv is missing"


def test_an_output_on_another_disk_behind_a_link_is_not_made_again(made, tmp_path):
    (made / "cohort.csv").rename(tmp_path / "elsewhere.csv")
    (made / "cohort.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert manifest.stale(made, "prepare", {"size": [64, 32]}) == ""


def test_a_stage_is_not_recorded_without_its_files(made):
    before = (made / "manifest.json").read_bytes()
    with pytest.raises(FileNotFoundError):
        manifest.commit(made, "table1", ["tables/table1.md"], {}, STACK)
    assert (made / "manifest.json").read_bytes() == before


def test_who_records_waits_for_who_is_recording(made):
    with manifest._edit(made) as found:
        other = threading.Thread(
            target=manifest.commit, args=(made, "split", ["split.csv"], {"seed": 1}, STACK)
        )
        other.start()
        other.join(0.2)
        found["settings"]["seed"] = 1
    other.join()
    assert manifest.read(made)["settings"]["seed"] == 1
    assert manifest.read(made)["stages"]["split"]["inputs"] == {"seed": 1}


def test_the_manifest_is_the_same_in_whatever_order_stages_end(tmp_path):
    for folder, order in (("one", "ab"), ("other", "ba")):
        for stage in order:
            exact.write(tmp_path / folder / f"{stage}.csv", stage)
            manifest.commit(
                tmp_path / folder, stage, [f"{stage}.csv"], {"x": stage}, {"torch": stage}
            )
    assert (tmp_path / "one/manifest.json").read_bytes() == (
        tmp_path / "other/manifest.json"
    ).read_bytes()


def test_two_processes_may_record_at_once(tmp_path):
    (tmp_path / "a.csv").write_text("a")
    code = (
        "import sys; from pathlib import Path; from lumin.run import manifest\nfor i in range(20):"
        " manifest.commit(Path(sys.argv[1]), f'{sys.argv[2]}{i}', ['a.csv'], {}, {})"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen([*command, name], cwd=ROOT) for name in "xy"]
    assert [process.wait() for process in running] == [0, 0]
    assert sorted(manifest.read(tmp_path)["stages"]) == sorted(
        f"{name}{i}" for name in "xy" for i in range(20)
    )


def test_nothing_that_is_in_flight_stays(made):
    assert sorted(path.name for path in made.iterdir()) == [
        "SHA256SUMS",
        "cohort.csv",
        "manifest.json",
        "run.json",
        "split.csv",
    ]


# ---- the manifest --------------------------------------------------------------------------------


def test_sha256sums_is_what_sha256sum_checks(made):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cohort.csv: OK\nrun.json: OK\nsplit.csv: OK\n"
    (made / "split.csv").write_text("altered")
    done = subprocess.run(command, cwd=made, capture_output=True, text=True)
    assert done.returncode == 1
    assert "split.csv: FAILED" in done.stdout


def test_sha256sums_has_the_files_of_the_manifest_and_no_other(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("other")
    manifest.adopt(out, made, "prepare")
    digest = exact.sha256(made / "cohort.csv")
    assert (out / "SHA256SUMS").read_text() == f"{digest}  cohort.csv\n"
    manifest.claim(out, {"seed": 1}, overwrite=True)
    assert (out / "SHA256SUMS").read_text() == ""


def test_one_folder_holds_one_study(made):
    manifest.check(
        made, {"seed": 0, "precision": "bf16"}
    )  # a setting that is not entered yet does not disagree
    with pytest.raises(
        UserError, match=r"was made with seed 0, not 1; height 64, not 1326.*--out.*--overwrite"
    ):
        manifest.check(made, {"seed": 1, "height": 1326})
    with pytest.raises(UserError):
        manifest.claim(made, {"seed": 1})
    assert manifest.read(made)["settings"] == {"seed": 0, "height": 64}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '"stages"',
        "[" * 100_000,
        "\ufeff{}",
        '{"settings": {}, "stacks": {}, "stages": [], "unverified": {}}',
        '{"settings": {}, "stacks": {}, "stages": {"prepare": 1}, "unverified": {}}',
        (
            '{"settings": {}, "stacks": {}, "stages": {"prepare": {"inputs": {}, "stack": "a"}},'
            ' "unverified": {}}'
        ),
        '{"settings": {}, "stacks": {"a": 1}, "stages": {}, "unverified": {}}',
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_manifest_is_one_message(made, text):
    (made / "manifest.json").write_text(text)
    for ask in (
        lambda: manifest.stale(made, "prepare", {}),
        lambda: manifest.check(made, {}),
        lambda: manifest.commit(made, "prepare", ["cohort.csv"], {}, STACK),
    ):
        with pytest.raises(UserError, match=r"manifest.json is damaged .*--overwrite"):
            ask()
    assert (made / "manifest.json").read_text() == text
    manifest.claim(made, {"seed": 1}, overwrite=True)
    assert manifest.read(made)["settings"] == {"seed": 1}
    assert (made / "cohort.csv").exists()  # a damaged manifest lists nothing that may be removed


def test_settings_are_added_to_those_that_are_there(made):
    manifest.claim(made, {"imagenet": "f37072fd"})
    assert manifest.read(made)["settings"] == {"seed": 0, "height": 64, "imagenet": "f37072fd"}


def test_bytes_that_are_no_text(made):
    (made / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is damaged"):
        manifest.read(made)


def test_overwrite_removes_what_the_manifest_lists_and_nothing_else(made):
    (made / "notes.txt").write_text("mine")
    manifest.claim(made, {"seed": 1}, overwrite=True)
    assert sorted(path.name for path in made.iterdir() if not path.name.startswith(".")) == [
        "SHA256SUMS",
        "manifest.json",
        "notes.txt",
    ]
    assert manifest.read(made) == {
        "settings": {"seed": 1},
        "stacks": {},
        "stages": {},
        "unverified": {},
    }


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_overwrite_never_removes_outside_the_folder(tmp_path, kind):
    out, precious = tmp_path / "out", tmp_path / "precious.csv"
    precious.write_text("keep")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious.csv").write_text("keep")
    out.mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    name = {"above": "../precious.csv", "absolute": str(precious), "link": "link/precious.csv"}[
        kind
    ]
    entry = {"inputs": {}, "stack": "", "files": {name: ""}}
    content = {
        "settings": {},
        "stacks": {},
        "stages": {"prepare": entry},
        "unverified": {"run": entry},
    }
    (out / "manifest.json").write_text(json.dumps(content))
    manifest.clear(out)
    assert precious.read_text() == "keep"
    assert (tmp_path / "elsewhere/precious.csv").read_text() == "keep"
    assert not (out / "manifest.json").exists()


def test_overwrite_takes_a_folder_that_is_new(tmp_path):
    manifest.claim(tmp_path / "new", {"seed": 1}, overwrite=True)
    assert manifest.read(tmp_path / "new")["settings"] == {"seed": 1}


def test_overwrite_takes_a_folder_where_a_file_should_be(made):
    """A name in the manifest that is a folder now is not the file that a run wrote."""
    (made / "cohort.csv").unlink()
    (made / "cohort.csv").mkdir()
    (made / "cohort.csv/mine.txt").write_text("keep")
    manifest.clear(made)
    assert (made / "cohort.csv/mine.txt").read_text() == "keep"


# ---- a stage of another folder -------------------------------------------------------------------


def test_an_adopted_stage_is_what_it_was_where_it_comes_from(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("other")
    manifest.adopt(out, made, "prepare")
    manifest.adopt(out, made, "run", "unverified")
    ours, theirs = manifest.read(out), manifest.read(made)
    assert ours["stages"] == {"prepare": theirs["stages"]["prepare"]}
    assert ours["unverified"] == theirs["unverified"]
    assert ours["stacks"] == theirs["stacks"]
    assert (out / "cohort.csv").samefile(made / "cohort.csv")
    assert not manifest.stale(out, "prepare", {"size": [64, 32]})
    exact.write(
        out / "cohort.csv", "mine alone"
    )  # a writer replaces, so the other folder keeps what it had
    assert (made / "cohort.csv").read_text() == "content of cohort.csv\n"


def test_without_links_an_adopted_file_is_a_copy(made, tmp_path_factory, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    out = tmp_path_factory.mktemp("other")
    manifest.adopt(out, made, "prepare")
    assert not (out / "cohort.csv").samefile(made / "cohort.csv")
    assert not manifest.stale(out, "prepare", {"size": [64, 32]})
    assert parts(out) == []


def test_what_was_altered_there_is_not_taken_for_true_here(made, tmp_path_factory):
    exact.write(made / "cohort.csv", "altered")
    out = tmp_path_factory.mktemp("other")
    manifest.adopt(out, made, "prepare")
    assert "altered" in manifest.stale(out, "prepare", {"size": [64, 32]})
