#!/usr/bin/env python
"""Reproduce Panambur, Madhu, Maier (arXiv:2301.09282): luminal subtypes in full mammograms. One command a verb."""

import functools
import importlib
import inspect
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lumin.paper import ALTERNATIVES, FOLDS
from lumin.tasks import BY_NAME, TASKS


class Room:
    """A module of the house, imported when it is first used: torch takes seconds; `--help` and `audit` need none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, thing: str) -> object:
        return getattr(importlib.import_module(f"lumin.{self.name}"), thing)


audit, cohort, doctor, fetch, figure2, gallery = map(Room, ("audit", "cohort", "doctor", "fetch", "figure2", "gallery"))
jobs, network, options, phantom, preprocess, record = map(
    Room, ("jobs", "network", "options", "phantom", "preprocess", "record")
)
replication, sensitivity, series, split = map(Room, ("replication", "sensitivity", "series", "split"))
study, train, verify, work = map(Room, ("study", "train", "verify", "work"))

BARS = 25  # on the screen at once
USAGE, DATA, DIFFERENCE, INTERRUPTED = 2, 3, 4, 130  # exit codes

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=__doc__)
console = Console()


# ---- options -------------------------------------------------------------------------------------


def option(text: str, *names: str, panel: str = "The run", **more: object) -> object:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


MACHINE_PANEL = "The machine (part of the record: on one stack the same bytes)"


Backend = StrEnum("Backend", ["loky", "ray"])


@dataclass(frozen=True)
class Options:
    """What all but audit and phantom take. None: as the folder was begun (not data, sheet, jobs), else the default."""

    data: Annotated[
        Path | None, option("Folder with CMMD's DICOM files and its sheet. [data/CMMD, or $LUMIN_DATA]")
    ] = None
    out: Annotated[Path | None, option("Outputs folder. [outputs, with --demo outputs/demo; or $LUMIN_OUT]")] = None
    demo: Annotated[bool, option("Run on a synthetic cohort, made on the spot: small, no data needed.", "--demo")] = (
        False
    )
    sheet: Annotated[Path | None, option("The clinical sheet, where it is not in the data folder.")] = None
    cleaned: Annotated[bool, option("Mend CMMD's known defects first; see lumin/corrections.csv.", "--cleaned")] = False
    seed: Annotated[int | None, option("Seed of split, weights, order, augmentation (and demo cohort). [0]", min=0)] = (
        None
    )
    weights: Annotated[str | None, option("Starting weights: imagenet, random or a file. [imagenet; demo: random]")] = (
        None
    )
    epochs: Annotated[int | None, option("At most this many epochs. [100; demo: 10 and 12]", min=1)] = None
    overwrite: Annotated[bool, option("Begin anew: remove all recorded outputs, trainings too.", "--overwrite")] = False
    device: Annotated[str | None, option("auto, cpu, cuda or cuda:1. [auto]", panel=MACHINE_PANEL)] = None
    precision: Annotated[str | None, option("auto, tf32, fp32 or bf16. [auto]", panel=MACHINE_PANEL)] = None
    threads: Annotated[
        int | None, option("Threads of one training. [all cores; demo: 1]", panel=MACHINE_PANEL, min=1)
    ] = None
    jobs: Annotated[int | None, option("Trainings at once. [1; demo: all cores]", panel=MACHINE_PANEL, min=1)] = None
    backend: Annotated[Backend, option("loky: this machine; ray: a Ray cluster. [loky]", panel=MACHINE_PANEL)] = "loky"


def command(verb: Callable) -> Callable:
    """Register a verb: its first parameter, a Study, becomes the common options; user errors become exit codes."""

    @functools.wraps(verb)
    def wrapped(**given: object) -> None:
        common = {f.name: given.pop(f.name) for f in fields(Options)}
        with explained():
            verb(options.open_study(Options(**common), Screen()), **given)

    own = list(inspect.signature(verb).parameters.values())[1:]
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
    ]
    wrapped.__annotations__ = {}  # the signature has them; a Study is none of Typer's business
    wrapped.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared)
    return app.command(name=verb.__name__.rstrip("_"))(wrapped)


@contextmanager
def explained() -> Iterator[None]:
    """One message and an exit code for every error a user can cause."""
    try:
        yield
    except (record.RecordError, phantom.PhantomError, network.NetworkError, jobs.JobsError) as error:
        fail(USAGE, error)
    except (train.TrainingError, figure2.FigureError, replication.ReplicationError) as error:
        fail(USAGE, error)
    except cohort.CohortError as error:
        fail(DATA, "\n".join([str(error), *(f"  {where}: {what}" for where, what in error.problems)]))
    except (preprocess.ImageError, split.SplitError) as error:
        fail(DATA, error)
    except fetch.FetchError as error:
        fail(DATA, f"{error} To try the kit without CMMD, type --demo.")
    except (train.Interrupted, KeyboardInterrupt) as error:
        where = f" in {error}" if str(error) else ""
        fail(INTERRUPTED, f"Interrupted{where}. What is done is saved; type the same command to go on.")
    except OSError as error:
        what = f"{error.filename or 'A file'}: {error.strerror or error}"
        fail(DATA, f"{what}. Nothing finished is lost; mend it and type the same command to go on.")


def fail(code: int, message: object) -> None:
    Console(stderr=True, soft_wrap=True).print("[red]Stopped.[/]", escape(str(message)), highlight=False)
    raise typer.Exit(code)


# ---- the screen ----------------------------------------------------------------------------------


def say(text: str, markup: bool = False) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=markup)


class Screen:
    """The terminal: bars where there is one, else lines."""

    say = staticmethod(say)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar as a function of (done, total), and one line at the end."""
        started = time.perf_counter()
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            line = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(line, completed=done, total=total)
        say(f"{title}: {progress.tasks[0].completed:.0f} in {time.perf_counter() - started:.0f} s.")

    @contextmanager
    def epochs(self, trainings: Sequence) -> Iterator[Callable[[object, dict], None]]:
        """A bar a training as a function of it and its epochs' lines; without a terminal, a line an epoch."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[last]}"),
        )
        several = len({t.out for t in trainings}) > 1
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bars: dict[str, int] = {}

            def show(training: object, line: dict) -> None:
                name = f"{training.out.name}/" * several + training.stage.removeprefix("train/")
                best = " best" if line["best"] else ""
                losses = f"loss {line['train_loss']:.4f}, validation {line['val_loss']:.4f}{best}"
                text = f"{losses}, {line['images_per_second']:.0f} images/s"
                if not console.is_terminal:
                    return say(f"{name} epoch {line['epoch']}: {text}")
                if name not in bars:
                    if len(bars) == BARS:  # the oldest has ended, or comes again with its next epoch
                        progress.remove_task(bars.pop(next(iter(bars))))
                    bars[name] = progress.add_task(name, total=training.epochs, last="")
                progress.update(bars[name], completed=line["epoch"], last=text)

            yield show


# ---- verbs ---------------------------------------------------------------------------------------

TaskName = StrEnum("TaskName", {task.name: task.name for task in TASKS})
AlternativeName = StrEnum("AlternativeName", {name: name for name in ALTERNATIVES})
Output = StrEnum("Output", {name: name for name in BY_NAME["mlmc"].outputs})


def tabulate(run: "options.Study", name: str) -> None:
    """Make a table and all that it needs, and show its beginning."""
    work.images_and_split(run)
    work.learn([run], study.TABLES[name])
    work.tabulate(run, name)
    show(run, name)


def show(run: "options.Study", name: str) -> None:
    """Print a table as far as the paper has it; the rest is in its file."""
    path = run.out / f"tables/{name}.md"
    first, *others = path.read_text().split("\n\n## By breast")
    render(first)
    say(f"\n{'Also by breast, as an ensemble, without images, and every test' if others else 'All'} in {path}.\n")


def render(markdown: str) -> None:
    """Print Markdown; its tables with their first column whole, however narrow the terminal."""
    for block in markdown.split("\n\n"):
        if not block.startswith("| "):
            console.print(Markdown(block))
            continue
        header, sides, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
        for number, (title, side) in enumerate(zip(header, sides, strict=True)):
            table.add_column(title, no_wrap=number == 0, justify="right" if side == "--:" else "left")
        for row in rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        console.print(table)


def download(folder: Path) -> None:
    """Fetch what a data folder lacks of CMMD, after saying how much that is."""
    lacking, size, free = fetch.plan(folder)
    say(f"CMMD into {folder}: {lacking} series lack, {size / 1e9:.1f} GB; {free / 1e9:.0f} GB are free.")
    say(f"At 20 MB/s that takes {size / 20e6 / 60:.0f} minutes; stopped, it goes on where it was.\n\n{fetch.LICENCE}")
    with Screen().bar("Bytes of CMMD") as progress:
        fetch.download(folder, progress)
    fetch.sheet(folder)


def lacks_cmmd(run: "options.Study") -> bool:
    """True where CMMD should be fetched: the data folder is empty, or holds a download that is not finished."""
    begun = {} if run.overwrite else record.read(run.out)["stages"]
    if run.demo or begun or not (run.data.is_dir() or run.data == options.default_data()):
        return False
    unfinished = (run.data / "LICENCE.txt").exists() and not (run.data / "VERIFIED.json").exists()
    return unfinished or not cohort.list_files(run.data)


@command
def download_(run: "options.Study") -> None:
    """Fetch CMMD (22.9 GB) and its sheet into the data folder, and verify them."""
    download(run.data)


def picture(run: "options.Study") -> Path:
    """Figures, audit, and the page that holds all -> the page."""
    write_audit(run.out)
    gallery.draw(run)
    gallery.draw_figure2(run, "malignant", None)
    return gallery.page(run)


@command
def all_(
    run: "options.Study",
    fetching: Annotated[bool, option("Fetch CMMD where the data folder is empty.", "--download/--no-download")] = True,
) -> None:
    """The whole paper: CMMD where it lacks, images, split, 25 trainings, Tables 1, 2a and 2b, figures, one page."""
    started = time.perf_counter()
    if fetching and lacks_cmmd(run):
        download(run.data)
    work.images_and_split(run)
    work.learn([run], BY_NAME)
    for name in study.TABLES:
        work.tabulate(run, name)
        show(run, name)
    page = picture(run)
    minutes = (time.perf_counter() - started) / 60
    say(f"Done in {minutes:.1f} minutes. The tables are in {run.out / 'tables'}; open {page}.")


@command
def prepare(run: "options.Study") -> None:
    """DICOM files and clinical sheet -> 8-bit breast crops of the model's size."""
    with record.lock(run.out):
        study.prepare(run)


@command
def split_(run: "options.Study") -> None:
    """Patients -> Table 1's test set and five folds."""
    work.images_and_split(run)


@command
def train_(
    run: "options.Study",
    task: Annotated[TaskName | None, typer.Argument(help="One task. [all five]", show_default=False)] = None,
    fold: Annotated[int | None, option("One fold. [all five]", min=0, max=FOLDS - 1)] = None,
) -> None:
    """Train one task or all, one fold or all. MLMC folds that a transfer starts from are trained as well."""
    work.images_and_split(run)
    work.learn([run], [task] if task else BY_NAME, range(FOLDS) if fold is None else [fold])


@command
def table1(run: "options.Study") -> None:
    """Images of each class in training and test, beside the paper's."""
    tabulate(run, "table1")


@command
def table2a(run: "options.Study") -> None:
    """Abnormality: mass against calcification, benign against malignant, and both at once (MLMC)."""
    tabulate(run, "table2a")


@command
def table2b(run: "options.Study") -> None:
    """Luminal against non-luminal: baseline, and transfer from MLMC."""
    tabulate(run, "table2b")


@app.command(name="audit")
def audit_(out: Annotated[Path | None, option("Outputs folder. [outputs, or $LUMIN_OUT]")] = None) -> None:
    """Re-derive the paper's own figures from each other. Needs no data, no GPU and two seconds."""
    with explained():
        render(write_audit(out or Path(os.environ.get("LUMIN_OUT", "outputs"))))


def audited() -> tuple[str, str]:
    """The audit as Markdown and JSON."""
    rows = audit.audit()
    return audit.markdown(rows), audit.as_json(rows)


def write_audit(out: Path) -> str:
    """tables/audit.md and .json -> the former's text."""
    files = dict(zip(("tables/audit.md", "tables/audit.json"), audited(), strict=True))
    inputs = {"text": record.digest(files)}  # cheaper made than compared in any other way
    if record.stale(out, "audit", inputs):
        for name, text in files.items():
            record.write(out / name, text)
        record.commit(out, "audit", list(files), inputs, {})
    return files["tables/audit.md"]


@command
def figures(run: "options.Study") -> None:
    """ROC, precision-recall, calibration, scores, losses, and every cell of Table 2 as a dot."""
    work.images_and_split(run)
    gallery.draw(run)
    say(f"Drawn in {run.out / 'figures'}.")


@command
def fig2(
    run: "options.Study",
    patient: Annotated[str | None, option("Whose breast. [the one most like the paper's]")] = None,
    output: Annotated[Output, option("What the map explains.")] = "malignant",
) -> None:
    """Figure 2: Grad-CAM of MLMC in CC and MLO of one test breast, and a sheet of twelve more images."""
    work.images_and_split(run)
    work.learn([run], ["mlmc"])
    render(gallery.draw_figure2(run, output, patient))
    say(f"Drawn in {run.out / 'figures'}.")


@command
def report(run: "options.Study") -> None:
    """One self-contained HTML page of what is there: tables, figures, settings, limits."""
    say(f"Open {gallery.page(run)}.")


@command
def replicate(
    run: "options.Study",
    seeds: Annotated[str, option("Which, such as 0-9 or 0,3,7-9.")] = "0-9",
) -> None:
    """The whole paper once a seed, in OUT/seedK, and how far each cell of Table 2 moves."""
    wanted = replication.parse_seeds(seeds)
    made = [replication.read(one.out) for one in series.replicate(run, wanted)]
    render(gallery.spread(run, "replication", replication.replication(made, wanted)))


@command
def sensitivity_(
    run: "options.Study",
    only: Annotated[
        list[AlternativeName] | None, option("One row of the table; may be given more than once. [all]")
    ] = None,
) -> None:
    """The luminal comparison with one choice at a time made otherwise, in OUT/sensitivity."""
    series.vary(run, [ALTERNATIVES[name][1] for name in only or ALTERNATIVES])
    render(gallery.spread(run, "sensitivity", series.compared(run)).split(sensitivity.DETAILS)[0])
    say(f"\nWhat each row changes, and why, is in {run.out / 'tables/sensitivity.md'}; drawn in {run.out / 'figures'}.")


@command
def doctor_(run: "options.Study") -> None:
    """Is this machine ready? What is found, and what to do where something lacks."""
    found = doctor.examine(run.data, run.out, run.recipe, run.demo, run.jobs)
    for check in found:
        state = "[green]ok[/]   " if not check.advice else "[red]lacks[/]" if check.needed else "[yellow]note[/] "
        text = f"{check.what}: {check.found}{f'. {check.advice}' if check.advice else ''}"
        say(f"{state} {escape(text)}", markup=True)
    if any(check.needed and check.advice for check in found):
        raise typer.Exit(DATA)


@command
def verify_(
    run: "options.Study",
    against: Annotated[Path | None, option("Another outputs folder, to compare with stage by stage.")] = None,
    predict: Annotated[bool, option("Also predict again from weights and images.", "--predict")] = False,
    retrain: Annotated[str | None, option("Also train one fold again, such as mlmc/0, and compare bitwise.")] = None,
) -> None:
    """Do tables follow from predictions, predictions from weights, weights from images and seeds?"""
    findings = verify.hashes(run.out)
    if any(finding.ok is False for finding in findings):
        say("The files are not as recorded, so what follows from them is not checked.")
    elif (run.out / "split.csv").exists():
        findings += verify.made_with(run.out, study.expected(run))
        findings += verify.images(run.out)
        findings += verify.parted(run.out, study.make_split(run)[0])
        findings += verify.remade(run.out, lambda name: audited() if name == "audit" else study.make_table(run, name))
        findings += verify.predictions(run.out, study.all_trainings(run)) if predict else []
        with tempfile.TemporaryDirectory() as folder:
            findings += verify.retrained(study.one_training(run, retrain), Path(folder)) if retrain else []
    findings += verify.against(run.out, against) if against else []
    for stage, file, what, ok in findings:
        state = {True: "[green]ok[/]    ", False: "[red]differs[/]", None: "[yellow]note[/]  "}[ok]
        text = f"{stage}: {what}" if file in what else f"{stage}: {file} {what}"
        say(f"{state} {escape(text)}", markup=True)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(DIFFERENCE)


@command
def show_(run: "options.Study") -> None:
    """Print the tables that are there, and compute nothing."""
    there = [name for name in study.TABLES if (run.out / f"tables/{name}.md").exists()]
    if not there:
        raise record.RecordError(f"{run.out} has no tables yet. Type python repro.py all{' --demo' * run.demo}.")
    for name in there:
        show(run, name)


@app.command(name="phantom")
def phantom_(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    size: Annotated[str, option("demo (900 breasts at 1/8 scale) or full (CMMD's numbers and size, 22 GB).")] = "demo",
    seed: Annotated[int, option("Seed of the cohort. [0]", min=0)] = 0,
    patients: Annotated[int | None, option("Only the first so many patients.", min=1)] = None,
) -> None:
    """Write the synthetic cohort: DICOM files and a sheet in CMMD's form."""
    with explained(), Screen().bar("Synthetic cohort, images") as progress:
        phantom.write(folder, size, seed, patients, jobs=os.cpu_count() or 1, progress=progress)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, where no training listens
    app()
