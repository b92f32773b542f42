"""What a user asks for, and what a folder was begun with, become one study."""

import os
import tempfile
from pathlib import Path

import pytest
from studies import Quiet

import repro
from lumin.errors import UserError
from lumin.run import machine, manifest, options


def study(**asked):
    return options.open_study(repro.asked(**asked), Quiet())


def test_the_demo_trains_one_fold_a_core_and_the_paper_one_fold_on_all_cores(tmp_path, monkeypatch):
    """So that the demo's bytes are the same whatever the number of cores."""
    monkeypatch.setattr(machine, "cores", lambda: 12)
    demo = study(out=tmp_path / "demo", demo=True, device="cpu")
    paper = study(out=tmp_path / "paper", data=tmp_path / "data", device="cpu")
    assert (demo.jobs, demo.stack.threads) == (12, 1)
    assert (paper.jobs, paper.stack.threads) == (1, 12)


@pytest.mark.parametrize("out", ["data", "data/outputs", "data/../data/x"])
def test_outputs_within_the_data_are_refused(tmp_path, out):
    """They would be read as data, and replaced where the data should stay as they are."""
    with pytest.raises(UserError, match=r"lie within the data .* Name another --out"):
        study(data=tmp_path / "data", out=tmp_path / out)


def test_what_is_not_asked_for_is_as_the_folder_was_begun(tmp_path):
    begun = study(data=tmp_path / "data", out=tmp_path / "out", seed=7, device="cpu", threads=3)
    manifest.claim(begun.out, begun.settings)
    again = study(data=tmp_path / "data", out=tmp_path / "out")
    assert again.settings == begun.settings
    with pytest.raises(UserError, match="seed 7, not 8"):
        study(data=tmp_path / "data", out=tmp_path / "out", seed=8)


def test_where_no_temporary_folder_can_be_written_the_outputs_folder_has_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    study(out=tmp_path / "out", demo=True, device="cpu")
    assert Path(tempfile.gettempdir()) == Path(os.environ["TMPDIR"]) == tmp_path / "out/.tmp"
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).is_relative_to(tmp_path / "out")
