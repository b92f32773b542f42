"""The images' files and their list: any change is noticed, and what they are of is said."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from studies import tiny_study

from lumin.cmmd import phantom
from lumin.data.cohort import read_cohort
from lumin.data.headers import list_files
from lumin.errors import UserError
from lumin.run.prepare import identity, prepare, sources_csv, unchanged


@pytest.fixture
def listed(small, tmp_path):
    """A data folder and its sources.csv."""
    path = tmp_path / "sources.csv"
    mammograms = read_cohort(small, None).mammograms
    path.write_text(sources_csv(mammograms, small, list_files(small)))
    return small, path


@pytest.mark.parametrize("change", ["time", "size", "removed", "added", "renamed"])
def test_sources_notice_any_change(listed, change):
    data, sources = listed
    assert unchanged(list_files(data), sources)
    file = data / "D1-0001/any/0.dcm"
    if change == "time":
        file.touch()
    elif change == "size":
        times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=times)
    elif change == "removed":
        file.unlink()
    elif change == "added":
        (data / "D1-0001/any/x.dcm").write_bytes(b"")
    else:
        file.rename(file.with_name("x.dcm"))
    assert not unchanged(list_files(data), sources)


def test_a_name_that_is_no_text_or_has_a_comma_is_written_and_read(listed):
    data, sources = listed
    folder = os.fsencode(data / "D1-0001/any")
    for name in (b"a,b.dcm", b'"quoted".dcm', b"\xff\xfe.dcm"):
        with open(os.path.join(folder, name), "wb"):
            pass
    listing = list_files(data)
    sources.write_text(sources_csv([], data, listing))
    assert unchanged(listing, sources)


@pytest.mark.parametrize(
    ("count", "is_cmmd", "cleaned", "kind"),
    [
        (3744, True, False, "CMMD"),
        (3743, True, False, "3743 of CMMD's 3744 labelled images"),
        (3745, True, False, "3745 of CMMD's 3744 labelled images"),
        (3740, True, True, "CMMD, cleaned (3740 images)"),
        (3744, False, False, "not CMMD"),
    ],
)
def test_only_all_of_cmmd_is_called_cmmd(tmp_path, count, is_cmmd, cleaned, kind):
    study = replace(tiny_study(tmp_path / "data", tmp_path / "out"), cleaned=cleaned)
    images = [SimpleNamespace(image=f"1.2.{number}") for number in range(count)]
    found = SimpleNamespace(mammograms=images, is_cmmd=is_cmmd)
    assert identity(study, found)["cohort"] == kind


def test_a_synthetic_cohort_is_called_so_whatever_its_names(tmp_path):
    study = tiny_study(tmp_path, tmp_path / "out")
    (tmp_path / phantom.MARKER).touch()
    images = [SimpleNamespace(image=f"1.2.{number}") for number in range(3744)]
    found = SimpleNamespace(mammograms=images, is_cmmd=True)
    assert identity(study, found)["cohort"] == "synthetic cohort, not CMMD"


def test_a_demo_of_an_earlier_version_is_refused_and_kept(small, tmp_path, monkeypatch):
    study = tiny_study(small, tmp_path / "out")
    prepare(study)
    marker = small / phantom.MARKER
    marker.write_text('{"made": [0, "demo", 0, null], "files": {"CMMD/1-1.dcm": 1}}')
    before = sorted(small.rglob("*"))
    with pytest.raises(UserError, match=r"earlier version.*--overwrite"):
        prepare(replace(study, demo=True))
    assert sorted(small.rglob("*")) == before
