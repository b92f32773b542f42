"""CMMD for a study: downloaded where its data folder has none, or a download that is not done."""

import shutil

from lumin.cmmd import clinical, download
from lumin.data.headers import list_files
from lumin.run import manifest
from lumin.run.options import default_data
from lumin.run.study import Study


def fetch_cmmd(study: Study) -> None:
    """Download what the data folder lacks of CMMD, after saying how much that is."""
    folder = study.data
    lacking = download.incomplete(folder)
    size, free = sum(lacking.values()), shutil.disk_usage(download.existing(folder)).free
    study.screen.say(
        f"CMMD into {folder}: {len(lacking)} series are missing, {size / 1e9:.1f} GB; "
        f"{free / 1e9:.0f} GB are free. At 20 MB/s that takes {size / 20e6 / 60:.0f} minutes; "
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
