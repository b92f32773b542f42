"""The clinical sheet: downloaded from a web server on loopback, and told from other files."""

import os
import re
import subprocess
import sys

import openpyxl
import pytest
from conftest import SHARED

from lumin.cmmd import clinical
from lumin.errors import UserError


def table():
    """1,872 rows with the totals of the real sheet, in no relation to each other."""
    columns = {
        name: [v for v, n in totals.items() for _ in range(n)]
        for name, totals in clinical.TOTALS.items()
    }
    subtypes = columns["subtype"] + [None] * (1872 - 749)
    rows = zip(columns["abnormality"], columns["classification"], subtypes, strict=True)
    return [
        clinical.COLUMNS,
        *([f"D1-{i:04}", "L", 50, 2, *row] for i, row in enumerate(rows)),
    ]


def workbook(path, rows):
    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet()
    for row in rows:
        page.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


@pytest.fixture
def site(tmp_path):
    """A web server for the folder `site` -> its address."""
    command = [
        sys.executable,
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path / "site"),
    ]
    (tmp_path / "site").mkdir()
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    yield re.search(rb"http://\S+?/", run.stdout.readline())[0].decode()
    run.kill()
    run.wait()
    run.stdout.close()


def download_sheet(folder, url):
    """The sheet of a data folder, from a single address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clinical, "URLS", (url,))
        return clinical.download_sheet(folder)


def test_sheet(site, tmp_path):
    workbook(tmp_path / "site/sheet.xlsx", table())
    path = download_sheet(tmp_path / "data", site + "sheet.xlsx")
    assert path == tmp_path / "data" / clinical.SHEET
    assert path.read_bytes() == (tmp_path / "site/sheet.xlsx").read_bytes()
    assert (
        download_sheet(tmp_path / "data", "http://127.0.0.1:9") == path
    )  # there, so not asked for


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[:-1], "1,871 rows of"),
        (lambda rows: [rows[0][:-1], *rows[1:]], "1,872 rows of ID1.*classification; not"),
        (
            lambda rows: [rows[0], [*rows[1][:5], "Malignant", None], *rows[2:]],
            "classification counts",
        ),
        (lambda rows: [], "not readable"),
    ],
    ids=["short", "column", "class", "empty"],
)
def test_another_sheet_is_not_accepted(site, tmp_path, change, says):
    workbook(tmp_path / "site/sheet.xlsx", change(table()))
    with pytest.raises(UserError) as caught:
        download_sheet(tmp_path / "data", site + "sheet.xlsx")
    assert re.search(says, caught.value.details[0])
    assert "--sheet PATH" in str(caught.value)
    assert not (tmp_path / "data" / clinical.SHEET).exists()


def test_a_page_instead_of_the_sheet_is_not_accepted(site, tmp_path):
    (tmp_path / "site/sheet.xlsx").write_text("<html>Log in</html>")
    for name, says in (("sheet.xlsx", "not readable as a workbook"), ("other.xlsx", "404")):
        with pytest.raises(UserError) as caught:
            download_sheet(tmp_path / "data", site + name)
        assert says in caught.value.details[0]


def test_sheet_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(clinical, "URLS", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    with pytest.raises(UserError, match="--sheet PATH") as caught:
        clinical.download_sheet(tmp_path)
    assert [line.split(": ")[0][-3:] for line in caught.value.details] == ["9/a", "9/b"]


@pytest.mark.skipif(not SHARED.exists(), reason="the real sheet is not here")
def test_the_real_sheet_is_accepted(tmp_path):
    lines = (SHARED / "cmmd/clinical.csv").read_text().splitlines()
    rows = [[value or None for value in line.split(",")] for line in lines]
    path = workbook(tmp_path / clinical.SHEET, rows)
    assert clinical.download_sheet(tmp_path) == path
