"""Doubtful crops: what `prepare` says of them, and a sheet that shows them."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from lumin.data.breast import Crop
from lumin.data.dicom import read_pixels, to_8bit
from lumin.data.mammogram import Mammogram, Row
from lumin.exact import csv_text

# Shares of the image and of its pixels above 0, and height / width. By a public count 11 of CMMD's
# 5,202 crops lose more than 5 %, and one of .93 of the image's width is right
WHOLE, LOST, NARROWEST, WIDEST = 0.95, 0.05, 6.0, 1.0
WHOLE_PICTURE = "the whole picture"
SHEET = "figures/crops.png"
NAMED, SHOWN, TILES = 5, 8, 12  # doubtful crops that are named, and shown; with ordinary ones
WIDTH, HEIGHT, LINE = 200, 240, 12  # of a picture on the sheet, and of a line of text, in pixels

Doubts = Mapping[str, Sequence[str]]  # image -> reasons


def doubts(crop: Crop) -> list[str]:
    """Why a crop may not be the breast; [] for most.

    A background that is not 0, a frame or a label that joins the breast, and a black band through
    it show as one of these.
    """
    _, _, height, width = crop.box
    reasons = []
    if crop.image > WHOLE:
        reasons.append(f"{WHOLE_PICTURE}; {100 * crop.filled:.0f} % of it is above 0")
    if crop.lost > LOST:
        reasons.append(f"leaves out {100 * crop.lost:.0f} % of the pixels above 0")
    if not WIDEST <= height / width <= NARROWEST:
        reasons.append(f"{height / width:.1f} times as high as wide")
    return reasons


def doubts_of(stored: Sequence[tuple[Row, Crop]]) -> Doubts:
    """What build_store() returns -> the doubts about each doubtful crop."""
    reasons = {row.image: doubts(crop) for row, crop in stored}
    return {image: lines for image, lines in reasons.items() if lines}


def crops_csv(doubtful: Doubts) -> str:
    """Doubtful crops -> crops.csv."""
    lines = [(image, reason) for image, reasons in doubtful.items() for reason in reasons]
    return csv_text(["image", "doubt"], lines)


def in_words(mammograms: Sequence[Mammogram], doubtful: Doubts) -> list[str]:
    """Records and doubts -> lines for people: how many, the first few, and what to do."""
    if not doubtful:
        return []
    lines = [
        f"{len(doubtful)} of {len(mammograms)} crops are doubtful, and are used as they are;"
        f" crops.csv lists them, {SHEET} shows some beside ordinary ones:"
    ]
    named = [m for m in mammograms if m.image in doubtful]
    lines += [f"  {name(m)}: {'; '.join(doubtful[m.image])}." for m in named[:NAMED]]
    if len(named) > NAMED:
        lines.append(f"  and {len(named) - NAMED} more.")
    if any(WHOLE_PICTURE in reason for reasons in doubtful.values() for reason in reasons):
        lines.append(
            "Only exact 0 is background, and a copy that was compressed can lose its zeros. Use"
            " the original DICOM files (`python repro.py download`)."
        )
    return lines


def name(mammogram: Mammogram) -> str:
    """Which image it is, as people say it."""
    return f"{mammogram.patient} {mammogram.laterality} {mammogram.view}"


def sheet(mammograms: Sequence[Mammogram], rows: Sequence[Row], doubtful: Doubts) -> bytes:
    """n records, their rows of the store, and doubts -> PNG of whole pictures with their boxes.

    The first doubtful crops, and ordinary ones from all over the cohort.
    """
    pairs = list(zip(mammograms, rows, strict=True))
    shown = [pair for pair in pairs if pair[0].image in doubtful][:SHOWN]
    ordinary = [pair for pair in pairs if pair[0].image not in doubtful]
    step = max(1, len(ordinary) // (TILES - len(shown)))
    page = Image.new("RGB", (4 * WIDTH, 3 * (HEIGHT + 3 * LINE)), "white")
    draw = ImageDraw.Draw(page)
    for place, (mammogram, row) in enumerate([*shown, *ordinary[::step]][:TILES]):
        left, top = place % 4 * WIDTH, place // 4 * (HEIGHT + 3 * LINE)
        picture = Image.fromarray(to_8bit(*read_pixels(mammogram.path)))
        scale = min((WIDTH - 8) / picture.width, HEIGHT / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        page.paste(picture.resize(size, reducing_gap=2), (left, top))
        edges = row.left, row.top, row.left + row.width, row.top + row.height
        x0, y0, x1, y1 = (round(edge * scale) for edge in edges)
        draw.rectangle((left + x0, top + y0, left + x1 - 1, top + y1 - 1), outline="red")
        text = "\n".join([name(mammogram), *doubtful.get(mammogram.image, ["ordinary"])])
        draw.text((left, top + HEIGHT), text, "black")
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()
