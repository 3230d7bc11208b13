"""The emoji: fetched once, labelled, and captions that are true of their pictures. Made-up sets; nothing is fetched."""

import io
import json
import subprocess
import tarfile

import numpy as np
import pytest

from training import emoji
from training.scenes import SPLITS, split_of


def disc(color, side=128, radius=40):
    """A disc of one colour on nothing."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[x**2 + y**2 <= radius**2] = (*color, 255)
    return pixels


@pytest.fixture
def set_of_three(monkeypatch):
    """A red heart and two gray skulls, of two styles."""
    pixels = np.stack([disc((220, 20, 30)), disc((120, 120, 125)), disc((140, 140, 140))])
    labels = [("heart", "flat", "red"), ("skull", "noto", ""), ("skull", "flat", "")]
    monkeypatch.setattr(emoji, "THINGS", {"heart": "red-heart", "skull": "skull"})
    known = emoji.Pictures(pixels, labels, {"heart": [0], "skull": [1, 2]})
    monkeypatch.setattr(emoji, "pictures", lambda: known)
    return known


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_of_their_split_and_true_of_their_picture(set_of_three, split):
    rng = np.random.default_rng(3)
    for _ in range(60):
        scene = emoji.sample_scene(rng, split)
        assert split_of(scene.caption) == split
        thing, style, color = set_of_three.labels[scene.picture]
        noun, *rest = scene.caption.split(" in the ")[0].split(" on a ")[0].split(" ", 1)[1:]
        assert not rest
        assert noun.removeprefix(f"{color} ") in (thing, {"skull": "monster"}.get(thing))
        if " in the " in scene.caption:
            assert f" in the {style} style" in scene.caption
        if " on a " in scene.caption:
            assert scene.caption.endswith(f" on a {scene.background} background")


def test_an_unknown_split_is_refused(set_of_three):
    with pytest.raises(ValueError, match="held_out"):
        emoji.sample_scene(np.random.default_rng(0), "test")


def test_one_caption_has_many_pictures(set_of_three):
    rng = np.random.default_rng(0)
    of_caption: dict[str, set[tuple[int, str]]] = {}
    for _ in range(300):
        scene = emoji.sample_scene(rng, "training")
        of_caption.setdefault(scene.caption, set()).add((scene.picture, scene.background))
    assert max(map(len, of_caption.values())) >= 5


def test_a_picture_is_its_emoji_on_its_background(set_of_three):
    drawn = emoji.draw(emoji.Scene("", 0, "navy"), np.random.default_rng(0))
    assert drawn.shape == (emoji.PIXELS, emoji.PIXELS, 3)
    assert drawn.dtype == np.uint8
    assert tuple(drawn[0, 0]) == emoji.BACKGROUNDS["navy"]
    assert np.abs(drawn[32, 32].astype(int) - (220, 20, 30)).max() <= 1
    other = emoji.draw(emoji.Scene("", 0, "navy"), np.random.default_rng(1))
    assert not np.array_equal(drawn, other), "neither size nor place changes"


@pytest.mark.parametrize(
    ("rgb", "color"),
    [
        ((220, 20, 30), "red"),
        ((240, 150, 20), "orange"),
        ((60, 90, 220), "blue"),
        ((128, 128, 128), ""),
        ((8, 4, 4), ""),
    ],
)
def test_a_color_is_named_where_most_of_the_picture_has_it(rgb, color):
    assert emoji.color_of(disc(rgb)) == color


def test_a_color_is_not_named_where_there_are_two():
    pixels = disc((220, 20, 30))
    pixels[:, 64:, :3] = (60, 90, 220)
    assert emoji.color_of(pixels) == ""


def test_every_kind_is_of_things_that_are_known_and_every_emoji_is_listed_once():
    assert {thing for members in emoji.KINDS.values() for thing in members} <= set(emoji.THINGS)
    for thing, names in emoji.THINGS.items():
        assert len(set(names.split())) == len(names.split()), thing


def test_sets_are_fetched_once_and_drawn_once(monkeypatch, tmp_path):
    pytest.importorskip("resvg_py", reason="emoji are drawn by resvg_py; install the extra `training`")
    icons = {
        "icons": {"red-heart": {"body": '<circle cx="8" cy="8" r="6" fill="#dc141e"/>'}},
        "width": 16,
        "height": 16,
    }
    icons["aliases"] = {"skull": {"parent": "red-heart"}}
    calls = []

    def pack(command, check):
        calls.append(command)
        name, version = command[3].removeprefix("@").replace("/", "-").rsplit("@", 1)
        data = json.dumps(icons).encode()
        with tarfile.open(f"{command[-1]}/{name}-{version}.tgz", "w:gz") as archive:
            member = tarfile.TarInfo("package/icons.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    monkeypatch.setattr(subprocess, "run", pack)
    monkeypatch.setattr(emoji, "CACHE", tmp_path)
    monkeypatch.setattr(emoji, "THINGS", {"heart": "red-heart no-such-icon", "skull": "skull"})
    emoji.pictures.cache_clear()
    try:
        found = emoji.pictures()
        emoji.pictures.cache_clear()
        again = emoji.pictures()
    finally:
        emoji.pictures.cache_clear()
    assert len(calls) == len(emoji.STYLES)
    assert len(found.pixels) == 2 * len(emoji.STYLES), "an icon that a set lacks is left out; an alias is not"
    assert {label[2] for label in found.labels} == {"red"}
    assert tuple(found.pixels[0, 64, 64]) == (0xDC, 0x14, 0x1E, 255)
    assert found.pixels[0, 0, 0, 3] == 0
    assert np.array_equal(found.pixels, again.pixels)
    assert found.labels == again.labels
