"""A study: one outputs folder. Each stage is made where it is lacking, and only there.

    images and cohort -> split -> trainings -> tables

The stages' inputs are hashes of what lies upstream, their settings, and a version that is raised by
hand when their code changes meaning.
"""

import json
import os
import resource
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

from lumin import cohort, corrections, network, phantom, preprocess, record, split, tables
from lumin.options import Study
from lumin.paper import ALTERNATIVES, ASPECT, FOLDS, IMAGES, PAPER, TABLE1, TABLE2, seed
from lumin.sheet import find_sheet
from lumin.tasks import BY_NAME, Task, rows, targets
from lumin.train import Training

PACKAGES = ("torch", "torchvision", "pydicom", "numpy", "scikit-learn", "scipy", "pillow", "safetensors")
VERSIONS = {"prepare": 1, "split": 1, "train": 3, "tables": 2}
# Fields of Recipe that change the images; named among the inputs of a stage only where they are not the usual ones
IMAGE_CHOICES = {name: getattr(PAPER, name) for name in ("window", "keep_aspect", "quality")}
TABLES = {  # what each needs trained
    "table1": (),
    "table2a": ("mass-calc", "benign-malignant", "mlmc"),
    "table2b": ("luminal-baseline", "luminal-transfer"),
}


# ---- images --------------------------------------------------------------------------------------


def prepare(study: Study) -> None:
    """DICOM files and sheet -> cohort.csv and the image store; nothing where they are still true."""
    sources, processes, screen = study.out / "sources.csv", os.cpu_count() or 1, study.screen
    inputs = recorded(study) | images_settings(study)
    why = "told to overwrite" if study.overwrite else record.stale(study.out, "prepare", inputs)
    if not why and not study.data.exists():
        return screen.say(f"Images: as recorded ({study.data} is not here, so no DICOM file is looked at).")
    if study.demo and not phantom.complete(study.data, "demo", study.seed):
        with screen.bar("Synthetic cohort, images") as progress:
            phantom.write(study.data, "demo", study.seed, jobs=processes, progress=progress)
    listing = cohort.list_files(study.data)
    if listing:
        inputs["sheet"] = record.sha256(find_sheet(study.data, study.sheet))
        if not why and inputs["sheet"] != recorded(study).get("sheet"):  # the store was hashed above; once is enough
            why = "made from another sheet"
    if not why and sources.exists() and cohort.unchanged(listing, sources):
        return screen.say("Images: up to date.")
    screen.say(f"Images: to be made ({why or 'the files of the data folder changed'}).")
    started = time.perf_counter()
    with screen.bar("Headers") as progress:
        found = cohort.read_cohort(study.data, study.sheet, processes, progress, study.cleaned)
    settings = study.lasting | identity(study, found)
    if not study.overwrite:
        record.check(study.out, settings)
    check_disk(study, len(found.mammograms))
    with screen.bar("Images") as progress:
        made = preprocess.build_store(found.mammograms, study.out, study.recipe, processes, progress)
    files = [
        "cohort.csv",
        "flow.json",
        "images.csv",
        "images.npy",
        *(preprocess.file_name(m.image, study.recipe.quality) for m in found.mammograms),
    ]
    record.claim(study.out, settings, study.overwrite, keep=files)  # only now: a bad file must cost nothing
    groups = preprocess.groups(found.mammograms, made)
    record.write(study.out / "cohort.csv", cohort.cohort_csv(found.mammograms, groups))
    record.write(study.out / "flow.json", json.dumps(found.flow, indent=1) + "\n")
    record.write(sources, cohort.sources_csv(found.mammograms, study.data, listing))
    record.commit(study.out, "sources", ["sources.csv"], {}, {}, part="unverified")
    record.commit(study.out, "prepare", files, inputs, {name: version(name) for name in ("pillow", "pydicom")})
    memory = max(resource.getrusage(kind).ru_maxrss for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.perf_counter() - started
    note(
        study, {"prepare": {"seconds": seconds, "images_per_second": len(made) / seconds, "peak_memory": memory * 1024}}
    )
    screen.say(f"{', '.join(f'{name} {count}' for name, count in found.flow.items())}.")
    for correction in found.notes:
        screen.say(correction)
    screen.say(f"Mean aspect of the breast crops {preprocess.mean_aspect(made):.2f} (the paper's {ASPECT:.2f}).")
    for group in sorted({g for p, g in groups.items() if p != g}):
        tied = " = ".join(p for p in sorted(groups) if groups[p] == group)
        screen.say(f"Identical images tie patients together: {tied}.")


def recorded(study: Study) -> dict:
    """What the images were made from, as the manifest has it; empty where there are none."""
    return record.read(study.out)["stages"].get("prepare", {}).get("inputs", {}) if not study.overwrite else {}


def images_settings(study: Study) -> dict:
    """What the images depend on besides the DICOM files."""
    ours = asdict(study.recipe)
    other = {name: str(ours[name]) for name, usual in IMAGE_CHOICES.items() if ours[name] != usual}
    other |= {"corrections": record.sha256(corrections.FILE)} if study.cleaned else {}
    return {"size": [study.recipe.height, study.recipe.width], "version": VERSIONS["prepare"], **other}


def identity(study: Study, found: cohort.Cohort) -> dict[str, str]:
    """What the outputs folder is about: the images' names, and what the tables' titles say of them."""
    images, count = record.digest([m.image for m in found.mammograms]), len(found.mammograms)
    if (study.data / phantom.MARKER).exists():
        kind = "synthetic cohort, not CMMD"
    elif found.is_cmmd:
        kind = "CMMD" if count == IMAGES else f"{count} of CMMD's {IMAGES} labelled images"
        kind = f"CMMD, cleaned ({count} images)" if study.cleaned else kind
    else:
        kind = "not CMMD"
    return {"cohort": kind, "images": f"{count} images {images[:12]}"}


def check_disk(study: Study, count: int) -> None:
    """Say how large the image store will be, and refuse where it cannot fit."""
    need = 1.4 * count * study.recipe.height * study.recipe.width  # the store, and its JPEG files
    free = shutil.disk_usage(study.out).free
    size = f"{study.recipe.height} x {study.recipe.width}"
    study.screen.say(f"{count} images -> {size}: {need / 1e9:.2f} GB; {free / 1e9:.0f} GB are free.")
    if free < need:
        raise record.RecordError(f"The disk of {study.out} is full. Free {need / 1e9:.1f} GB, or name another --out.")


# ---- split ---------------------------------------------------------------------------------------


def split_settings(study: Study) -> dict:
    """What the split depends on besides the cohort."""
    own = {"own": sorted(own_splits(study))} if own_splits(study) else {}
    return {"seed": study.seed, "test": study.recipe.test_share, "version": VERSIONS["split"], **own}


def own_splits(study: Study) -> set[str]:
    """The names of the splits that single tasks have beside the one they share."""
    return {task.split for task in study.tasks.values()} - {""}


def split_file(name: str) -> str:
    """A split's name -> its file."""
    return f"split-{name}.csv" if name else "split.csv"


def divide(study: Study) -> None:
    """cohort.csv -> split.csv, seeds.csv."""
    inputs = split_settings(study) | study.hashes("cohort.csv")
    if not record.stale(study.out, "split", inputs):
        return
    files, notes = make_split(study)
    for name, text in files.items():
        record.write(study.out / name, text)
    record.commit(study.out, "split", list(files), inputs, {"scipy": version("scipy")})
    study.screen.say(" ".join(["Split: done.", *notes]))


def make_split(study: Study) -> tuple[dict[str, str], list[str]]:
    """cohort.csv and the seed -> the split files and seeds.csv, and what was not as even as asked."""
    mammograms, groups = cohort.read_csv(study.out / "cohort.csv")
    files, notes = {}, []
    for name in ("", *sorted(own_splits(study))):
        drawn = seed(study.seed, "split", name) if name else study.seed
        made = split.split(mammograms, groups, drawn, study.recipe.test_share)
        files[split_file(name)] = split.split_csv(made.roles, groups)
        notes += made.notes
    seeds = [
        f"{task},{fold},{seed(training_seed(study), task, fold)}\n" for task in study.tasks for fold in range(FOLDS)
    ]
    return files | {"seeds.csv": "".join(["task,fold,seed\n", *seeds])}, notes


def training_seed(study: Study) -> int:
    """The seed of all that trainings draw: the study's, or one derived from it for a redrawn one. Not the split's."""
    again = study.recipe.redraw
    return seed(study.seed, "redraw", again) if again else study.seed


# ---- trainings -----------------------------------------------------------------------------------


def trainings(study: Study, wanted: Iterable[tuple[str, int]]) -> list[Training]:
    """(task, fold) pairs -> what to train for them, the MLMC folds that a transfer starts from included."""
    mammograms, _ = cohort.read_csv(study.out / "cohort.csv")
    wanted, tasks = list(wanted), study.tasks
    upstream = [(tasks[name].init, fold) for name, fold in wanted if tasks[name].init in tasks]
    parted = {  # split -> each patient's role, and the hashes of what trainings of that split are made from
        name: (split.read_csv(study.out / split_file(name)), study.hashes("cohort.csv", "images.csv", split_file(name)))
        for name in ("", *own_splits(study))
    }
    made = []
    for name, fold in dict.fromkeys([*upstream, *wanted]):
        task = tasks[name]
        roles, hashes = parted[task.split]
        select = partial(rows, task, mammograms, roles)
        start, origin = starting(study, task, fold)
        settings = {"version": VERSIONS["train"], "settings": record.digest([asdict(task), study.method])}
        made.append(
            Training(
                out=study.out,
                task=task,
                fold=fold,
                seed=training_seed(study),
                epochs=task.epochs(study.recipe),
                stack=study.stack,
                images=study.out / "images.npy",
                names=[m.image for m in mammograms],
                targets=targets(task, mammograms),
                train=select(*(f"fold{k}" for k in range(FOLDS) if k != fold)),
                validation=select(f"fold{fold}"),
                test=select("test"),
                columns=[f"{m.image},{m.patient},{m.laterality},{m.view},{roles[m.patient]}" for m in mammograms],
                start=start,
                origin=origin,
                inputs=hashes | settings,
            )
        )
    return made


def all_trainings(study: Study) -> list[Training]:
    """The paper's 25."""
    return trainings(study, product(study.tasks, range(FOLDS)))


def one_training(study: Study, name: str) -> Training:
    """A name such as mlmc/0 or mlmc/fold0 -> that training. Raises RecordError for another name."""
    for training in all_trainings(study):
        if training.stage.removeprefix("train/") in (name, name.replace("/", "/fold")):
            return training
    raise record.RecordError(f"There is no training {name}. Type TASK/FOLD, such as mlmc/0.")


def expected(study: Study) -> dict[str, dict]:
    """Stage -> the settings and versions that its recorded inputs must have."""
    made = {"prepare": images_settings(study), "split": split_settings(study)}
    for training in all_trainings(study):
        made[training.stage] = {key: training.inputs[key] for key in ("settings", "version")}
        made[training.stage] |= {"start": training.origin} if training.origin else {}
    return made | {name: table_settings(study) for name in TABLES}


def starting(study: Study, task: Task, fold: int) -> tuple[Path | None, str]:
    """The weights that a training starts from, and what the record calls them ("": by their hash)."""
    if task.init in BY_NAME:
        return study.out / f"weights/{task.init}/fold{fold}.safetensors", ""
    if study.recipe.weights == "imagenet":
        return network.imagenet(), network.imagenet().name
    return study.start, study.recipe.weights


def lacking(study: Study, wanted: Iterable[tuple[str, int]]) -> list[Training]:
    """What of `wanted` is not trained, in an order in which it can be."""
    todo: list[Training] = []
    for training in trainings(study, wanted):
        if training.stale() or any(training.start == earlier.out / earlier.files[0] for earlier in todo):
            todo.append(training)
    return todo


def begin(study: Study, todo: Sequence[Training]) -> None:
    """Before the first training: fetch the ImageNet weights where one starts from them, and enter the settings."""
    if any(training.start == network.imagenet() for training in todo):
        network.download_imagenet()
        record.claim(study.out, {"imagenet": record.sha256(network.imagenet())})
    record.claim(study.out, study.settings)


def note(study: Study, costs: dict[str, dict]) -> None:
    """Add what stages cost to run.json."""
    path = study.out / "run.json"
    with record.lock(study.out, ".lock.run", patience=60):
        old = json.loads(path.read_text()) if path.exists() else {"stages": {}}
        about = {"versions": {name: version(name) for name in PACKAGES}, "commit": record.source()}
        content = {"settings": study.settings | {"jobs": study.jobs}, **about, "stages": old["stages"] | costs}
        record.write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        record.commit(study.out, "run", ["run.json"], {}, {}, part="unverified")


# ---- tables --------------------------------------------------------------------------------------


def provenance(study: Study) -> tables.Provenance:
    """What every table says of its run."""
    ours, papers = asdict(study.recipe), asdict(PAPER)
    papers["test_share"] = "Table 1's"
    choice, alternative = ALTERNATIVES.get(study.alternative, (None, None))
    departures = [f"{choice.matter}: {alternative.text} instead of {choice.ours}"] if choice else []
    departures += [
        f"{k.replace('_', ' ')} {ours[k]} instead of {v}"
        for k, v in papers.items()
        if ours[k] not in (v, None) and not (alternative and k in alternative.changes)
    ]
    kind = record.read(study.out)["settings"]["cohort"]
    departures += ["convolutions in bfloat16"] * (study.stack.precision == "bf16")
    return tables.Provenance(kind, study.seed, record.sha256(study.out / "split.csv"), departures)


def table_settings(study: Study) -> dict:
    """What a table depends on besides cohort, split and predictions."""
    published = record.digest([TABLE1, sorted(TABLE2.items())])
    return {"version": VERSIONS["tables"], "about": record.digest(provenance(study)), "paper": published}


def make_table(study: Study, name: str) -> tables.Document:
    """Name -> the table, from the outputs folder alone."""
    mammograms, _ = cohort.read_csv(study.out / "cohort.csv")
    roles, about = split.read_csv(study.out / "split.csv"), provenance(study)
    if name == "table1":
        return tables.table1(mammograms, roles, json.loads((study.out / "flow.json").read_text()), about)
    return tables.table2(name, study.out, mammograms, roles, about)


def tabulate(study: Study, name: str) -> None:
    """Write a table where it is not up to date; its trainings must be there."""
    files = [f"tables/{name}.md", f"tables/{name}.json"]
    predictions = [f"predictions/{task}/fold{fold}.csv" for task in TABLES[name] for fold in range(FOLDS)]
    inputs = study.hashes("cohort.csv", "split.csv", "flow.json", *predictions) | table_settings(study)
    if record.stale(study.out, name, inputs):
        for file, text in zip(files, make_table(study, name), strict=True):
            record.write(study.out / file, text)
        packages = {package: version(package) for package in ("numpy", "scikit-learn", "scipy")}
        record.commit(study.out, name, files, inputs, packages)
