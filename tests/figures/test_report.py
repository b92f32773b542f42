"""The page of a finished, of a half-finished and of an empty outputs folder."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lumin.figures import report
from lumin.paper.silences import UNSTATED
from lumin.paper.stated import FOLDS
from lumin.training.tasks import TASKS

COMMAND = "python repro.py {} --out outputs/{x}"
VERBS = ("split", "train", "report", "all")  # beside those that make a table or a figure
VOID = {"meta", "img", "br", "hr", "link", "input"}
TABLE = """# Table 2b. Luminal classifiers (synthetic cohort, not CMMD)

## As in the paper

|  | paper | ours |
| :-- | --: | --: |
| AUC | 0.536 | **0.5196 (0.0260)** |

## Is it better?

| claim | p |
| :-- | --: |
| a < b & c | 0.05 |

---

Cohort: synthetic cohort, not CMMD. SHA-256 of split.csv: `efa3`.
"""


class Page(HTMLParser):
    """A page's elements, and what is wrong with how they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.wrong, self.found, self.words = [], [], [], ""
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def manifest() -> dict:
    return {
        "settings": {"cohort": "synthetic cohort, not CMMD", "seed": 7, "weights": "<file>"},
        "stacks": {"abc": {"torch": "2.11.0", "precision": "bf16"}},
        "stages": {f"train/mlmc/fold{fold}": {"stack": "abc"} for fold in range(FOLDS)},
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished outputs folder, as far as the page looks at it."""

    def put(name: str, content: str | bytes) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    for task in TASKS:
        for fold in range(FOLDS):
            put(f"predictions/{task.name}/fold{fold}.csv", "image\n")
    for name in report.TABLES:
        put(f"tables/{name}.md", TABLE)
    for name in report.FIGURES:
        about = {"title": f"Title of {name}", "text": 'Says "more" & <less>.', "missing": []}
        put(f"figures/{name}.json", json.dumps(about))
        put(f"figures/{name}.svg", f"<svg>{name}</svg>")
        put(f"figures/{name}.png", f"png {name}")
    put(
        "figures/fig2.md",
        "# Figure 2\n\nD2-0001 L, because.\n\n| output | hit |\n| :-- | --: |\n| mass | 40.0 % |\n",
    )
    put("flow.json", json.dumps({"images": 2500, "images used": 1800}))
    put(
        "run.json",
        json.dumps({"stages": {"train/mlmc/fold0": {"seconds": 90.0, "peak_memory": 2**30}}}),
    )
    return tmp_path


def page(out: Path, manifest: dict) -> Page:
    return Page(report.html(out, manifest, COMMAND))


def test_a_finished_folder(out, manifest):
    made = page(out, manifest)
    assert made.wrong == []
    assert "not there yet" not in made.words
    assert [f"#{a['id']}" for a in made.all("section")] == [a["href"] for a in made.all("a")]
    for choice in UNSTATED:
        assert choice.matter in made.words
    for words in (
        "Seed 7",
        "synthetic cohort, not CMMD",
        "Not for clinical use",
        "1800",
        "40.0 %",
        "bf16",
    ):
        assert words in made.words
    assert "because" not in made.words  # the caption of the figure says it already
    assert "1 stages took 1.5 minutes" in made.words
    assert "Energy was not measured." in made.words
    assert "1.00 GiB" in made.words
    for verb in {*VERBS, *report.TABLES.values(), *report.FIGURES.values()}:
        # A brace in a path is just a brace
        assert f"python repro.py {verb} --out outputs/{{x}}" in made.words


def test_it_opens_with_the_answer_and_figure_2(out, manifest, monkeypatch):
    monkeypatch.setattr(report, "answers", lambda folder: ["Transfer is above baseline."])
    words = page(out, manifest).words
    opening = words.index("Transfer is above baseline."), words.index("Title of fig2")
    assert opening == tuple(sorted(opening))
    assert opening[-1] < words.index("Title of dots")


def test_every_figure_is_inside_and_has_words(out, manifest):
    images = page(out, manifest).all("img")
    assert len(images) == len(report.FIGURES)
    for name, image in zip(("fig2", "dots", "sheet", "roc"), images, strict=False):
        kind, _, data = image["src"].partition(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png")
        assert name in base64.b64decode(data).decode()
        assert image["alt"] == f'Title of {name}. Says "more" & <less>.'


def test_nothing_is_loaded_from_anywhere(out, manifest):
    made = page(out, manifest)
    text = report.html(out, manifest, COMMAND)
    ids = [attributes["id"] for _, attributes in made.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in made.found:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#")[0] == "#"
        assert attributes.get("href", f"#{ids[0]}")[1:] in ids
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in made.found}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_it_is_valid_html(out, manifest, tmp_path_factory):
    html5lib = pytest.importorskip("html5lib")
    for folder in (out, tmp_path_factory.mktemp("empty")):
        html5lib.HTMLParser(strict=True).parse(report.html(folder, manifest, COMMAND))


def test_what_is_not_ours_is_text(out, manifest):
    (out / "tables/table1.md").write_text("# <script>alert(1)</script>\n\n<b onclick=x>\n")
    manifest["settings"]["cohort"] = "<img src=x>"
    made = page(out, manifest)
    assert made.wrong == []
    assert made.all("script") == []
    assert made.all("b") == []
    assert len(made.all("img")) == len(report.FIGURES)
    assert "<script>alert(1)</script>" in made.words


def test_a_missing_fold_is_named(out, manifest):
    (out / "predictions/mlmc/fold3.csv").unlink()
    (out / "tables/table2a.md").unlink()
    about = {"title": "ROC", "text": "x", "missing": ["mlmc, fold 3"]}
    (out / "figures/roc.json").write_text(json.dumps(about))
    made = page(out, manifest)
    assert made.wrong == []
    assert (
        "training of mlmc, fold 3python repro.py train mlmc --fold 3 --out outputs/{x}"
        in made.words
    )
    assert "Missing: table table2a. Run python repro.py table2a --out outputs/{x}" in made.words
    assert "Missing: mlmc, fold 3." in made.words
    assert "0.536" in made.words  # the other tables are there


@pytest.mark.parametrize("name", ["figures/fig2.svg", "figures/fig2.png", "figures/fig2.json"])
def test_a_figure_without_one_of_its_files_is_missing(out, manifest, name):
    (out / name).unlink()
    made = page(out, manifest)
    assert "Missing: figure fig2. Run python repro.py fig2" in made.words
    assert len(made.all("img")) == len(report.FIGURES) - 1


def test_an_empty_folder_is_a_list_of_what_to_type(tmp_path):
    made = page(tmp_path, {"settings": {}, "stacks": {}, "stages": {}})
    assert made.wrong == []
    assert made.all("img") == []
    assert made.words.count("training of") == 25
    for what in (*report.TABLES, *report.FIGURES, "flow.json", "run.json"):
        assert re.search(rf"\b{what}\b", made.words)


def test_sections_of_a_table_fold_and_its_footer_does_not(out, manifest):
    for name in report.TABLES.keys() - {"table2b"}:
        (out / f"tables/{name}.md").unlink()
    made = page(out, manifest)
    assert made.wrong == []
    assert made.all("details") == [{"open": None}, {}]
    text = " ".join(report.html(out, manifest, COMMAND).split())
    assert re.search("</details> <p>Cohort: synthetic", text)
    assert "<strong>0.5196 (0.0260)</strong>" in text
    assert "<h3>Table 2b. Luminal classifiers (synthetic cohort, not CMMD)</h3>" in text
    assert "a &lt; b &amp; c" in text


def test_every_table_can_be_scrolled(out, manifest):
    text = report.html(out, manifest, COMMAND)
    tables = re.findall(r"<table>", text)
    scrolling = re.findall(r'<div class="scroll" [^>]*tabindex="0"><table>', text)
    assert len(scrolling) == len(tables) > 10
    assert len(re.findall(r"</table></div>", text)) == len(tables)


def test_text_without_sections_is_not_folded():
    document = report.markdown("# A\n\nb\n")
    assert document.opening.split() == ["<h3>A</h3>", "<p>b</p>"]
    assert document.sections == []
    assert document.footer == ""


def test_a_measure_that_only_some_stages_have_is_a_column(out, manifest):
    stages = {"a": {"seconds": 1.0, "epochs": 5}, "b": {"seconds": 1.0}}
    (out / "run.json").write_text(json.dumps({"stages": stages}))
    words = page(out, manifest).words
    assert "stagesecondsepochs" in "".join(words.split())
    assert "unknown" in words
