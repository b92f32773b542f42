"""An outputs folder -> report.html: one file that needs no network.

This module reads the folder into plain values; report.html.jinja lays them out, and holds all words
that are the same on every page.
"""

import base64
import json
from collections.abc import Callable, Mapping
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from lumin.figures.answer import answers
from lumin.paper.published import TABLES as PUBLISHED
from lumin.paper.silences import UNSTATED
from lumin.paper.stated import FOLDS
from lumin.training.tasks import TASKS

# What a page may show, and the verb that makes it
TABLES = {name: name for name in (*PUBLISHED, "audit")} | {"reproduced": "all", "sheet": "all"}
PHOTOGRAPHS = {"fig2": "fig2", "sheet": "fig2"}
DRAWINGS = dict.fromkeys(("dots", "roc", "precision", "calibration", "scores", "losses"), "figures")
FIGURES = DRAWINGS | PHOTOGRAPHS

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# HTML in Markdown stays text
PARSER = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
TEMPLATES.filters["inline"] = lambda text: Markup(PARSER.renderInline(text))


def html(out: Path, manifest: Mapping, command: str) -> str:
    """Outputs folder, its manifest and e.g. `python repro.py {} --out outputs` -> the page."""
    missing = find_missing(out)
    figures = [name for name in FIGURES if f"figure {name}" not in missing]
    return TEMPLATES.get_template("report.html.jinja").render(
        command=command,
        missing=missing,
        answers=answers(out),
        settings=manifest["settings"],
        stacks=stacks(manifest),
        figures={name: read_figure(out, name) for name in figures},
        tables={name: read(out / f"tables/{name}.md", markdown) for name in TABLES},
        # Without its title and first paragraph, which the figure's caption has
        pointing=read(out / "figures/fig2.md", lambda text: markdown(text.split("\n\n", 2)[2])),
        control=read(out / "tables/control.md", lambda text: markdown(text.split("\n\n")[1])),
        titles={name: table.title.split(".")[0] for name, table in PUBLISHED.items()},
        silences=UNSTATED,
        flow=read(out / "flow.json", json.loads),
        cost=read(out / "run.json", cost),
    )


def read(path: Path, parse: Callable[[str], object]) -> object:
    """A file and how its text is read -> its content, None where there is no file."""
    return parse(path.read_text()) if path.exists() else None


def find_missing(out: Path) -> dict[str, str]:
    """Outputs folder -> what it lacks, and the verb that makes it."""
    missing = {}
    for task, fold in product(TASKS, range(FOLDS)):
        if not (out / f"predictions/{task.name}/fold{fold}.csv").exists():
            missing[f"training of {task.name}, fold {fold}"] = f"train {task.name} --fold {fold}"
    for name, verb in TABLES.items():
        if not (out / f"tables/{name}.md").exists():
            missing[f"table {name}"] = verb
    for name, verb in FIGURES.items():
        if not all((out / f"figures/{name}.{kind}").exists() for kind in ("json", "png", "svg")):
            missing[f"figure {name}"] = verb
    for name in ("flow.json", "run.json"):
        if not (out / name).exists():
            missing[name] = "all"
    return missing


# ---- parts ---------------------------------------------------------------------------------------


class Document(NamedTuple):
    """A Markdown file: what precedes its first heading of level 2, its sections, its footer."""

    opening: Markup
    sections: list[tuple[str, Markup]]  # with their headings
    footer: Markup


def markdown(text: str) -> Document:
    """Markdown of a table file -> HTML in its parts; a title becomes a heading of level 3."""
    body, _, footer = text.partition("\n---\n")
    opening, *others = f"\n{body}".split("\n## ")
    sections = []
    for other in others:
        heading, _, below = other.partition("\n")
        sections.append((heading, Markup(PARSER.render(below))))
    opening = opening.replace("\n# ", "\n### ")
    return Document(Markup(PARSER.render(opening)), sections, Markup(PARSER.render(footer)))


def read_figure(out: Path, name: str) -> dict[str, object]:
    """A figure's title, text and what it lacks; its image as a data URL, SVG or PNG."""
    about = json.loads((out / f"figures/{name}.json").read_text())
    suffix, kind = ("png", "png") if name in PHOTOGRAPHS else ("svg", "svg+xml")
    image = base64.b64encode((out / f"figures/{name}.{suffix}").read_bytes()).decode()
    return about | {"source": f"data:image/{kind};base64,{image}"}


def stacks(manifest: Mapping) -> dict[str, str]:
    """Manifest -> stages: the packages and the machine that they were computed with."""
    stages: dict[str, list[str]] = {}
    for stage, entry in sorted(manifest["stages"].items()):
        stages.setdefault(entry["stack"], []).append(stage)
    rows = {}
    for key, names in stages.items():
        stack = sorted(manifest["stacks"][key].items())
        rows[", ".join(names)] = ", ".join(f"{name} {value}" for name, value in stack)
    return rows


def cost(text: str) -> dict[str, object]:
    """run.json -> what the run took, stage by stage."""
    stages = json.loads(text)["stages"]
    measures = list(dict.fromkeys(chain.from_iterable(stages.values())))  # as they first come
    rows = []
    for stage, values in stages.items():
        rows.append([stage, *(amount(name, values.get(name)) for name in measures)])
    minutes = sum(values.get("seconds", 0) for values in stages.values()) / 60
    return {"minutes": minutes, "header": ["stage", *measures], "rows": rows}


def amount(measure: str, value: float | None) -> str:
    """A number of run.json in words."""
    if value is None:
        return "unknown"
    if "memory" in measure:
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
