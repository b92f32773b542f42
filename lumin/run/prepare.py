"""The first two stages: DICOM files and sheet -> cohort.csv and the image store; the split."""

import csv
import io
import resource
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lumin.cmmd import clinical, corrections, download, phantom
from lumin.data.cohort import Cohort, read_cohort
from lumin.data.headers import Listing, list_files
from lumin.data.mammogram import Mammogram, cohort_csv
from lumin.data.sheet import find_sheet
from lumin.data.split import grouped
from lumin.data.store import build_store, file_name, mean_aspect
from lumin.errors import UserError
from lumin.evaluation.markdown import as_json
from lumin.exact import digest, sha256
from lumin.paper.stated import ASPECT, IMAGES
from lumin.run import crops, manifest, stages
from lumin.run.crops import Doubts
from lumin.run.machine import cores, peak_resident
from lumin.run.make import WAIT, Files, Stage, make, note, remake
from lumin.run.options import default_data
from lumin.run.pool import killed_is_interrupted
from lumin.run.study import Study


def prepare(study: Study) -> None:
    """Make cohort and images, unless they are still true of the data folder."""
    recorded = {} if study.overwrite else manifest.read(study.out)["stages"].get("prepare", {})
    settings = stages.images_settings(study)
    if recorded and not study.data.exists():
        settings |= {"sheet": recorded["inputs"].get("sheet")}
        if not Stage("prepare", (), settings).stale(study.out):
            return study.screen.say(
                f"Images: as recorded ({study.data} is not here, so no DICOM file is looked at)."
            )
    if study.demo and not phantom.complete(study.data, "demo", study.seed):
        if recorded and phantom.is_another(study.data, "demo", study.seed):
            raise UserError(
                f"{study.out} is of an earlier version's synthetic cohort. Use another --out, or "
                "--overwrite to replace it."
            )
        with killed_is_interrupted(), study.screen.bar("Synthetic cohort, images") as progress:
            phantom.write(study.data, "demo", study.seed, jobs=cores(), progress=progress)
    listing = list_files(study.data)
    if listing:
        settings |= {"sheet": sha256(find_sheet(study.data, study.sheet))}
    stage = Stage("prepare", (), settings, partial(images, study, listing), ("pillow", "pydicom"))
    why = reason(study, stage, listing)
    if not why:
        return study.screen.say("Images: up to date.")
    study.screen.say(f"Images: to be made ({why}).")
    remake(study.out, stage)
    return None


def reason(study: Study, stage: Stage, listing: Listing) -> str:
    """Why the images must be made, in words; "" if they are there and still true."""
    if study.overwrite:
        return "told to overwrite"
    sources = study.out / "sources.csv"
    same = sources.exists() and unchanged(listing, sources)
    return stage.stale(study.out) or ("" if same else "the files of the data folder changed")


def images(study: Study, listing: Listing) -> Files:
    """Read headers and pixels of the data folder -> cohort.csv and the image store."""
    started, screen = time.perf_counter(), study.screen
    correct = corrections.correct if study.cleaned else None
    with killed_is_interrupted(), screen.bar("Headers") as progress:
        found = read_cohort(study.data, study.sheet, cores(), progress, correct)
    settings = study.lasting | identity(study, found)
    if not study.overwrite:
        manifest.check(study.out, settings)
    check_disk(study, len(found.mammograms))
    with killed_is_interrupted(), screen.bar("Images") as progress:
        stored = build_store(found.mammograms, study.out, study.recipe, cores(), progress)
    rows, doubtful = [row for row, _ in stored], crops.doubts_of(stored)
    found.flow["mean aspect of the crops"] = mean_aspect(rows)
    found = found._replace(mammograms=grouped(found.mammograms, rows))
    names = [file_name(m.image, study.recipe.quality) for m in found.mammograms]
    files = dict.fromkeys(["images.npy", "images.csv", *names])
    files |= {
        "cohort.csv": cohort_csv(found.mammograms),
        "flow.json": as_json(found.flow),
        "crops.csv": crops.crops_csv(doubtful),
    }
    # Only now, since a bad file must cost nothing that was there
    manifest.claim(study.out, settings, study.overwrite, keep=files)
    sources: Files = {
        "sources.csv": sources_csv(found.mammograms, study.data, listing),
        crops.SHEET: crops.sheet(found.mammograms, rows, doubtful),
    }
    remake(study.out, Stage("sources", (), {}, lambda: sources, part="unverified"))
    note(study.out, "prepare", cost(time.perf_counter() - started, len(rows)))
    report(study, found, doubtful)
    return files


def report(study: Study, found: Cohort, doubtful: Doubts) -> None:
    """Say what came in, what was corrected, what is odd, and which patients share images."""
    lines = [", ".join(f"{name} {value:g}" for name, value in found.flow.items())]
    lines = [f"{lines[0]} (the paper's {ASPECT:.2f}).", *found.notes]
    lines += crops.in_words(found.mammograms, doubtful)
    groups = {m.patient: m.group for m in found.mammograms}
    for group in sorted({group for patient, group in groups.items() if patient != group}):
        tied = " = ".join(patient for patient in sorted(groups) if groups[patient] == group)
        lines.append(f"Identical images tie patients together: {tied}.")
    for line in lines:
        study.screen.say(line)


def cost(seconds: float, images: int) -> dict[str, float]:
    """What the images took, as run.json has it."""
    memory = max(map(peak_resident, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return {
        "seconds": seconds,
        "images_per_second": images / seconds,
        "peak_memory": memory,
        "jobs": cores(),
    }


def identity(study: Study, found: Cohort) -> dict[str, str]:
    """What the outputs folder is about: the images' names, and what the tables' titles say."""
    images, count = digest([m.image for m in found.mammograms]), len(found.mammograms)
    if (study.data / phantom.MARKER).exists():
        kind = "synthetic cohort, not CMMD"
    elif not found.is_cmmd:
        kind = "not CMMD"
    elif study.cleaned:
        kind = f"CMMD, cleaned ({count} images)"
    else:
        kind = "CMMD" if count == IMAGES else f"{count} of CMMD's {IMAGES} labelled images"
    return {"cohort": kind, "images": f"{count} images {images[:12]}"}


def check_disk(study: Study, count: int) -> None:
    """Refuse where the image store cannot fit."""
    need = size(study, count)
    if shutil.disk_usage(download.existing(study.out)).free < need:
        raise UserError(
            f"The disk of {study.out} is full. Free {need / 1e9:.1f} GB, or name another --out."
        )


def size(study: Study, count: int) -> float:
    """Bytes of so many images in the store and as JPEG files."""
    return 1.4 * count * study.recipe.height * study.recipe.width


def images_and_split(study: Study) -> None:
    """Both, made where they are missing."""
    with manifest.claim_folder(study.out, patience=WAIT):
        prepare(study)
        if make(study.out, stages.split_stage(study)):
            study.screen.say("Split: done.")
    old = stages.outdated(study.out)
    if old:
        study.screen.say(
            f"{study.out} was made by an earlier version of lumin. To be made again, each kept "
            f"until then: {', '.join(old)}."
        )


# ---- CMMD where it is missing --------------------------------------------------------------------


def fetch_cmmd(study: Study) -> None:
    """Download what the data folder lacks of CMMD, after saying how much that is."""
    folder = study.data
    lacking = download.incomplete(folder)
    missing = sum(lacking.values())
    free = shutil.disk_usage(download.existing(folder)).free
    study.screen.say(
        f"CMMD into {folder}: {len(lacking)} series are missing, {missing / 1e9:.1f} GB; "
        f"{free / 1e9:.0f} GB are free. At 20 MB/s that takes {missing / 20e6 / 60:.0f} minutes; "
        f"stopped, it goes on where it was.\n\n{download.LICENCE}"
    )
    with study.screen.bar("Bytes of CMMD") as progress:
        download.download(folder, lacking, progress)
    if not study.sheet:
        clinical.download_sheet(folder)


def lacks_cmmd(study: Study) -> bool:
    """True where the data folder is empty, or holds a download that is not finished."""
    begun = {} if study.overwrite else manifest.read(study.out)["stages"]
    data = study.data
    if study.demo or begun or not (data.is_dir() or data == default_data()):
        return False
    unfinished = (data / "LICENCE.txt").exists() and not (data / "VERIFIED.json").exists()
    return unfinished or not list_files(data)


# ---- the files that were used --------------------------------------------------------------------


def sources_csv(mammograms: Sequence[Mammogram], data: Path, listing: Listing) -> str:
    """Which file each image came from; files that were not used have no image."""
    image = {m.path: m.image for m in mammograms}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # paths are the user's: they may hold a comma
    writer.writerow(["image", "path", "bytes", "mtime"])
    for path, size, mtime in listing:
        writer.writerow([image.get(data / path, ""), printable(path), size, mtime])
    return text.getvalue()


def unchanged(listing: Listing, sources: Path) -> bool:
    """True while the data folder has the files that sources.csv lists: path, size and time."""
    recorded = list(csv.reader(io.StringIO(sources.read_text())))[1:]
    now = [[printable(path), str(size), str(mtime)] for path, size, mtime in listing]
    return now == [row[1:] for row in recorded]


def printable(path: str) -> str:
    """A path as text that can be written, also where its bytes are no UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()
