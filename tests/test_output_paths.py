"""Output paths are checked before the work; a result that cannot be written to its place is kept elsewhere."""

import tempfile
from pathlib import Path

import pytest

from ertacache.errors import OutputError
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere


def refused(path, *arguments, **named):
    with pytest.raises(OutputError) as caught:
        checked_output(path, *arguments, **named)
    return str(caught.value)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a folder" in refused(tmp_path)
    assert "a file, not a folder" in refused(tmp_path / "file" / "a.png")
    assert "File name too long" in refused(tmp_path / ("a" * 300))
    assert "is not a file" in refused(Path("/dev/null"))
    assert "cannot be written" in refused(Path("/proc/nowhere/a.png"))
    assert "'.png'" not in refused(tmp_path / "a.xyz", [".png", ".jpg"])
    assert "nothing can be written as .xyz" in refused(tmp_path / "a.xyz", [".png", ".jpg"])
    assert "ends in .png, .jpg" in refused(tmp_path / "a", [".png", ".jpg"])
    assert "also another file" in refused(tmp_path / "file", besides=[None, tmp_path / "x" / ".." / "file"])
    for folder in (tmp_path / "file", Path("/proc/nowhere")):
        with pytest.raises(OutputError):
            checked_folder(folder)


def test_a_disk_that_is_full_or_read_only_is_noticed(tmp_path, monkeypatch):
    def full(**named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert "No space left on device" in refused(tmp_path / "new" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_check_leaves_nothing_behind(tmp_path):
    (tmp_path / "there.PNG").write_text("old")
    checked_output(tmp_path / "there.PNG", [".png"], besides=[tmp_path / "other"])
    checked_output(tmp_path / "a" / "b" / "c.png")
    checked_folder(tmp_path / "d" / "e")
    assert [path.name for path in tmp_path.iterdir()] == ["there.PNG"]
    assert (tmp_path / "there.PNG").read_text() == "old"


def test_a_result_goes_to_another_place_and_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bad = tmp_path / "gone" / "a.txt"

    def write(path):
        path.write_text("made")
        return path

    with pytest.raises(OutputError, match="not lost") as caught:
        kept_somewhere(bad, write)
    found = next(tmp_path.glob("ertacache-*/a.txt"))
    assert found.read_text() == "made"
    assert str(found) in str(caught.value)
    assert kept_somewhere(tmp_path / "a.txt", write) == tmp_path / "a.txt"


def test_where_no_place_works_the_first_error_is_raised():
    def write(path):
        raise ZeroDivisionError(path.parent.name)

    with pytest.raises(ZeroDivisionError, match="here"):
        kept_somewhere(Path("here/a"), write)
