"""The paper as one function comes to the bytes of the command line, and neither to more."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
from studies import RECIPE, STACK, call, hashes, small_cohort

import lumin.reproduce as paper
from lumin.evaluation.markdown import Document
from lumin.reproduce import reproduce
from lumin.run import options
from lumin.training.tasks import BY_NAME

RUN_ALONE = {  # what only the command line writes: of a run, of an outputs folder, around the paper
    *("SHA256SUMS", "flow.json", "manifest.json", "report.html", "seeds.csv", "sources.csv"),
    "crops.csv",
    *(
        f"tables/{name}.{kind}"
        for name in ("audit", "reproduced", "sheet")
        for kind in ("md", "json")
    ),
}


@pytest.mark.usefixtures("one_process")
def test_fold_k_of_transfer_starts_from_fold_k_of_mlmc_and_all_else_from_imagenet(
    tmp_path, monkeypatch
):
    """Nothing is trained: the weights of a fold say which fold they are of."""
    starts, imagenet = {}, {"conv1.weight": "of ImageNet"}

    def begin(fold, start, precision, device):
        starts[fold.key] = start
        return SimpleNamespace(best={"conv1.weight": f"of {fold.task.name} {fold.number}"})

    monkeypatch.setattr(paper, "begin", begin)
    monkeypatch.setattr(paper, "fit", lambda fold, pixels, state: state)
    monkeypatch.setattr(paper, "outcome", lambda *_: {})
    monkeypatch.setattr(paper, "pretrained", lambda weights: imagenet)
    monkeypatch.setattr(paper, "table2", lambda *_: Document("", ""))
    reproduce(small_cohort(tmp_path / "data"), tmp_path / "out", STACK, "not CMMD", RECIPE, 5)

    assert set(starts) == set(product([5], BY_NAME, range(5)))
    for (_, name, number), start in starts.items():
        transfer = {"conv1.weight": f"of mlmc {number}"}
        assert start == (transfer if name == "luminal-transfer" else imagenet)


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_the_paper_as_one_function_is_the_command_all(tmp_path, monkeypatch):
    """Images, weights, histories, predictions, lists and tables, of two epochs at 64 x 32."""
    small = replace(RECIPE, abnormality_epochs=2, luminal_epochs=2)
    monkeypatch.setattr(options, "PAPER", small)
    data, out, run = small_cohort(tmp_path / "data", 72), tmp_path / "one", tmp_path / "run"

    tables = reproduce(data, out, STACK, "not CMMD", small, 3)

    words = ("--data", data, "--out", run, "--seed", 3, "--jobs", 1)
    result = call("all", *words, "--device", "cpu", "--precision", "fp32", "--threads", 1)
    assert result.exit_code == 0, result.output + result.stderr
    ours, theirs = hashes(out), hashes(run)
    more = theirs.keys() - ours.keys()
    assert {name for name in more if not name.startswith("figures/")} == RUN_ALONE
    assert ours == {name: theirs[name] for name in ours}
    kinds = {"weights": 25, "history": 25, "predictions": 25, "images": 144, "tables": 6}
    for folder, count in kinds.items():
        assert sum(name.startswith(f"{folder}/") for name in ours) == count
    others = {"cohort.csv", "split.csv", "images.csv", "images.npy"}
    assert {name for name in ours if "/" not in name} == others
    for name, table in tables.items():
        assert table.markdown == (run / f"tables/{name}.md").read_text()
        assert table.json == (run / f"tables/{name}.json").read_text()
