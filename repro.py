#!/usr/bin/env python
"""Reproduce Panambur, Madhu, Maier (ISBI 2023): luminal subtypes in full mammograms. One command a verb."""

import functools
import inspect
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lumin import cohort, jobs, network, phantom, preprocess, record, split, tables, tasks, train
from lumin.paper import ASPECT, DEMO, FOLDS, IMAGES, PAPER, Recipe, seed

# Raise a stage's number when its code changes meaning: what was made by the older code is then made again.
VERSIONS = {"prepare": 1, "split": 1, "train": 1, "tables": 1}
TABLES = {  # what each needs trained
    "table1": (),
    "table2a": ("mass-calc", "benign-malignant", "mlmc"),
    "table2b": ("luminal-baseline", "luminal-transfer"),
}
USAGE, DATA, INTERRUPTED = 2, 3, 130  # exit codes; 4, a difference found, is verify's

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=__doc__)
console = Console()


# ---- options -------------------------------------------------------------------------------------


def option(text: str, *names: str, panel: str = "The run", **more: object) -> object:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


MACHINE = "The machine (part of the record: on one stack the same bytes)"


@dataclass(frozen=True)
class Options:
    """What every command takes. None: what the outputs folder was begun with, else the default."""

    data: Annotated[
        Path | None, option("Folder with CMMD's DICOM files and its sheet. [data/CMMD, or $LUMIN_DATA]")
    ] = None
    out: Annotated[Path | None, option("Outputs folder. [outputs, with --demo outputs/demo; or $LUMIN_OUT]")] = None
    demo: Annotated[bool, option("Run on a synthetic cohort, made on the spot: small, no data needed.", "--demo")] = (
        False
    )
    sheet: Annotated[Path | None, option("The clinical sheet, where it is not in the data folder.")] = None
    seed: Annotated[int | None, option("Seed of split, weights, order, augmentation (and demo cohort). [0]", min=0)] = (
        None
    )
    weights: Annotated[str | None, option("Starting weights: imagenet, random or a file. [imagenet; demo: random]")] = (
        None
    )
    epochs: Annotated[int | None, option("At most this many epochs. [100; demo: 10 and 12]", min=1)] = None
    overwrite: Annotated[bool, option("Replace an outputs folder of other settings.", "--overwrite")] = False
    device: Annotated[str | None, option("auto, cpu, cuda or cuda:1. [auto]", panel=MACHINE)] = None
    precision: Annotated[str | None, option("auto, tf32, fp32 or bf16. [auto]", panel=MACHINE)] = None
    threads: Annotated[int | None, option("Threads of one training. [all cores; demo: 1]", panel=MACHINE, min=1)] = None
    jobs: Annotated[int | None, option("Trainings at once. [1; demo: all cores]", panel=MACHINE, min=1)] = None


def command(verb: Callable) -> Callable:
    """Register a verb: its first parameter, a Study, becomes the common options; user errors become exit codes."""

    @functools.wraps(verb)
    def wrapped(**given: object) -> None:
        common = {f.name: given.pop(f.name) for f in fields(Options)}
        with explained():
            verb(Study.open(Options(**common)), **given)

    own = list(inspect.signature(verb).parameters.values())[1:]
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
    ]
    wrapped.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared)
    return app.command(name=verb.__name__.rstrip("_"))(wrapped)


@contextmanager
def explained() -> Iterator[None]:
    """One message and an exit code for every error a user can cause."""
    try:
        yield
    except (record.RecordError, phantom.PhantomError, network.NetworkError, train.TrainingError) as error:
        fail(USAGE, error)
    except cohort.CohortError as error:
        fail(DATA, "\n".join([str(error), *(f"  {where}: {what}" for where, what in error.problems)]))
    except (preprocess.ImageError, split.SplitError) as error:
        fail(DATA, error)
    except (train.Interrupted, KeyboardInterrupt) as error:
        where = f" in {error}" if str(error) else ""
        fail(INTERRUPTED, f"Interrupted{where}. What is done is saved; type the same command to go on.")
    except OSError as error:
        what = f"{error.filename or 'A file'}: {error.strerror}"
        fail(DATA, f"{what}. Nothing finished is lost; mend it and type the same command to go on.")


def fail(code: int, message: object) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[red]Stopped.[/] {message}", highlight=False)
    raise typer.Exit(code)


# ---- a study: one outputs folder -----------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """The resolved options of one run."""

    data: Path
    out: Path
    sheet: Path | None
    demo: bool
    seed: int
    recipe: Recipe
    start: Path | None
    stack: network.Stack
    jobs: int
    overwrite: bool

    @classmethod
    def open(cls, given: Options) -> "Study":
        """Options -> Study. What is not given is as the outputs folder was begun, else the default."""
        base = Path(os.environ.get("LUMIN_OUT", "outputs"))
        out = given.out or (base / "demo" if given.demo else base)
        begun = {} if given.overwrite else record.read(out)["settings"]
        asked = {name: value for name, value in asdict(given).items() if value is not None}
        if given.epochs:
            asked |= {"abnormality_epochs": given.epochs, "luminal_epochs": given.epochs}
        start = None
        if given.weights not in (None, "imagenet", "random"):
            start = Path(given.weights)
            asked["weights"] = f"file {record.sha256(start)}"
        demo = given.demo or begun.get("demo", False)
        chosen = {"seed": 0, "device": "auto", "precision": "auto", "threads": 1 if demo else None}
        chosen |= asdict(DEMO if demo else PAPER) | begun | asked
        recipe = Recipe(**{f.name: chosen[f.name] for f in fields(Recipe)})
        stack = network.choose(chosen["device"], chosen["precision"], chosen["threads"])
        jobs = given.jobs or (os.cpu_count() if demo and stack.device == "cpu" else 1)
        data = given.data or (out / "phantom" if demo else Path(os.environ.get("LUMIN_DATA", "data/CMMD")))
        study = cls(data, out, given.sheet, demo, chosen["seed"], recipe, start, stack, jobs, given.overwrite)
        if not given.overwrite:
            record.check(out, study.settings)
        return study

    @property
    def processes(self) -> int:
        """How many processes read headers and images."""
        return os.cpu_count() or 1

    @property
    def settings(self) -> dict:
        """What one outputs folder holds one value of."""
        machine = {
            "device": self.stack.device.split(":")[0],
            "precision": self.stack.precision,
            "threads": self.stack.threads,
        }
        return {"demo": self.demo, "seed": self.seed, **asdict(self.recipe), **machine}

    def hashes(self, *names: str) -> dict[str, str]:
        """Output files -> their SHA-256: what another stage is made from."""
        return {name: record.sha256(self.out / name) for name in names}


def say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a function of (done, total); without a terminal, one line at the end."""
    started = time.perf_counter()
    with Progress(
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        line = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(line, completed=done, total=total)
    say(f"{title}: {progress.tasks[0].completed:.0f} in {time.perf_counter() - started:.0f} s")


# ---- stages --------------------------------------------------------------------------------------


def prepare(study: Study) -> None:
    """DICOM files and sheet -> cohort.csv and the image store; nothing where they are still true."""
    inputs = {"size": [study.recipe.height, study.recipe.width], "version": VERSIONS["prepare"]}
    why = record.stale(study.out, "prepare", inputs)
    if not why and not study.data.exists():
        return say(f"Images: as recorded ({study.data} is not here, so the DICOM files are not looked at).")
    if study.demo and not phantom.complete(study.data, "demo", study.seed):
        with bar("Synthetic cohort, images") as progress:
            phantom.write(study.data, "demo", study.seed, jobs=study.processes, progress=progress)
    listing = cohort.list_files(study.data) if study.data.is_dir() else []
    sources = study.out / "sources.csv"
    if not why and sources.exists() and cohort.unchanged(listing, sources):
        return say("Images: up to date.")
    with bar("Headers") as progress:
        found = cohort.read_cohort(study.data, study.sheet, study.processes, progress)
    record.claim(study.out, study.settings | identity(study, found), study.overwrite)
    plan(study, len(found.mammograms))
    with bar("Images") as progress:
        rows = preprocess.build_store(found.mammograms, study.out, study.recipe, study.processes, progress)
    groups = preprocess.groups(found.mammograms, rows)
    record.write(study.out / "cohort.csv", cohort.cohort_csv(found.mammograms, groups))
    record.write(study.out / "flow.json", json.dumps(found.flow, indent=1) + "\n")
    record.write(sources, cohort.sources_csv(found.mammograms, study.data, listing))
    files = [
        "cohort.csv",
        "flow.json",
        "images.csv",
        "images.npy",
        *(f"images/{m.image}.jpg" for m in found.mammograms),
    ]
    record.commit(study.out, "prepare", files, inputs, {"pillow": version("pillow")})
    record.commit(study.out, "sources", ["sources.csv"], {}, {}, part="unverified")
    say(f"{', '.join(f'{name} {count}' for name, count in found.flow.items())}.")
    say(f"Mean aspect of the breast crops {preprocess.mean_aspect(rows):.2f} (the paper's {ASPECT:.2f}).")
    for group in sorted({g for p, g in groups.items() if p != g}):
        say(f"Identical images tie patients together: {' = '.join(p for p in sorted(groups) if groups[p] == group)}.")


def identity(study: Study, found: cohort.Cohort) -> dict[str, str]:
    """What the outputs folder is about: the images' names, and what the tables' titles say of them."""
    images, count = record.digest([m.image for m in found.mammograms]), len(found.mammograms)
    if (study.data / phantom.MARKER).exists():
        kind = "synthetic cohort, not CMMD"
    elif found.is_cmmd:
        kind = "CMMD" if count == IMAGES else f"{count} of CMMD's {IMAGES} labelled images"
    else:
        kind = "not CMMD"
    return {"cohort": kind, "images": f"{count} images {images[:12]}"}


def plan(study: Study, count: int) -> None:
    """Say how large the image store will be, and refuse where it cannot fit."""
    store = count * study.recipe.height * study.recipe.width
    free = shutil.disk_usage(study.out).free
    size = f"{study.recipe.height} x {study.recipe.width}"
    say(f"{count} images -> {size}: {store * 1.4 / 1e9:.2f} GB, {free / 1e9:.0f} GB free.")
    if free < store * 1.4:
        raise record.RecordError(
            f"The disk of {study.out} is too small. Free {store * 1.4 / 1e9:.1f} GB, or name another --out."
        )


def divide(study: Study) -> None:
    """cohort.csv -> split.csv, seeds.csv."""
    inputs = study.hashes("cohort.csv") | {
        "seed": study.seed,
        "test": study.recipe.test_share,
        "version": VERSIONS["split"],
    }
    if not record.stale(study.out, "split", inputs):
        return
    mammograms, groups = cohort.read_csv(study.out / "cohort.csv")
    made = split.split(mammograms, groups, study.seed, study.recipe.test_share)
    record.write(study.out / "split.csv", split.split_csv(made.roles, groups))
    seeds = [f"{task.name},{fold},{seed(study.seed, task.name, fold)}" for task in tasks.TASKS for fold in range(FOLDS)]
    record.write(study.out / "seeds.csv", "\n".join(["task,fold,seed", *seeds]) + "\n")
    record.commit(study.out, "split", ["split.csv", "seeds.csv"], inputs, {"scipy": version("scipy")})
    say(" ".join(["Split: done.", *made.notes]))


def trainings(study: Study, wanted: Sequence[tuple[tasks.Task, int]]) -> list[train.Training]:
    """(task, fold) pairs -> what to train for them, MLMC folds that a transfer starts from included, longest first."""
    mammograms, _ = cohort.read_csv(study.out / "cohort.csv")
    roles = split.read_csv(study.out / "split.csv")
    start = study.start or (network.imagenet() if study.recipe.weights == "imagenet" else None)
    upstream = [(tasks.BY_NAME[task.init], fold) for task, fold in wanted if task.init in tasks.BY_NAME]
    inputs = study.hashes("cohort.csv", "images.csv", "split.csv")
    made = []
    for task, fold in dict.fromkeys([*upstream, *wanted]):
        settings = record.digest([asdict(task), study.settings])
        folds = [f"fold{k}" for k in range(FOLDS) if k != fold]
        select = functools.partial(tasks.rows, task, mammograms, roles)
        made.append(
            train.Training(
                out=study.out,
                task=task,
                fold=fold,
                seed=study.seed,
                epochs=task.epochs(study.recipe),
                stack=study.stack,
                images=study.out / "images.npy",
                names=[m.image for m in mammograms],
                targets=tasks.targets(task, mammograms),
                train=select(*folds),
                validation=select(f"fold{fold}"),
                test=select("test"),
                columns=[f"{m.image},{m.patient},{m.laterality},{m.view},{roles[m.patient]}" for m in mammograms],
                start=study.out / f"weights/{task.init}/fold{fold}.safetensors"
                if task.init in tasks.BY_NAME
                else start,
                inputs=inputs | {"settings": settings, "version": VERSIONS["train"]},
            )
        )
    return made


def learn(study: Study, wanted: Sequence[tuple[tasks.Task, int]]) -> None:
    """Train what is lacking of `wanted`."""
    todo = [training for training in trainings(study, wanted) if training.stale()]
    if not todo:
        return say("Trainings: up to date.")
    announce(study, todo)
    with epochs(todo) as show:
        costs = jobs.run(study.out, todo, study.jobs, show)
    note(study, costs)


def announce(study: Study, todo: Sequence[train.Training]) -> None:
    """Say what is about to be computed, how large it is and how long it may take."""
    parameters, flops = network.size(study.recipe.height, study.recipe.width)
    images = sum(t.epochs * (len(t.train) + len(t.validation) / 3) for t in todo)
    hours = images * 3 * flops / network.speed(study.stack) / study.jobs / 3600
    say(
        f"ResNet-18 at {study.recipe.height} x {study.recipe.width}: {parameters / 1e6:.1f} million parameters, "
        f"{flops / 1e9:.2f} GFLOP an image (one way).\n{len(todo)} trainings on {study.stack.device} in "
        f"{study.stack.precision}, {study.jobs} at once: {images / 1e3:.0f} thousand image passes at most, about "
        + (f"{hours:.1f} hours." if hours > 2 else f"{hours * 60:.0f} minutes.")
    )


@contextmanager
def epochs(todo: Sequence[train.Training]) -> Iterator[Callable[[dict], None]]:
    """A bar a training as a function of its epochs' lines; without a terminal, a line an epoch."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    total = {t.stage: t.epochs for t in todo}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, int] = {}

        def show(line: dict) -> None:
            stage, best = line["stage"], " best" if line["best"] else ""
            text = (
                f"loss {line['train_loss']:.4f}, validation {line['val_loss']:.4f}{best}, "
                f"{line['images_per_second']:.0f} images/s"
            )
            if not console.is_terminal:
                return say(f"{stage.removeprefix('train/')} epoch {line['epoch']}: {text}")
            if stage not in bars:
                bars[stage] = progress.add_task(stage.removeprefix("train/"), total=total[stage], last="")
            progress.update(bars[stage], completed=line["epoch"], last=text)

        yield show


def note(study: Study, costs: dict[str, dict]) -> None:
    """Add what stages cost to run.json."""
    path = study.out / "run.json"
    old = json.loads(path.read_text()) if path.exists() else {"stages": {}}
    settings = study.settings | {"jobs": study.jobs, "command": sys.argv[1:]}
    stages = old["stages"] | costs
    record.write(path, json.dumps({"settings": settings, "stages": stages}, indent=1, sort_keys=True) + "\n")
    record.commit(study.out, "run", ["run.json"], {}, {}, part="unverified")


def provenance(study: Study) -> tables.Provenance:
    """What every table says of its run."""
    recipe, cohort_kind = asdict(study.recipe), record.read(study.out)["settings"]["cohort"]
    departures = [
        f"{name.replace('_', ' ')} {recipe[name]} instead of {value}"
        for name, value in asdict(PAPER).items()
        if recipe[name] != value
    ]
    return tables.Provenance(cohort_kind, study.seed, record.sha256(study.out / "split.csv"), departures)


def make_table(study: Study, name: str) -> tables.Document:
    """Name -> the table, made from the outputs folder alone."""
    mammograms, _ = cohort.read_csv(study.out / "cohort.csv")
    roles, about = split.read_csv(study.out / "split.csv"), provenance(study)
    if name == "table1":
        return tables.table1(mammograms, roles, json.loads((study.out / "flow.json").read_text()), about)
    return tables.table2(name, study.out, mammograms, roles, about)


def tabulate(study: Study, name: str) -> None:
    """Build what a table lacks, write it where it is not up to date, print it."""
    study_parts(study)
    wanted = [(tasks.BY_NAME[task], fold) for task in TABLES[name] for fold in range(FOLDS)]
    learn(study, wanted)
    files = [f"tables/{name}.md", f"tables/{name}.json"]
    predictions = [f"predictions/{task.name}/fold{fold}.csv" for task, fold in wanted]
    inputs = study.hashes("cohort.csv", "split.csv", "flow.json", *predictions) | {"version": VERSIONS["tables"]}
    inputs["about"] = record.digest(provenance(study))
    if record.stale(study.out, name, inputs):
        made = make_table(study, name)
        for file, text in zip(files, made, strict=True):
            record.write(study.out / file, text)
        record.commit(
            study.out, name, files, inputs, {"scikit-learn": version("scikit-learn"), "scipy": version("scipy")}
        )
    console.print(Markdown((study.out / files[0]).read_text()))


def study_parts(study: Study) -> None:
    """Images and split, made where they are lacking."""
    prepare(study)
    divide(study)


# ---- verbs ---------------------------------------------------------------------------------------

TaskName = StrEnum("TaskName", {task.name: task.name for task in tasks.TASKS})


@command
def all_(study: Study) -> None:
    """The whole paper: images, split, 25 trainings, Tables 1, 2a and 2b."""
    started = time.perf_counter()
    study_parts(study)
    learn(study, [(task, fold) for task in tasks.TASKS for fold in range(FOLDS)])
    for name in TABLES:
        tabulate(study, name)
    say(f"Done in {(time.perf_counter() - started) / 60:.1f} minutes. The tables are in {study.out / 'tables'}.")


@command
def prepare_(study: Study) -> None:
    """DICOM files and clinical sheet -> 8-bit breast crops of the model's size."""
    prepare(study)


@command
def split_(study: Study) -> None:
    """Patients -> Table 1's test set and five folds."""
    study_parts(study)


@command
def train_(
    study: Study,
    task: Annotated[TaskName | None, typer.Argument(help="One task. [all five]", show_default=False)] = None,
    fold: Annotated[int | None, option("One fold. [all five]", min=0, max=FOLDS - 1)] = None,
) -> None:
    """Train one task or all, one fold or all. MLMC folds that a transfer starts from are trained as well."""
    study_parts(study)
    wanted = [tasks.BY_NAME[task]] if task else tasks.TASKS
    learn(study, [(t, k) for t in wanted for k in range(FOLDS) if fold in (None, k)])


@command
def table1(study: Study) -> None:
    """Images of each class in training and test, beside the paper's."""
    tabulate(study, "table1")


@command
def table2a(study: Study) -> None:
    """Abnormality: mass against calcification, benign against malignant, and both at once (MLMC)."""
    tabulate(study, "table2a")


@command
def table2b(study: Study) -> None:
    """Luminal against non-luminal: baseline, and transfer from MLMC."""
    tabulate(study, "table2b")


@app.command(name="phantom")
def phantom_(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    size: Annotated[str, option("demo (900 breasts at 1/8 scale) or full (CMMD's numbers and size, 22 GB).")] = "demo",
    seed: Annotated[int, option("Seed of the cohort. [0]", min=0)] = 0,
    patients: Annotated[int | None, option("Only the first so many patients.", min=1)] = None,
) -> None:
    """Write the synthetic cohort: DICOM files and a sheet in CMMD's form."""
    with explained(), bar("Synthetic cohort, images") as progress:
        phantom.write(folder, size, seed, patients, jobs=os.cpu_count() or 1, progress=progress)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, where no training listens
    app()
