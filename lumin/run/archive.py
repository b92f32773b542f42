"""A run as one file, for a reviewer or for Zenodo: packed with the same bytes, read with care.

    outputs/   what the manifest lists: cohort, split, predictions, histories, tables, figures and
               page; weights and images unless they are left out; never sources.csv, which has paths
    the rest   the source as of the run's commit, licences, codecheck.yml, and SHA256SUMS of it all

Unpacked, it is a checkout of the kit with its outputs where the kit looks for them. Nothing is
compressed: the large files cannot be made smaller, another zlib would write other bytes, and what
is only stored cannot be larger than the archive that holds it.

Read, its outputs lie in a temporary folder for as long as that takes, since every check reads an
outputs folder; names, kinds and sizes are known good before the first file is written there.
"""

import hashlib
import io
import json
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from lumin.errors import DATA, DIFFERENCE, UserError
from lumin.exact import atomic
from lumin.paper.published import TABLES, Table
from lumin.run import manifest
from lumin.run.findings import recorded
from lumin.run.verify import hashes

ROOT = Path(__file__).parents[2]
OUTPUTS = "outputs"
PARTS = {"weights": ("weights",), "images": ("images", "images.npy")}
# The source where no git knows its commit
SOURCE = ("repro.py", "lumin/**/*", "docs/*", "*.md", "*.txt", "*.cff", "LICENSE", "*.lock")
NAME = re.compile(rf"{OUTPUTS}(/[\w-][\w.-]*)+", re.ASCII)  # no part begins with a dot

Contents = dict[str, bytes | Path]  # name in the archive -> content, or the file that has it


# ---- written -------------------------------------------------------------------------------------


def pack(out: Path, without: Collection[str] = ()) -> tuple[Path, str]:
    """Outputs folder -> its archive.zip, and whose commit the source in it is ("": unknown).

    Raises UserError where a file is not as the manifest says.
    """
    wrong = [finding.file for finding in hashes(out) if finding.ok is False]
    if wrong:
        what = f"{out} is not as its manifest says ({wrong[0]})"
        raise UserError(f"{what}. Run python repro.py verify --out {out}.", DIFFERENCE)
    listed = outputs(out, {part for name in without for part in PARTS[name]})
    commit, contents = source(recorded_commit(out))
    contents |= {f"{OUTPUTS}/{name}": out / name for name in listed}
    contents[f"{OUTPUTS}/{manifest.MANIFEST}"] = (out / manifest.MANIFEST).read_bytes()
    contents["codecheck.yml"] = codecheck(listed).encode()
    contents["CMMD-LICENCE.txt"] = (ROOT / "lumin/cmmd/LICENCE.txt").read_bytes()
    known = {f"{OUTPUTS}/{name}": sha for name, sha in listed.items()}
    contents[manifest.SUMS] = sums(contents, known).encode()
    path = out / manifest.ARCHIVE
    with atomic(path) as part, ZipFile(part, "w") as archive:
        for name, content in sorted(contents.items()):
            store(archive, name, content)
    return path, commit


def store(archive: ZipFile, name: str, content: bytes | Path) -> None:
    """Add a file, with nothing of this machine or this day."""
    entry = ZipInfo(name)  # of 1980, uncompressed
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    entry.file_size = content.stat().st_size  # else none above 2 GB
    with open(content, "rb") as file, archive.open(entry, "w") as target:
        shutil.copyfileobj(file, target, 1 << 20)


def outputs(out: Path, left_out: Collection[str]) -> dict[str, str]:
    """The files of the manifest but for `left_out` and sources.csv, as far as they are there.

    Returns file -> SHA-256.
    """
    files: dict[str, str] = {}
    for entry in manifest.entries(recorded(out)):
        for name, sha in entry["files"].items():
            if name.split("/")[0] not in {*left_out, "sources.csv"} and (out / name).is_file():
                files[name] = sha
    return files


def recorded_commit(out: Path) -> str:
    """The commit that run.json names, and whether the source was changed since; "" where none."""
    path = out / "run.json"
    return json.loads(path.read_text())["commit"] if path.is_file() else ""


def source(recorded: str) -> tuple[str, Contents]:
    """A recorded commit -> it and its files; "" and those that lie here where git has none."""
    commit = re.match("[0-9a-f]{40}", recorded)
    if commit and shutil.which("git"):
        words = ["git", "-C", str(ROOT), "archive", "--format=zip", commit.group()]
        done = subprocess.run(words, capture_output=True)
        if done.returncode == 0:
            with ZipFile(io.BytesIO(done.stdout)) as tree:
                names = [name for name in tree.namelist() if not name.endswith("/")]
                return recorded, {name: tree.read(name) for name in names}
    contents: Contents = {}
    for pattern in SOURCE:
        for path in ROOT.glob(pattern):
            if path.is_file() and path.suffix != ".pyc":
                contents[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    return "", contents


def sums(contents: Contents, known: Mapping[str, str]) -> str:
    """SHA256SUMS of all files, for `sha256sum -c`; `known` are the hashes of those on the disk."""
    lines = []
    for name, content in sorted(contents.items()):
        sha = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else known[name]
        lines.append(f"{sha}  {name}\n")
    return "".join(lines)


def codecheck(files: Collection[str]) -> str:
    """What of the outputs is to be recreated, and the claim of each file, in CODECHECK's form.

    https://codecheck.org.uk/spec/config/1.0/. JSON strings are YAML strings.
    """
    lines = ["---", "version: https://codecheck.org.uk/spec/config/1.0/", "manifest:"]
    claims = {f"tables/{name}.md": claim(table) for name, table in TABLES.items()}
    for name, text in (claims | CLAIMS).items():
        if name in files:
            lines += [f"  - file: {OUTPUTS}/{name}", f"    comment: {json.dumps(text)}"]
    return "\n".join([*lines, PAPER])


def claim(table: Table) -> str:
    """What a table is to show."""
    if not table.heads:
        return f"{table.title}. Claim: no patient is both in the test set and in a fold (2.1)."
    baseline, challenger = table.heads
    return f"{table.title}. Claim: {challenger} is above {baseline} (section 3)."


CLAIMS = {
    "tables/reproduced.md": "Which figures of Table 2 are consistent with the paper's.",
    "tables/sheet.md": "What the clinical sheet alone can tell.",
    "tables/audit.md": "Which statements of the paper follow from its printed figures.",
    "figures/fig2.png": "Figure 2. Claim: MLMC looks at the findings (Grad-CAM).",
}
PAPER = """paper:
  title: "Classification of Luminal Subtypes in Full Mammogram Images Using Transfer Learning"
  authors:
    - name: Adarsh Bhandary Panambur
    - name: Prathmesh Madhu
    - name: Andreas Maier
  reference: https://arxiv.org/abs/2301.09282
source: "The images: Cui et al., CMMD, https://doi.org/10.7937/tcia.eqde-4b16"
"""


# ---- read ----------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """An outputs folder, or an archive's in a temporary one."""
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lumin-") as folder:
        try:
            unpack(path, Path(folder))
        except BadZipFile as error:
            what = f"{path} is no archive, or not all of it ({error})"
            raise UserError(f"{what}. Copy or download it again.", DATA) from error
        yield Path(folder, OUTPUTS)


def unpack(path: Path, folder: Path) -> None:
    """Write an archive's outputs into a folder, once every name, kind and size is known good."""
    with ZipFile(path) as archive:
        outputs = [e for e in archive.infolist() if e.filename.startswith(f"{OUTPUTS}/")]
        entries = [entry for entry in outputs if not entry.is_dir()]
        problem = unsafe(entries, path.stat().st_size, shutil.disk_usage(folder).free)
        if problem:
            raise UserError(f"{path} {problem}.", DATA)
        for entry in entries:
            archive.extract(entry, folder)


def unsafe(entries: Collection[ZipInfo], size: int, free: int) -> str:
    """Why the entries of an archive of `size` bytes are not to be unpacked; "" if they may be."""
    if f"{OUTPUTS}/{manifest.MANIFEST}" not in {entry.filename for entry in entries}:
        return (
            f"has no {OUTPUTS}/{manifest.MANIFEST}. Name a file that python repro.py archive wrote"
        )
    for entry in entries:
        mode = stat.S_IFMT(entry.external_attr >> 16)
        if not NAME.fullmatch(entry.filename) or mode not in (0, stat.S_IFREG):
            return f"has an entry that is no plain file below {OUTPUTS}/: {entry.filename!r}"
        if entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            return f"was packed anew. Unpack it, and use verify --out with its {OUTPUTS}"
    total = sum(entry.file_size for entry in entries)
    if len({entry.filename for entry in entries}) < len(entries) or total > size:
        return "has entries that lie in each other"
    if total > free:
        return f"needs {total / 1e9:.1f} GB for temporary files. Set TMPDIR to a larger disk"
    return ""
