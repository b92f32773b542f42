"""What a run chooses of the machine, and where a training ran, as the manifest records it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lumin.errors import UserError
from lumin.run import machine
from lumin.run.machine import choose, describe
from lumin.training.machine import Stack

ROOT = Path(__file__).parents[2]


def test_the_stack_names_what_the_bits_depend_on():
    described = describe(Stack("cpu", "fp32", 2))
    assert described["torch"] == torch.__version__
    assert described["threads"] == 2
    assert {"cpu", "cpu_capability", "precision"} <= described.keys()


@pytest.mark.parametrize(
    ("device", "precision", "gpu", "chip", "expected"),
    [
        ("auto", "auto", True, {}, ("cuda", "tf32")),
        ("auto", "auto", False, {"avx512_bf16": True}, ("cpu", "bf16")),
        ("auto", "auto", False, {"amx_bf16": True}, ("cpu", "bf16")),
        ("auto", "auto", False, {"avx512_f": True}, ("cpu", "fp32")),
        ("cpu", "auto", True, {}, ("cpu", "fp32")),
        ("cuda:1", "auto", True, {"amx_bf16": True}, ("cuda:1", "tf32")),
        ("cpu", "fp32", True, {"amx_bf16": True}, ("cpu", "fp32")),
        ("cuda", "bf16", True, {}, ("cuda", "bf16")),
    ],
)
def test_auto_is_resolved_for_the_machine(monkeypatch, device, precision, gpu, chip, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip)
    stack = choose(device, precision, None)
    assert (stack.device, stack.precision) == expected


def test_threads_are_all_cores_on_a_cpu_and_one_on_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "cpu_count", lambda: 12)
    assert choose("cpu", "fp32", None).threads == 12
    assert choose("cuda", "tf32", None).threads == 1
    assert choose("cpu", "fp32", 3).threads == 3


@pytest.mark.parametrize(
    ("device", "precision"), [("gpu", "auto"), ("cpu", "fp64"), ("cpu", "half")]
)
def test_a_machine_that_does_not_exist_is_refused(device, precision):
    with pytest.raises(UserError, match=f"{device}|{precision}"):
        choose(device, precision, 1).settle()


def test_cores_are_those_that_the_process_may_use():
    """64 workers on one core, where a scheduler or container allows no more, would starve."""
    code = "import os; os.sched_setaffinity(0, {0}); from lumin.run.machine import cores; "
    command = [sys.executable, "-c", code + "print(cores())"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr
