"""The command line: what a user may get wrong, and the whole paper once, small."""

import csv
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from conftest import SHARED, dicom, holds_the_paper, sheet
from studies import call, hashes, refused

import repro
from lumin import exact
from lumin.data import store
from lumin.evaluation import tables
from lumin.paper import published, stated
from lumin.paper.silences import ALTERNATIVES
from lumin.run import manifest, pool, stages, verify
from lumin.run import prepare as preparation
from lumin.run.findings import Finding
from lumin.training import network
from lumin.training.tasks import BY_NAME, TASKS

pytestmark = pytest.mark.usefixtures("one_process", "tiny")

ROOT = Path(__file__).parents[1]
IMAGES = [  # stored values that differ from patient to patient, with black around them
    np.pad(np.random.default_rng(i).integers(1, 256, (20, 12), dtype=np.uint8), ((2, 2), (0, 4)))
    for i in range(32)
]


def write_cohort(data):
    """Eight patients of one breast each, whose two views differ."""
    kinds = [
        ("mass", "Benign", ""),
        ("both", "Malignant", "Luminal A"),
        ("calcification", "Malignant", ""),
        ("mass", "Malignant", "triple negative"),
    ]
    rows = [(f"D1-{i:04d}", "LR"[i % 2], 40 + i, *kinds[i % 4]) for i in range(1, 9)]
    sheet(data / "clinical.csv", *rows)
    for number, (row, view) in enumerate((row, view) for row in rows for view in ("CC", "MLO")):
        patient, side = row[:2]
        dicom(
            data / f"CMMD/{patient}/{number}.dcm",
            patient,
            side,
            view,
            f"1.2.3.{number}",
            IMAGES[number],
        )
    return data


@pytest.fixture
def data(tmp_path):
    return write_cohort(tmp_path / "data")


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def columns(path):
    return path.read_text().split("\n", 1)[0]


@pytest.fixture
def good(tmp_path, data):
    """An outputs folder with images, split and Table 1 -> folder and what is in it."""
    out = tmp_path / "out"
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    return out, hashes(out)


# ---- data that are not there or contradict each other --------------------------------------------


@pytest.mark.parametrize("verb", ["prepare", "split", "train", "table1", "table2b"])
def test_without_data_the_message_names_data_and_demo(tmp_path, verb):
    message = refused(3, verb, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "--data" in message
    assert "--demo" in message
    assert not hashes(tmp_path / "out")


def test_all_without_data_and_without_download(tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused(
        3, "all", "--no-download", "--data", tmp_path / "empty", "--out", tmp_path / "out"
    )
    assert "--data" in message
    assert "--demo" in message


def test_outlines_that_cannot_be_read_are_refused_before_anything_is_made(tmp_path):
    lesions = tmp_path / "D1-0001_MLO_R_AnnotationFile.json"
    lesions.write_text("[")
    words = ("fig2", "--demo", "--out", tmp_path / "out", "--lesions")
    assert "is not a zip file" in refused(3, *words, lesions)
    assert "1 files of" in refused(3, *words, tmp_path)
    assert not hashes(tmp_path / "out")


@pytest.mark.parametrize("where", ["empty", "file"])
def test_an_empty_folder_or_a_file_for_data(tmp_path, where):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    message = refused(3, "table1", "--data", tmp_path / where, "--out", tmp_path / "out")
    assert "--data" in message
    assert "--demo" in message


def test_no_sheet(tmp_path, data):
    (data / "clinical.csv").unlink()
    assert "--sheet" in refused(3, "table1", "--data", data, "--out", tmp_path / "out")


def test_a_sheet_that_is_not_there(tmp_path, data):
    message = refused(
        3, "table1", "--data", data, "--sheet", tmp_path / "no.xlsx", "--out", tmp_path / "out"
    )
    assert "no.xlsx" in message


def test_a_sheet_with_a_column_missing(good, data):
    out, before = good
    path = data / "clinical.csv"
    path.write_text(
        "\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()) + "\n"
    )
    assert "subtype" in refused(3, "table1", "--data", data, "--out", out)
    assert hashes(out) == before


def test_every_contradiction_is_named(tmp_path, data):
    next(data.rglob("0.dcm")).unlink()
    dicom(data / "x.dcm", "D9-0001", "L", "CC", "1.2.9")
    message = refused(3, "table1", "--data", data, "--out", tmp_path / "out")
    assert "D1-0001" in message
    assert "D9-0001" in message


@pytest.mark.parametrize(("left", "named"), [(60, "D1-0003 R"), (400, "5.dcm"), (-100, "5.dcm")])
def test_a_truncated_file_is_named_and_what_was_good_stays(good, data, left, named):
    """What lacks even the letters DICM is no DICOM file; its breast is then named."""
    out, before = good
    path = next(data.rglob("5.dcm"))
    path.write_bytes(path.read_bytes()[:left])
    assert named in refused(3, "table1", "--data", data, "--out", out)
    assert hashes(out) == before


def test_to_overwrite_with_a_truncated_file_destroys_nothing(good, data):
    out, before = good
    path = next(data.rglob("5.dcm"))
    path.write_bytes(path.read_bytes()[:-100])
    refused(3, "table1", "--data", data, "--out", out, "--seed", 1, "--overwrite")
    assert hashes(out) == before


def test_files_that_are_no_dicom_are_ignored_and_counted(tmp_path, data):
    (data / "CMMD/readme.txt").write_text("not an image")
    (data / "CMMD/D1-0001/thumb.png").write_bytes(b"\x89PNG" + bytes(500))
    result = call("prepare", "--data", data, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "not DICOM 2" in result.output
    assert "images used 16" in result.output


def test_too_few_patients_to_split(tmp_path, small):
    assert "6 patients" in refused(3, "split", "--data", small, "--out", tmp_path / "out")


def test_a_changed_sheet_outside_the_data_folder_is_noticed(good, data, tmp_path):
    out, _ = good
    other = tmp_path / "other.csv"
    other.write_text((data / "clinical.csv").read_text().replace("Benign", "Malignant"))
    assert call("table1", "--data", data, "--sheet", other, "--out", out).exit_code == 0
    with open(out / "cohort.csv") as file:
        assert {row["malignant"] for row in csv.DictReader(file)} == {"1"}


# ---- wrong usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train --fold 7", "--fold"),
        ("train --fold -1", "--fold"),
        ("train resnet", "luminal-transfer"),
        ("table3", "table3"),
        ("table1 --colour", "--colour"),
        ("table1 --seed -1", "--seed"),
        ("table1 --seed one", "--seed"),
        ("all --epochs 0", "--epochs"),
        ("all --threads 0", "--threads"),
        ("table1 --device gpu", "gpu"),
        ("table1 --precision fp64", "fp64"),
        ("phantom folder --size huge", "--size full"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(2, *words.split())
    assert not hashes(tmp_path)


def test_weights_that_are_not_there(tmp_path, data):
    result = call(
        "table2b", "--data", data, "--out", tmp_path / "out", "--weights", tmp_path / "no.pth"
    )
    assert result.exit_code in (2, 3)
    assert "no.pth" in result.stderr


@pytest.mark.parametrize("name", ["a[b]c", "a[/b]c", "[red]"])
def test_a_name_in_brackets_is_printed_as_it_is(tmp_path, name):
    message = refused(3, "table1", "--data", tmp_path / name, "--out", tmp_path / "out")
    assert name in message


SIXTH = """
import sys
from pathlib import Path
from lumin.paper import published
from lumin.training import tasks
task = tasks.Task("luminal-scratch", published.SUBTYPE, "ce", 1e-5, sampler=True)
tasks.TASKS += (task,)
tasks.BY_NAME[task.name] = task
published.TABLES["table2c"] = published.Table(
    "Table 2c. Luminal classifiers from scratch",
    ("Baseline", "From scratch"),
    (published.Pair(published.SUBTYPE, "luminal-baseline", "luminal-scratch"),),
    (published.PrintedRow("AUC", "auc subtype"),),
)
import repro
from lumin.beyond import audit
from lumin.figures import report
files = audit.stage().make()
assert "luminal-scratch" not in files["tables/audit.md"]
assert report.find_missing(Path(sys.argv[1]))["table table2c"] == "table2c"
assert "training of luminal-scratch, fold 4" in report.find_missing(Path(sys.argv[1]))
sys.argv[1:] = ["--help"]
repro.app()
"""


@pytest.mark.slow
def test_a_sixth_task_has_its_verb_and_breaks_nothing(tmp_path):
    """One row of TASKS and one of TABLES, as CONTRIBUTING.md says; the paper prints neither."""
    words = [sys.executable, "-c", SIXTH, tmp_path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Print Table 2c: Luminal classifiers from scratch" in done.stdout


@pytest.mark.parametrize("verb", [command.name for command in repro.app.registered_commands])
def test_the_help_of_every_verb_says_what_it_needs_and_makes_with_an_example(verb):
    result = call(verb, "--help")
    words = " ".join(result.output.replace("│", " ").split())
    assert "Needs " in words
    assert f"Example: python repro.py {verb}" in words
    assert "Makes " in words or "nothing" in words or verb in ("show", "download", "phantom")


@pytest.mark.parametrize(
    ("verb", "words"),
    [("train", BY_NAME), ("sensitivity", ALTERNATIVES), ("fig2", BY_NAME["mlmc"].outputs)],
)
def test_no_word_to_choose_from_is_cut(verb, words):
    there = {word.strip("-.") for word in re.findall(r"[\w.-]+", call(verb, "--help").output)}
    assert set(words) <= there


def test_a_mistyped_task_is_told_which_there_are(tmp_path):
    message = refused(2, "train", "mclm", "--demo", "--out", tmp_path)
    assert "There is no task mclm. Use mass-calc, benign-malignant, mlmc," in message


def test_help_lists_every_verb():
    result = call("--help")
    assert result.exit_code == 0
    for verb in ("phantom", "prepare", "split", "train", "table1", "table2a", "table2b", "all"):
        assert re.search(rf"\b{verb}\b", result.output)


# ---- outputs folders -----------------------------------------------------------------------------


def test_a_file_where_the_outputs_should_go(tmp_path, data):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file/out"):
        result = call("table1", "--data", data, "--out", out)
        assert result.exit_code in (2, 3)
        assert str(tmp_path / "file") in result.stderr
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_unwritable_outputs_folder(tmp_path, data):
    (tmp_path / "out").mkdir(mode=0o555)
    result = call("table1", "--data", data, "--out", tmp_path / "out")
    assert result.exit_code in (2, 3)
    assert "Permission denied" in result.stderr


@pytest.mark.parametrize(
    "name", ["images.csv", "cohort.csv", "split.csv", "table1.json", "manifest.json", ".jpg"]
)
def test_a_disk_that_is_full_is_one_message_and_what_was_good_stays(good, data, monkeypatch, name):
    out, before = good
    dicom(
        data / "D1-0001.dcm", "D1-0001", "L", "CC", "1.2.77"
    )  # an unlabelled breast: flow and sources change
    whole = Path.write_bytes

    def write(path, content):
        if f"{name}." in path.name:  # .split.csv.x1y2z3.part, which becomes split.csv
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    if name == "split.csv":
        (out / name).unlink()
        before.pop(name)
    message = refused(3, "table1", "--data", data, "--out", out)
    assert "No space left on device" in message
    monkeypatch.setattr(Path, "write_bytes", whole)
    after = hashes(out)
    changing = {
        "flow.json",
        "sources.csv",
        "manifest.json",
        "SHA256SUMS",
        "seeds.csv",
        "tables/table1.md",
        "tables/table1.json",
    }
    for path, digest in before.items():
        assert path in changing or after[path] == digest
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    assert hashes(out).keys() >= before.keys()


def test_too_small_a_disk_is_seen_before_the_work(good, data, tmp_path, monkeypatch):
    usage = preparation.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    result = call("table1", "--data", data, "--out", tmp_path / "other")
    assert result.exit_code in (2, 3)
    assert "Free" in result.stderr
    assert not (tmp_path / "other/images.npy").exists()
    out, before = good
    refused(result.exit_code, "table1", "--data", data, "--out", out, "--seed", 5, "--overwrite")
    assert hashes(out) == before


def test_a_full_file_system(tmp_path, data):
    out = tmp_path / "tiny"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", out], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount")
    try:
        result = call("table1", "--data", data, "--out", out)
        assert result.exit_code in (2, 3)
        assert "No space" in result.stderr or "Free" in result.stderr
        assert not list(out.rglob("*.part"))
    finally:
        subprocess.run(["umount", out], check=True)


def test_another_seed_in_a_used_folder_is_refused_and_named(good, data):
    out, before = good
    message = refused(2, "table1", "--data", data, "--out", out, "--seed", 1)
    assert "seed 0, not 1" in message
    assert "--overwrite" in message
    assert hashes(out) == before


def test_another_cohort_in_a_used_folder_is_refused(good, data):
    out, before = good
    dicom(data / "a.dcm", "D1-0009", "L", "CC", "1.2.90")
    dicom(data / "b.dcm", "D1-0009", "L", "MLO", "1.2.91")
    with open(data / "clinical.csv", "a") as file:
        file.write("D1-0009,L,44,2,mass,Benign,\n")
    message = refused(2, "table1", "--data", data, "--out", out)
    assert "16 images" in message
    assert "18 images" in message
    assert {k: v for k, v in hashes(out).items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }


def test_overwrite_replaces_the_folder_and_lasts(good, data):
    out, before = good
    (out / "notes.txt").write_text("mine")
    assert call("table1", "--data", data, "--out", out, "--seed", 1, "--overwrite").exit_code == 0
    assert manifest.read(out)["settings"]["seed"] == 1
    assert "Seed 1." in (out / "tables/table1.md").read_text()
    assert (out / "notes.txt").read_text() == "mine"
    after = hashes(out)
    assert call("table1", "--data", data, "--out", out).exit_code == 0  # the seed is the folder's
    assert hashes(out) == after
    assert after["images.npy"] == before["images.npy"]


def test_overwrite_of_a_damaged_manifest(good, data):
    out, before = good
    (out / "manifest.json").write_text('{"settings": ')
    assert "--overwrite" in refused(2, "table1", "--data", data, "--out", out)
    assert call("table1", "--data", data, "--out", out, "--overwrite").exit_code == 0
    assert hashes(out).keys() == before.keys()


def test_all_may_overwrite_a_damaged_manifest(good, data, monkeypatch):
    out, _ = good
    (out / "manifest.json").write_text('{"settings": ')
    monkeypatch.setattr("lumin.run.learn.learn", lambda *_: None)
    monkeypatch.setattr(repro, "picture", lambda _: "no page")
    monkeypatch.setattr(repro, "TABLES", {"table1": ()})
    assert call("all", "--data", data, "--out", out, "--overwrite").exit_code == 0


def test_twice_gives_the_same_bytes_and_the_second_does_nothing(good, data):
    out, before = good
    stamps = times(out)
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0
    assert "Images: up to date." in result.output
    assert times(out) == stamps
    assert hashes(out) == before


def test_two_folders_have_the_same_bytes(good, data, tmp_path):
    _, before = good
    assert call("table1", "--data", data, "--out", tmp_path / "again").exit_code == 0
    assert hashes(tmp_path / "again") == before


def test_an_altered_output_is_made_again(good, data):
    out, before = good
    (out / "split.csv").write_text("patient,group,role\n")
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    assert hashes(out) == before


@pytest.mark.parametrize(
    "check",
    ["hashes", "made_with", "images", "remade", "recompute.predictions", "compare.against"],
)
def test_whatever_a_check_of_verify_finds_is_exit_4(good, data, monkeypatch, check):
    out, _ = good
    words = ("verify", "--out", out, "--predict", "--against", out)
    assert call(*words).exit_code == 0
    finding = Finding("split", "split.csv", "is a forgery", False)
    module, _, name = f"verify.{check}".rpartition(".")
    monkeypatch.setattr(f"lumin.run.{module.split('.')[-1]}.{name}", lambda *_: [finding])
    result = call(*words)
    assert result.exit_code == 4
    assert "split.csv is a forgery" in result.output


@pytest.mark.parametrize("stage", ["prepare", "split", "table1"])
def test_a_changed_setting_is_found_by_verify(good, data, stage):
    out, _ = good
    changed = manifest.read(out)
    changed["stages"][stage]["inputs"]["version"] += 1
    (out / "manifest.json").write_text(json.dumps(changed))
    result = call("verify", "--out", out)
    assert result.exit_code == 4
    assert f"{stage}: manifest.json was made with different inputs: version" in result.output


@pytest.mark.parametrize("name", ["split.csv", "seeds.csv", "tables/table1.md"])
def test_what_does_not_follow_is_found_by_verify(good, data, monkeypatch, name):
    """Split and tables are made again, whatever the hashes say."""
    out, _ = good
    (out / name).write_text((out / name).read_text() + "\n")
    monkeypatch.setattr(verify, "hashes", lambda out: [])
    result = call("verify", "--out", out)
    assert result.exit_code == 4
    assert f"{name} does not follow from" in result.output


def test_with_the_data_gone_what_is_made_is_still_used(good, data):
    out, before = good
    data.rename(data.with_name("elsewhere"))
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0
    assert "as recorded" in result.output
    assert hashes(out) == before


def test_where_data_and_outputs_are_without_options(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMIN_DATA", str(data))
    monkeypatch.setenv("LUMIN_OUT", str(tmp_path / "o"))
    assert call("split").exit_code == 0
    assert (tmp_path / "o/split.csv").exists()


def test_table_1_needs_no_weights_and_no_training(data, tmp_path, monkeypatch):
    def unreachable(*_):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(network, "download_imagenet", unreachable)
    monkeypatch.setattr(pool, "run", unreachable)
    assert call("table1", "--data", data, "--out", tmp_path / "out").exit_code == 0


def test_a_cohort_too_small_for_a_task(good, data):
    out, before = good
    message = refused(3, "table2b", "--data", data, "--out", out)
    assert "no test image" in message
    assert "luminal-baseline, fold 0" in message
    assert before.items() <= hashes(out).items()


def test_a_corrected_figure_of_the_paper_reaches_its_table(good, data, monkeypatch):
    out, _ = good

    def made(study, name):
        return {f"tables/{name}.md": tables.printed("luminal-transfer", "luminal")}

    monkeypatch.setattr(stages, "make_table", made)
    monkeypatch.setattr(stages, "tasks_of", lambda name: ())
    monkeypatch.setattr(repro, "tasks_of", lambda name: ())
    cell = ("luminal-transfer", "luminal")
    for figure in ("0.8188 (0.0245)", "0.9876 (0.0245)"):
        monkeypatch.setitem(published.TABLE2, cell, published.read_cell(figure))
        assert call("table2b", "--data", data, "--out", out).exit_code == 0
        assert (out / "tables/table2b.md").read_text() == figure


def test_weights_of_a_file_must_be_named_again(good, data, tmp_path):
    out, _ = good
    settings = manifest.read(out)["settings"] | {"weights": "file 0123"}
    found = manifest.read(out) | {"settings": settings}
    exact.write(out / "manifest.json", json.dumps(found))
    assert "--weights" in refused(2, "table2b", "--data", data, "--out", out)


def test_one_error_of_the_images_names_the_file(data, tmp_path):
    dicom(next(data.rglob("3.dcm")), "D1-0002", "L", "MLO", "1.2.3.3", np.zeros((24, 16), np.uint8))
    assert "3.dcm" in refused(3, "prepare", "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out/images.npy").exists()


@pytest.mark.slow
def test_from_the_shell_a_user_error_is_one_message(tmp_path):
    command = [
        sys.executable,
        ROOT / "repro.py",
        "table1",
        "--data",
        tmp_path / "no",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Stopped.") == 1
    assert "--demo" in done.stderr


# ---- the whole paper, small ----------------------------------------------------------------------


HEADERS = {
    "cohort.csv": (
        "image,patient,laterality,view,age,calcification,mass,malignant,subtype,luminal,group"
    ),
    "images.csv": "image,row,stored_sha256,sha256,top,left,height,width",
    "split.csv": "patient,group,role",
    "seeds.csv": "task,fold,seed",
    "sources.csv": "image,path,bytes,mtime",
}
OUTPUTS = {
    "mass-calc": "calcification,mass",
    "benign-malignant": "benign,malignant",
    "mlmc": "calcification,mass,malignant",
    "luminal-baseline": "non_luminal,luminal",
    "luminal-transfer": "non_luminal,luminal",
}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_whole_paper_once_and_then_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ("all", "--demo", "--out", out, "--precision", "fp32", "--device", "cpu", "--jobs", 1)
    first = call(*words)
    assert first.exit_code == 0, first.output + first.stderr

    for name, header in HEADERS.items():
        assert columns(out / name) == header
    images = read(out / "cohort.csv")
    stored = np.load(out / "images.npy", mmap_mode="r")
    assert stored.shape == (len(images), 64, 32)
    assert stored.dtype == np.uint8
    for m, row in zip(images, read(out / "images.csv"), strict=True):
        assert m["image"] == row["image"]
        assert hashlib.sha256(stored[int(row["row"])].tobytes()).hexdigest() == row["sha256"]
        pixels = store.decode((out / f"images/{m['image']}.jpg").read_bytes())
        assert (pixels == stored[int(row["row"])]).all()

    roles = {row["patient"]: row["role"] for row in read(out / "split.csv")}
    assert set(roles.values()) == {"test", "fold0", "fold1", "fold2", "fold3", "fold4"}
    assert roles.keys() == {m["patient"] for m in images}
    seeds = [(row["task"], int(row["fold"]), int(row["seed"])) for row in read(out / "seeds.csv")]
    assert seeds == [
        (t.name, fold, exact.seed(0, t.name, fold)) for t in TASKS for fold in range(5)
    ]

    for task, outputs in OUTPUTS.items():
        wanted = [m for m in images if m["luminal"] or not task.startswith("luminal")]
        for fold in range(5):
            path = out / f"predictions/{task}/fold{fold}.csv"
            assert columns(path) == f"image,patient,laterality,view,role,{outputs}"
            rows = read(path)
            judged = {m["image"] for m in wanted if roles[m["patient"]] in ("test", f"fold{fold}")}
            assert {row["image"] for row in rows} == judged
            assert len(rows) == len(judged)
            for row in rows:
                assert row["role"] == roles[row["patient"]]
                assert all(0 <= float(row[name]) <= 1 for name in outputs.split(","))
            (line,) = (out / f"history/{task}/fold{fold}.jsonl").read_text().splitlines()
            assert json.loads(line).keys() == {"epoch", "train_loss", "val_loss", "best"}
            assert (out / f"weights/{task}/fold{fold}.safetensors").stat().st_size > 44e6

    for name in ("table1", "table2a", "table2b"):
        markdown = (out / f"tables/{name}.md").read_text()
        assert markdown.splitlines()[0].endswith("(synthetic cohort, not CMMD)")
        assert exact.sha256(out / "split.csv") in markdown
        assert "weights random instead of imagenet" in markdown
        assert json.loads((out / f"tables/{name}.json").read_text())["seed"] == 0
    for name in ("table2a", "table2b"):
        holds_the_paper(
            name, *((out / f"tables/{name}.{kind}").read_text() for kind in ("md", "json"))
        )
    found = json.loads((out / "tables/table2b.json").read_text())
    cells = found["As in the paper: mean (SD) of five fold models, by image"]["subtype"][
        "luminal-transfer"
    ]
    assert cells.keys() == {"non_luminal", "luminal", "macro subtype", "auc subtype"}
    assert all(0 <= cell["mean"] <= 1 for cell in cells.values())
    counts = json.loads((out / "tables/table1.json").read_text())["counts"]
    assert sum(counts["All"]["ours"]) == len(images)

    found = manifest.read(out)
    listed = {
        name
        for part in ("stages", "unverified")
        for e in found[part].values()
        for name in e["files"]
    }
    made = {n for n in hashes(out) if not n.startswith("phantom/")}
    assert listed | {"manifest.json", "SHA256SUMS"} == made | {"run.json"}
    for entry in found["stages"].values():
        assert entry["stack"] in found["stacks"]
        assert all(exact.sha256(out / name) == value for name, value in entry["files"].items())
    trained = {f"train/{task}/fold{fold}" for task in OUTPUTS for fold in range(5)}
    assert json.loads((out / "run.json").read_text())["stages"].keys() == {"prepare", *trained}
    assert "<svg" in (out / "figures/fig2.svg").read_text()
    assert "Table 2b" in (out / "report.html").read_text()
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    sums = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    checked = subprocess.run(sums, cwd=out, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

    handed_over = call("archive", "--out", out)
    assert handed_over.exit_code == 0, handed_over.output + handed_over.stderr
    with ZipFile(out / "archive.zip") as file:
        for name in file.namelist():
            if name.startswith("outputs/"):
                assert str(tmp_path).encode() not in file.read(name), name
    checked = call("verify", out / "archive.zip", "--against", out)
    assert checked.exit_code == 0, checked.output + checked.stderr
    assert "(split, table1, table2a, table2b, audit, sheet, reproduced)" in checked.output
    assert "cells differs" in checked.output

    stamps = times(out)
    monkeypatch.setattr(pool, "run", None)  # nothing may be trained
    second = call("all", "--demo", "--out", out)
    assert second.exit_code == 0, second.output + second.stderr
    assert second.output.count("up to date") >= 2
    assert times(out) == stamps


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the metadata of CMMD are not here")
def test_table_1_of_the_replica_is_the_papers(tmp_path):
    """Every file of CMMD with its real path and tags, its pixels small."""
    data, out = tmp_path / "CMMD", tmp_path / "out"
    made = [
        sys.executable,
        SHARED / "cmmd/make_replica.py",
        data,
        "--scale",
        "0.03125",
        "--jobs",
        "1",
    ]
    subprocess.run(made, check=True, capture_output=True)
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads((out / "tables/table1.json").read_text())
    assert found["title"] == "Table 1. Images of each class"
    for name, (training, test) in published.TABLE1.items():
        assert found["counts"][name]["ours"] == [training, test], name
    assert found["counts"]["All"]["ours"] == [3390, 354]
    assert found["counts"]["With subtype"]["ours"] == [1360, 138]
    assert "18 of the 18 numbers equal the paper's" in (out / "tables/table1.md").read_text()
    assert found["flow"]["images"] == 5202
    assert found["flow"]["unlabelled breasts"] == 729
    assert found["flow"]["images used"] == stated.IMAGES
    roles = {row["patient"]: row["role"] for row in read(out / "split.csv")}
    assert len(roles) == stated.PATIENTS
    assert roles["D1-0202"] == roles["D2-0284"]
    assert roles["D1-0808"] == roles["D1-1292"]
    assert "D1-0202 = D2-0284" in result.output
