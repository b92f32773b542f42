"""An outputs folder -> report.html: one file that needs no network, with tables, figures, limits and commands."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from lumin.paper import FOLDS, UNSTATED
from lumin.tasks import TASKS

# What a page may hold: heading, the files it shows, and the verb that makes them.
TABLES = {
    "table1": "table1",
    "table2a": "table2a",
    "table2b": "table2b",
    "audit": "audit",
}
FIGURES = {
    "dots": "figures",
    "fig2": "fig2",
    "sheet": "fig2",
    "roc": "figures",
    "precision": "figures",
    "calibration": "figures",
    "scores": "figures",
    "losses": "figures",
}
SECTIONS = (
    ("missing", "What is missing"),
    ("results", "Results"),
    ("figure2", "Where the network looked"),
    ("curves", "Curves"),
    ("audit", "Audit of the published figures"),
    ("silent", "Where the paper is silent"),
    ("flow", "Flow of images"),
    ("stack", "Settings, stack and time"),
    ("card", "Model card"),
    ("commands", "Make it again"),
)
CARD = {
    "What it is": "Five classifiers of full mammograms (ResNet-18), each trained in five folds as Panambur, Madhu "
    "and Maier (arXiv:2301.09282, January 2023) say: mass against calcification, benign against malignant, both "
    "at once (MLMC), and luminal against non-luminal, without and with a start from MLMC.",
    "Use": "To reproduce and examine the paper, and to teach. What is judged is one image of a labelled breast.",
    "Not for clinical use": "No one's diagnosis, treatment or screening may rest on these weights. They were never "
    "tested on another hospital, another maker's detector, another population, or on breasts without a finding.",
    "Data": "CMMD, the Chinese Mammography Database (doi 10.7937/tcia.eqde-4b16, CC BY 4.0): women with a lesion that "
    "was biopsied, one label a breast. A synthetic cohort says so in every title: its figures are about the method "
    "alone, and its weights know nothing of real breasts.",
    "Limits": "Labels are of breasts, not of places. The subtype is known of malignant breasts alone, so a luminal "
    "classifier says nothing of a benign one. In CMMD the PatientID's prefix and the age are signs of malignancy by "
    "themselves; the tables show what they give without an image. Some of its images are doubled, and some labels and "
    "sides are disputed. Crops are squeezed to one shape. Luminal training draws both classes equally often, so its "
    "probabilities are not frequencies.",
    "Grad-CAM": "A map of 32-pixel cells: what speaks for an output in the last stage, not an outline, and no proof of "
    "a cause.",
    "Uncertainty": "Intervals say how far other test patients would move a figure; SDs over folds say how far other "
    "training images would. Neither covers another hospital.",
}
COMMANDS = {
    "Images and split": "split",
    "Trainings": "train",
    "Table 1": "table1",
    "Table 2a": "table2a",
    "Table 2b": "table2b",
    "Audit": "audit",
    "Figure 2": "fig2",
    "Curves": "figures",
    "This page": "report",
    "All of it": "all",
}
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#f3f5f7;--line:#cfd6dd;--link:#0060a0}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--paper:#14171a;--soft:#20252a;--line:#414a53;--link:#7cc0f5}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{line-height:1.2}h2{margin-top:3rem;border-bottom:1px solid var(--line)}a{color:var(--link)}
nav ul{columns:16rem;padding-left:1.2rem}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td[style*=right]{white-space:nowrap}
thead th{background:var(--soft);text-align:left}
figure{margin:1.5rem 0}figcaption{font-size:.875rem}
figure img{display:block;width:min(100%,60rem);height:auto;background:#fff;border-radius:4px}
.note{border-left:4px solid #d55e00;background:var(--soft);padding:.5rem 1rem}
code{background:var(--soft);overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;margin:.75rem 0}dt{font-weight:600}
@media print{:root{color-scheme:light;--ink:#000;--paper:#fff;--soft:#f3f5f7;--line:#999}
body{font-size:9pt;max-width:none}nav{display:none}.scroll{overflow:visible}table{font-size:6.5pt}th,td{padding:1pt 3pt}
figure,tr,.note{break-inside:avoid}h2,h3,summary{break-after:avoid}
figure img{width:auto;max-width:100%;max-height:19cm}figcaption{font-size:8pt}
details::details-content{content-visibility:visible;block-size:auto;display:block}}
"""


# ---- pieces --------------------------------------------------------------------------------------


def markdown(text: str) -> str:
    """Markdown of a table file -> HTML: title and first section open, further ones folded, footer open."""
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    text, _, footer = text.partition("\n---\n")
    opening, *folded = f"\n{text}".split("\n## ")
    made = [opening.replace("\n# ", "\n### "), *folded, footer]
    made = [parser.render(part) if part in (made[0], footer) else section(parser, part) for part in made]
    if folded:
        made[1] = made[1].replace("<details>", "<details open>")
    return "\n".join(made).replace("<table>", SCROLL).replace("</table>", "</table></div>")


def section(parser: MarkdownIt, text: str) -> str:
    """A section of Markdown, its heading first -> HTML that folds."""
    title, _, body = text.partition("\n")
    return f"<details><summary>{escape(title)}</summary>{parser.render(body)}</details>"


SCROLL = '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>'


def grid(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Header and rows -> an HTML table."""

    def line(cells: Sequence[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"{SCROLL}<thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table></div>"


def figure(out: Path, name: str) -> str:
    """A figure's SVG or, where it shows images, PNG with its text -> HTML."""
    about = json.loads((out / f"figures/{name}.json").read_text())
    photographs = FIGURES[name] == "fig2"
    kind, suffix = ("image/png", "png") if photographs else ("image/svg+xml", "svg")
    data = base64.b64encode((out / f"figures/{name}.{suffix}").read_bytes()).decode()
    lacking = f"<br><strong>Missing:</strong> {escape('; '.join(about['missing']))}." if about["missing"] else ""
    return (
        f'<figure id="{name}"><img alt="{escape(about["title"])}. {escape(about["text"])}" '
        f'src="data:{kind};base64,{data}">'
        f"<figcaption><strong>{escape(about['title'])}.</strong> {escape(about['text'])}{lacking}</figcaption></figure>"
    )


def absent(out: Path, say: Callable[[str], str]) -> list[tuple[str, str]]:
    """Outputs folder -> what it lacks, and what to type."""
    folds = [(task.name, fold) for task in TASKS for fold in range(FOLDS)]
    lacking = [(t, k) for t, k in folds if not (out / f"predictions/{t}/fold{k}.csv").exists()]
    found = [(f"training of {t}, fold {k}", f"{say(f'train {t}')} --fold {k}") for t, k in lacking]
    found += [(f"table {n}", say(v)) for n, v in TABLES.items() if not (out / f"tables/{n}.md").exists()]
    drawn = {n for n in FIGURES if all((out / f"figures/{n}.{kind}").exists() for kind in ("json", "png", "svg"))}
    found += [(f"figure {n}", say(v)) for n, v in FIGURES.items() if n not in drawn]
    return found + [(n, say("all")) for n in ("flow.json", "run.json") if not (out / n).exists()]


# ---- the page ------------------------------------------------------------------------------------


def html(out: Path, manifest: Mapping, command: str) -> str:
    """Outputs folder, its manifest and e.g. `python repro.py {} --out outputs` -> the page."""
    bodies = sections(out, manifest, command)
    cohort = manifest["settings"].get("cohort", "no cohort yet")
    title = "Luminal subtypes in full mammograms: a reproduction"
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in SECTIONS)
    parts = "\n".join(f'<section id="{key}"><h2>{name}</h2>\n{bodies[key]}</section>' for key, name in SECTIONS)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        # Nothing may be loaded from anywhere: a promise that the browser keeps.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><header><h1>{title}</h1>\n"
        f"<p>Cohort: <strong>{escape(cohort)}</strong>. Seed {manifest['settings'].get('seed', 'unknown')}. "
        "After Panambur, Madhu, Maier, arXiv:2301.09282, January 2023. Not for clinical use.</p></header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{parts}</main></body></html>\n'
    )


def sections(out: Path, manifest: Mapping, command: str) -> dict[str, str]:
    """Section -> its HTML."""
    lacking = absent(out, lambda verb: command.replace("{}", verb))
    missing = {what for what, _ in lacking}

    def table(name: str) -> str:
        text = "" if f"table {name}" in missing else markdown((out / f"tables/{name}.md").read_text())
        return text or note(f"table {name}")

    def note(what: str) -> str:
        return f'<p class="note">Missing: {what}. Type <code>{escape(dict(lacking)[what])}</code></p>'

    def drawn(*names: str) -> str:
        return "\n".join(note(f"figure {n}") if f"figure {n}" in missing else figure(out, n) for n in names)

    points = out / "figures/fig2.md"
    silent = ["| matter | our choice | why | also plausible |", "|:--|:--|:--|:--|"]
    silent += [f"| {c.matter} | {c.ours} | {c.why} | {'; '.join(a.text for a in c.alternatives)} |" for c in UNSTATED]
    return {
        "missing": grid(["what", "command"], lacking) if lacking else "<p>Nothing: every part was made.</p>",
        "results": "\n".join([drawn("dots"), *(table(name) for name in ("table1", "table2a", "table2b"))]),
        # Without the file's title and first paragraph, which are the figure's caption.
        "figure2": drawn("fig2", "sheet")
        + (markdown(points.read_text().split("\n\n", 2)[2]) if points.exists() else ""),
        "curves": drawn("roc", "precision", "calibration", "scores", "losses"),
        "audit": table("audit"),
        "silent": markdown("\n".join(silent)),
        "flow": note("flow.json")
        if "flow.json" in missing
        else grid(["", "number"], list(json.loads((out / "flow.json").read_text()).items())),
        "stack": stack(manifest) + (note("run.json") if "run.json" in missing else cost(out / "run.json")),
        "card": "<dl>" + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in CARD.items()) + "</dl>",
        "commands": grid(["part", "command"], [(part, command.replace("{}", verb)) for part, verb in COMMANDS.items()]),
    }


def stack(manifest: Mapping) -> str:
    """Manifest -> its settings, and where each stage was computed."""
    by_stack: dict[str, list[str]] = {}
    for stage, entry in manifest["stages"].items():
        by_stack.setdefault(entry["stack"], []).append(stage)
    rows = [
        (", ".join(sorted(stages)), ", ".join(f"{k} {v}" for k, v in sorted(manifest["stacks"][key].items())))
        for key, stages in by_stack.items()
    ]
    return grid(["setting", "value"], sorted(manifest["settings"].items())) + grid(["stages", "computed with"], rows)


def cost(path: Path) -> str:
    """run.json -> what each stage took; energy where it was measured."""
    stages = json.loads(path.read_text())["stages"]
    names = list(dict.fromkeys(name for values in stages.values() for name in values))
    rows = [(stage, *(amount(name, values.get(name)) for name in names)) for stage, values in stages.items()]
    total = sum(values.get("seconds", 0) for values in stages.values())
    words = f"<p>{len(stages)} stages took {total / 60:.1f} minutes of computing, jobs at once counted each."
    known = "" if any("energy" in name for name in names) else " Energy was not measured."
    return f"{words}{known}</p>{grid(['stage', *names], rows)}"


def amount(name: str, value: object) -> str:
    """A figure of run.json in words."""
    if value is None:
        return "unknown"
    if "memory" in name:
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
