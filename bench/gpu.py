"""What a GPU does with the kit: exact or not, how fast, in how much memory. At most nine minutes.

    python bench/gpu.py [--out DIR] [--beside DIR] [--dry]

Every step of STEPS runs in a process of its own (the functions are in gpu_steps.py) and is recorded
as it ends, in DIR/gpu.json and in DIR/gpu.md, which fits bench/RESULTS.md; DIR/<step>.log has what
it printed. A step that fails or takes too long ends with its message, the others still run, and the
exit code is 1. --beside names the outputs folder of a finished `repro.py all --demo --device cpu`,
whose tables are then printed beside the GPU's. --dry runs every step at a tiny size on a CPU.

Imports nothing but Python itself at first, so that it can say which packages are missing.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import Process, get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SECONDS = 525  # for all steps; the rest of the nine minutes is for starting and writing


class Step(NamedTuple):
    """One step: its name in gpu_steps.py, what it shows, and the most seconds that it may take."""

    name: str
    title: str
    seconds: int


STEPS = (
    Step("machine", "The machine", 30),
    Step("operations", "Every operation, deterministic and twice the same", 40),
    Step("store", "A full-size slice of the synthetic cohort", 60),
    Step("exact", "One fold twice, and killed and resumed", 80),
    Step("speed", "Training, beside a stock loop and the machine's limits", 80),
    Step("prediction", "Prediction", 20),
    Step("profile", "Where a training step's time goes", 25),
    Step("memory", "Memory of one training", 25),
    Step("together", "Two trainings at once", 40),
    Step("demo", "The whole demo", SECONDS),
)


def missing() -> list[str]:
    """The packages of requirements.txt that are not installed."""
    absent = []
    for name in re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE):
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def run(
    step: Step, measure: Callable[[], Iterator], folder: Path, log: Path, seconds: float
) -> dict:
    """Run a step for at most so many seconds -> its entry in the record.

    The process is a fork of this one, which has imported PyTorch and never used the GPU.
    """
    started, rows = time.monotonic(), folder / f"{step.name}.jsonl"
    process = get_context("fork").Process(target=write_rows, args=(measure, rows, log))
    process.start()
    process.join(max(seconds, 1))
    error = ""
    if process.is_alive():
        error = f"stopped after {seconds:.0f} s, before its end"
    elif process.exitcode != 0:
        error = "failed"
    end_all(process)
    if error:
        lines = log.read_text().strip().splitlines() if log.exists() else []
        error = f"{error}: {lines[-1]}" if lines else error
    lines = rows.read_text().splitlines() if rows.exists() else []
    return {
        "title": step.title,
        "seconds": round(time.monotonic() - started, 1),
        "error": error,
        "rows": [json.loads(line) for line in lines],
    }


def write_rows(measure: Callable[[], Iterator], rows: Path, log: Path) -> None:
    """In a step's process: write each row as it comes, and all that is printed into the log."""
    os.setsid()
    status = 1
    with open(log, "w") as output, redirect_stdout(output), redirect_stderr(output):
        for stream in (1, 2):  # of the processes that it starts
            os.dup2(output.fileno(), stream)
        try:
            with open(rows, "w") as file:
                for row in measure():
                    file.write(json.dumps(row) + "\n")
                    file.flush()
            status = 0
        except Exception:
            traceback.print_exc()
    os._exit(status)  # at once: joblib's idle processes would be waited for


def end_all(process: Process) -> None:
    """End a step's process, and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def markdown(record: dict) -> str:
    """The record -> a section of bench/RESULTS.md."""
    title = "a dry run on a CPU: no result" if record["dry"] else "`python bench/gpu.py`"
    parts = [f"## GPU, {record['date']}: {title}"]
    if record["missing"]:
        parts.append(f"Not installed: {', '.join(record['missing'])}.")
    for entry in record["steps"].values():
        state = f" **Failed:** {entry['error']}" if entry["error"] else ""
        parts.append(f"### {entry['title']}\n\n{entry['seconds']:.0f} s.{state}")
        lines, tables = ["| what | | |", "|---|--:|---|"], []
        for what, value, unit in entry["rows"]:
            if unit == "table":
                tables.append(f"{what}:\n\n{value}")
            else:
                shown = f"{value:.4g}" if isinstance(value, float) else value
                lines.append(f"| {what} | {shown} | {unit} |")
        if len(lines) > 2:
            parts.append("\n".join(lines))
        parts += tables
    waiting = [step.title for step in STEPS if step.name not in record["steps"]]
    if waiting:
        parts.append(f"Not yet measured: {'; '.join(waiting)}.")
    return "\n\n".join(parts) + "\n"


def save(record: dict, out: Path) -> None:
    """Write the record as JSON and as Markdown."""
    (out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "gpu.md").write_text(markdown(record))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="[outputs/gpu]")
    parser.add_argument("--beside", type=Path, help="the outputs folder of the demo on a CPU")
    parser.add_argument("--dry", action="store_true", help="a tiny size, on a CPU")
    return parser.parse_args()


def main() -> int:
    """Run every step -> the exit code."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    record = {"date": str(date.today()), "dry": given.dry, "missing": missing(), "steps": {}}
    if record["missing"]:
        names, file = ", ".join(record["missing"]), ROOT / "requirements.txt"
        print(f"Not installed: {names}. Run pip install -r {file}")
    import gpu_steps

    deadline = time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory(prefix="lumin-gpu-") as folder:
        plan = gpu_steps.Plan(Path(folder), given.dry, given.beside)
        for step in STEPS:
            seconds = min(step.seconds, deadline - time.monotonic())
            measure = partial(getattr(gpu_steps, step.name), plan)
            entry = run(step, measure, plan.folder, given.out / f"{step.name}.log", seconds)
            record["steps"][step.name] = entry
            save(record, given.out)
            print(
                f"{step.title}: {entry['error'] or 'done'} ({entry['seconds']:.0f} s)", flush=True
            )
            if step.name == "machine" and entry["error"]:
                break  # without a GPU nothing else can run
    print(f"Written: {given.out / 'gpu.md'} and gpu.json")
    return int(any(entry["error"] for entry in record["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
