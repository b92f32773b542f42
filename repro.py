#!/usr/bin/env python
"""Reproduce Panambur, Madhu, Maier (arXiv:2301.09282): luminal subtypes in full mammograms.

One command per step, and `all` for all of them.
"""

import functools
import inspect
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional

import typer

from lumin.errors import DATA, DIFFERENCE, FAULT, INTERRUPTED, Interrupted, UserError
from lumin.paper.published import TABLES, tasks_of
from lumin.paper.silences import ALTERNATIVES
from lumin.paper.stated import FOLDS
from lumin.run.screen import Screen, mark, render, say, say_error
from lumin.training.tasks import BY_NAME, TASKS

if TYPE_CHECKING:
    from lumin.run.study import Study

# What needs torch is imported by the verbs that do: it takes seconds, and `--help` needs none

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=__doc__
)


# ---- options -------------------------------------------------------------------------------------


RUN, MACHINE = "The run", "Hardware (recorded; the same hardware and versions give the same bytes)"
MANY = 25  # lines of detail that are printed
Backend = StrEnum("Backend", ["loky", "ray"])


class Option(NamedTuple):
    """What all verbs but audit and phantom take. None: as the folder was begun, else [default]."""

    name: str
    kind: object
    help: str
    panel: str = RUN
    default: object = None
    limits: Mapping = MappingProxyType({})


AT_LEAST_0, AT_LEAST_1 = {"min": 0}, {"min": 1}
# fmt: off
OPTIONS = (
    Option("data", Path, "Folder of CMMD's DICOM files and sheet. [data/CMMD, or $LUMIN_DATA]"),
    Option("out", Path, "Outputs folder. [outputs, with --demo outputs/demo; or $LUMIN_OUT]"),
    Option("demo", bool, "Run on a synthetic cohort made on the spot; needs no data.", RUN, False),
    Option("sheet", Path, "The clinical sheet, if it is not in the data folder."),
    Option("cleaned", bool, "Fix CMMD's known errors (lumin/cmmd/corrections.csv).", RUN, False),
    Option("seed", int, "Seed of everything that is drawn. [0]", RUN, None, AT_LEAST_0),
    Option("weights", str, "imagenet, random or a file to start from. [imagenet; demo: random]"),
    Option("epochs", int, "At most this many epochs. [100; demo: 5, 4]", RUN, None, AT_LEAST_1),
    Option("overwrite", bool, "Begin anew: remove all recorded outputs first.", RUN, False),
    Option("device", str, "auto, cpu, cuda or cuda:1. [auto]", MACHINE),
    Option("precision", str, "auto, tf32, fp32 or bf16. [auto]", MACHINE),
    Option("threads", int, "Threads per training. [all cores; demo: 1]", MACHINE, None, AT_LEAST_1),
    Option("jobs", int, "Trainings at once. [1; demo: all cores]", MACHINE, None, AT_LEAST_1),
    Option("backend", Backend, "loky: this machine; ray: a Ray cluster. [loky]", MACHINE, "loky"),
)
# fmt: on


def option(text: str, *names: str, panel: str = RUN, **more: object) -> object:
    """An option of Typer's, its default said in the text."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def asked(**given: object) -> SimpleNamespace:
    """What a user asks for; what is not asked for has its default."""
    return SimpleNamespace(**{row.name: given.get(row.name, row.default) for row in OPTIONS})


def command(verb: Callable) -> Callable:
    """Register a verb: its first parameter, a Study, becomes the common options.

    Typer has no options that many commands share, so the signature that it reads is put together
    here: the verb's own parameters, and OPTIONS.
    """

    @functools.wraps(verb)
    def wrapped(**given: object) -> None:
        common = {row.name: given.pop(row.name) for row in OPTIONS}
        with explained():
            from lumin.run.options import open_study

            verb(open_study(asked(**common), Screen()), **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(verb).parameters.values())[1:]
    parameters = [parameter.replace(kind=keyword) for parameter in own]
    for row in OPTIONS:
        names = [f"--{row.name}"] if row.kind is bool else []  # no --no-demo
        kind = row.kind if row.default is not None else Optional[row.kind]  # noqa: UP045
        annotation = Annotated[kind, option(row.help, *names, panel=row.panel, **row.limits)]
        parameters.append(
            inspect.Parameter(row.name, keyword, default=row.default, annotation=annotation)
        )
    wrapped.__signature__ = inspect.Signature(parameters)
    wrapped.__annotations__ = {}  # else Typer reads the verb's own, which wraps() has copied
    return app.command(name=verb.__name__.rstrip("_"))(wrapped)


@contextmanager
def explained() -> Iterator[None]:
    """One message and an exit code for every error that a user can cause."""
    try:
        yield
    except UserError as error:
        fail(error.exit_code, "\n  ".join([str(error), *first_of(error.details)]))
    except (Interrupted, KeyboardInterrupt) as error:
        where = f" in {error}" if str(error) else ""
        what = "Finished work is kept; run the same command to go on."
        fail(INTERRUPTED, f"Interrupted{where}. {what}")
    except OSError as error:
        what = f"{error.filename or 'A file'}: {error.strerror or error}"
        advice = "Finished work is kept. Fix the problem and run the same command again."
        fail(DATA, f"{what}. {advice}")
    except typer.Exit:
        raise
    except Exception:  # a bug of ours
        path = kept(traceback.format_exc())
        fail(FAULT, f"This is a bug in lumin. The traceback is in {path}; please report it.")


def first_of(details: Sequence[str]) -> list[str]:
    """Lines to print of all these; where they are many, the first, and where to read the others."""
    if len(details) <= MANY:
        return list(details)
    path = kept("\n".join(details))
    return [*details[:MANY], f"and {len(details) - MANY:,} more, all in {path}"]


def kept(text: str) -> str:
    """Write a text to a file of its own in the folder for temporary files -> its path."""
    with tempfile.NamedTemporaryFile("w", prefix="lumin-", suffix=".txt", delete=False) as file:
        file.write(text)
    return file.name


def fail(code: int, message: str) -> None:
    say_error(message)
    raise typer.Exit(code)


# ---- verbs ---------------------------------------------------------------------------------------

TaskName = StrEnum("TaskName", {task.name: task.name for task in TASKS})
AlternativeName = StrEnum("AlternativeName", {name: name for name in ALTERNATIVES})
Output = StrEnum("Output", {name: name for name in BY_NAME["mlmc"].outputs})


@command
def all_(
    study: "Study",
    fetching: Annotated[
        bool, option("Download CMMD if the data folder is empty.", "--download/--no-download")
    ] = True,
) -> None:
    """Run the whole paper: images, split, 25 trainings, Tables 1, 2a and 2b, figures, one page."""
    from lumin.run.learn import learn
    from lumin.run.stages import images_and_split

    started = time.perf_counter()
    if fetching and lacks_cmmd(study):
        fetch_cmmd(study)
    images_and_split(study)
    learn([study], BY_NAME)
    for name in TABLES:
        tabulate(study, name)
    page = picture(study)
    minutes = (time.perf_counter() - started) / 60
    say(f"Done in {minutes:.1f} minutes. The tables are in {study.out / 'tables'}; open {page}.")


def picture(study: "Study") -> Path:
    """Audit, figures, and the page that holds all -> the page."""
    from lumin.beyond import audit
    from lumin.figures import gallery
    from lumin.run.make import make

    make(study.out, audit.stage())
    gallery.draw_curves(study)
    gallery.draw_figure2(study, "malignant", None)
    return gallery.write_page(study)


@command
def prepare(study: "Study") -> None:
    """Turn DICOM files and clinical sheet into 8-bit breast crops of the model's size."""
    from lumin.run.manifest import claim_folder
    from lumin.run.prepare import prepare

    with claim_folder(study.out):
        prepare(study)


@command
def split_(study: "Study") -> None:
    """Assign the patients to Table 1's test set and five folds."""
    from lumin.run.stages import images_and_split

    images_and_split(study)


@command
def train_(
    study: "Study",
    task: Annotated[
        TaskName | None, typer.Argument(help="One task. [all five]", show_default=False)
    ] = None,
    fold: Annotated[int | None, option("One fold. [all five]", min=0, max=FOLDS - 1)] = None,
) -> None:
    """Train one task or all, one fold or all, and the MLMC folds that a transfer starts from."""
    from lumin.run.learn import learn
    from lumin.run.stages import images_and_split

    images_and_split(study)
    learn([study], [task] if task else BY_NAME, range(FOLDS) if fold is None else [fold])


def add_table(name: str, title: str) -> None:
    """Register a verb for one table of paper/published.py."""

    def verb(study: "Study") -> None:
        build(study, name)

    verb.__name__, verb.__doc__ = (
        name,
        f"Print {title.replace('. ', ': ')}, beside the paper's figures.",
    )
    command(verb)


for table_name, table in TABLES.items():
    add_table(table_name, table.title)


def build(study: "Study", name: str) -> None:
    """Make a table and all that it needs, and show its beginning."""
    from lumin.run.learn import learn
    from lumin.run.stages import images_and_split

    images_and_split(study)
    learn([study], tasks_of(name))
    tabulate(study, name)


def tabulate(study: "Study", name: str) -> None:
    """Make a table whose trainings are there, and show its beginning."""
    from lumin.run import stages

    stages.tabulate(study, name)
    show(study, name)


def show(study: "Study", name: str) -> None:
    """Print a table as far as the paper has it; the rest is in its file."""
    path = study.out / f"tables/{name}.md"
    first, *others = path.read_text().split("\n\n## By breast")
    render(first)
    more = "Also by breast, as an ensemble, without images, and every test" if others else "All"
    say(f"\n{more} in {path}.\n")


@command
def show_(study: "Study") -> None:
    """Print the tables that are there, and compute nothing."""
    there = [name for name in TABLES if (study.out / f"tables/{name}.md").exists()]
    if not there:
        demo = " --demo" if study.demo else ""
        raise UserError(f"{study.out} has no tables yet. Run python repro.py all{demo}.")
    for name in there:
        show(study, name)


@app.command(name="audit")
def audit_(
    out: Annotated[Path | None, option("Outputs folder. [outputs, or $LUMIN_OUT]")] = None,
) -> None:
    """Re-derive the paper's own figures from each other, without data, in two seconds."""
    with explained():
        from lumin.beyond import audit
        from lumin.run.make import make

        out = out or Path(os.environ.get("LUMIN_OUT", "outputs"))
        make(out, audit.stage())
        render((out / "tables/audit.md").read_text())


@command
def figures(study: "Study") -> None:
    """Draw ROC, precision-recall, calibration, scores, losses, and Table 2 as dots."""
    from lumin.figures import gallery
    from lumin.run.stages import images_and_split

    images_and_split(study)
    gallery.draw_curves(study)
    say(f"Drawn in {study.out / 'figures'}.")


@command
def fig2(
    study: "Study",
    patient: Annotated[
        str | None, option("PatientID to show. [the one most like the paper's]")
    ] = None,
    output: Annotated[Output, option("What the map explains.")] = "malignant",
) -> None:
    """Draw Figure 2: Grad-CAM of MLMC in CC and MLO of one test breast, and twelve more images."""
    from lumin.figures import gallery
    from lumin.run.learn import learn
    from lumin.run.stages import images_and_split

    images_and_split(study)
    learn([study], ["mlmc"])
    render(gallery.draw_figure2(study, output, patient))
    say(f"Drawn in {study.out / 'figures'}.")


@command
def report(study: "Study") -> None:
    """Write one self-contained HTML page of what is there: tables, figures, settings, limits."""
    from lumin.figures import gallery

    say(f"Open {gallery.write_page(study)}.")


@command
def replicate(
    study: "Study",
    seeds: Annotated[str, option("Seeds to run, such as 0-9 or 0,3,7-9. [0-9]")] = "0-9",
) -> None:
    """Run the whole paper once per seed, in OUT/seedK: how far does each cell of Table 2 move?"""
    from lumin.beyond import replication, studies

    wanted = replication.parse_seeds(seeds)
    tables = [replication.read(one.out) for one in studies.replicate(study, wanted)]
    render(studies.write(study, "replication", replication.replication(tables, wanted)))


@command
def sensitivity_(
    study: "Study",
    only: Annotated[
        list[AlternativeName] | None,
        option("One row of the table; can be repeated. [all]"),
    ] = None,
) -> None:
    """Run the luminal comparison with one choice at a time changed, in OUT/sensitivity."""
    from lumin.beyond import sensitivity, studies

    studies.vary(study, [ALTERNATIVES[name][1] for name in only or ALTERNATIVES])
    text = studies.write(study, "sensitivity", studies.compared(study))
    render(text.split(sensitivity.DETAILS)[0])
    say(f"\nWhat each row changes, and why, is in {study.out / 'tables/sensitivity.md'}.")


@command
def verify_(
    study: "Study",
    against: Annotated[
        Path | None, option("Another outputs folder, to compare with stage by stage.")
    ] = None,
    predict: Annotated[
        bool, option("Also predict again from weights and images.", "--predict")
    ] = False,
    retrain: Annotated[
        str | None, option("Also train one fold again, such as mlmc/0, and compare bitwise.")
    ] = None,
) -> None:
    """Check that tables follow from predictions, these from weights, and weights from seeds."""
    from lumin.run import compare, recompute, stages, verify

    findings = verify.hashes(study.out)
    if any(finding.ok is False for finding in findings):
        say("The files are not as recorded, so what follows from them is not checked.")
    elif (study.out / "split.csv").exists():
        rows = pipeline(study)
        findings += verify.made_with(study.out, rows)
        findings += verify.images(study.out)
        findings += verify.remade(study.out, [row for row in rows if row.quick])
        if predict:
            findings += recompute.predictions(study.out, stages.all_trainings(study))
        if retrain:
            with tempfile.TemporaryDirectory() as folder:
                training = stages.one_training(study, retrain)
                findings += recompute.retrained(training, Path(folder))
    if against:
        findings += compare.against(study.out, against)
    for stage, file, what, ok in findings:
        state, colour = {True: ("ok", "green"), False: ("differs", "red")}.get(
            ok, ("note", "yellow")
        )
        mark(state, colour, f"{stage}: {what}" if file in what else f"{stage}: {file} {what}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(DIFFERENCE)


def pipeline(study: "Study") -> list:
    """Every stage that verification holds to its settings or makes again."""
    from lumin.beyond import audit
    from lumin.run import prepare, stages

    return [prepare.settings_stage(study), *stages.pipeline(study).values(), audit.stage()]


@command
def doctor_(study: "Study") -> None:
    """Say whether this machine is ready, and what to do if not."""
    from lumin.run import doctor

    checks = doctor.examine(study)
    for check in checks:
        state, colour = ("missing", "red") if check.needed else ("note", "yellow")
        if not check.advice:
            state, colour = "ok", "green"
        advice = f". {check.advice}" if check.advice else ""
        mark(state, colour, f"{check.what}: {check.found}{advice}")
    if any(check.needed and check.advice for check in checks):
        raise typer.Exit(DATA)


@command
def download_(study: "Study") -> None:
    """Download CMMD (22.9 GB) and its sheet into the data folder, and verify them."""
    fetch_cmmd(study)


def fetch_cmmd(study: "Study") -> None:
    """Download what the data folder lacks of CMMD, after saying how much that is."""
    from lumin.cmmd import clinical, download

    folder = study.data
    lacking, size, free = download.plan(folder)
    say(
        f"CMMD into {folder}: {lacking} series are missing, {size / 1e9:.1f} GB; "
        f"{free / 1e9:.0f} GB are free. At 20 MB/s that takes {size / 20e6 / 60:.0f} minutes; "
        f"stopped, it goes on where it was.\n\n{download.LICENCE}"
    )
    with Screen().bar("Bytes of CMMD") as progress:
        download.download(folder, progress)
    if not study.sheet:
        clinical.download_sheet(folder)


def lacks_cmmd(study: "Study") -> bool:
    """True where the data folder is empty, or holds a download that is not finished."""
    from lumin.data.headers import list_files
    from lumin.run import manifest
    from lumin.run.options import default_data

    begun = {} if study.overwrite else manifest.read(study.out)["stages"]
    data = study.data
    if study.demo or begun or not (data.is_dir() or data == default_data()):
        return False
    unfinished = (data / "LICENCE.txt").exists() and not (data / "VERIFIED.json").exists()
    return unfinished or not list_files(data)


@app.command(name="phantom")
def phantom_(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    size: Annotated[
        str, option("demo (900 breasts at 1/8 scale) or full (CMMD's numbers and size, 22 GB).")
    ] = "demo",
    seed: Annotated[int, option("Seed of the cohort. [0]", min=0)] = 0,
    patients: Annotated[int | None, option("Only the first so many patients.", min=1)] = None,
) -> None:
    """Write the synthetic cohort: DICOM files and a sheet in CMMD's form."""
    from joblib import cpu_count

    from lumin.cmmd import phantom

    with explained(), Screen().bar("Synthetic cohort, images") as progress:
        phantom.write(folder, size, seed, patients, cpu_count(), progress)


if __name__ == "__main__":
    # As Ctrl-C, where no training listens
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
