"""A run as one file: the same bytes wherever, nothing of the machine, no trick when it is read."""

import os
import platform
import pwd
import re
import shutil
import subprocess
import tempfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest
from studies import pretend

from lumin import exact
from lumin.errors import DATA, DIFFERENCE, UserError
from lumin.run import archive, manifest, stages, verify
from lumin.run.make import note
from lumin.run.study import Study

TEXT = (".csv", ".json", ".jsonl", ".md", ".yml", ".txt", ".html", ".svg", "SHA256SUMS")
WEIGHTS = "outputs/weights/mlmc/fold0.safetensors"


@pytest.fixture(scope="module")
def study(prepared) -> Study:
    """An outputs folder of one training and one table."""
    out = prepared.out.with_name("handed-over")
    shutil.copytree(prepared.out, out)
    made = replace(prepared, out=out)
    (one,) = stages.trainings(made, [("mlmc", 0)])
    pretend(one, lambda line: None, lambda: False)
    stages.tabulate(made, "table1")
    note(made.out, one.name, {"seconds": 1.0})
    return made


@pytest.fixture(scope="module")
def packed(study) -> Path:
    return archive.pack(study.out)[0]


def names(path: Path) -> set[str]:
    with ZipFile(path) as file:
        return set(file.namelist())


# ---- written -------------------------------------------------------------------------------------


def test_it_holds_the_outputs_and_the_source_and_says_what_each_table_is_to_show(study, packed):
    listed = {"manifest.json"}
    for entry in manifest.entries(manifest.read(study.out)):
        listed |= entry["files"].keys()
    packed_outputs = {name for name in names(packed) if name.startswith("outputs/")}
    assert packed_outputs == {f"outputs/{name}" for name in listed - {"sources.csv"}}
    about = {"codecheck.yml", "SHA256SUMS", "LICENSE", "CITATION.cff", "CMMD-LICENCE.txt"}
    assert names(packed) >= about | {"repro.py", "lumin/reproduce.py", "README.md"}
    with ZipFile(packed) as file:
        assert "CC BY 4.0" in file.read("CMMD-LICENCE.txt").decode()


def test_packed_twice_and_elsewhere_it_has_the_same_bytes(study, packed, tmp_path):
    """Other times, another folder, another order of the files on disk."""
    out = tmp_path / study.out.name
    for path in sorted(study.out.rglob("*"), reverse=True):
        if path.is_file():
            target = out / path.relative_to(study.out)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
    assert exact.sha256(archive.pack(out)[0]) == exact.sha256(packed)
    with ZipFile(packed) as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in file.infolist()} == {ZIP_STORED}


def test_nothing_of_the_machine_is_in_it(study, packed):
    """No path, no name of a user or a host, and no time of a file."""
    words = [str(study.out.parent), str(study.data), str(Path.home()), tempfile.gettempdir()]
    people = (platform.node(), pwd.getpwuid(os.getuid()).pw_name)
    words += [rf"\b{re.escape(name)}\b" for name in people if name]
    private = re.compile("|".join(words))
    looked_at = 0
    with ZipFile(packed) as file:
        for name in file.namelist():
            made_here = name.startswith("outputs/") or name in ("codecheck.yml", "SHA256SUMS")
            if made_here and name.endswith(TEXT):
                assert not private.search(file.read(name).decode()), name
                looked_at += 1
    assert looked_at >= 12


@pytest.mark.parametrize(
    ("without", "gone"),
    [
        (["weights"], {WEIGHTS}),
        (["images"], {"outputs/images.npy", "outputs/images/1.2.3.1.jpg"}),
        (["weights", "images"], {WEIGHTS, "outputs/images.npy", "outputs/images/1.2.3.1.jpg"}),
    ],
)
def test_weights_and_images_can_be_left_out(study, packed, tmp_path, without, gone):
    assert names(packed) >= gone
    out = shutil.copytree(study.out, tmp_path / "out")
    path, _ = archive.pack(out, without)
    assert not names(path) & gone
    with archive.opened(path) as folder:
        found = verify.hashes(folder)
        assert not [finding for finding in found if finding.ok is False]
        assert any("not here, so not checked" in finding.what for finding in found)


def test_sums_are_those_of_every_file(packed, tmp_path):
    with ZipFile(packed) as file:
        file.extractall(tmp_path)
    words = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert {line[66:] for line in lines} == names(packed) - {"SHA256SUMS"}


def test_a_file_that_is_not_as_recorded_is_not_handed_over(study, tmp_path):
    out = shutil.copytree(study.out, tmp_path / "out")
    (out / "archive.zip").unlink(missing_ok=True)
    (out / "cohort.csv").write_text("image\n")
    with pytest.raises(UserError, match=r"cohort\.csv.*verify --out") as caught:
        archive.pack(out)
    assert caught.value.exit_code == DIFFERENCE
    assert not (out / "archive.zip").exists()


def test_the_source_is_that_of_the_runs_commit(study):
    """As it was committed, whatever lies in the working tree."""
    git = ["git", "-C", str(archive.ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("not a git checkout")
    commit = head.stdout.strip()
    assert archive.recorded_commit(study.out).startswith(commit)
    found, contents = archive.source(commit)
    shown = subprocess.run([*git, "show", f"{commit}:repro.py"], capture_output=True)
    assert (found, contents["repro.py"]) == (commit, shown.stdout)
    assert archive.source(f"{commit}, changed since")[0] == f"{commit}, changed since"


def test_a_file_that_was_changed_since_is_handed_over_as_it_was_committed(tmp_path, monkeypatch):
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "repro.py").write_text("committed")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    (tmp_path / "repro.py").write_text("changed")
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    assert archive.source(head.stdout.strip())[1]["repro.py"] == b"committed"


def test_without_git_the_source_is_what_lies_there(monkeypatch):
    monkeypatch.setattr(archive.shutil, "which", lambda name: None)
    commit, contents = archive.source("0" * 40)
    assert commit == ""
    assert contents.keys() >= {"repro.py", "lumin/reproduce.py", "requirements-verify.txt"}
    assert contents.keys() >= {"LICENSE", "CITATION.cff", "lumin/cmmd/LICENCE.txt"}
    assert "lumin/figures/report.html.jinja" in contents
    assert not [name for name in contents if "__pycache__" in name]


def test_the_manifest_of_codecheck_names_files_that_are_there(packed):
    yaml = pytest.importorskip("yaml")
    with ZipFile(packed) as file:
        text = file.read("codecheck.yml").decode()
    assert text.startswith("---\n")
    found = yaml.safe_load(text)
    assert [row["file"] for row in found["manifest"]] == ["outputs/tables/table1.md"]
    assert {row["file"] for row in found["manifest"]} <= names(packed)
    assert "no patient is both in the test set and in a fold" in found["manifest"][0]["comment"]
    assert found["paper"]["reference"] == "https://arxiv.org/abs/2301.09282"
    everything = [f"tables/{name}.md" for name in ("table2a", "table2b", "sheet")]
    rows = yaml.safe_load(archive.codecheck(everything))["manifest"]
    assert [row["file"] for row in rows] == [f"outputs/{name}" for name in everything]
    assert "Transfer learning is above Baseline" in rows[1]["comment"]


# ---- read ----------------------------------------------------------------------------------------


def test_it_is_read_in_a_folder_that_is_gone_afterwards(study, packed):
    with archive.opened(packed) as folder:
        assert folder.is_relative_to(tempfile.gettempdir())
        for name in ("split.csv", "images.npy", "tables/table1.md"):
            assert (folder / name).read_bytes() == (study.out / name).read_bytes()
        assert not (folder.parent / "repro.py").exists()  # no code of the sender is unpacked
    assert not folder.parent.exists()


def test_an_outputs_folder_is_read_where_it_lies(study):
    with archive.opened(study.out) as folder:
        assert folder == study.out
    assert folder.exists()


def hostile(path: Path, kind: str) -> None:
    """An archive with one trick."""
    with ZipFile(path, "w") as file:
        file.writestr("outputs/manifest.json", "{}")
        if kind == "link":
            entry = ZipInfo("outputs/tables")
            entry.create_system, entry.external_attr = 3, 0o120777 << 16
            file.writestr(entry, "/etc")
        elif kind == "twice":
            with pytest.warns(UserWarning, match="Duplicate"):
                file.writestr("outputs/manifest.json", "{ }")
        elif kind == "bomb":
            file.writestr("outputs/zeros.csv", bytes(10**7), ZIP_DEFLATED)
        elif kind == "overlap":
            file.writestr("outputs/a.csv", bytes(10**5))
            for number in range(50):  # many names of the same bytes
                file.filelist.append(copy_of(file.filelist[-1], f"outputs/b{number}.csv"))
        else:
            file.writestr(kind, "x")


def copy_of(entry: ZipInfo, name: str) -> ZipInfo:
    """Another entry of the same bytes."""
    other = ZipInfo(name)
    for field in ("header_offset", "file_size", "compress_size", "CRC", "external_attr"):
        setattr(other, field, getattr(entry, field))
    return other


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("outputs/../../escaped.csv", "no plain file below outputs"),
        ("outputs/../escaped.csv", "no plain file below outputs"),
        ("outputs//etc/passwd", "no plain file below outputs"),
        ("outputs/a\\..\\..\\b", "no plain file below outputs"),
        ("outputs/c:/b", "no plain file below outputs"),
        ("outputs/.hidden", "no plain file below outputs"),
        ("link", "no plain file below outputs"),
        ("bomb", "was packed anew"),
        ("twice", "lie in each other"),
        ("overlap", "lie in each other"),
    ],
)
def test_a_trick_is_refused_before_anything_is_written(tmp_path, monkeypatch, kind, why):
    path, temporary = tmp_path / "trick.zip", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    hostile(path, kind)
    written = []
    monkeypatch.setattr(ZipFile, "extract", lambda *given: written.append(given))
    with pytest.raises(UserError, match=why) as caught, archive.opened(path):
        pass
    assert caught.value.exit_code == DATA
    assert not written
    assert sorted(tmp_path.iterdir()) == [temporary, path]
    assert not list(temporary.iterdir())


def test_names_that_lead_elsewhere_are_not_unpacked(tmp_path):
    """What does not lie below outputs/ is the source, which nobody reads."""
    path = tmp_path / "a.zip"
    with ZipFile(path, "w") as file:
        for name in ("/etc/cron.d/x", "../x", "repro.py", "outputs/manifest.json"):
            file.writestr(name, "x")
    with archive.opened(path) as folder:
        assert [p.name for p in folder.parent.rglob("*")] == ["outputs", "manifest.json"]


@pytest.mark.parametrize("damage", ["text", "cut", "flipped", "empty"])
def test_a_damaged_archive_is_one_message(packed, tmp_path, damage):
    path, data = tmp_path / "a.zip", bytearray(packed.read_bytes())
    if damage == "text":
        data = b"no archive"
    elif damage == "cut":
        data = data[:-100]
    elif damage == "flipped":
        with ZipFile(packed) as file:
            data[file.getinfo("outputs/split.csv").header_offset + 60] ^= 1
    path.write_bytes(data)
    if damage == "empty":
        with ZipFile(path, "w") as file:
            file.writestr("readme.txt", "x")
    message = r"a\.zip (is no archive|has no outputs)"
    with pytest.raises(UserError, match=message), archive.opened(path):
        pass


def test_too_small_a_disk_is_seen_before(packed, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: usage(1000))
    with pytest.raises(UserError, match="TMPDIR"), archive.opened(packed):
        pass
