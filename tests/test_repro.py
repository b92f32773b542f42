"""The command line: what a user may get wrong, and the whole paper once, small."""

import csv
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, dicom, holds_the_paper, sheet
from typer.testing import CliRunner

import repro
from lumin import jobs, options, paper, phantom, preprocess, record, study, tables, verify, work
from lumin.tasks import TASKS

ROOT = Path(__file__).parents[1]
IMAGES = [  # stored values that differ from patient to patient, with black around them
    np.pad(np.random.default_rng(i).integers(1, 256, (20, 12), dtype=np.uint8), ((2, 2), (0, 4))) for i in range(32)
]


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """No worker processes, no environment of the developer's, and a terminal wide enough for a message a line."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for name in ("LUMIN_OUT", "LUMIN_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The paper and the demo at 64 x 32 and one epoch; the demo's first 60 patients."""
    for name in ("PAPER", "DEMO"):
        recipe = replace(getattr(paper, name), height=64, width=32, abnormality_epochs=1, luminal_epochs=1)
        monkeypatch.setattr(options, name, recipe)
        if name == "PAPER":
            monkeypatch.setattr(study, name, recipe)
    for name in ("write", "complete"):
        whole = getattr(phantom, name)
        slice_of = lambda folder, size, seed, patients=60, whole=whole, **more: whole(folder, size, seed, 60, **more)  # noqa: E731
        monkeypatch.setattr(phantom, name, slice_of)


def write_cohort(data):
    """Eight patients of one breast each, whose two views differ."""
    kinds = [("mass", "Benign", ""), ("both", "Malignant", "Luminal A"), ("calcification", "Malignant", ""),
             ("mass", "Malignant", "triple negative")]  # fmt: skip
    rows = [(f"D1-{i:04d}", "LR"[i % 2], 40 + i, *kinds[i % 4]) for i in range(1, 9)]
    sheet(data / "clinical.csv", *rows)
    for number, (row, view) in enumerate((row, view) for row in rows for view in ("CC", "MLO")):
        patient, side = row[:2]
        dicom(data / f"CMMD/{patient}/{number}.dcm", patient, side, view, f"1.2.3.{number}", IMAGES[number])
    return data


@pytest.fixture
def data(tmp_path):
    return write_cohort(tmp_path / "data")


def call(*words):
    """A command -> its result; no traceback, whatever came of it."""
    result = CliRunner().invoke(repro.app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output + result.stderr
    return result


def refused(code, *words):
    """A command that must fail with this exit code and one message -> the message."""
    result = call(*words)
    assert result.exit_code == code, result.output + result.stderr
    if "Usage:" not in result.stderr:  # Typer's own say on wrong usage
        assert result.stderr.count("Stopped.") == 1
    return " ".join(result.stderr.split())


def files(folder):
    """Every file of a folder -> its SHA-256; locks and times aside."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and "lock" not in p.name and p.name != "run.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(timeless(p)).hexdigest() for p in paths}


def timeless(path):
    """A file's bytes; of a manifest, without what differs between equal runs."""
    data = path.read_bytes()
    if path.name != "manifest.json" or b'"unverified"' not in data:
        return data
    try:
        return json.dumps({**json.loads(data), "unverified": {}}).encode()
    except ValueError:
        return data


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and "lock" not in p.name}


def columns(path):
    return path.read_text().split("\n", 1)[0]


@pytest.fixture
def good(tmp_path, data):
    """An outputs folder with images, split and Table 1 -> folder and what is in it."""
    out = tmp_path / "out"
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    return out, files(out)


# ---- data that are not there or contradict each other --------------------------------------------------


@pytest.mark.parametrize("verb", ["prepare", "split", "train", "table1", "table2b"])
def test_without_data_the_message_names_data_and_demo(tmp_path, verb):
    message = refused(3, verb, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "--data" in message
    assert "--demo" in message
    assert not files(tmp_path / "out")


def test_all_without_data_and_without_download(tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused(3, "all", "--no-download", "--data", tmp_path / "empty", "--out", tmp_path / "out")
    assert "--data" in message
    assert "--demo" in message


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
    message = refused(3, "table1", "--data", data, "--sheet", tmp_path / "no.xlsx", "--out", tmp_path / "out")
    assert "no.xlsx" in message


def test_a_sheet_with_a_column_missing(good, data):
    out, before = good
    path = data / "clinical.csv"
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()) + "\n")
    assert "subtype" in refused(3, "table1", "--data", data, "--out", out)
    assert files(out) == before


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
    assert files(out) == before


def test_to_overwrite_with_a_truncated_file_destroys_nothing(good, data):
    out, before = good
    path = next(data.rglob("5.dcm"))
    path.write_bytes(path.read_bytes()[:-100])
    refused(3, "table1", "--data", data, "--out", out, "--seed", 1, "--overwrite")
    assert files(out) == before


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


# ---- wrong usage ---------------------------------------------------------------------------------------


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
    assert not files(tmp_path)


def test_weights_that_are_not_there(tmp_path, data):
    result = call("table2b", "--data", data, "--out", tmp_path / "out", "--weights", tmp_path / "no.pth")
    assert result.exit_code in (2, 3)
    assert "no.pth" in result.stderr


@pytest.mark.parametrize("name", ["a[b]c", "a[/b]c", "[red]"])
def test_a_name_in_brackets_is_printed_as_it_is(tmp_path, name):
    message = refused(3, "table1", "--data", tmp_path / name, "--out", tmp_path / "out")
    assert name in message


def test_help_lists_every_verb():
    result = call("--help")
    assert result.exit_code == 0
    for verb in ("phantom", "prepare", "split", "train", "table1", "table2a", "table2b", "all"):
        assert re.search(rf"\b{verb}\b", result.output)


# ---- outputs folders -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["images.csv", "cohort.csv", "split.csv", "table1.json", "manifest.json", ".jpg"])
def test_a_disk_that_is_full_is_one_message_and_what_was_good_stays(good, data, monkeypatch, name):
    out, before = good
    dicom(data / "D1-0001.dcm", "D1-0001", "L", "CC", "1.2.77")  # an unlabelled breast: flow and sources change
    whole = record.write

    def write(path, text):
        if path.name.endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, text)

    monkeypatch.setattr(record, "write", write)
    if name == "split.csv":
        (out / name).unlink()
        before.pop(name)
    message = refused(3, "table1", "--data", data, "--out", out)
    assert "No space left on device" in message
    monkeypatch.setattr(record, "write", whole)
    after = files(out)
    changing = {"flow.json", "sources.csv", "manifest.json", "seeds.csv", "tables/table1.md", "tables/table1.json"}
    assert {k: v for k, v in before.items() if k not in changing} == {k: v for k, v in after.items() if k in before and
                                                                      k not in changing}  # fmt: skip
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    assert files(out).keys() >= before.keys()


def test_too_small_a_disk_is_seen_before_the_work(good, data, tmp_path, monkeypatch):
    usage = study.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(study.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    result = call("table1", "--data", data, "--out", tmp_path / "other")
    assert result.exit_code in (2, 3)
    assert "Free" in result.stderr
    assert not (tmp_path / "other/images.npy").exists()
    out, before = good
    refused(result.exit_code, "table1", "--data", data, "--out", out, "--seed", 5, "--overwrite")
    assert files(out) == before


def test_a_full_file_system(tmp_path, data):
    out = tmp_path / "tiny"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", out], capture_output=True)
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
    assert files(out) == before


def test_another_cohort_in_a_used_folder_is_refused(good, data):
    out, before = good
    dicom(data / "a.dcm", "D1-0009", "L", "CC", "1.2.90")
    dicom(data / "b.dcm", "D1-0009", "L", "MLO", "1.2.91")
    with open(data / "clinical.csv", "a") as file:
        file.write("D1-0009,L,44,2,mass,Benign,\n")
    message = refused(2, "table1", "--data", data, "--out", out)
    assert "16 images" in message
    assert "18 images" in message
    assert {k: v for k, v in files(out).items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }


def test_overwrite_replaces_the_folder_and_lasts(good, data):
    out, before = good
    (out / "notes.txt").write_text("mine")
    assert call("table1", "--data", data, "--out", out, "--seed", 1, "--overwrite").exit_code == 0
    assert record.read(out)["settings"]["seed"] == 1
    assert "Seed 1." in (out / "tables/table1.md").read_text()
    assert (out / "notes.txt").read_text() == "mine"
    after = files(out)
    assert call("table1", "--data", data, "--out", out).exit_code == 0  # the seed is the folder's
    assert files(out) == after
    assert after["images.npy"] == before["images.npy"]


def test_overwrite_of_a_damaged_manifest(good, data):
    out, before = good
    (out / "manifest.json").write_text('{"settings": ')
    assert "--overwrite" in refused(2, "table1", "--data", data, "--out", out)
    assert call("table1", "--data", data, "--out", out, "--overwrite").exit_code == 0
    assert files(out).keys() == before.keys()


def test_all_may_overwrite_a_damaged_manifest(good, data, monkeypatch):
    out, _ = good
    (out / "manifest.json").write_text('{"settings": ')
    monkeypatch.setattr(work, "learn", lambda *_: None)
    monkeypatch.setattr(repro, "picture", lambda _: "no page")
    monkeypatch.setattr(study, "TABLES", {"table1": ()})
    assert call("all", "--data", data, "--out", out, "--overwrite").exit_code == 0


def test_twice_gives_the_same_bytes_and_the_second_does_nothing(good, data):
    out, before = good
    stamps = times(out)
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0
    assert "Images: up to date." in result.output
    assert times(out) == stamps
    assert files(out) == before


def test_two_folders_have_the_same_bytes(good, data, tmp_path):
    _, before = good
    assert call("table1", "--data", data, "--out", tmp_path / "again").exit_code == 0
    assert files(tmp_path / "again") == before


def test_an_altered_output_is_made_again(good, data):
    out, before = good
    (out / "split.csv").write_text("patient,group,role\n")
    assert call("table1", "--data", data, "--out", out).exit_code == 0
    assert files(out) == before


@pytest.mark.parametrize("check", ["made_with", "images", "parted", "remade", "predictions", "against"])
def test_whatever_a_check_of_verify_finds_is_exit_4(good, data, monkeypatch, check):
    out, _ = good
    words = ("verify", "--data", data, "--out", out, "--predict", "--against", out)
    assert call(*words).exit_code == 0
    finding = verify.Finding("split", "split.csv", "is a forgery", False)
    monkeypatch.setattr(verify, check, lambda *_: [finding])
    result = call(*words)
    assert result.exit_code == 4
    assert "split.csv is a forgery" in result.output


def test_with_the_data_gone_what_is_made_is_still_used(good, data):
    out, before = good
    data.rename(data.with_name("elsewhere"))
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0
    assert "as recorded" in result.output
    assert files(out) == before


def test_where_data_and_outputs_are_without_options(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMIN_DATA", str(data))
    monkeypatch.setenv("LUMIN_OUT", str(tmp_path / "o"))
    assert call("split").exit_code == 0
    assert (tmp_path / "o/split.csv").exists()


def test_table_1_needs_no_weights_and_no_training(data, tmp_path, monkeypatch):
    def unreachable(*_):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(study.network, "download_imagenet", unreachable)
    monkeypatch.setattr(jobs, "run", unreachable)
    assert call("table1", "--data", data, "--out", tmp_path / "out").exit_code == 0


def test_a_cohort_too_small_for_a_task(good, data):
    out, before = good
    message = refused(3, "table2b", "--data", data, "--out", out)
    assert "no test image" in message
    assert "luminal-baseline, fold 0" in message
    assert before.items() <= files(out).items()


def test_a_corrected_figure_of_the_paper_reaches_its_table(good, data, monkeypatch):
    out, _ = good
    monkeypatch.setitem(study.TABLES, "table2b", ())
    made = lambda run, name: tables.Document(tables.published("luminal-transfer", "luminal"), "{}")  # noqa: E731
    monkeypatch.setattr(study, "make_table", made)
    for figure in ("0.8188 (0.0245)", "0.9876 (0.0245)"):
        monkeypatch.setitem(paper.TABLE2, ("luminal-transfer", "luminal"), paper.read_cell(figure))
        assert call("table2b", "--data", data, "--out", out).exit_code == 0
        assert (out / "tables/table2b.md").read_text() == figure


def test_weights_of_a_file_must_be_named_again(good, data, tmp_path):
    out, _ = good
    settings = record.read(out)["settings"] | {"weights": "file 0123"}
    manifest = record.read(out) | {"settings": settings}
    record.write(out / "manifest.json", json.dumps(manifest))
    assert "--weights" in refused(2, "table2b", "--data", data, "--out", out)


def test_one_error_of_the_images_names_the_file(data, tmp_path):
    dicom(next(data.rglob("3.dcm")), "D1-0002", "L", "MLO", "1.2.3.3", np.zeros((24, 16), np.uint8))
    assert "3.dcm" in refused(3, "prepare", "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out/images.npy").exists()


@pytest.mark.slow
def test_from_the_shell_a_user_error_is_one_message(tmp_path):
    command = [sys.executable, ROOT / "repro.py", "table1", "--data", tmp_path / "no", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Stopped.") == 1
    assert "--demo" in done.stderr


# ---- the whole paper, small ------------------------------------------------------------------------------


HEADERS = {
    "cohort.csv": "image,patient,laterality,view,age,calcification,mass,malignant,subtype,luminal,group",
    "images.csv": "image,row,stored_sha256,sha256,top,left,height,width",
    "split.csv": "patient,group,role",
    "seeds.csv": "task,fold,seed",
    "sources.csv": "image,path,bytes,mtime",
    "phantom/lesions.csv": "SOPInstanceUID,kind,row,column,radius_px",
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
    store = np.load(out / "images.npy", mmap_mode="r")
    assert store.shape == (len(images), 64, 32)
    assert store.dtype == np.uint8
    for m, row in zip(images, read(out / "images.csv"), strict=True):
        assert m["image"] == row["image"]
        assert hashlib.sha256(store[int(row["row"])].tobytes()).hexdigest() == row["sha256"]
        pixels = preprocess.decode((out / f"images/{m['image']}.jpg").read_bytes())
        assert (pixels == store[int(row["row"])]).all()

    roles = {row["patient"]: row["role"] for row in read(out / "split.csv")}
    assert set(roles.values()) == {"test", "fold0", "fold1", "fold2", "fold3", "fold4"}
    assert roles.keys() == {m["patient"] for m in images}
    seeds = [(row["task"], int(row["fold"]), int(row["seed"])) for row in read(out / "seeds.csv")]
    assert seeds == [(t.name, fold, paper.seed(0, t.name, fold)) for t in TASKS for fold in range(5)]

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
        assert record.sha256(out / "split.csv") in markdown
        assert "weights random instead of imagenet" in markdown
        assert json.loads((out / f"tables/{name}.json").read_text())["seed"] == 0
    for name in ("table2a", "table2b"):
        holds_the_paper(name, *((out / f"tables/{name}.{kind}").read_text() for kind in ("md", "json")))
    found = json.loads((out / "tables/table2b.json").read_text())
    cells = found["As in the paper: mean (SD) of five fold models, by image"]["subtype"]["luminal-transfer"]
    assert cells.keys() == {"non_luminal", "luminal", "macro subtype", "auc subtype"}
    assert all(0 <= cell["mean"] <= 1 for cell in cells.values())
    counts = json.loads((out / "tables/table1.json").read_text())["counts"]
    assert sum(counts["All"]["ours"]) == len(images)

    manifest = record.read(out)
    listed = {name for part in ("stages", "unverified") for e in manifest[part].values() for name in e["files"]}
    made = {n for n in files(out) if not n.startswith("phantom/")} - {"manifest.json"}
    assert listed == made | {"run.json"}
    for entry in manifest["stages"].values():
        assert entry["stack"] in manifest["stacks"]
        assert all(record.sha256(out / name) == value for name, value in entry["files"].items())
    trained = {f"train/{task}/fold{fold}" for task in OUTPUTS for fold in range(5)}
    assert json.loads((out / "run.json").read_text())["stages"].keys() == {"prepare", *trained}
    assert "<svg" in (out / "figures/fig2.svg").read_text()
    assert "Table 2b" in (out / "report.html").read_text()
    assert not list(out.glob("checkpoints/*/*"))

    stamps = times(out)
    monkeypatch.setattr(jobs, "run", None)  # nothing may be trained
    second = call("all", "--demo", "--out", out)
    assert second.exit_code == 0, second.output + second.stderr
    assert second.output.count("up to date") >= 2
    assert times(out) == stamps


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the metadata of CMMD are not here")
def test_table_1_of_the_replica_is_the_papers(tmp_path):
    """Every file of CMMD with its real path and tags, its pixels small."""
    data, out = tmp_path / "CMMD", tmp_path / "out"
    made = [sys.executable, SHARED / "cmmd/make_replica.py", data, "--scale", "0.03125", "--jobs", "1"]
    subprocess.run(made, check=True, capture_output=True)
    result = call("table1", "--data", data, "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads((out / "tables/table1.json").read_text())
    assert found["title"] == "Table 1. Images of each class"
    for name, (training, test) in paper.TABLE1.items():
        assert found["counts"][name]["ours"] == [training, test], name
    assert found["counts"]["All"]["ours"] == [3390, 354]
    assert found["counts"]["With subtype"]["ours"] == [1360, 138]
    assert "18 of the 18 numbers are the paper's" in (out / "tables/table1.md").read_text()
    assert found["flow"]["images"] == 5202
    assert found["flow"]["unlabelled breasts"] == 729
    assert found["flow"]["images used"] == paper.IMAGES
    roles = {row["patient"]: row["role"] for row in read(out / "split.csv")}
    assert len(roles) == paper.PATIENTS
    assert roles["D1-0202"] == roles["D2-0284"]
    assert roles["D1-0808"] == roles["D1-1292"]
    assert "D1-0202 = D2-0284" in result.output
