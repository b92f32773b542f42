"""The pipeline of a study, one row a stage: images -> split -> 25 trainings -> tables.

The functions of the heart do the work; a stage says which files go in and which come out. How the
images are made, and how a fold is trained, is in prepare.py and resumable.py: rows are read without
PyTorch and pydicom.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from lumin import cmmd
from lumin.data import split
from lumin.data.mammogram import Mammogram, read_cohort_csv
from lumin.errors import UserError
from lumin.evaluation import tables
from lumin.evaluation.markdown import Provenance
from lumin.exact import digest, seed, sha256
from lumin.paper.published import TABLE1, TABLE2, TABLES, tasks_of
from lumin.paper.recipe import PAPER, departures
from lumin.paper.stated import FOLDS
from lumin.run import manifest
from lumin.run.make import Files, Stage, make
from lumin.run.shuffle import shuffled
from lumin.run.study import Study
from lumin.training.fold import Fold, make_fold
from lumin.training.machine import Stack, imagenet
from lumin.training.tasks import Task

# Raised by hand when a stage's code changes meaning
VERSIONS = {"prepare": 2, "split": 1, "train": 3, "tables": 4}
# Fields of Recipe that change the images; among the settings only where they are not the usual ones
IMAGE_CHOICES = {name: getattr(PAPER, name) for name in ("window", "keep_aspect", "quality")}
WAIT = 1800.0  # seconds to wait for another process to finish with images, split or a table


def pipeline(study: Study) -> dict[str, Stage]:
    """Every stage by name, in order; how images and trainings are made is left out."""
    rows = [Stage("prepare", (), images_settings(study), dict), split_stage(study)]
    rows += [training.stage() for training in all_trainings(study)]
    rows += [table_stage(study, name) for name in TABLES]
    return {row.name: row for row in rows}


# ---- images --------------------------------------------------------------------------------------


def images_settings(study: Study) -> dict[str, object]:
    """What the images depend on besides the DICOM files."""
    ours = asdict(study.recipe)
    settings = {"size": [study.recipe.height, study.recipe.width], "version": VERSIONS["prepare"]}
    for name, usual in IMAGE_CHOICES.items():
        if ours[name] != usual:
            settings[name] = str(ours[name])
    if study.cleaned:
        settings["corrections"] = sha256(Path(cmmd.__file__).with_name("corrections.csv"))
    return settings


# ---- split ---------------------------------------------------------------------------------------


def split_stage(study: Study) -> Stage:
    """cohort.csv -> split.csv, those of tasks with a split of their own, seeds.csv."""
    own = own_splits(study)
    settings: dict[str, object] = {"seed": study.seed, "test": study.recipe.test_share}
    settings |= {"version": VERSIONS["split"]} | ({"own splits": own} if own else {})
    make = partial(make_split, study)
    return Stage("split", ("cohort.csv",), settings, make, ("scipy",), quick=True)


def make_split(study: Study) -> dict[str, str]:
    """cohort.csv and the seed -> the split files and seeds.csv."""
    mammograms, groups = read_cohort_csv(study.out / "cohort.csv")
    files = {}
    for name in ("", *own_splits(study)):
        drawn = seed(study.seed, "split", name) if name else study.seed
        roles, notes = split.split(mammograms, groups, drawn, study.recipe.test_share)
        files[split_file(name)] = split.split_csv(roles, groups)
        for note in notes:
            study.screen.say(f"Split: {note}")
    lines = ["task,fold,seed\n"]
    for task, fold in product(study.tasks, range(FOLDS)):
        lines.append(f"{task},{fold},{seed(training_seed(study), task, fold)}\n")
    return files | {"seeds.csv": "".join(lines)}


def own_splits(study: Study) -> list[str]:
    """The names of the splits that single tasks have beside the one they share."""
    return sorted({task.split for task in study.tasks.values()} - {""})


def split_file(name: str) -> str:
    """A split's name -> its file."""
    return f"split-{name}.csv" if name else "split.csv"


def read_mammograms(study: Study) -> list[Mammogram]:
    """cohort.csv -> the records; in the negative control with a permuted subtype."""
    mammograms, groups = read_cohort_csv(study.out / "cohort.csv")
    if not any(task.shuffled for task in study.tasks.values()):
        return mammograms
    return shuffled(mammograms, groups, split.read_split_csv(study.out / "split.csv"), study.seed)


def training_seed(study: Study) -> int:
    """The seed of all that trainings draw: the study's, or one derived from it where redrawn."""
    again = study.recipe.redraw
    return seed(study.seed, "redraw", again) if again else study.seed


# ---- trainings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A fold to train, as plain values, so that it can be sent to another process or machine.

    start      file of the weights that it starts from, chosen by stages.training; None: random
    made_from  files of `out` that its own depend on
    settings   what else they depend on
    """

    out: Path
    fold: Fold
    stack: Stack
    start: Path | None
    made_from: tuple[str, ...]
    settings: Mapping[str, object]

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return f"train/{self.fold.task.name}/fold{self.fold.number}"

    @property
    def place(self) -> tuple[Path, str]:
        """Its outputs folder and its name in the manifest: what no two trainings share."""
        return self.out, self.name

    def anywhere(self) -> "Training":
        """The same, whatever the working directory of the process that runs it."""
        return replace(self, out=self.out.resolve(), start=self.start and self.start.resolve())

    @property
    def checkpoint(self) -> Path:
        """Where it goes on after an interruption."""
        name = f"{self.fold.task.name}.{self.fold.number}.pt"
        return self.out / manifest.IN_FLIGHT / name

    def stage(self, make: Callable[[], Files] = dict) -> Stage:
        """Its row of the pipeline, without the stack."""
        return Stage(self.name, self.made_from, self.settings, make)

    def stale(self) -> str:
        """Why it must run, in words; "" if its outputs are there and still true."""
        return self.stage().stale(self.out)


def trainings(study: Study, wanted: Iterable[tuple[str, int]]) -> list[Training]:
    """(task, fold) pairs -> their trainings, each after the one that it starts from."""
    mammograms = read_mammograms(study)
    wanted, tasks = list(wanted), study.tasks
    upstream = [(tasks[name].init, fold) for name, fold in wanted if tasks[name].init in tasks]
    found = []
    for name, fold in dict.fromkeys([*upstream, *wanted]):
        found.append(training(study, tasks[name], fold, mammograms))
    return found


def training(study: Study, task: Task, number: int, mammograms: Sequence[Mammogram]) -> Training:
    """One fold of one task, with all that its files depend on."""
    roles = split.read_split_csv(study.out / split_file(task.split))
    made_from = ["cohort.csv", "images.csv", split_file(task.split)]
    method = digest([asdict(task), study.method])
    settings: dict[str, object] = {"version": VERSIONS["train"], "method": method}
    start: Path | None
    if task.init in study.tasks:  # fold k starts from fold k (2.2.3)
        weights = f"weights/{task.init}/fold{number}.safetensors"
        start = study.out / weights
        made_from.append(weights)
    else:
        start = imagenet() if study.recipe.weights == "imagenet" else study.start
        settings["start"] = study.recipe.weights
    return Training(
        out=study.out,
        fold=make_fold(task, number, training_seed(study), study.recipe, mammograms, roles),
        stack=study.stack,
        start=start,
        made_from=tuple(made_from),
        settings=settings,
    )


def all_trainings(study: Study) -> list[Training]:
    """The paper's 25."""
    return trainings(study, product(study.tasks, range(FOLDS)))


def one_training(study: Study, name: str) -> Training:
    """A name such as mlmc/0 or mlmc/fold0 -> that training. Raises UserError for another name."""
    for one in all_trainings(study):
        if one.name.removeprefix("train/") in (name, name.replace("/", "/fold")):
            return one
    raise UserError(f"There is no training {name}. Use TASK/FOLD, such as mlmc/0.")


def lacking(study: Study, wanted: Iterable[tuple[str, int]]) -> list[Training]:
    """What of `wanted` is not trained, in an order in which it can be."""
    return to_do(trainings(study, wanted))


def to_do(wanted: Sequence[Training]) -> list[Training]:
    """Which of the trainings are stale or start from one that is, in the same order."""
    todo: list[Training] = []
    for one in wanted:
        upstream = [earlier.out / earlier.fold.files[0] for earlier in todo]
        if one.start in upstream or one.stale():
            todo.append(one)
    return todo


# ---- tables --------------------------------------------------------------------------------------


def provenance(study: Study) -> Provenance:
    """What every table says of its run."""
    cohort = manifest.read(study.out)["settings"]["cohort"]
    split_sha256 = sha256(study.out / "split.csv")
    left_out = departures(study.recipe, study.stack.precision, study.alternative)
    return Provenance(cohort, study.seed, split_sha256, left_out)


def table_stage(study: Study, name: str) -> Stage:
    """Cohort, split and the predictions of its tasks -> one of the paper's tables."""
    made_from = ["cohort.csv", "split.csv", "flow.json"]
    for task, fold in product(tasks_of(name), range(FOLDS)):
        made_from.append(f"predictions/{task}/fold{fold}.csv")
    settings = {
        "version": VERSIONS["tables"],
        "provenance": digest(provenance(study)),
        "paper": digest([TABLE1, sorted(TABLE2.items())]),
    }
    return Stage(
        name=name,
        made_from=tuple(made_from),
        settings=settings,
        make=partial(make_table, study, name),
        packages=("numpy", "scikit-learn", "scipy"),
        quick=True,
    )


def make_table(study: Study, name: str) -> dict[str, str]:
    """Name -> the table's files, from the outputs folder alone."""
    mammograms = read_mammograms(study)
    about = provenance(study)
    if name == "table1":
        roles = split.read_split_csv(study.out / "split.csv")
        flow = json.loads((study.out / "flow.json").read_text())
        table = tables.table1(mammograms, roles, flow, about)
    else:
        table = tables.table2(name, study.out, mammograms, about)
    return {f"tables/{name}.md": table.markdown, f"tables/{name}.json": table.json}


# ---- made where they are missing -----------------------------------------------------------------


def tabulate(study: Study, name: str) -> None:
    """Make a table where it is missing; its trainings must be there."""
    with manifest.claim_folder(study.out, patience=WAIT):
        make(study.out, table_stage(study, name))


def outdated(out: Path) -> list[str]:
    """What an earlier version of the code left: trainings counted, tables named."""
    old = []
    for name, entry in manifest.read(out)["stages"].items():
        kind = "train" if name.startswith("train/") else "tables" if name in TABLES else name
        if entry["inputs"].get("version") != VERSIONS.get(kind, entry["inputs"].get("version")):
            old.append(name)
    rest = [name for name in old if not name.startswith("train/")]
    count = len(old) - len(rest)
    return [f"{count} training{'s' * (count != 1)}"] * (count > 0) + rest
