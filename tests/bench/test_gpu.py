"""bench/gpu.py, the table of operations and the computed memory, all without a GPU."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from studies import random_store, training

import lumin.run.resumable
from lumin.errors import UserError
from lumin.paper.published import TABLE1
from lumin.paper.stated import FOLDS, HEIGHT, IMAGES, WIDTH
from lumin.run import doctor
from lumin.training.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/gpu.md"


@pytest.fixture
def gpu(monkeypatch):
    """bench/gpu.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import gpu

    return gpu


def call(script, *words):
    """A script of bench/ -> its exit code and what it printed."""
    command = [sys.executable, ROOT / "bench" / script, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


# ---- the table of operations ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_lists_exactly_the_operations_that_are_called(tmp_path):
    """So of a page without one and with one more, these two are named, and no other."""
    table = tmp_path / "gpu.md"
    table.write_text(PAGE.read_text().replace("`histc`", "histc").replace("`t`", "`t`, `fortune`"))
    code, printed = call("operations.py", "--table", table)
    wrong = ["histc is called and not in gpu.md", "fortune is in gpu.md and not called"]
    assert (code, printed.splitlines()) == (1, wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_each_operation_is_deterministic_and_listed():
    assert call("operations.py", "--device", "cuda") == (0, "")


# ---- memory --------------------------------------------------------------------------------------


def test_the_page_has_the_computed_memory(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import memory

    for precision, name in (("fp32", "fp32 and tf32"), ("bf16", "bf16")):
        held = memory.step(precision)
        figures = f"{held.weights / 1e6:.0f} MB | {held.saved / 1e9:.2f} GB | {held.peak / 1e9:.2f}"
        assert f"| {name} | {figures} GB |" in PAGE.read_text()
        assert all(doctor.STEP[each] == round(held.peak / 1e9, 2) for each in name.split(" and "))


def test_the_page_has_what_doctor_asks_for():
    images, rest = IMAGES * HEIGHT * WIDTH / 1e9, doctor.CONTEXT
    tf32, bf16 = (doctor.STEP[precision] + images + rest for precision in ("tf32", "bf16"))
    assert f"{tf32:.1f} GB in tf32 or fp32 and {bf16:.1f} GB in bf16" in PAGE.read_text()


def test_memory_by_hand(monkeypatch):
    """Twice the images are twice the activations; the weights of ResNet-18 are known."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import memory

    one, two = (memory.step("fp32", 64, 32, batch) for batch in (4, 8))
    parameters, statistics = 11_178_051, 2 * 4800  # with three outputs; torchvision's own count
    assert one.weights == two.weights == 4 * (parameters + statistics) + 8 * 20
    assert 1.95 < two.saved / one.saved < 2.05
    assert one.peak > one.weights + 3 * 4 * parameters


def test_a_full_gpu_is_told_what_fits(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(lumin.run.resumable, "fit", full)
    one = training(random_store(tmp_path), "mlmc")
    with pytest.raises(UserError) as caught:
        lumin.run.resumable.trained(one, print, lambda: False)
    for part in ("8 GB", "6 GB in bf16", "docs/gpu.md", "--jobs 1", "16"):
        assert part in str(caught.value)


# ---- the one command -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_takes_every_step(tmp_path, gpu):
    code, printed = call("gpu.py", "--dry", "--out", tmp_path)
    record = json.loads((tmp_path / "gpu.json").read_text())
    errors = {name: entry["error"] for name, entry in record["steps"].items() if entry["error"]}
    assert (code, errors) == (0, {}), printed
    assert list(record["steps"]) == [step.name for step in gpu.STEPS]
    exact = record["steps"]["exact"]["rows"]
    assert [value for _, value, _ in exact].count("the same bytes") == 2
    report = (tmp_path / "gpu.md").read_text()
    assert "a dry run on a CPU: no result" in report
    assert "Not yet measured" not in report
    assert "| Calcification | 0.7765 (0.0116) |" in report


def alone(folder, body):
    """What a program prints as JSON that has imported bench/gpu.py as `gpu`.

    In a process of its own, since a step is a fork: of pytest's process, with the threads that
    other tests have left, it is not safe.
    """
    program = folder / "program.py"
    program.write_text(ALONE + textwrap.dedent(body))
    words = [sys.executable, program, ROOT / "bench", folder]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ALONE = """
import json, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
import gpu

folder = Path(sys.argv[2])
"""


def test_a_failing_step_keeps_its_rows_and_says_why(tmp_path):
    body = """
    def measure():
        yield "images", 3, ""
        raise ValueError("the GPU is on fire")

    print(json.dumps(gpu.run(gpu.STEPS[0], measure, folder, folder / "log", 60)))
    """
    entry = alone(tmp_path, body)
    assert entry["rows"] == [["images", 3, ""]]
    assert entry["error"] == "failed: ValueError: the GPU is on fire"


def test_a_step_that_dies_before_it_says_anything_has_failed(tmp_path):
    body = """
    gpu.write_rows = lambda *about: gpu.os._exit(3)
    print(json.dumps(gpu.run(gpu.STEPS[0], list, folder, folder / "log", 60)))
    """
    assert alone(tmp_path, body)["error"] == "failed"


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    body = """
    def measure():
        child = subprocess.Popen(["sleep", "60"])
        yield "child", child.pid, ""
        time.sleep(60)

    print(json.dumps(gpu.run(gpu.STEPS[0], measure, folder, folder / "log", 1)))
    """
    entry = alone(tmp_path, body)
    assert entry["error"] == "stopped after 1 s, before its end"
    ((_, child, _),) = entry["rows"]
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_after_a_failing_step_the_others_run_and_the_exit_code_tells(tmp_path):
    body = """
    def broken(plan):
        yield from ()
        raise AssertionError

    def whole(plan):
        yield "dry", str(plan.dry), ""

    steps = SimpleNamespace(machine=whole, broken=broken, whole=whole)
    steps.Plan = lambda folder, dry, beside: SimpleNamespace(folder=folder, dry=dry)
    sys.modules["gpu_steps"] = steps
    gpu.STEPS = [gpu.Step(name, name, 60) for name in ("machine", "broken", "whole")]
    sys.argv = ["gpu.py", "--dry", "--out", str(folder)]
    print(json.dumps(gpu.main()))
    """
    assert alone(tmp_path, body) == 1
    entries = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [bool(entry["error"]) for entry in entries.values()] == [False, True, False]
    assert "**Failed:** failed: AssertionError" in (tmp_path / "gpu.md").read_text()


def test_what_is_not_installed_is_named(tmp_path, gpu, monkeypatch):
    (tmp_path / "requirements.txt").write_text("torch==2.11.0\nfortune-cookie==1.0\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.missing() == ["fortune-cookie"]


def test_a_broken_off_run_says_what_is_not_yet_measured(gpu):
    entry = {"title": "The machine", "seconds": 1, "error": "", "rows": [["gpu", "H100", ""]]}
    record = {"date": "2026-01-01", "dry": False, "missing": [], "steps": {"machine": entry}}
    report = gpu.markdown(record)
    assert "| gpu | H100 |  |" in report
    for step in gpu.STEPS[1:]:
        assert step.title in report.rpartition("Not yet measured: ")[2]


def test_all_steps_together_end_within_nine_minutes(gpu):
    assert gpu.SECONDS < 9 * 60
    assert sum(step.seconds for step in gpu.STEPS[:-1]) < gpu.SECONDS - 120  # for the demo


# ---- the page for a first run --------------------------------------------------------------------


def test_the_estimate_of_the_hours_counts_table_1s_images():
    by_pathology, by_subtype = ("Benign", "Malignant"), ("Luminal", "Non-luminal")
    each = []
    for classes in (by_pathology, by_subtype):
        each.append(sum(TABLE1[name][0] for name in classes) * (FOLDS - 1) // FOLDS)
    luminal = sum(task.luminal for task in TASKS)
    everything = FOLDS * ((len(TASKS) - luminal) * each[0] + luminal * each[1])
    page = (ROOT / "docs/first-run.md").read_text()
    assert f"{everything:,} images: three tasks on {each[0]:,} and two on {each[1]:,}" in page
    assert f"hours = epochs x {everything:,} / images_per_second / 3,600" in page
    assert f"25 epochs at 1,000 images/s would be {25 * everything / 1000 / 3600:.2f} hours" in page
    assert f"at 200 images/s {25 * everything / 200 / 3600:.1f}" in page
