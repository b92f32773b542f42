"""Markdown on terminals of many widths: no word or number is cut."""

import io

import pytest
from rich.console import Console

from lumin.evaluation.markdown import grid
from lumin.run.render import render

TITLES = ["Baseline: paper", "Baseline: ours", "95 % CI", "Transfer learning: ours", "95 % CI"]
NON_LUMINAL = "0.2099 (0.1749)", "0.1600 (0.2191)", "0.1263 to 0.1846", "**0.2229 (0.2103)**"
AUC = "0.5358 (0.0300)", "**0.5292 (0.1926)**", "0.3825 to 0.6710", "0.4188 (0.0798)"
TABLE = grid(
    ["", *TITLES],
    [("Non Luminal F1", *NON_LUMINAL, "0.1379 to 0.3114"), ("AUC", *AUC, "0.2668 to 0.5878")],
)
PROSE = """\
| check | computed from the printed figures | verdict |
| :-- | :-- | :-- |
| Table 1(b), training and validation | Benign + Malignant = 3390; Both = 838 | follows |
| F1 Score | 0.4987 and 0.49815 differ by 0.00055, more than rounding | does not follow |"""
WIDTHS = [40, 60, 80, 120, 200]


def printed(markdown: str, width: int, **more) -> str:
    file = io.StringIO()
    render(markdown, Console(file=file, width=width, **more))
    return file.getvalue()


def words(text: str) -> list[str]:
    """The words of a text or Markdown table, but for its rules."""
    return [word for word in text.replace("**", "").replace("|", " ").split() if word.strip(":-─")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("markdown", [TABLE, PROSE], ids=["numbers", "prose"])
def test_no_line_is_too_long_and_no_word_or_number_is_cut(markdown, width):
    text = printed(markdown, width)
    assert max(map(len, text.splitlines())) <= width
    shown = words(text)
    intervals = {
        word for word in words(markdown) if f"{word} to" in markdown or f"to {word}" in markdown
    }
    expected = set(words(markdown)) - intervals - {"to", "95", "%", "CI"}
    assert expected <= set(shown)
    assert not any("…" in word for word in shown)


@pytest.mark.parametrize(("width", "intervals"), [(80, False), (120, True), (200, True)])
def test_paper_and_ours_stand_in_one_line_with_intervals_where_there_is_room(width, intervals):
    line = next(line for line in printed(TABLE, width).splitlines() if line.startswith("AUC"))
    numbers = ["0.5358 (0.0300)", "0.5292 (0.1926)", "0.4188 (0.0798)"]
    assert all(number in line for number in numbers)
    assert ("0.3825 to 0.6710" in line) == intervals


def test_a_terminal_too_narrow_for_columns_gets_everything_row_by_row():
    text = printed(TABLE, 40)
    assert "0.3825 to 0.6710" in text
    assert text.index("Non Luminal F1") < text.index("0.2099 (0.1749)") < text.index("AUC")


def test_without_unicode_and_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # strict: a character it lacks raises
    render(TABLE, Console(file=file, width=80, force_terminal=True))
    file.seek(0)
    text = file.read()
    assert "AUC" in text
    assert "\x1b[3" not in text
