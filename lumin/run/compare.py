"""Two outputs folders: which stages hold the same files, and how far are the tables apart?"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from lumin.run import manifest
from lumin.run.findings import Finding, differing, in_order, recorded, some, stack_of
from lumin.run.verify import hashes


def against(out: Path, other: Path) -> list[Finding]:
    """Two outputs folders -> which of their stages hold the same files, and the first that differs.

    Compares what the two manifests record; where `other` is not as its own manifest says, that is
    told first. A stage of one folder alone is no difference.
    """
    ours, theirs = recorded(out), recorded(other)
    findings = [f._replace(file=str(other / f.file)) for f in hashes(other) if f.ok is False]
    shared = {key: ours["settings"][key] for key in ours["settings"].keys() & theirs["settings"]}
    if settings := both(shared, {key: theirs["settings"][key] for key in shared}):
        findings.append(
            Finding("settings", manifest.MANIFEST, f"two different runs: {settings}", None)
        )
    if not ours["stages"].keys() & theirs["stages"].keys():
        findings.append(Finding("manifest", "", f"no stage is in both {out} and {other}", False))
    first = "the first stage that differs: "
    for stage in in_order(ours["stages"].keys() | theirs["stages"].keys()):
        finding = compared(stage, ours, theirs)
        if finding.ok is False:
            finding, first = finding._replace(what=first + finding.what), ""
        findings.append(finding)
    return findings + tables(out, other, ours, theirs)


def compared(stage: str, ours: dict, theirs: dict) -> Finding:
    """One stage of two manifests."""
    a, b = ours["stages"].get(stage), theirs["stages"].get(stage)
    if a is None or b is None:
        return Finding(stage, "", f"only in the {'other' if a is None else 'first'} folder", None)
    causes = []
    if inputs := differing(a["inputs"], b["inputs"]):
        causes.append(f"made from another {', '.join(inputs)}")
    if stack := both(stack_of(ours, stage), stack_of(theirs, stage)):
        causes.append(f"stack: {stack}")
    files = differing(a["files"], b["files"])
    if not files:
        return Finding(stage, "", "; ".join([f"the same {len(a['files'])} files", *causes]), True)
    causes = causes or ["inputs and stack are the same"]
    return Finding(stage, files[0], "; ".join([some(files), *causes]), False)


# ---- cells of the tables -------------------------------------------------------------------------


def tables(out: Path, other: Path, ours: dict, theirs: dict) -> list[Finding]:
    """Two outputs folders and manifests -> the cell that differs most, and may the stack be why?"""
    a, b = cells(out), cells(other)
    gaps = {name: abs(a[name]["mean"] - b[name]["mean"]) for name in a.keys() & b.keys()}
    if not gaps:
        return []
    gap, name = max((gap, name) for name, gap in gaps.items())
    if gap == 0:
        return [Finding("tables", "", f"none of {len(gaps)} cells differs", True)]
    why, possible = stack_may_be_why(ours, theirs)
    what = f"largest difference of a cell {gap:.4f} (SD over folds {a[name]['sd']:.4f}), {name}"
    return [Finding("tables", "", f"{what}; {why}", None if possible else False)]


def stack_may_be_why(ours: dict, theirs: dict) -> tuple[str, bool]:
    """Two manifests whose tables differ -> why that may be, and True where it may be the stack."""
    settings: set[str] = set()
    stacks: set[str] = set()
    for stage in ours["stages"].keys() & theirs["stages"].keys():
        a, b = ours["stages"][stage], theirs["stages"][stage]
        if stage.startswith("train/") and a["files"] != b["files"]:
            settings.update(differing(a["inputs"], b["inputs"]))
            stacks.add(both(stack_of(ours, stage), stack_of(theirs, stage)))
    settings = {name for name in settings if "weights/" not in name}
    stacks.discard("")
    if settings:
        return f"the trainings were made from another {', '.join(sorted(settings))}", False
    if stacks:
        other = "; ".join(sorted(stacks))
        return f"another stack may give it, as another seed would ({other})", True
    return "no other stack gives it: the trainings are the same, or on the same stack", False


def cells(out: Path) -> dict[str, dict]:
    """Outputs folder -> every estimate of its tables, by table, level, group, task and cell."""
    found: dict[str, dict] = {}
    for path in sorted((out / "tables").glob("table*.json")):
        with contextlib.suppress(ValueError):  # damaged, which hashes() tells
            found |= estimates(path.stem, json.loads(path.read_text()))
    return found


def estimates(name: str, value: object) -> dict[str, dict]:
    """A part of a table's JSON -> the estimates in it: what has folds, mean and sd."""
    if not isinstance(value, dict):
        return {}
    if isinstance(value.get("mean"), float) and isinstance(value.get("sd"), float):
        return {name: value} if "folds" in value else {}
    found: dict[str, dict] = {}
    for key, below in value.items():
        found |= estimates(f"{name} / {key}", below)
    return found


def both(a: Mapping, b: Mapping) -> str:
    """Where two mappings differ: key, value / other value."""
    return ", ".join(f"{key} {a.get(key)} / {b.get(key)}" for key in differing(a, b))
