"""verify: whatever was changed in an outputs folder is found, and the file named."""

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save
from studies import RECIPE

from lumin import exact
from lumin.errors import UserError
from lumin.paper.recipe import Recipe
from lumin.run import compare, manifest, recompute, resumable, review, stages, verify
from lumin.run.findings import Finding
from lumin.run.machine import describe
from lumin.run.make import Stage, make
from lumin.run.stages import Training
from lumin.run.study import STACK_SETTINGS, Study
from lumin.training.machine import Stack
from lumin.training.network import network
from lumin.training.train import Pixels, predict, predictions_csv

WANTED = [("luminal-transfer", 0)]  # and the MLMC fold that it starts from
MLMC, LUMINAL = "train/mlmc/fold0", "train/luminal-transfer/fold0"
JUDGED = "predictions/luminal-transfer/fold0.csv"
FILES_OF_MLMC = ("weights/mlmc/fold0.safetensors", "history/mlmc/fold0.jsonl")


def of(study: Study, out: Path) -> Study:
    """The study as somebody opens it who was sent the folder."""
    begun = manifest.read(out)["settings"]
    recipe = Recipe(**{name: begun[name] for name in asdict(RECIPE)})
    stack = Stack(*(begun[name] for name in STACK_SETTINGS))
    return replace(
        study, out=out, demo=begun["demo"], seed=begun["seed"], recipe=recipe, stack=stack
    )


def predictions_of(one: Training) -> str:
    """Made-up probabilities of the images that a training judges."""
    fold = one.fold
    rows = np.concatenate([fold.test, fold.validation])
    random = np.random.default_rng([fold.number, len(fold.task.outputs)])
    return predictions_csv(
        fold, rows, random.random((len(rows), len(fold.task.outputs)), np.float32)
    )


def mean_stage(out: Path, judged: str = JUDGED) -> Stage:
    """A table that follows from predictions: their mean, and one number of a solver."""

    def make() -> dict[str, str]:
        lines = (out / judged).read_text().splitlines()[1:]
        mean = float(np.mean([float(line.split(",")[-1]) for line in lines]))
        data = {"mean": mean, "sheet alone": {"age": 0.5}}
        sections = [
            "# A table",
            "## One",
            f"{mean:.4f}",
            "## From the clinical sheet alone",
            f"{0.5:.4f}",
        ]
        sections += ["## Better?", "no", "---", "Seed 0"]
        text = "\n\n".join(sections) + "\n"
        return {"tables/mean.md": text, "tables/mean.json": json.dumps(data, indent=1) + "\n"}

    return Stage("mean", (judged,), {"version": 1}, make, ("numpy",), quick=True)


def tables(study: Study) -> list[Stage]:
    """The tables of the folder, and one that it has not."""
    return [stages.table_stage(study, name) for name in ("table1", "table2a")] + [
        mean_stage(study.out)
    ]


def every_stage(study: Study) -> list[Stage]:
    """All stages whose settings are known without the data."""
    return [*stages.pipeline(study), mean_stage(study.out)]


@pytest.fixture(scope="session")
def finished(prepared) -> Study:
    """An outputs folder of two trainings with small weights, and two tables."""
    out = prepared.out.with_name("finished")
    shutil.copytree(prepared.out, out)
    study = replace(prepared, out=out)
    line = {"epoch": 1, "train_loss": 0.71, "val_loss": 0.72, "best": True}
    for one in stages.trainings(study, WANTED):
        weights, history, predictions = one.fold.files
        (out / weights).parent.mkdir(parents=True)
        bias = np.float32([one.fold.number])
        save_file({"fc.weight": np.float32([[1, 2]]), "fc.bias": bias}, out / weights)
        exact.write(out / history, json.dumps(line) + "\n")
        exact.write(out / predictions, predictions_of(one))
        inputs, stack = one.inputs(out), describe(study.stack)
        manifest.commit(out, one.name, one.fold.files, inputs, stack)
    stages.tabulate(study, "table1")
    make(out, mean_stage(out))
    return study


@pytest.fixture
def copy(finished, tmp_path) -> Study:
    """A copy of it, to be changed."""
    shutil.copytree(finished.out, tmp_path / "out")
    return replace(finished, out=tmp_path / "out")


def level1(study: Study) -> list[Finding]:
    """All but the trainings; the image files, which level 2 decodes, as well."""
    now = of(study, study.out)
    findings = [*verify.hashes(now.out), *verify.images(now.out), *recompute.pictures(now.out)]
    return [*findings, *verify.made_with(now.out, every_stage(now)), *remade(now)]


def remade(study: Study) -> list[Finding]:
    """The split and the tables made again."""
    return verify.remade(study.out, [stages.split_stage(study), *tables(study)])


def wrong(findings: list[Finding]) -> set[str]:
    """The files of the differences."""
    return {finding.file for finding in findings if finding.ok is False}


def flip(path: Path, at: int = -2) -> None:
    """Change one byte, a digit to another digit where there is one."""
    data = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if path.suffix in (".csv", ".json", ".jsonl", ".md"):
        data[digits[at]] = ord("0") + (data[digits[at]] - ord("0") + 1) % 10
    else:
        data[len(data) // 2 if path.suffix == ".jpg" else at] ^= (
            1  # a JPEG file's last bytes are no pixels
        )
    path.write_bytes(data)


def edit(out: Path, change) -> None:
    """Change the manifest as text does not protect it."""
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))


def rehash(out: Path, stage: str, name: str) -> None:
    """Enter a changed file as if its stage had made it so."""

    def change(found: dict) -> None:
        found["stages"][stage]["files"][name] = exact.sha256(out / name)

    edit(out, change)


# ---- level 1 -------------------------------------------------------------------------------------


def test_an_untouched_folder_has_no_difference(finished):
    found = level1(finished)
    assert all(finding.ok for finding in found), [f for f in found if not f.ok]
    (one,) = verify.hashes(finished.out)
    lists = {"manifest.json", "SHA256SUMS"}
    files = [path for path in finished.out.rglob("*") if path.is_file() and path.name not in lists]
    stages = ["prepare", "split", MLMC, LUMINAL, "mean", "table1", "run", "sources"]
    assert one.what == f"{len(files)} files of {len(stages)} stages as recorded"


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
    if name in ("images.npy", "sources.csv") and damage == "remove":  # may be left out, as is said
        assert [(f.file, f.ok) for f in found if not f.ok] == [("", None)]
        assert any(f.what.startswith(f"{name}: not here, so not checked") for f in found)
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
    rehash(
        copy.out,
        next(s for s, e in manifest.read(copy.out)["stages"].items() if name in e["files"]),
        name,
    )
    assert named in wrong(level1(copy))


def leaves(value: object, path: tuple = ()):
    """Every number and text of a JSON value, with where it is."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in items:
        yield from leaves(below, (*path, key))
    if not isinstance(value, dict | list):
        yield path, value


@pytest.mark.slow
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
                not value
                if isinstance(value, bool)
                else f"{value}0"
                if isinstance(value, str)
                else (value or 0) + 1
            )
            manifest[path[-1]] = other

        edit(copy.out, change)
        if not wrong(level1(copy)):
            silent.append(".".join(map(str, path)))
        (copy.out / "manifest.json").write_text(clean)
    # What the images are called, of which cohort.csv has each; the sheet, which is not here
    unseen = {"settings.images", "stages.prepare.inputs.sheet"}
    assert set(silent) == unseen, silent


@pytest.mark.slow
def test_an_input_taken_out_of_the_manifest_is_missed(copy):
    clean = (copy.out / "manifest.json").read_text()
    silent = []
    for stage, entry in manifest.read(copy.out)["stages"].items():
        for name in entry["inputs"]:
            edit(copy.out, lambda m, stage=stage, name=name: m["stages"][stage]["inputs"].pop(name))
            if not wrong(level1(copy)):
                silent.append((stage, name))
            (copy.out / "manifest.json").write_text(clean)
    assert silent == [("prepare", "sheet")]  # the sheet is not here


def test_a_damaged_manifest_is_one_message(copy, tmp_path):
    (copy.out / "manifest.json").write_text('{"stages": {"prepare": {"files": ["cohort.csv"]}}}')
    for check, *more in (
        (verify.hashes,),
        (recompute.pictures,),
        (verify.remade, []),
        (verify.made_with, []),
        (recompute.predictions, []),
        (compare.against, copy.out),
    ):
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            check(copy.out, *more)
    with pytest.raises(UserError, match=r"has no manifest\.json: nothing to verify.*--out"):
        verify.hashes(tmp_path / "nowhere")


def test_a_name_that_leads_out_of_the_folder_is_not_followed(copy, tmp_path):
    (tmp_path / "secret.csv").write_text("1")
    digest = exact.sha256(tmp_path / "secret.csv")
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
        (".lumin/mlmc.1.pt", "nothing"),
        ("SHA256SUMS", "nothing"),
        ("archive.zip", "nothing"),
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
    files = {f"weights/{stem}.safetensors", f"history/{stem}.jsonl", f"predictions/{stem}.csv"}
    assert wrong(verify.hashes(copy.out)) == files


def test_a_folder_sent_without_images_and_weights(copy):
    for name in ("images", "weights"):
        shutil.rmtree(copy.out / name)
    (copy.out / "images.npy").unlink()
    found = level1(copy)
    assert wrong(found) == set()
    said = [finding.what for finding in found if finding.ok is None]
    assert len(said) == 5  # prepare, two trainings, the store and the image files
    assert all("not here, so not checked" in what for what in said)
    flip(copy.out / "predictions/luminal-transfer/fold0.csv")
    assert "predictions/luminal-transfer/fold0.csv" in wrong(level1(copy))


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "ok"), [(0.99e-4, True), (1.01e-4, False)])
def test_regressions_may_differ_between_libraries(copy, by, ok):
    """Only what a solver fits, and only to 1e-4."""
    for suffix, old, new in (
        ("json", "0.5", f"{0.5 + by:.6f}"),
        ("md", "0.5000", f"{0.5 + by:.4f}"),
    ):
        path = copy.out / f"tables/mean.{suffix}"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    found = next(f for f in verify.remade(copy.out, tables(copy)) if f.stage == "mean")
    assert found.ok is ok
    if ok:
        assert (
            found.what
            == "follows from the predictions; regressions differ by 0.0001 at most (0.0001 allowed)"
        )
    else:
        assert (found.file, "age" in found.what) in {
            ("tables/mean.md", False),
            ("tables/mean.json", True),
        }


def test_no_other_text_may_differ_beside_them(copy):
    """Where a regression is another in its last digits, the sections before and after it must still
    be the same.
    """
    number, text = copy.out / "tables/mean.json", copy.out / "tables/mean.md"
    number.write_text(number.read_text().replace("0.5", "0.500001"))
    clean = text.read_text()
    for old, new in (("One", "Two"), ("\nno\n", "\nyes\n"), ("Seed 0", "Seed 1")):
        text.write_text(clean.replace(old, new))
        assert wrong(verify.remade(copy.out, tables(copy))) >= {"tables/mean.md"}
    text.write_text(clean)
    assert not wrong(verify.remade(copy.out, tables(copy)))


@pytest.mark.parametrize(("old", "new"), [("0.5000", "0.9000"), ("0.5000", "0.5000 for all")])
def test_a_forged_section_of_the_sheet_is_found(copy, old, new):
    """Also where its JSON was left as it is."""
    path = copy.out / "tables/mean.md"
    text = path.read_text()
    at = text.index("## From the clinical sheet alone")
    path.write_text(text[:at] + text[at:].replace(old, new))
    assert path.read_text() != text
    assert wrong(verify.remade(copy.out, tables(copy))) == {"tables/mean.md"}


def test_no_other_number_may_differ(copy):
    path = copy.out / "tables/mean.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"mean": data["mean"] + 1e-6}, indent=1) + "\n")
    found = [f for f in verify.remade(copy.out, tables(copy)) if f.ok is False]
    assert [(f.file, f.what) for f in found] == [
        ("tables/mean.json", "does not follow from the predictions: 1 values, first mean")
    ]


def test_an_altered_input_is_no_traceback(copy):
    for name in ("cohort.csv", "split.csv"):
        (copy.out / name).write_text("a,b\n1,2\n")
    found = verify.remade(copy.out, tables(copy))
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
        ({"sheet alone": {"x": 0.25}}, {"sheet alone": {"x": 0.25 + 2**-14}}, [], 2**-14),
        (
            {"sheet alone": {"x": None}},
            {"sheet alone": {"x": 0.25}},
            ["sheet alone / x"],
            0,
        ),
        (
            {"sheet alone": {"x": float("nan")}},
            {"sheet alone": {"x": 0.25}},
            ["sheet alone / x"],
            0,
        ),
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
    assert recompute.largest(a, b) == far
    assert recompute.largest(b, a) == far


def test_no_number_is_never_near():
    assert not recompute.largest("A,nan\nB,0.5\n", "A,0.5\nB,0.75\n") <= 1


# ---- two folders ---------------------------------------------------------------------------------


def test_a_folder_is_equal_to_itself(finished, copy):
    found = compare.against(finished.out, copy.out)
    assert all(finding.ok for finding in found)
    assert [finding.stage for finding in found] == [
        "prepare",
        "split",
        MLMC,
        LUMINAL,
        "mean",
        "table1",
    ]


def test_the_first_stage_that_differs_is_named(finished, copy):
    """Another split, and all that follows from it, made by another scipy under another seed."""
    for stage, name in (
        ("split", "split.csv"),
        (LUMINAL, "predictions/luminal-transfer/fold0.csv"),
    ):
        flip(copy.out / name)
        rehash(copy.out, stage, name)

    def change(manifest: dict) -> None:
        entry = manifest["stages"]["split"]
        entry["inputs"]["seed"], entry["stack"] = 7, exact.digest({"scipy": "9"})[:12]
        manifest["stacks"][entry["stack"]] = {"scipy": "9"}
        manifest["settings"]["seed"] = 7

    edit(copy.out, change)
    found = compare.against(finished.out, copy.out)
    settings = next(finding for finding in found if finding.stage == "settings")
    assert (settings.what, settings.ok) == ("two different runs: seed 0 / 7", None)
    compared = {finding.stage: finding for finding in found if not finding.file.startswith("/")}
    assert compared["prepare"].ok is True
    assert compared["split"].what.startswith(
        "the first stage that differs: split.csv; made from another seed; stack: "
    )
    assert compared["split"].what.endswith(" / 9")
    assert (
        compared[LUMINAL].what
        == "predictions/luminal-transfer/fold0.csv; inputs and stack are the same"
    )
    assert sum("first stage" in finding.what for finding in found) == 1


def test_the_other_folder_must_be_as_it_says(finished, copy):
    flip(copy.out / "cohort.csv")
    assert wrong(compare.against(finished.out, copy.out)) == {str(copy.out / "cohort.csv")}


def test_runs_times_are_not_compared(finished, copy):
    exact.write(copy.out / "sources.csv", "image,path,bytes,mtime\n")
    manifest.commit(copy.out, "sources", ["sources.csv"], {}, {}, part="unverified")
    assert all(finding.ok for finding in compare.against(finished.out, copy.out))


def test_a_stage_of_one_folder_alone(finished, copy):
    for name in ("table1.md", "table1.json"):
        (copy.out / "tables" / name).unlink()
    edit(copy.out, lambda manifest: manifest["stages"].pop("table1"))
    assert [f for f in compare.against(finished.out, copy.out) if not f.ok] == [
        Finding("table1", "", "only in the first folder", None)
    ]


TABLE = {
    "one": {"mlmc": {"mass": {"folds": [0.5], "mean": 0.5, "sd": 0.25}}},
    "two": {"mlmc": {"mass": {"folds": [0.5], "mean": 0.75, "sd": 0.125}}},
    "paper": {"Mass": {"mlmc": {"mean": 0.9, "sd": 0.1}}},
}


def test_the_cell_that_differs_most_is_named_and_whether_the_stack_may_be_why(finished, copy):
    def found() -> Finding:
        manifests = manifest.read(finished.out), manifest.read(copy.out)
        (finding,) = compare.tables(finished.out, copy.out, *manifests)
        return finding

    path = copy.out / "tables/table2a.json"
    (finished.out / "tables/table2a.json").write_text(json.dumps(TABLE))
    path.write_text(json.dumps(TABLE))
    assert (found().what, found().ok) == ("none of 2 cells differs", True)

    text = json.dumps(TABLE).replace("0.75", "0.7").replace("0.5,", "0.51,").replace("0.9", "0.1")
    path.write_text(text)
    largest = "largest difference of a cell 0.0500 (SD over folds 0.1250), "
    assert found().what.startswith(largest + "table2a / two / mlmc / mass; no other stack gives it")
    assert found().ok is False

    flip(copy.out / FILES_OF_MLMC[0], 100)
    rehash(copy.out, MLMC, FILES_OF_MLMC[0])
    assert found().what.endswith("the trainings are the same, or on the same stack")

    def elsewhere(there: dict) -> None:
        there["stages"][MLMC]["stack"] = "elsewhere"
        there["stacks"]["elsewhere"] = describe(finished.stack) | {"torch": "9"}

    edit(copy.out, elsewhere)
    assert "another stack may give it, as another seed would (torch " in found().what
    assert found().ok is None
    edit(copy.out, lambda there: there["stages"][MLMC]["inputs"].update({"split.csv": "another"}))
    assert found().what.endswith("the trainings were made from another split.csv")
    assert found().ok is False
    (finished.out / "tables/table2a.json").unlink()


def test_nothing_in_common_is_a_difference(finished, tmp_path):
    manifest.claim(tmp_path / "other", {"seed": 0})
    assert any(finding.ok is False for finding in compare.against(finished.out, tmp_path / "other"))


# ---- levels 2 and 3 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(prepared) -> tuple[Study, list[Training]]:
    """The same folder with its two trainings really done."""
    out = prepared.out.with_name("trained")
    shutil.copytree(prepared.out, out)
    study = replace(prepared, out=out)
    trainings = stages.trainings(study, WANTED)
    for one in trainings:
        resumable.run(one, lambda _: None, lambda: False)
    return study, trainings


@pytest.fixture
def changed(trained, tmp_path) -> tuple[Path, list[Training]]:
    """A copy of it, to be changed."""
    shutil.copytree(trained[0].out, tmp_path / "out")
    return tmp_path / "out", stages.trainings(replace(trained[0], out=tmp_path / "out"), WANTED)


@pytest.fixture
def judged(prepared, tmp_path) -> Training:
    """An MLMC fold with the weights it starts from, and what they say of the images."""
    shutil.copytree(prepared.out, tmp_path / "out")
    (one,) = stages.trainings(replace(prepared, out=tmp_path / "out"), [("mlmc", 0)])
    fold, (weights, history, predictions) = one.fold, one.fold.files
    device = one.stack.settle()
    model = network(fold.task, None, fold.key, "fp32")
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    exact.write(one.out / weights, save(tensors))
    exact.write(one.out / history, "")
    rows = np.concatenate([fold.test, fold.validation])
    values = predict(fold.task, model, Pixels(one.out / "images.npy", device), rows)
    exact.write(one.out / predictions, predictions_csv(fold, rows, values))
    inputs = one.inputs(one.out)
    manifest.commit(one.out, one.name, fold.files, inputs, describe(one.stack))
    return one


def test_a_forger_of_predictions_is_caught(judged):
    """Better predictions, entered in the manifest as if the training had made them."""
    assert [(f.stage, f.ok) for f in recompute.predictions(judged.out, [judged])] == [(MLMC, True)]
    rows = np.concatenate([judged.fold.test, judged.fold.validation])
    exact.write(
        judged.out / judged.fold.files[2],
        predictions_csv(judged.fold, rows, judged.fold.targets[rows]),
    )
    rehash(judged.out, MLMC, judged.fold.files[2])
    assert wrong(verify.hashes(judged.out)) == set()
    (found,) = recompute.predictions(judged.out, [judged])
    assert (found.file, found.ok) == (judged.fold.files[2], False)
    assert "does not follow from the weights, on the same stack" in found.what


def states(study: Study, table: Stage, predict: bool, retrain: str | None) -> dict[str, set]:
    """What each level of a review says."""
    levels: dict[str, set] = {}
    for level, findings in review.review(study, lambda _: [table], None, predict, retrain):
        levels.setdefault(level, set()).update(finding.ok for finding in findings)
    return levels


def enter(one: Training, table: Stage) -> None:
    """Enter a training's files and make the table anew, as the kit itself does."""
    inputs = one.inputs(one.out)
    manifest.commit(one.out, one.name, one.fold.files, inputs, describe(one.stack))
    assert make(one.out, table)


def test_who_alters_predictions_and_redoes_all_else_passes_level_1_and_fails_level_2(
    prepared, judged
):
    study, table = replace(prepared, out=judged.out), mean_stage(judged.out, judged.fold.files[2])
    enter(judged, table)
    assert states(study, table, True, None)["Level 2"] == {True}
    fold, rows = judged.fold, np.concatenate([judged.fold.test, judged.fold.validation])
    exact.write(judged.out / fold.files[2], predictions_csv(fold, rows, fold.targets[rows]))
    enter(judged, table)
    found = states(study, table, True, None)
    assert False not in found.pop("")
    assert found == {"Level 1": {True}, "Level 2": {False}}


@pytest.mark.slow
def test_who_trains_on_test_patients_passes_level_2_and_fails_level_3(prepared, tmp_path):
    """The weights are real ones, and all that follows from them does follow."""
    study = replace(prepared, out=shutil.copytree(prepared.out, tmp_path / "out"))
    (one,) = stages.trainings(study, [("mlmc", 0)])
    seen = np.concatenate([one.fold.train, one.fold.test])
    resumable.run(replace(one, fold=replace(one.fold, train=seen)), lambda _: None, lambda: False)
    table = mean_stage(study.out, one.fold.files[2])
    assert make(study.out, table)
    found = states(study, table, True, "mlmc/0")
    assert False not in found.pop("")
    assert found == {"Level 1": {True}, "Level 2": {True}, "Level 3": {False}}


@pytest.mark.parametrize("which", ["test", "validation"])
def test_one_digit_of_one_prediction_is_caught(judged, which):
    at = 0 if which == "test" else len(judged.fold.test)
    path = judged.out / judged.fold.files[2]
    lines = path.read_text().splitlines(keepends=True)
    value = float(lines[1 + at].split(",")[-1])
    lines[1 + at] = lines[1 + at].rsplit(",", 1)[0] + f",{value + 1e-7:.9g}\n"
    path.write_text("".join(lines))
    assert wrong(recompute.predictions(judged.out, [judged])) == {judged.fold.files[2]}


def test_other_weights_or_images_than_those_of_the_predictions_are_caught(judged):
    store = np.load(judged.out / "images.npy")
    store[judged.fold.test[0]] = 255 - store[judged.fold.test[0]]
    np.save(judged.out / "images.npy", store)
    assert wrong(recompute.predictions(judged.out, [judged])) == {judged.fold.files[2]}
    store[judged.fold.test[0]] = 255 - store[judged.fold.test[0]]
    np.save(judged.out / "images.npy", store)
    assert wrong(recompute.predictions(judged.out, [judged])) == set()
    tensors = load_file(judged.out / judged.fold.files[0])
    tensors["fc.bias"] += np.float32(0.01)
    save_file(tensors, judged.out / judged.fold.files[0])
    assert wrong(recompute.predictions(judged.out, [judged])) == {judged.fold.files[2]}


def test_a_split_that_does_not_follow_from_the_seed_is_caught(copy):
    def check() -> set[str]:
        return wrong(verify.remade(copy.out, [stages.split_stage(copy)]))

    assert check() == set()
    path = copy.out / "split.csv"
    clean = path.read_text()
    path.write_text(
        clean.replace("test", "fold9").replace("fold0", "test").replace("fold9", "fold0")
    )
    rehash(copy.out, "split", "split.csv")
    assert check() == {"split.csv"}
    path.write_text(clean)
    flip(copy.out / "seeds.csv")
    assert check() == {"seeds.csv"}


@pytest.mark.slow
def test_predictions_follow_from_weights(trained):
    found = recompute.predictions(trained[0].out, trained[1])
    assert [(f.stage, f.what, f.ok) for f in found] == [
        (stage, "follows from the weights: the same bytes", True) for stage in (MLMC, LUMINAL)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "images", "predictions"])
def test_predictions_that_do_not_follow(changed, what):
    out, (mlmc, _) = changed
    if what == "weights":
        tensors = load_file(out / mlmc.fold.files[0])
        tensors["fc.bias"] += np.float32(0.01)
        save_file(tensors, out / mlmc.fold.files[0])
    elif what == "images":
        store = np.load(out / "images.npy")
        store[mlmc.fold.test[0]] = 255 - store[mlmc.fold.test[0]]
        np.save(out / "images.npy", store)
    else:
        flip(out / mlmc.fold.files[2])
    found = recompute.predictions(out, [mlmc])
    assert wrong(found) == {mlmc.fold.files[2]}
    assert "on the same stack: largest difference" in found[0].what


@pytest.mark.slow
def test_on_another_stack_within_the_tolerance(changed):
    out, (mlmc, _) = changed

    def change(manifest: dict) -> None:
        recorded = manifest["stacks"][manifest["stages"][MLMC]["stack"]]
        recorded["torch"] = "2.10.0"

    edit(out, change)
    path, clean = out / mlmc.fold.files[2], (out / mlmc.fold.files[2]).read_text()
    head, last = clean.rstrip("\n").rsplit(",", 1)
    for by, ok in ((0.9e-5, None), (1.1e-5, False)):
        path.write_text(f"{head},{float(last) + by:.9g}\n")
        found = recompute.predictions(out, [mlmc])[0]
        assert found.ok is ok
        assert f"{'beyond' if ok is False else 'within'} the 1e-05 that another torch" in found.what


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the GPU is used")
def test_what_a_gpu_made_is_checked_without_one(changed, tmp_path):
    """Predictions on the CPU, to the tolerance of what the GPU computed in; a training not at
    all.
    """
    out, (mlmc, _) = changed
    path = out / mlmc.fold.files[2]
    head, last = path.read_text().rstrip("\n").rsplit(",", 1)
    path.write_text(f"{head},{float(last) + 4e-3:.9g}\n")
    there = replace(mlmc, stack=Stack("cuda", "tf32", 1))
    found = recompute.predictions(out, [there])[0]
    assert found.ok is None
    assert found.what.startswith("largest difference 0.004, within the 0.005 that another ")
    found = recompute.retrained(there, tmp_path / "never")
    assert [(f.what, f.ok) for f in found] == [
        ("was trained on cuda; no GPU is here to train it again", None)
    ]


@pytest.mark.slow
def test_without_weights_or_before_they_are_made_nothing_is_judged(changed):
    out, trainings = changed
    (out / trainings[0].fold.files[0]).unlink()
    assert [finding.ok for finding in recompute.predictions(out, trainings)] == [None, True]
    edit(out, lambda manifest: manifest["stages"].pop(MLMC))
    assert [finding.stage for finding in recompute.predictions(out, trainings)] == [LUMINAL]
    (out / trainings[1].fold.files[0]).write_bytes(b"no tensors")
    assert wrong(recompute.predictions(out, trainings)) == {trainings[1].fold.files[0]}


@pytest.mark.slow
def test_a_fold_trained_again_is_the_same(trained, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in trained[0].out.rglob("*")}
    for one in trained[1]:  # the transfer alone, too: from the weights that are there
        found = recompute.retrained(one, tmp_path / one.fold.task.name)
        assert [finding.ok for finding in found] == [True]
    assert {path: path.stat().st_mtime_ns for path in trained[0].out.rglob("*")} == before


@pytest.mark.slow
def test_other_predictions_of_the_same_weights_are_found_whatever_the_stack(changed, tmp_path):
    out, (mlmc, _) = changed

    def change(manifest: dict) -> None:
        manifest["stacks"][manifest["stages"][MLMC]["stack"]]["torch"] = "2.10.0"

    edit(out, change)
    path = out / mlmc.fold.files[2]
    head, last = path.read_text().rstrip("\n").rsplit(",", 1)
    path.write_text(f"{head},{float(last) + 0.9e-5:.9g}\n")
    found = recompute.retrained(mlmc, tmp_path / "again")
    assert [(f.file, f.ok) for f in found] == [(mlmc.fold.files[2], False)]


@pytest.mark.slow
def test_a_fold_trained_again_tells_what_was_changed(changed, tmp_path):
    out, (mlmc, luminal) = changed
    tensors = load_file(out / luminal.fold.files[0])
    tensors["bn1.bias"][0] += 1
    save_file(tensors, out / luminal.fold.files[0])
    flip(out / luminal.fold.files[1])
    found = recompute.retrained(luminal, tmp_path / "again")
    assert [(f.file, f.what) for f in found] == [
        (luminal.fold.files[0], "other weights"),
        (luminal.fold.files[1], "other losses"),
    ]
    assert {f.ok for f in found} == {False}
    tensors = load_file(out / mlmc.fold.files[0])
    tensors["bn1.bias"][0] += 1
    save_file(tensors, out / mlmc.fold.files[0])
    found = recompute.retrained(luminal, tmp_path / "never")
    assert [(f.what, f.ok) for f in found] == [
        ("was made from another weights/mlmc/fold0.safetensors than is here", False)
    ]
    assert not (tmp_path / "never").exists()
