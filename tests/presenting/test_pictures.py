"""The pictures and films that a person looks at hold what they were given."""

import imageio.v3 as imageio
import pytest
import torch
from PIL import Image

from ertacache.presenting.films import write_film
from ertacache.presenting.pictures import contact_sheet


@pytest.fixture
def clips():
    """Two rows of two clips; the frames of each brighten from black to its own colour."""
    time = torch.linspace(0, 1, 9).view(9, 1, 1, 1)
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).view(4, 1, 3, 1, 1)
    made = list((time * colors).expand(4, 9, 3, 16, 16))
    return {"full": made[:2], "fast": made[2:]}


def test_a_film_shows_all_clips_in_step(clips, tmp_path):
    write_film(clips, tmp_path / "clips.mp4", fps=8, enlarge=2)
    frames = imageio.imread(tmp_path / "clips.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert frames[0].max() < 40
    corners = [frames[8, y, x].tolist() for y in (16, 48) for x in (16, 48)]
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    for corner, color in zip(corners, expected, strict=True):
        assert corner == pytest.approx(color, abs=45)  # the codec halves the resolution of colours


def test_a_contact_sheet_shows_a_few_frames_of_every_clip(clips, tmp_path):
    contact_sheet(clips, ["a red clip", "a green clip"], tmp_path / "sheet.png", frames=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        seen = {color for _, color in sheet.convert("RGB").getcolors(1 << 24)}
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)):
        assert min(sum(abs(a - b) for a, b in zip(color, other, strict=True)) for other in seen) < 60


def test_a_film_that_cannot_be_encoded_leaves_the_old_one_alone(clips, tmp_path, monkeypatch):
    def fail(pixels, fps):
        raise RuntimeError("no codec")

    path = tmp_path / "clips.mp4"
    path.write_bytes(b"the old film")
    monkeypatch.setattr("ertacache.presenting.films.mp4", fail)
    with pytest.raises(RuntimeError, match="no codec"):
        write_film(clips, path, fps=8)
    assert path.read_bytes() == b"the old film"
    assert list(tmp_path.iterdir()) == [path]
