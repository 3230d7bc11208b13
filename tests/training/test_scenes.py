"""The training data: captions that split for good, pictures that show what the caption says."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.scenes import BACKGROUND_COLORS, COLORS, PIXELS, SPLITS, Scene, Shape, draw, sample_scene, split_of

PROMPTS = Path(__file__).parents[2] / "training/pipelines/flux/prompts.json"


def test_the_embedded_prompts_belong_to_their_splits_and_are_different():
    prompts = json.loads(PROMPTS.read_text())
    for split, captions in prompts.items():
        assert len(set(captions)) == len(captions) >= 32
        assert {split_of(caption) for caption in captions} == {split}
    assert not set(prompts["calibration"]) & set(prompts["held_out"])


@pytest.mark.parametrize("split", SPLITS)
def test_a_sampled_scene_is_of_the_split_that_was_asked_for(split):
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert split_of(sample_scene(rng, split).caption) == split


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="held_out"):
        sample_scene(np.random.default_rng(0), "test")


def test_captions_name_everything_and_take_the_right_article():
    scene = Scene(
        (Shape("star", "orange", "", ""), Shape("ring", "blue", "dotted", "large")), "above", "striped", "teal"
    )
    assert scene.caption == "an orange star above a large dotted blue ring on a striped teal background"


@pytest.mark.parametrize("kind", ["circle", "square", "triangle", "star", "cross", "heart", "diamond"])
def test_a_shape_has_its_color_at_its_place_and_the_background_around_it(kind):
    scene = Scene((Shape(kind, "red", "", "large"),), "in the center", "", "beige")
    picture = draw(scene, np.random.default_rng(0)).astype(int)
    middle, corner = picture[PIXELS // 2, PIXELS // 2], picture[2, 2]
    assert np.abs(middle - COLORS["red"]).max() < 12
    assert np.abs(corner - BACKGROUND_COLORS["beige"]).max() < 12


def test_relations_and_sizes_are_drawn_as_they_are_named():
    def rows_of(color, relation):
        scene = Scene((Shape("circle", "red", "", ""), Shape("circle", "blue", "", "")), relation, "", "gray")
        picture = draw(scene, np.random.default_rng(2)).astype(int)
        return np.argwhere(np.abs(picture - COLORS[color]).max(axis=-1) < 12).mean(axis=0)

    assert rows_of("red", "above")[0] < rows_of("blue", "above")[0]
    assert rows_of("red", "right of")[1] > rows_of("blue", "right of")[1]

    def area(size):
        picture = draw(
            Scene((Shape("square", "red", "", size),), "in the center", "", "gray"), np.random.default_rng(3)
        )
        return (np.abs(picture.astype(int) - COLORS["red"]).max(axis=-1) < 12).sum()

    assert area("small") < area("") < area("large")


def test_textures_show():
    plain, striped = (
        draw(Scene((Shape("square", "red", texture, "large"),), "in the center", "", "gray"), np.random.default_rng(0))
        for texture in ("", "striped")
    )
    middle = slice(PIXELS // 2 - 10, PIXELS // 2 + 10)
    assert striped[middle, middle].std(axis=(0, 1)).max() > 20
    assert plain[middle, middle].std(axis=(0, 1)).max() < 1
