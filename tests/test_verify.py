"""verify: whatever was changed in an outputs folder is found, and the file named."""

import json
import math
import os
import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dicom, sheet
from safetensors.numpy import load_file, save_file
from safetensors.torch import save

from lumin import options, record, study, tables, train, verify
from lumin.network import Stack
from lumin.paper import Recipe
from lumin.record import RecordError
from lumin.tasks import BY_NAME
from lumin.train import predictions_csv

RECIPE = Recipe(64, 32, abnormality_epochs=1, luminal_epochs=1, test_share=0.4, weights="random")
WANTED = [("luminal-transfer", 0)]  # and the MLMC fold that it starts from
MLMC, LUMINAL = "train/mlmc/fold0", "train/luminal-transfer/fold0"


class Quiet:
    """A screen that shows nothing."""

    def say(self, text): ...

    def bar(self, title):
        return self

    def epochs(self, trainings):
        return self

    def __enter__(self):
        return lambda *_: None

    def __exit__(self, *_): ...


def small_cohort(data: Path, patients: int = 24) -> Path:
    """A data folder of so many patients, a breast each, in both views."""
    labels = list(product(("mass", "calcification", "both"), ("Benign", "Malignant", "Malignant", "Benign")))
    rows = [
        (f"D{1 + (kind == 'Malignant')}-{n:04}", "LR"[n % 2], 40 + n, finding, kind, subtype)
        for n, (finding, kind) in enumerate(labels * (patients // len(labels)), 1)
        for subtype in (["Luminal A", "triple negative"][n % 2] if kind == "Malignant" else "",)
    ]
    sheet(data / "clinical.csv", *rows)
    random = np.random.default_rng(0)
    for n, (patient, laterality, *_) in enumerate(rows):
        for i, view in enumerate(("CC", "MLO")):
            pixels = np.zeros((48, 40), np.uint8)
            pixels[4:44, :25] = random.integers(60, 250, (40, 25))
            dicom(data / f"{patient}/{view}.dcm", patient, laterality, view, f"1.2.{n}.{i}", pixels)
    return data


def tiny_study(data: Path, out: Path) -> options.Study:
    """The paper at 64 x 32 pixels and one epoch, on a few patients."""
    return options.Study(data, out, None, False, 0, RECIPE, None, Stack("cpu", "fp32", 1), 1, False, Quiet())


def of(kind: options.Study, out: Path) -> options.Study:
    """The study as somebody opens it who was sent the folder."""
    begun = record.read(out)["settings"]
    recipe = Recipe(**{name: begun[name] for name in asdict(RECIPE)})
    stack = Stack(*(begun[name] for name in options.STACK_SETTINGS))
    return replace(kind, out=out, demo=begun["demo"], seed=begun["seed"], recipe=recipe, stack=stack)


def predictions_of(training: train.Training) -> str:
    """Made-up probabilities of the images that a training judges."""
    rows = np.concatenate([training.test, training.validation])
    random = np.random.default_rng([training.fold, len(training.task.outputs)])
    return predictions_csv(training, rows, random.random((len(rows), len(training.task.outputs)), np.float32))


def mean_table(out: Path, name: str) -> tables.Document:
    """A table that follows from predictions: their mean, and one number of a solver."""
    lines = (out / "predictions/luminal-transfer/fold0.csv").read_text().splitlines()[1:]
    mean = float(np.mean([float(line.split(",")[-1]) for line in lines]))
    data = {"mean": mean, "without images": {"age": 0.5}}
    text = (
        f"# A table\n\n## One\n\n{mean:.4f}\n\n## Without an image\n\n{0.5:.4f}\n\n## Better?\n\nno\n\n---\n\nSeed 0\n"
    )
    return tables.Document(text, json.dumps(data, indent=1) + "\n")


def make(kind: options.Study, name: str) -> tables.Document:
    return mean_table(kind.out, name) if name == "mean" else study.make_table(kind, name)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> options.Study:
    """Images and split of a small cohort."""
    folder = tmp_path_factory.mktemp("verify")
    made = tiny_study(small_cohort(folder / "data"), folder / "out")
    made.out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)  # so few images are read faster by one process
        study.prepare(made)
    study.divide(made)
    record.claim(made.out, made.settings)
    return made


@pytest.fixture(scope="session")
def finished(prepared) -> options.Study:
    """An outputs folder of two trainings with small weights, and two tables."""
    out = prepared.out.with_name("finished")
    shutil.copytree(prepared.out, out)
    made = replace(prepared, out=out)
    for training in study.trainings(made, WANTED):
        weights, history, predictions = training.files
        (out / weights).parent.mkdir(parents=True)
        save_file({"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([training.fold])}, out / weights)
        record.write(out / history, json.dumps({"epoch": 1, "train_loss": 0.71, "val_loss": 0.72, "best": True}) + "\n")
        record.write(out / predictions, predictions_of(training))
        record.commit(out, training.stage, training.files, training.made_from, made.stack.describe())
    study.tabulate(made, "table1")
    for suffix, text in zip(("md", "json"), mean_table(out, "mean"), strict=True):
        record.write(out / f"tables/mean.{suffix}", text)
    inputs = made.hashes("predictions/luminal-transfer/fold0.csv") | {"version": 1}
    record.commit(out, "mean", ["tables/mean.md", "tables/mean.json"], inputs, {"numpy": np.__version__})
    return made


@pytest.fixture
def copy(finished, tmp_path) -> options.Study:
    """A copy of it, to be changed."""
    shutil.copytree(finished.out, tmp_path / "out")
    return replace(finished, out=tmp_path / "out")


def expected(kind: options.Study) -> dict[str, dict]:
    """What each stage should have been made with."""
    recipe = kind.recipe
    made = {
        "prepare": {"size": [recipe.height, recipe.width], "version": study.VERSIONS["prepare"]},
        "split": {"seed": kind.seed, "test": recipe.test_share, "version": study.VERSIONS["split"]},
        "table1": {"about": record.digest(study.provenance(kind)), "version": study.VERSIONS["tables"]},
        "mean": {"version": 1},
        "table2a": {"version": 1},  # of a stage that is not made nothing is said
    }
    for stage, name in ((MLMC, "mlmc"), (LUMINAL, "luminal-transfer")):
        settings = record.digest([asdict(BY_NAME[name]), kind.method])
        made[stage] = {"settings": settings, "version": study.VERSIONS["train"]}
    made[MLMC]["start"] = recipe.weights
    return made


def level1(kind: options.Study) -> list[verify.Finding]:
    """All that can be checked anywhere."""
    now = of(kind, kind.out)
    findings = [*verify.hashes(now.out), *verify.made_with(now.out, expected(now))]
    return [*findings, *verify.remade(now.out, partial(make, now)), *verify.images(now.out)]


def wrong(findings: list[verify.Finding]) -> set[str]:
    """The files of the differences."""
    return {finding.file for finding in findings if finding.ok is False}


def flip(path: Path, at: int = -2) -> None:
    """Change one byte, a digit to another digit where there is one."""
    data = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if path.suffix in (".csv", ".json", ".jsonl", ".md"):
        data[digits[at]] = ord("0") + (data[digits[at]] - ord("0") + 1) % 10
    else:
        data[len(data) // 2 if path.suffix == ".jpg" else at] ^= 1  # a JPEG file's last bytes are no pixels
    path.write_bytes(data)


def edit(out: Path, change) -> None:
    """Change the manifest as text does not protect it."""
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))


def rehash(out: Path, stage: str, name: str) -> None:
    """Enter a changed file as if its stage had made it so."""

    def change(manifest: dict) -> None:
        manifest["stages"][stage]["files"][name] = record.sha256(out / name)
        if name.endswith(".safetensors"):
            manifest["stages"][stage]["tensors"][name] = record.tensors(out / name)

    edit(out, change)


# ---- level 1 -------------------------------------------------------------------------------------


def test_an_untouched_folder_has_no_difference(finished):
    found = level1(finished)
    assert all(finding.ok for finding in found), [f for f in found if not f.ok]
    stages = [finding.stage for finding in verify.hashes(finished.out)]
    assert [s for s in stages if s not in ("run", "sources")] == ["prepare", "split", MLMC, LUMINAL, "mean", "table1"]
    assert verify.hashes(finished.out)[0].what == "52 files as recorded"  # 48 images and the four lists of them


FILES = {
    "cohort.csv": "prepare",
    "flow.json": "prepare",
    "images.csv": "prepare",
    "images.npy": "prepare",
    "images/1.2.3.1.jpg": "prepare",
    "split.csv": "split",
    "seeds.csv": "split",
    "weights/mlmc/fold0.safetensors": MLMC,
    "history/mlmc/fold0.jsonl": MLMC,
    "predictions/luminal-transfer/fold0.csv": LUMINAL,
    "tables/table1.md": "table1",
    "tables/table1.json": "table1",
    "tables/mean.md": "mean",
    "sources.csv": "sources",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_changed_file_is_named(copy, name, damage):
    path = copy.out / name
    if damage == "flip":
        flip(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    found = verify.hashes(copy.out)
    if name == "images.npy" and damage == "remove":  # as a whole it may be left out, but that is said
        assert [(f.file, f.ok) for f in found if not f.ok] == [("", None)]
        assert "images.npy: not here, so not checked" in [f.what for f in found]
    else:
        assert wrong(found) == {name}
        assert {f.stage for f in found if f.ok is False} == {FILES[name]}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cohort.csv", "cohort.csv"),
        ("images.csv", "images.csv"),
        ("images.npy", "images.npy"),
        ("images/1.2.3.1.jpg", "images/1.2.3.1.jpg"),
        ("flow.json", "flow.json"),
        ("split.csv", "split.csv"),
        ("weights/mlmc/fold0.safetensors", "weights/mlmc/fold0.safetensors"),
        ("predictions/luminal-transfer/fold0.csv", "predictions/luminal-transfer/fold0.csv"),
        ("tables/table1.md", "tables/table1.md"),
        ("tables/table1.json", "tables/table1.json"),
        ("tables/mean.json", "tables/mean.json"),
    ],
)
def test_a_new_hash_in_the_manifest_does_not_hide_a_change(copy, name, named):
    """What was made from the file, or what the file was made from, still tells."""
    flip(copy.out / name)
    rehash(copy.out, next(s for s, e in record.read(copy.out)["stages"].items() if name in e["files"]), name)
    assert named in wrong(level1(copy))


def leaves(value: object, path: tuple = ()):
    """Every number and text of a JSON value, with where it is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from leaves(below, (*path, key))
    if not isinstance(value, dict | list):
        yield path, value


def test_any_digit_of_the_manifest_that_is_changed_is_found(copy):
    clean = (copy.out / "manifest.json").read_text()
    silent = []
    jpegs = 0
    for path, value in leaves(json.loads(clean)):
        jpegs += path[-1].endswith(".jpg") if isinstance(path[-1], str) else 0
        if jpegs > 2 and str(path[-1]).endswith(".jpg"):
            continue  # two stand for all

        def change(manifest: dict, path=path, value=value) -> None:
            for key in path[:-1]:
                manifest = manifest[key]
            other = (
                not value if isinstance(value, bool) else f"{value}0" if isinstance(value, str) else (value or 0) + 1
            )
            manifest[path[-1]] = other

        edit(copy.out, change)
        if not wrong(level1(copy)):
            silent.append(".".join(map(str, path)))
        (copy.out / "manifest.json").write_text(clean)
    # What the images are called, of which cohort.csv has each; the sheet and the paper's figures, which are not here
    unseen = {"settings.images", "stages.prepare.inputs.sheet", "stages.table1.inputs.paper"}
    assert set(silent) <= unseen


def test_a_damaged_manifest_is_one_message(copy, tmp_path):
    (copy.out / "manifest.json").write_text('{"stages": {"prepare": {"files": ["cohort.csv"]}}}')
    for check in (verify.hashes, verify.images, partial(verify.remade, make=None), partial(verify.against, copy.out)):
        with pytest.raises(RecordError, match=r"manifest\.json is damaged"):
            check(copy.out)
    with pytest.raises(RecordError, match=r"has no manifest\.json: nothing to verify.*--out"):
        verify.hashes(tmp_path / "nowhere")


def test_a_name_that_leads_out_of_the_folder_is_not_followed(copy, tmp_path):
    (tmp_path / "secret.csv").write_text("1")
    digest = record.sha256(tmp_path / "secret.csv")
    edit(copy.out, lambda m: m["stages"]["split"]["files"].update({"../secret.csv": digest}))
    assert wrong(verify.hashes(copy.out)) == {"../secret.csv"}


@pytest.mark.parametrize(
    ("name", "ok"),
    [
        ("weights/mlmc/fold1.safetensors", False),
        ("predictions/mlmc/fold1.csv", False),
        ("tables/table9.md", False),
        ("notes.txt", None),
        (".weights.part", "nothing"),
        ("figures/figure2.png", "nothing"),
        ("checkpoints/mlmc/fold1.pt", "nothing"),
        ("phantom/1.dcm", "nothing"),
    ],
)
def test_a_file_that_no_stage_made(copy, name, ok):
    (copy.out / name).parent.mkdir(parents=True, exist_ok=True)
    (copy.out / name).write_text("x")
    found = [finding for finding in verify.hashes(copy.out) if not finding.ok]
    assert [finding.ok for finding in found] == ([] if ok == "nothing" else [ok])
    assert all(name in finding.file + finding.what for finding in found)


def test_a_stage_taken_out_of_the_manifest_is_missed(copy):
    edit(copy.out, lambda manifest: manifest["stages"].pop(MLMC))
    stem = "mlmc/fold0"
    recorded = {f"weights/{stem}.safetensors", f"history/{stem}.jsonl", f"predictions/{stem}.csv"}
    assert wrong(verify.hashes(copy.out)) == recorded


def test_a_folder_sent_without_images_and_weights(copy):
    for name in ("images", "weights"):
        shutil.rmtree(copy.out / name)
    (copy.out / "images.npy").unlink()
    found = level1(copy)
    assert wrong(found) == set()
    said = [finding.what for finding in found if finding.ok is None]
    assert len(said) == 4  # prepare, two trainings, and the pixels
    assert all("not here, so not checked" in what for what in said)
    flip(copy.out / "predictions/luminal-transfer/fold0.csv")
    assert "predictions/luminal-transfer/fold0.csv" in wrong(level1(copy))


def test_a_tensor_is_named(copy):
    name = "weights/mlmc/fold0.safetensors"
    tensors = load_file(copy.out / name)
    tensors["fc.bias"][0] = np.nextafter(np.float32(0), np.float32(1))
    save_file(tensors, copy.out / name)
    assert any(finding.what == "other tensors: fc.bias" for finding in verify.hashes(copy.out))


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "ok"), [(0.99e-4, True), (1.01e-4, False)])
def test_regressions_may_differ_between_libraries(copy, by, ok):
    """Only what a solver fits, and only to 1e-4."""
    for suffix, old, new in (("json", "0.5", f"{0.5 + by:.6f}"), ("md", "0.5000", f"{0.5 + by:.4f}")):
        path = copy.out / f"tables/mean.{suffix}"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    found = next(f for f in verify.remade(copy.out, partial(make, copy)) if f.stage == "mean")
    assert found.ok is ok
    if ok:
        assert found.what == "follows from the predictions; regressions without an image to 0.0001 (0.0001)"
    else:
        assert (found.file, "age" in found.what) in {("tables/mean.md", False), ("tables/mean.json", True)}


def test_no_other_text_may_differ_beside_them(copy):
    """Where a regression is another in its last digits, the sections before and after it must still be the same."""
    number, text = copy.out / "tables/mean.json", copy.out / "tables/mean.md"
    number.write_text(number.read_text().replace("0.5", "0.500001"))
    clean = text.read_text()
    for old, new in (("One", "Two"), ("\nno\n", "\nyes\n"), ("Seed 0", "Seed 1")):
        text.write_text(clean.replace(old, new))
        assert wrong(verify.remade(copy.out, partial(make, copy))) >= {"tables/mean.md"}
    text.write_text(clean)
    assert not wrong(verify.remade(copy.out, partial(make, copy)))


def test_no_other_number_may_differ(copy):
    path = copy.out / "tables/mean.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"mean": data["mean"] + 1e-6}, indent=1) + "\n")
    found = [f for f in verify.remade(copy.out, partial(make, copy)) if f.ok is False]
    assert [(f.file, f.what) for f in found] == [("tables/mean.json", "does not follow from the predictions: mean")]


def test_an_altered_input_is_no_traceback(copy):
    for name in ("cohort.csv", "split.csv"):
        (copy.out / name).write_text("a,b\n1,2\n")
    found = verify.remade(copy.out, partial(make, copy))
    assert any("cannot be made again" in finding.what and finding.ok is False for finding in found)


@pytest.mark.parametrize(
    ("a", "b", "names", "near"),
    [
        ({"x": 1}, {"x": 1}, [], 0),
        ({"x": 1}, {"y": 1}, ["all of it"], 0),
        ({"x": [1, 2]}, {"x": [1, 3]}, ["x / 1"], 0),
        ({"x": [1]}, {"x": [1, 3]}, ["x"], 0),
        ({"x": None}, {"x": 0.1}, ["x"], 0),
        ({"x": "1"}, {"x": 1}, ["x"], 0),
        ({"without images": {"x": 0.25}}, {"without images": {"x": 0.25 + 2**-14}}, [], 2**-14),
        ({"without images": {"x": None}}, {"without images": {"x": 0.25}}, ["without images / x"], 0),
        ({"without images": {"x": float("nan")}}, {"without images": {"x": 0.25}}, ["without images / x"], 0),
    ],
)
def test_where_two_json_values_differ(a, b, names, near):
    assert verify.unequal(a, b) == (names, near)


@pytest.mark.parametrize(
    ("a", "b", "far"),
    [
        ("image,mass\nA,0.5\n", "image,mass\nA,0.5\n", 0.0),
        ("image,mass\nA,0.5\nB,0.25\n", "image,mass\nA,0.5\nB,0.75\n", 0.5),
        ("image,mass\nA,0.5\n", "image,mass\nB,0.5\n", math.inf),
        ("image,mass\nA,0.5\n", "image,malignant\nA,0.5\n", math.inf),
        ("image,mass\nA,0.5\n", "image,mass\nA,0.5\nB,0.5\n", math.inf),
        ("image,mass\nA,0.5\n", "", math.inf),
    ],
)
def test_how_far_predictions_are_apart(a, b, far):
    assert verify.largest(a, b) == far
    assert verify.largest(b, a) == far


def test_no_number_is_never_near():
    assert not verify.largest("A,nan\nB,0.5\n", "A,0.5\nB,0.75\n") <= 1


# ---- two folders ---------------------------------------------------------------------------------


def test_a_folder_is_equal_to_itself(finished, copy):
    found = verify.against(finished.out, copy.out)
    assert all(finding.ok for finding in found)
    assert [finding.stage for finding in found] == ["prepare", "split", MLMC, LUMINAL, "mean", "table1"]


def test_the_first_stage_that_differs_is_named(finished, copy):
    """Another split, and all that follows from it, made by another scipy under another seed."""
    for stage, name in (("split", "split.csv"), (LUMINAL, "predictions/luminal-transfer/fold0.csv")):
        flip(copy.out / name)
        rehash(copy.out, stage, name)

    def change(manifest: dict) -> None:
        entry = manifest["stages"]["split"]
        entry["inputs"]["seed"], entry["stack"] = 7, record.digest({"scipy": "9"})[:12]
        manifest["stacks"][entry["stack"]] = {"scipy": "9"}
        manifest["settings"]["seed"] = 7

    edit(copy.out, change)
    found = verify.against(finished.out, copy.out)
    settings = next(finding for finding in found if finding.stage == "settings")
    assert (settings.what, settings.ok) == ("differ: seed 0 / 7", None)
    compared = {finding.stage: finding for finding in found if not finding.file.startswith("/")}
    assert compared["prepare"].ok is True
    assert compared["split"].what.startswith("the first stage that differs: split.csv; made from another seed; stack: ")
    assert compared["split"].what.endswith(" / 9")
    assert compared[LUMINAL].what == "predictions/luminal-transfer/fold0.csv; inputs and stack are the same"
    assert sum("first stage" in finding.what for finding in found) == 1


def test_the_other_folder_must_be_as_it_says(finished, copy):
    flip(copy.out / "cohort.csv")
    assert wrong(verify.against(finished.out, copy.out)) == {str(copy.out / "cohort.csv")}


def test_runs_times_are_not_compared(finished, copy):
    record.write(copy.out / "sources.csv", "image,path,bytes,mtime\n")
    record.commit(copy.out, "sources", ["sources.csv"], {}, {}, part="unverified")
    assert all(finding.ok for finding in verify.against(finished.out, copy.out))


def test_a_stage_of_one_folder_alone(finished, copy):
    for name in ("table1.md", "table1.json"):
        (copy.out / "tables" / name).unlink()
    edit(copy.out, lambda manifest: manifest["stages"].pop("table1"))
    assert [f for f in verify.against(finished.out, copy.out) if not f.ok] == [
        verify.Finding("table1", "", "only in the first folder", None)
    ]


def test_nothing_in_common_is_a_difference(finished, tmp_path):
    record.claim(tmp_path / "other", {"seed": 0})
    assert any(finding.ok is False for finding in verify.against(finished.out, tmp_path / "other"))


# ---- levels 2 and 3 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(prepared) -> tuple[options.Study, list[train.Training]]:
    """The same folder with its two trainings really done."""
    out = prepared.out.with_name("trained")
    shutil.copytree(prepared.out, out)
    made = replace(prepared, out=out)
    trainings = study.trainings(made, WANTED)
    for training in trainings:
        train.run(training, lambda _: None, lambda: False)
    return made, trainings


@pytest.fixture
def changed(trained, tmp_path) -> tuple[Path, list[train.Training]]:
    """A copy of it, to be changed."""
    shutil.copytree(trained[0].out, tmp_path / "out")
    return tmp_path / "out", study.trainings(replace(trained[0], out=tmp_path / "out"), WANTED)


@pytest.fixture
def judged(prepared, tmp_path) -> train.Training:
    """An MLMC fold with the weights it starts from, and what they say of the images."""
    shutil.copytree(prepared.out, tmp_path / "out")
    (made,) = study.trainings(replace(prepared, out=tmp_path / "out"), [("mlmc", 0)])
    weights, history, predictions = made.files
    device = made.stack.settle()
    model = train.network(made.task, None, made.key, "fp32")
    record.write(made.out / weights, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    record.write(made.out / history, "")
    rows = np.concatenate([made.test, made.validation])
    said = train.predict(made.task, model, train.Pixels(made.images, device), rows)
    record.write(made.out / predictions, predictions_csv(made, rows, said))
    record.commit(made.out, made.stage, made.files, made.made_from, made.stack.describe())
    return made


def test_a_forger_of_predictions_is_caught(judged):
    """Better predictions, entered in the manifest as if the training had made them."""
    assert [(f.stage, f.ok) for f in verify.predictions(judged.out, [judged])] == [(MLMC, True)]
    rows = np.concatenate([judged.test, judged.validation])
    record.write(judged.out / judged.files[2], predictions_csv(judged, rows, judged.targets[rows]))
    rehash(judged.out, MLMC, judged.files[2])
    assert wrong(verify.hashes(judged.out)) == set()
    (found,) = verify.predictions(judged.out, [judged])
    assert (found.file, found.ok) == (judged.files[2], False)
    assert "does not follow from the weights, on the same stack" in found.what


@pytest.mark.parametrize("which", ["test", "validation"])
def test_one_digit_of_one_prediction_is_caught(judged, which):
    at = 0 if which == "test" else len(judged.test)
    path = judged.out / judged.files[2]
    lines = path.read_text().splitlines(keepends=True)
    value = float(lines[1 + at].split(",")[-1])
    lines[1 + at] = lines[1 + at].rsplit(",", 1)[0] + f",{value + 1e-7:.9g}\n"
    path.write_text("".join(lines))
    assert wrong(verify.predictions(judged.out, [judged])) == {judged.files[2]}


def test_other_weights_or_images_than_those_of_the_predictions_are_caught(judged):
    store = np.load(judged.images)
    store[judged.test[0]] = 255 - store[judged.test[0]]
    np.save(judged.images, store)
    assert wrong(verify.predictions(judged.out, [judged])) == {judged.files[2]}
    store[judged.test[0]] = 255 - store[judged.test[0]]
    np.save(judged.images, store)
    assert wrong(verify.predictions(judged.out, [judged])) == set()
    tensors = load_file(judged.out / judged.files[0])
    tensors["fc.bias"] += np.float32(0.01)
    save_file(tensors, judged.out / judged.files[0])
    assert wrong(verify.predictions(judged.out, [judged])) == {judged.files[2]}


def test_a_split_that_does_not_follow_from_the_seed_is_caught(copy):
    def check() -> set[str]:
        return wrong(verify.parted(copy.out, study.make_split(copy)[0]))

    assert check() == set()
    path = copy.out / "split.csv"
    clean = path.read_text()
    path.write_text(clean.replace("test", "fold9").replace("fold0", "test").replace("fold9", "fold0"))
    rehash(copy.out, "split", "split.csv")
    assert check() == {"split.csv"}
    path.write_text(clean)
    flip(copy.out / "seeds.csv")
    assert check() == {"seeds.csv"}


@pytest.mark.slow
def test_predictions_follow_from_weights(trained):
    found = verify.predictions(trained[0].out, trained[1])
    assert [(f.stage, f.what, f.ok) for f in found] == [
        (stage, "follows from the weights: the same bytes", True) for stage in (MLMC, LUMINAL)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "images", "predictions"])
def test_predictions_that_do_not_follow(changed, what):
    out, (mlmc, _) = changed
    if what == "weights":
        tensors = load_file(out / mlmc.files[0])
        tensors["fc.bias"] += np.float32(0.01)
        save_file(tensors, out / mlmc.files[0])
    elif what == "images":
        store = np.load(out / "images.npy")
        store[mlmc.test[0]] = 255 - store[mlmc.test[0]]
        np.save(out / "images.npy", store)
    else:
        flip(out / mlmc.files[2])
    found = verify.predictions(out, [mlmc])
    assert wrong(found) == {mlmc.files[2]}
    assert "on the same stack: largest difference" in found[0].what


@pytest.mark.slow
def test_on_another_stack_within_the_tolerance(changed):
    out, (mlmc, _) = changed

    def change(manifest: dict) -> None:
        recorded = manifest["stacks"][manifest["stages"][MLMC]["stack"]]
        recorded["torch"] = "2.10.0"

    edit(out, change)
    path, clean = out / mlmc.files[2], (out / mlmc.files[2]).read_text()
    head, last = clean.rstrip("\n").rsplit(",", 1)
    for by, ok in ((0.9e-5, True), (1.1e-5, False)):
        path.write_text(f"{head},{float(last) + by:.9g}\n")
        found = verify.predictions(out, [mlmc])[0]
        assert found.ok is ok
        assert "tolerance 1e-05 on another torch" in found.what


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the GPU is used")
def test_what_a_gpu_made_is_checked_without_one(changed, tmp_path):
    """Predictions on the CPU, to the tolerance of what the GPU computed in; a training not at all."""
    out, (mlmc, _) = changed
    path = out / mlmc.files[2]
    head, last = path.read_text().rstrip("\n").rsplit(",", 1)
    path.write_text(f"{head},{float(last) + 4e-3:.9g}\n")
    there = replace(mlmc, stack=Stack("cuda", "tf32", 1))
    found = verify.predictions(out, [there])[0]
    assert found.ok is True
    assert found.what.startswith("largest difference 0.004, tolerance 0.005 on another ")
    found = verify.retrained(there, tmp_path / "never")
    assert [(f.what, f.ok) for f in found] == [("was trained on cuda; no GPU is here to train it again", None)]


@pytest.mark.slow
def test_without_weights_or_before_they_are_made_nothing_is_judged(changed):
    out, trainings = changed
    (out / trainings[0].files[0]).unlink()
    assert [finding.ok for finding in verify.predictions(out, trainings)] == [None, True]
    edit(out, lambda manifest: manifest["stages"].pop(MLMC))
    assert [finding.stage for finding in verify.predictions(out, trainings)] == [LUMINAL]
    (out / trainings[1].files[0]).write_bytes(b"no tensors")
    assert wrong(verify.predictions(out, trainings)) == {trainings[1].files[0]}


@pytest.mark.slow
def test_a_fold_trained_again_is_the_same(trained, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in trained[0].out.rglob("*")}
    for training in trained[1]:  # the transfer alone, too: from the weights that are there
        found = verify.retrained(training, tmp_path / training.task.name)
        assert [finding.ok for finding in found] == [True]
    assert {path: path.stat().st_mtime_ns for path in trained[0].out.rglob("*")} == before


@pytest.mark.slow
def test_a_fold_trained_again_tells_what_was_changed(changed, tmp_path):
    out, (mlmc, luminal) = changed
    tensors = load_file(out / luminal.files[0])
    tensors["bn1.bias"][0] += 1
    save_file(tensors, out / luminal.files[0])
    flip(out / luminal.files[1])
    found = verify.retrained(luminal, tmp_path / "again")
    assert [(f.file, f.what) for f in found] == [
        (luminal.files[0], "other tensors: bn1.bias"),
        (luminal.files[1], "other losses"),
    ]
    assert {f.ok for f in found} == {False}
    tensors = load_file(out / mlmc.files[0])
    tensors["bn1.bias"][0] += 1
    save_file(tensors, out / mlmc.files[0])
    found = verify.retrained(luminal, tmp_path / "never")
    assert [(f.what, f.ok) for f in found] == [("was made from another start than is here", False)]
    assert not (tmp_path / "never").exists()
