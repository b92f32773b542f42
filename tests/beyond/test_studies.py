"""Many studies through the command line: what they share, what is trained anew, going on."""

import json
import os
import re
import shutil
import signal
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import save_file
from studies import Quiet, call, divide, hashes, pretend, refused, small_cohort

import repro
from lumin import exact
from lumin.beyond import studies
from lumin.evaluation import cells
from lumin.paper import recipe, silences
from lumin.run import manifest, options, pool, prepare, stages
from lumin.run.machine import describe
from lumin.training.tasks import TASKS

pytestmark = pytest.mark.usefixtures("one_process", "tiny")

SEEDS = (0, 1, 2)


def files(folder):
    """Every file but sources.csv, which has the times of the DICOM files: path -> SHA-256."""
    found = hashes(folder)
    return {name: sha for name, sha in found.items() if not name.endswith("sources.csv")}


@pytest.fixture
def trained(monkeypatch):
    """Pretended trainings -> the list of (folder, stage) that grows with each."""
    made = []

    def run(one, say, stop):
        cost = pretend(one, say, stop)
        made.append((one.out.name, one.name))
        return cost

    monkeypatch.setattr("lumin.run.resumable.run", run)
    monkeypatch.setattr(repro, "picture", lambda _: "no page")
    monkeypatch.setattr(cells, "PERMUTATIONS", 19)
    monkeypatch.setattr(cells, "DRAWS", 50)
    return made


@pytest.fixture
def data(tmp_path):
    return small_cohort(tmp_path / "data", 72)


def opened(data, out):
    """The study of a folder, as the command line opens it."""
    return options.open_study(repro.asked(data=data, out=out), Quiet())


def done(*words):
    result = call(*words, "--jobs", 1)
    assert result.exit_code == 0, result.output + result.stderr
    return result.output


def tasks(made, folder):
    return Counter(stage.split("/")[1] for name, stage in made if name == folder)


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_seed_of_many_is_the_seed_alone(tmp_path, trained, monkeypatch):
    calls = []
    whole = pool.run
    monkeypatch.setattr(pool, "run", lambda *given: calls.append(given) or whole(*given))
    text = done("replicate", "--demo", "--seeds", "0-2", "--out", tmp_path / "many")
    assert len(calls) == 1, "one graph of all trainings"
    assert len(trained) == 25 * len(SEEDS)
    assert "75 trainings in 3 folders" in text
    assert "3 seeds: 0, 1, 2" in text
    for seed in SEEDS:
        done("all", "--demo", "--seed", seed, "--out", tmp_path / f"alone{seed}")
        assert files(tmp_path / f"many/seed{seed}") == files(tmp_path / f"alone{seed}")
    assert {f"figures/replication.{kind}" for kind in ("png", "svg", "json")} <= files(
        tmp_path / "many"
    ).keys()
    before = files(tmp_path / "many")
    done("replicate", "--demo", "--seeds", "0-2", "--out", tmp_path / "many")
    assert len(trained) == 25 * 2 * len(SEEDS), "nothing is trained twice"
    assert files(tmp_path / "many") == before


@pytest.mark.slow
def test_many_seeds_interrupted_again_and_again(tmp_path, trained, monkeypatch):
    done("replicate", "--demo", "--seeds", "0-2", "--out", tmp_path / "whole")
    trained.clear()
    whole = pool.resumable.run

    def broken(one, say, stop):
        if len(trained) in (
            1,
            30,
            75,
        ):  # in the first seed, in the second, before the last training
            trained.append(("", "interrupted"))
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(one, say, stop)

    monkeypatch.setattr("lumin.run.resumable.run", broken)
    words = ("replicate", "--demo", "--seeds", "0-2", "--out", tmp_path / "broken")
    for _ in range(3):
        assert "run the same command to go on" in refused(130, *words, "--jobs", 1)
    done(*words)
    assert len(trained) == 25 * len(SEEDS) + 3, "what was done stays"
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


@pytest.mark.slow
def test_seeds_of_real_data_share_the_images(tmp_path, trained, data, monkeypatch):
    prepared = []
    whole = prepare.build_store
    monkeypatch.setattr(
        prepare, "build_store", lambda *given: prepared.append(given) or whole(*given)
    )
    words = ("--data", data, "--out", tmp_path / "out", "--weights", "random")
    done("replicate", *words, "--seeds", "3,5")
    assert len(prepared) == 1
    out = tmp_path / "out"
    for name in ("images.npy", "images.csv", "cohort.csv"):
        assert (out / f"seed3/{name}").samefile(out / name)
        assert (out / f"seed5/{name}").samefile(out / name)
    assert files(out / "seed3")["seeds.csv"] != files(out / "seed5")["seeds.csv"]
    alone = ("--data", data, "--out", tmp_path / "alone", "--weights", "random", "--seed", 5)
    done("all", *alone)
    ours, theirs = files(out / "seed5"), files(tmp_path / "alone")
    assert ours == theirs


@pytest.mark.slow
def test_beginning_anew_in_one_folder_leaves_the_others(tmp_path, trained, data):
    words = ("--data", data, "--weights", "random")
    done("replicate", *words, "--out", tmp_path / "out", "--seeds", "3,5")
    before = files(tmp_path / "out/seed5")
    done("table1", *words, "--out", tmp_path / "out/seed3", "--seed", 3, "--overwrite")
    assert files(tmp_path / "out/seed5") == before


@pytest.mark.slow
def test_images_killed_just_before_they_count_as_done(tmp_path, data, monkeypatch):
    """What was entered before them must not be taken for them, nor be missing where they are
    shared.
    """
    commit, entered = manifest.commit, []

    def killed(out, stage, *more, **part):
        entered.append(stage)
        if stage == "prepare" and entered.count("prepare") < 3:
            raise KeyboardInterrupt
        return commit(out, stage, *more, **part)

    monkeypatch.setattr(manifest, "commit", killed)
    words = ("--data", data, "--out", tmp_path / "out", "--weights", "random")
    refused(130, "prepare", *words)
    refused(130, "prepare", *words)
    assert call("prepare", *words).exit_code == 0
    monkeypatch.setattr(manifest, "commit", commit)
    made = studies.share_images(
        replace(opened(data, tmp_path / "out"), out=tmp_path / "other"), tmp_path / "out"
    )
    assert not manifest.stale(
        made.out, "prepare", manifest.read(tmp_path / "out")["stages"]["prepare"]["inputs"]
    )
    assert (made.out / "images.npy").samefile(tmp_path / "out/images.npy")
    assert "sources" in manifest.read(made.out)["unverified"]


# ---- choices -------------------------------------------------------------------------------------

ONLY = ("no-sampler", "own-split", "padding", "redrawn-1")


@pytest.fixture
def usual(begun):
    """A study whose 15 compared trainings are done, as others may take them."""
    for one in stages.trainings(begun, studies.EVERY_FOLD):
        pretend(one, lambda _: None, lambda: False)
    return begun


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("no-sampler", {"mlmc"}),
        ("sampler-everywhere", {"luminal-baseline"}),
        ("own-split", {"luminal-baseline"}),
        ("redrawn-1", set()),
        ("balanced-validation", {"mlmc"}),
        ("shuffled-subtype", {"mlmc"}),
        ("transfer-from-mass-calc", {"mlmc", "luminal-baseline"}),
    ],
)
def test_a_training_is_shared_only_where_it_was_made_from_the_same(usual, name, shared):
    one = studies.branch(usual, silences.ALTERNATIVES[name][1])
    ours, theirs = manifest.read(one.out)["stages"], manifest.read(usual.out)["stages"]
    taken = {stage for stage in ours if stage.startswith("train/")}
    assert taken == {f"train/{task}/fold{fold}" for task in shared for fold in range(5)}
    assert all(ours[stage] == theirs[stage] for stage in taken)


def test_a_transfer_from_other_weights_is_not_shared(usual):
    one = studies.share_images(replace(usual, out=usual.out.with_name("same")), usual.out)
    divide(one)
    first = stages.trainings(one, [("mlmc", 0)])[0]
    weights, history, predictions = first.fold.files
    with exact.atomic(first.out / weights) as part:
        save_file({"fc.weight": np.zeros((2, 2), np.float32)}, part)
    for file in (history, predictions):
        exact.write(first.out / file, "")
    inputs, stack = first.inputs(first.out), describe(first.stack)
    manifest.commit(first.out, first.name, first.fold.files, inputs, stack)
    studies.share_trainings(one, usual.out)
    taken = {
        name
        for name in manifest.read(one.out)["stages"]
        if name.startswith("train/luminal-transfer")
    }
    assert taken == {f"train/luminal-transfer/fold{fold}" for fold in range(1, 5)}


@pytest.fixture
def varied(tmp_path, trained):
    out = tmp_path / "out"
    words = (
        "sensitivity",
        "--demo",
        "--out",
        out,
        *(word for name in ONLY for word in ("--only", name)),
    )
    return out, words, done(*words)


@pytest.mark.slow
def test_only_what_a_choice_touches_is_trained_anew(varied, trained):
    out, _, text = varied
    every = {"mlmc": 5, "luminal-baseline": 5, "luminal-transfer": 5}
    assert tasks(trained, "out") == every
    assert tasks(trained, "padding") == tasks(trained, "redrawn-1") == every
    assert tasks(trained, "no-sampler") == {"luminal-baseline": 5, "luminal-transfer": 5}
    assert tasks(trained, "own-split") == {"mlmc": 5, "luminal-transfer": 5}
    choices = out / "sensitivity"
    same = []
    for name, task in product(ONLY, every):
        weights = f"weights/{task}/fold0.safetensors"
        if (choices / name / weights).samefile(out / weights):
            same.append((name, task))
    assert same == [("no-sampler", "mlmc"), ("own-split", "luminal-baseline")]
    assert (choices / "no-sampler/images.npy").samefile(out / "images.npy")
    assert files(choices / "padding")["images.npy"] != files(out)["images.npy"]
    assert files(choices / "redrawn-1")["split.csv"] == files(out)["split.csv"]
    assert files(choices / "redrawn-1")["seeds.csv"] != files(out)["seeds.csv"]
    assert "5 of 22 rows are done" in text


@pytest.mark.slow
def test_a_transfer_from_another_task_shares_that_task_with_the_study(tmp_path, trained):
    out, name = tmp_path / "out", "transfer-from-mass-calc"
    done("sensitivity", "--demo", "--out", out, "--only", name)
    every = {"mass-calc": 5, "mlmc": 5, "luminal-baseline": 5, "luminal-transfer": 5}
    assert tasks(trained, "out") == every
    assert tasks(trained, name) == {"luminal-transfer": 5}
    made_from = manifest.read(out / "sensitivity" / name)["stages"]["train/luminal-transfer/fold3"]
    assert "weights/mass-calc/fold3.safetensors" in made_from["inputs"]


@pytest.mark.slow
def test_the_control_trains_ten_and_is_told_on_the_page(tmp_path, trained):
    out = tmp_path / "out"
    text = done("control", "--demo", "--out", out)
    assert tasks(trained, "out") == {"mlmc": 5}
    assert tasks(trained, "shuffled-subtype") == {"luminal-baseline": 5, "luminal-transfer": 5}
    assert "Negative control, AUC where the subtype is permuted: baseline 0." in text
    done("report", "--demo", "--out", out)
    assert (
        "Negative control, AUC where the subtype is permuted" in (out / "report.html").read_text()
    )
    folder = out / "sensitivity/shuffled-subtype"
    done("table2b", "--demo", "--out", folder)
    assert len(trained) == 15
    ours, plain = (exact.sha256(one / "predictions/mlmc/fold0.csv") for one in (folder, out))
    assert ours == plain
    given, permuted = (
        stages.read_mammograms(options.open_study(repro.asked(out=one), Quiet()))
        for one in (out, folder)
    )
    assert [m.image for m in given] == [m.image for m in permuted]
    assert [m.luminal for m in given] != [m.luminal for m in permuted]


@pytest.mark.slow
def test_a_choice_is_made_once(varied, trained):
    out, words, _ = varied
    before, count = files(out), len(trained)
    done(*words)
    assert len(trained) == count
    assert files(out) == before


@pytest.mark.slow
def test_the_folder_of_a_choice_is_a_study(varied, trained):
    out, _, _ = varied
    count = len(trained)
    for name in ONLY:
        folder = out / "sensitivity" / name
        done("table2b", "--demo", "--out", folder)
        choice, alternative = silences.ALTERNATIVES[name]
        assert (
            f"{choice.matter}: {alternative.text} instead of {choice.ours}"
            in (folder / "tables/table2b.md").read_text()
        )
        result = call("verify", "--demo", "--out", folder)
        assert result.exit_code == 0, result.output
    assert len(trained) == count
    assert call("verify", "--demo", "--out", out).exit_code == 0
    assert "padded images" in refused(2, "fig2", "--demo", "--out", out / "sensitivity/padding")


@pytest.mark.slow
def test_what_will_be_trained_is_said_before(varied):
    _, _, first = varied
    said = re.findall(
        r"(\d+ trainings(?: in \d+ folders)?) on cpu in \w+, of at most \d+ epochs?, \d+ at once\.",
        " ".join(first.split()),
    )
    assert "From scratch: 65 trainings." in first
    assert said == ["15 trainings", "50 trainings in 4 folders"]


@pytest.mark.slow
def test_a_choice_in_a_folder_begun_with_other_settings(varied):
    _, words, _ = varied
    assert "another --out" in refused(2, *words, "--seed", 4)


@pytest.mark.slow
def test_what_was_made_otherwise_is_no_row(varied, tmp_path):
    """A folder of other settings, or of another study, is left out of the table and never added
    to.
    """
    out, _, _ = varied

    def rows():
        content = json.loads((out / "tables/sensitivity.json").read_text())
        return {row["name"] for row in content["rows"]}

    assert rows() == {"as it is", *ONLY, "tuned-threshold"}
    shutil.copytree(out / "sensitivity/no-sampler", out / "sensitivity/dropout-0")
    done("sensitivity", "--demo", "--out", out, "--only", "tuned-threshold")
    assert rows() == {"as it is", *ONLY, "tuned-threshold"}
    done(
        "sensitivity",
        "--demo",
        "--out",
        out,
        "--only",
        "tuned-threshold",
        "--epochs",
        2,
        "--overwrite",
    )
    assert rows() == {"as it is", "tuned-threshold"}
    before = files(out / "sensitivity/no-sampler")
    assert "Remove that folder" in refused(
        2, "sensitivity", "--demo", "--out", out, "--only", "no-sampler"
    )
    assert files(out / "sensitivity/no-sampler") == before
    assert "itself" in refused(
        2, "sensitivity", "--demo", "--out", out / "sensitivity/padding", "--only", "cosine"
    )


@pytest.mark.slow
def test_what_one_run_is_at_does_not_stop_the_rest(tmp_path, trained):
    out = tmp_path / "out"
    done("split", "--demo", "--out", out)
    with manifest.claim_folder(out, "mass-calc.3"):
        message = refused(2, "train", "--demo", "--out", out, "--jobs", 1)
    assert "train/mass-calc/fold3" in message
    assert len(trained) == 24
    done("train", "--demo", "--out", out)
    assert len(trained) == 25


@pytest.mark.slow
def test_a_table_of_two_splits_is_refused_before_training(tmp_path, trained):
    done("split", "--demo", "--out", tmp_path / "out")
    found = manifest.read(tmp_path / "out")
    found["settings"]["alternative"] = "own-split"
    (tmp_path / "out/manifest.json").write_text(json.dumps(found))
    for verb in ("table2a", "all"):
        assert "split of its own" in refused(
            2, verb, "--demo", "--out", tmp_path / "out", "--jobs", 1
        )
    found["settings"]["alternative"] = "fortune"
    (tmp_path / "out/manifest.json").write_text(json.dumps(found))
    assert "fortune" in refused(2, "split", "--demo", "--out", tmp_path / "out")
    assert not trained


@pytest.mark.slow
def test_a_choice_that_is_made_anyway_is_not_trained(tmp_path, trained):
    words = (
        "sensitivity",
        "--demo",
        "--out",
        tmp_path / "out",
        "--precision",
        "fp32",
        "--only",
        "fp32",
    )
    assert "Not run: redrawn-1" in done(*words)
    assert {name for name, _ in trained} == {"out"}


def test_an_unknown_choice_names_those_there_are(tmp_path):
    message = refused(2, "sensitivity", "--demo", "--out", tmp_path / "out", "--only", "fortune")
    assert "own-split" in message


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("dask",), "'loky', 'ray'"),
        (("ray", "--jobs", 1), "--jobs N"),
        (("ray", "--jobs", 2), "--device cuda"),
    ],
)
def test_a_backend_that_cannot_be(tmp_path, words, hint):
    """Before anything is fetched, read or made."""
    pytest.importorskip("ray")
    assert hint in refused(2, "all", "--demo", "--out", tmp_path / "out", "--backend", *words)
    assert not (tmp_path / "out").exists()


def test_every_task_of_the_comparison_is_the_papers():
    assert set(silences.COMPARED) <= {task.name for task in TASKS}
    assert stages.IMAGE_CHOICES.keys() <= vars(recipe.PAPER).keys()
