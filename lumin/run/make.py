"""A stage: what it is made from, what it makes, the pure function between the two, and its cost."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lumin.exact import sha256, sweep, write
from lumin.run import manifest

# Whose versions run.json names
PACKAGES = (
    *("torch", "torchvision", "pydicom", "numpy", "scikit-learn", "scipy"),
    *("pillow", "safetensors"),
)
WAIT = 1800.0  # seconds to wait for another process to finish with images or a stage
Files = Mapping[str, bytes | str | None]  # path in the outputs folder -> content; None: written


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline.

    made_from  files of the outputs folder that it reads
    settings   what else its files depend on; its version rises when its code changes meaning
    make       () -> its files; left out where a row is only compared with what is there
    packages   whose versions are recorded with it
    part       "stages", or "unverified": listed, but not compared between runs
    quick      verification makes it again: in seconds, from the outputs folder alone
    """

    name: str
    made_from: tuple[str, ...]
    settings: Mapping[str, object]
    make: Callable[[], Files] = dict
    packages: tuple[str, ...] = ()
    part: str = "stages"
    quick: bool = False

    def stale(self, out: Path) -> str:
        """Why it must be made, in words; "" if its files are there and still true."""
        absent = [name for name in self.made_from if not (out / name).exists()]
        if absent:
            return f"{absent[0]} is not there yet"
        return manifest.stale(out, self.name, self.inputs(out), self.part)

    def inputs(self, out: Path) -> dict[str, object]:
        """All that its files depend on: hashes and settings."""
        return {name: sha256(out / name) for name in self.made_from} | dict(self.settings)

    def where(self) -> Mapping[str, object]:
        """What it is computed with, as the manifest records it."""
        return {package: version(package) for package in self.packages}


def make(out: Path, stage: Stage) -> bool:
    """Make a stage where it is stale: write its files whole, then enter them. True if it was.

    One process at a time makes a stage of a folder; what it has made, the next finds up to date.
    """
    if stage.stale(out):
        with manifest.claim_folder(out, stage.name, patience=WAIT):
            if stage.stale(out):
                remake(out, stage)
                return True
    return False


def remake(out: Path, stage: Stage) -> None:
    """Make a stage whether it is stale or not."""
    inputs = stage.inputs(out)
    files = stage.make()
    for name, content in files.items():
        if content is not None:
            sweep(out / name)
            write(out / name, content)
    manifest.commit(out, stage.name, files, inputs, stage.where(), stage.part)


def note(out: Path, stage: str, cost: Mapping[str, float]) -> None:
    """Add what a stage cost to run.json, which names the versions and the source."""
    path = out / "run.json"
    with manifest.claim_folder(out, "run", patience=60):
        noted = json.loads(path.read_text())["stages"] if path.exists() else {}
        content = {
            "versions": {package: version(package) for package in PACKAGES},
            "commit": manifest.source(),
            "stages": noted | {stage: cost},
        }
        sweep(path)
        write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        manifest.commit(out, "run", ["run.json"], {}, {}, part="unverified")
