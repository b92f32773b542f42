#!/usr/bin/env python
"""Reproduce Panambur, Madhu, Maier (arXiv:2301.09282): luminal subtypes in full mammograms.

One command per step, and `all` for all of them.
"""

import functools
import inspect
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional

import typer

from lumin.errors import DATA, DIFFERENCE, UserError
from lumin.paper.published import TABLES, tasks_of
from lumin.paper.silences import ALTERNATIVES
from lumin.paper.stated import FOLDS
from lumin.run.screen import Screen, explained, mark, say, show_markdown
from lumin.training.tasks import BY_NAME

if TYPE_CHECKING:
    from lumin.run.study import Study

# What needs torch is imported by the verbs that do: it takes seconds, and `--help` needs none

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=__doc__
)


# ---- options -------------------------------------------------------------------------------------


RUN, MACHINE = "The run", "Hardware (recorded; the same hardware and versions give the same bytes)"
VERDICTS = {True: ("ok", "green"), False: ("differs", "red"), None: ("note", "yellow")}
Part = StrEnum("Part", ["weights", "images"])
Backend = StrEnum("Backend", ["loky", "ray"])


class Option(NamedTuple):
    """What all verbs but phantom take. None: as the folder was begun, else [default]."""

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
    Option("demo", bool, "Use a synthetic cohort made on the spot; needs no data.", RUN, False),
    Option("sheet", Path, "The clinical sheet, if it is not in the data folder."),
    Option("cleaned", bool, "Fix CMMD's known errors (lumin/cmmd/corrections.csv).", RUN, False),
    Option("seed", int, "Seed of everything that is drawn. [0]", RUN, None, AT_LEAST_0),
    Option("weights", str, "imagenet, random or a file to start from. [imagenet; demo: random]"),
    Option("epochs", int, "At most this many epochs. [100; demo: 5, 4]", RUN, None, AT_LEAST_1),
    Option("overwrite", bool, "Begin anew: remove all recorded outputs first.", RUN, False),
    Option("device", str, "auto, cpu, cuda or cuda:1. [auto]", MACHINE),
    Option("precision", str, "auto, tf32, fp32 or bf16. [auto]", MACHINE),
    Option("threads", int, "Per training. [all cores; GPU or demo: 1]", MACHINE, None, AT_LEAST_1),
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
    """Register a verb: its first parameter becomes the common options.

    That is a Study, or `out`, the outputs folder of what only reads. Typer has no options that many
    commands share, so the signature that it reads is put together here: the verb's own parameters,
    and OPTIONS.
    """
    first, *own = inspect.signature(verb).parameters.values()
    runs = first.name == "study"
    options = [row for row in OPTIONS if runs or row.name in ("out", "demo")]

    @functools.wraps(verb)
    def wrapped(**given: object) -> None:
        common = asked(**{row.name: given.pop(row.name) for row in options})
        with explained():
            from lumin.run.options import default_out, open_study

            out = common.out or default_out(common.demo)
            verb(open_study(common, Screen()) if runs else out, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in own]
    for row in options:
        text = row.help if runs or row.name != "demo" else "The outputs folder is outputs/demo."
        names = [f"--{row.name}"] if row.kind is bool else []  # no --no-demo
        kind = row.kind if row.default is not None else Optional[row.kind]  # noqa: UP045
        annotation = Annotated[kind, option(text, *names, panel=row.panel, **row.limits)]
        parameters.append(
            inspect.Parameter(row.name, keyword, default=row.default, annotation=annotation)
        )
    wrapped.__signature__ = inspect.Signature(parameters)
    wrapped.__annotations__ = {}  # else Typer reads the verb's own, which wraps() has copied
    return app.command(name=verb.__name__.rstrip("_"))(wrapped)


# ---- verbs ---------------------------------------------------------------------------------------

AlternativeName = StrEnum("AlternativeName", {name: name for name in ALTERNATIVES})
Output = StrEnum("Output", {name: name for name in BY_NAME["mlmc"].outputs})


@command
def all_(
    study: "Study",
    fetching: Annotated[
        bool, option("Download CMMD if the data folder is empty.", "--download/--no-download")
    ] = True,
) -> None:
    """Run the whole paper: images, split, 25 trainings, Tables 1, 2a and 2b, figures, one page.

    Needs CMMD in --data, which it downloads if the folder is empty; with --demo, nothing. Makes all
    of the outputs folder. Interrupted, it goes on where it was; up to date, it ends in seconds. The
    demo is made for a CPU, CMMD for a GPU.

    Example: `python repro.py all --demo`
    """
    from lumin.figures.answer import answers
    from lumin.run.learn import prepare_and_learn
    from lumin.run.options import default_out
    from lumin.run.prepare import fetch_cmmd, lacks_cmmd

    started = time.perf_counter()
    if fetching and lacks_cmmd(study):
        fetch_cmmd(study)
    prepare_and_learn(study, BY_NAME)
    for name in TABLES:
        tabulate(study, name)
    page = picture(study)
    minutes = (time.perf_counter() - started) / 60
    say("\n".join(answers(study.out)))
    say(f"Done in {minutes:.1f} minutes. Everything is on one page: open {page}.")
    where = " --demo" if study.out == default_out(demo=True) else f" --out {study.out}"
    say(f"To check it, run python repro.py verify{where}.")


def picture(study: "Study") -> Path:
    """The tables that are not the paper's, figures, and the page that holds all -> the page."""
    from lumin.figures import gallery
    from lumin.run.make import make

    for stage in beyond(study):
        make(study.out, stage)
    gallery.draw_curves(study)
    gallery.draw_figure2(study, "malignant", None)
    return gallery.write_page(study)


@command
def prepare(study: "Study") -> None:
    """Turn DICOM files and clinical sheet into 8-bit breast crops of the model's size.

    Needs CMMD, or --demo. Makes cohort.csv, images/, images.npy and images.csv, in about 10 ms per
    image and core.

    Example: `python repro.py prepare --data CMMD`
    """
    from lumin.run.manifest import claim_folder
    from lumin.run.prepare import prepare

    with claim_folder(study.out):
        prepare(study)


@command
def split_(study: "Study") -> None:
    """Assign the patients to Table 1's test set and five folds.

    Needs CMMD, or --demo; prepares images first. Makes split.csv in seconds.

    Example: `python repro.py split --seed 1`
    """
    from lumin.run.prepare import images_and_split

    images_and_split(study)


@command
def train_(
    study: "Study",
    task: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(BY_NAME)}. [all]", metavar="TASK", show_default=False),
    ] = None,
    fold: Annotated[int | None, option("One fold. [all five]", min=0, max=FOLDS - 1)] = None,
) -> None:
    """Train one task or all, one fold or all, and the MLMC folds that a transfer starts from.

    Needs CMMD, or --demo; prepares and splits first. Makes weights, history and predictions of each
    fold, and is the slowest step.

    Example: `python repro.py train mlmc --fold 0`
    """
    from lumin.run.learn import prepare_and_learn

    if task not in (None, *BY_NAME):
        raise UserError(f"There is no task {task}. Use {', '.join(BY_NAME)}.")
    folds = range(FOLDS) if fold is None else [fold]
    prepare_and_learn(study, [task] if task else BY_NAME, folds)


TABLE_HELP = """Print {title}, beside the paper's figures.

Needs CMMD, or --demo; makes first what it is made from. Makes tables/{name}.md and .json; costs the
trainings that are not there yet.

Example: `python repro.py {name}`
"""


def add_table(name: str, title: str) -> None:
    """Register a verb for one table of paper/published.py."""

    def verb(study: "Study") -> None:
        from lumin.run.learn import prepare_and_learn

        prepare_and_learn(study, tasks_of(name))
        tabulate(study, name)

    verb.__name__ = name
    verb.__doc__ = TABLE_HELP.format(title=title.replace(". ", ": "), name=name)
    command(verb)


for table_name, table in TABLES.items():
    add_table(table_name, table.title)


def tabulate(study: "Study", name: str) -> None:
    """Make a table whose trainings are there, and show its beginning."""
    from lumin.run import stages

    stages.tabulate(study, name)
    show(study.out, name)


def show(out: Path, name: str) -> None:
    """Print a table as far as the paper has it; the rest is in its file."""
    path = out / f"tables/{name}.md"
    first, *others = path.read_text().split("\n\n## By breast")
    show_markdown(first)
    more = "Also by breast, as an ensemble, and every test" if others else "All"
    say(f"\n{more} in {path}.\n")


@command
def show_(out: Path) -> None:
    """Print the tables that are there, and compute nothing.

    Needs an outputs folder with tables.

    Example: `python repro.py show --out outputs/demo`
    """
    there = [name for name in TABLES if (out / f"tables/{name}.md").exists()]
    if not there:
        raise UserError(f"{out} has no tables yet. Run python repro.py all; or add --demo.")
    for name in there:
        show(out, name)


@command
def audit_(out: Path) -> None:
    """Re-derive the paper's own figures from each other, without data, in two seconds.

    Needs nothing. Makes tables/audit.md.

    Example: `python repro.py audit`
    """
    from lumin.beyond import audit
    from lumin.run.make import make

    make(out, audit.stage())
    path = out / "tables/audit.md"
    show_markdown(path.read_text().split("\n\n## Every check")[0])
    say(f"\nEvery check is in {path}.")


@command
def figures(study: "Study") -> None:
    """Draw ROC, precision-recall, calibration, scores, losses, and Table 2 as dots.

    Needs trainings and tables, and draws what there is of them. Makes figures/ in seconds.

    Example: `python repro.py figures --demo`
    """
    from lumin.figures import gallery
    from lumin.run.prepare import images_and_split

    images_and_split(study)
    gallery.draw_curves(study)
    say(f"Drawn in {study.out / 'figures'}.")


@command
def fig2(
    study: "Study",
    patient: Annotated[str | None, option("PatientID. [the one most like the paper's]")] = None,
    output: Annotated[
        Output, option(f"What the map explains: {', '.join(Output)}.", metavar="NAME")
    ] = "malignant",
    lesions: Annotated[
        Path | None, option("Zip or folder of TOMPEI-CMMD's outlines. [the demo: its own]")
    ] = None,
) -> None:
    """Draw Figure 2: Grad-CAM of MLMC in CC and MLO of one test breast, and twelve more images.

    Needs CMMD, or --demo; trains MLMC first. Makes figures/fig2 and figures/sheet in seconds; with
    outlines of lesions, also says how often the hottest point lies in one.

    Example: `python repro.py fig2 --output mass`
    """
    from lumin.figures import gallery, outlines
    from lumin.run.learn import prepare_and_learn

    known = outlines.read(lesions) if lesions else None  # before hours of training
    prepare_and_learn(study, ["mlmc"])
    show_markdown(gallery.draw_figure2(study, output, patient, known))
    say(f"Drawn in {study.out / 'figures'}.")


@command
def report(study: "Study") -> None:
    """Write one self-contained HTML page of what is there: tables, figures, settings, limits.

    Needs an outputs folder, and names what it lacks. Makes report.html in a second.

    Example: `python repro.py report --demo`
    """
    from lumin.figures import gallery

    say(f"Open {gallery.write_page(study)}.")


@command
def replicate(
    study: "Study",
    seeds: Annotated[str, option("Seeds to run, such as 0-9 or 0,3,7-9. [0-9]")] = "0-9",
) -> None:
    """Run the whole paper once per seed, in OUT/seedK: how far does each cell of Table 2 move?

    Needs CMMD, or --demo. Makes an outputs folder per seed and tables/replication.md; costs 25
    trainings per seed.

    Example: `python repro.py replicate --seeds 0-4`
    """
    from lumin.beyond import replication, studies

    wanted = replication.parse_seeds(seeds)
    tables = [replication.read(one.out) for one in studies.replicate(study, wanted)]
    show_markdown(studies.write(study, "replication", replication.replication(tables)))


@command
def sensitivity_(
    study: "Study",
    only: Annotated[
        list[AlternativeName] | None,
        option(f"A row, can be repeated: {', '.join(ALTERNATIVES)}. [all]", metavar="ROW"),
    ] = None,
) -> None:
    """Run the luminal comparison with one choice at a time changed, in OUT/sensitivity.

    Needs CMMD, or --demo. Makes an outputs folder per row and tables/sensitivity.md; costs at most
    15 trainings per row.

    Example: `python repro.py sensitivity --only no-sampler`
    """
    from lumin.beyond import sensitivity, studies

    studies.vary(study, [ALTERNATIVES[name][1] for name in only or ALTERNATIVES])
    text = studies.write(study, "sensitivity", studies.compared(study))
    show_markdown(text.split(sensitivity.DETAILS)[0])
    say(f"\nWhat each row changes, and why, is in {study.out / 'tables/sensitivity.md'}.")


@command
def control(study: "Study") -> None:
    """Run the negative control: the luminal comparison with the subtype permuted among patients.

    Needs CMMD, or --demo. Makes tables/control.md; costs MLMC and ten more trainings.

    Example: `python repro.py control --demo`
    """
    from lumin.beyond import studies

    show_markdown(studies.write(study, "control", studies.controlled(study)))


@command
def archive_(
    out: Path,
    without: Annotated[
        list[Part] | None, option("Leave out the weights or the images; can be repeated.")
    ] = None,
) -> None:
    """Pack outputs, source and licences into OUT/archive.zip, for a reviewer or for Zenodo.

    Needs a finished outputs folder. Makes one file of about its size, in seconds.

    Example: `python repro.py archive --without images`
    """
    from lumin.run import archive

    path, commit = archive.pack(out, without or [])
    about = f"{path.stat().st_size / 1e6:,.0f} MB, source {commit or 'as it is here'}"
    say(f"Wrote {path} ({about}).\nTo check it, run python repro.py verify {path}.")


@command
def verify_(
    out: Path,
    archive: Annotated[
        Path | None, typer.Argument(help="An archive. [the outputs folder]", show_default=False)
    ] = None,
    against: Annotated[
        Path | None, option("Another archive or outputs folder, to compare with.")
    ] = None,
    predict: Annotated[
        bool, option("Also predict again from weights and images.", "--predict")
    ] = False,
    retrain: Annotated[
        str | None, option("Also train one fold again, such as mlmc/0, and compare bitwise.")
    ] = None,
) -> None:
    """Check that tables follow from predictions, predictions from weights, weights from seeds.

    Needs an outputs folder or an archive. Makes nothing. The tables take seconds and no PyTorch;
    --predict takes minutes, --retrain as long as that training.

    Example: `python repro.py verify archive.zip`
    """
    from lumin.run.archive import opened
    from lumin.run.options import open_study
    from lumin.run.review import conclusion, review

    for path in filter(None, (archive, against)):
        if not path.exists():
            raise UserError(f"There is no {path}. Name an archive or an outputs folder.")
    levels: dict[str, list] = {}
    with opened(archive or out) as folder, opened(against or folder) as other:
        study = open_study(asked(out=folder), Screen())
        for level, findings in review(study, beyond, other if against else None, predict, retrain):
            tell(findings)
            levels.setdefault(level, []).extend(findings)
    tell(conclusion(levels))
    if any(finding.ok is False for findings in levels.values() for finding in findings):
        raise typer.Exit(DIFFERENCE)


def beyond(study: "Study") -> list:
    """The tables that are not the paper's, as stages."""
    from lumin.beyond import audit, reproduced, sheet

    return [audit.stage(), sheet.stage(study), reproduced.stage(study.out)]


def tell(findings: Sequence) -> None:
    """One line a finding."""
    for stage, file, what, ok in findings:
        mark(*VERDICTS[ok], f"{stage}: {what}" if file in what else f"{stage}: {file} {what}")


@command
def doctor_(study: "Study") -> None:
    """Say whether this machine is ready, and what to do if not.

    Needs nothing. Makes nothing.

    Example: `python repro.py doctor --demo`
    """
    from lumin.run import doctor

    checks = doctor.examine(study)
    for check in checks:
        state, colour = ("not ok", "red") if check.needed else ("note", "yellow")
        if not check.advice:
            state, colour = "ok", "green"
        advice = f". {check.advice}" if check.advice else ""
        mark(state, colour, f"{check.what}: {check.found}{advice}")
    if any(check.needed and check.advice for check in checks):
        raise typer.Exit(DATA)
    say("Ready.")


@command
def download_(study: "Study") -> None:
    """Download CMMD (22.9 GB) and its sheet into the data folder, and verify them.

    Needs the network, no account. Resumes after a stop.

    Example: `python repro.py download --data /scratch/CMMD`
    """
    from lumin.run.prepare import fetch_cmmd

    fetch_cmmd(study)


@app.command(name="phantom")
def phantom_(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    size: Annotated[
        str, option("demo (700 breasts at 1/8 scale) or full (CMMD's numbers and size, 22 GB).")
    ] = "demo",
    seed: Annotated[int, option("Seed of the cohort. [0]", min=0)] = 0,
    patients: Annotated[int | None, option("Only the first so many patients.", min=1)] = None,
) -> None:
    """Write the synthetic cohort: DICOM files and a sheet in CMMD's form.

    Needs nothing. The demo's size takes seconds, CMMD's 22 GB and hours.

    Example: `python repro.py phantom cohort --patients 10`
    """
    from joblib import cpu_count

    from lumin.cmmd import phantom

    with explained(), Screen().bar("Synthetic cohort, images") as progress:
        phantom.write(folder, size, seed, patients, cpu_count(), progress)


if __name__ == "__main__":
    # As Ctrl-C, where no training listens
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
