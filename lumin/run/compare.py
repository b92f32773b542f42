"""Two outputs folders, stage by stage: do they hold the same files?"""

from collections.abc import Mapping
from pathlib import Path

from lumin.run import manifest
from lumin.run.findings import Finding, differing, in_order, recorded, some
from lumin.run.verify import hashes


def against(out: Path, other: Path) -> list[Finding]:
    """Two outputs folders -> which of their stages hold the same files, and the first that differs.

    Compares what the two manifests record; where `other` is not as its own manifest says, that is
    told first. A stage of one folder alone is no difference.
    """
    ours, theirs = recorded(out), recorded(other)
    findings = [f._replace(file=str(other / f.file)) for f in hashes(other) if f.ok is False]
    if settings := both(ours["settings"], theirs["settings"]):
        findings.append(Finding("settings", manifest.MANIFEST, f"differ: {settings}", None))
    if not ours["stages"].keys() & theirs["stages"].keys():
        findings.append(Finding("manifest", "", f"no stage is in both {out} and {other}", False))
    first = "the first stage that differs: "
    for stage in in_order(ours["stages"].keys() | theirs["stages"].keys()):
        finding = compared(stage, ours, theirs)
        if finding.ok is False:
            finding, first = finding._replace(what=first + finding.what), ""
        findings.append(finding)
    return findings


def compared(stage: str, ours: dict, theirs: dict) -> Finding:
    """One stage of two manifests."""
    a, b = ours["stages"].get(stage), theirs["stages"].get(stage)
    if a is None or b is None:
        return Finding(stage, "", f"only in the {'other' if a is None else 'first'} folder", None)
    inputs, files = differing(a["inputs"], b["inputs"]), differing(a["files"], b["files"])
    stack = both(ours["stacks"].get(a["stack"], {}), theirs["stacks"].get(b["stack"], {}))
    causes = [f"made from another {', '.join(inputs)}"] * bool(inputs) + [f"stack: {stack}"] * bool(
        stack
    )
    if not files:
        return Finding(stage, "", "; ".join([f"the same {len(a['files'])} files", *causes]), True)
    return Finding(
        stage,
        files[0],
        "; ".join([some(files), *(causes or ["inputs and stack are the same"])]),
        False,
    )


def both(a: Mapping, b: Mapping) -> str:
    """Where two mappings differ: key, value / other value."""
    return ", ".join(f"{key} {a.get(key)} / {b.get(key)}" for key in differing(a, b))
