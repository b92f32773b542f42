"""What all figures share: their look, and their three files (PNG at 300 dpi, SVG, text as JSON).

The same input gives the same bytes.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct with every common colour blindness
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "image.cmap": "gray",
    "svg.hashsalt": "lumin",  # without it the SVG's element names differ from run to run
}
DPI = 300

Files = dict[str, bytes | str]  # path in the outputs folder -> content


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches in the common style; no window, no global state."""
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": "agg"}):
        yield Figure((width, height), layout="constrained")


def files(
    name: str, figure: Figure, title: str, text: str, missing: Sequence[str] = (), **more: object
) -> Files:
    """A finished figure -> its PNG, its SVG and its text: title, what it shows, what is missing."""
    figure.suptitle(title)
    contents: Files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Title": title})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        contents[f"figures/{name}.{kind}"] = buffer.getvalue()
    about = {"title": title, "text": text, "missing": list(missing), **more}
    contents[f"figures/{name}.json"] = json.dumps(about, indent=1) + "\n"
    return contents


def not_trained(axes: Axes) -> None:
    """Say in a panel that there is nothing to show."""
    centred = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, "not trained", color=GREY, **centred)


def wording(cell: str) -> str:
    """A cell of Table 2 -> its name in a figure.

    >>> wording("macro subtype"), wording("non_luminal")
    ('macro F1, subtype', 'F1 non-luminal')
    """
    kind, _, group = cell.partition(" ")
    name = {"macro": "macro F1", "auc": "AUC"}.get(kind)
    return f"{name}, {group}" if name else f"F1 {cell.replace('_', '-')}"
