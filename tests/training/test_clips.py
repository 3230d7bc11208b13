"""The clips show what their captions say."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.clips import ALONE, FRAMES, PIXELS, ROUND, TURNING, Actor, Clip, draw_clip, sample_clip
from training.scenes import COLORS, SPLITS, Shape, split_of

PIPELINES = Path(__file__).parents[2] / "training/pipelines"


def clip_of(motion, kind="star", color="red"):
    return Clip((Actor(Shape(kind, color, "", "large"), motion),), "", "mint")


def trace(motion, **options):
    """For each frame, the shape's centre of mass, x and y in pixels, and its area."""
    frames = draw_clip(clip_of(motion, **options), np.random.default_rng(0)).astype(float)
    far = np.abs(frames - np.array(COLORS["red"])).sum(-1)
    mask = (far < 120).astype(float)
    y, x = np.mgrid[:PIXELS, :PIXELS]
    area = mask.sum((1, 2))
    weight = np.maximum(area, 1)
    return (mask * x).sum((1, 2)) / weight, (mask * y).sum((1, 2)) / weight, area


def test_frames_are_pixels():
    frames = draw_clip(clip_of("growing"), np.random.default_rng(0))
    assert (frames.shape, frames.dtype) == ((FRAMES, PIXELS, PIXELS, 3), np.uint8)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moving right", 0, 1), ("moving left", 0, -1), ("moving down", 1, 1), ("moving up", 1, -1)],
)
def test_it_moves_where_the_caption_says(motion, axis, sign):
    traces = trace(motion)
    assert (sign * np.diff(traces[axis])).min() > -0.6
    assert sign * (traces[axis][-1] - traces[axis][0]) > 15
    assert np.ptp(traces[1 - axis]) < 2


def test_it_grows_and_shrinks_and_appears_and_goes():
    growing, shrinking = trace("growing")[2], trace("shrinking")[2]
    assert growing[-1] > 2 * growing[0] > 0
    assert shrinking[0] > 2 * shrinking[-1] > 0
    appearing, disappearing = trace("appearing")[2], trace("disappearing")[2]
    assert appearing[0] == 0 < appearing[-1]
    assert disappearing[-1] == 0 < disappearing[0]


def test_it_bounces_and_circles():
    _, y, _ = trace("bouncing")
    peaks = [i for i in range(1, FRAMES - 1) if y[i] <= y[i - 1] and y[i] < y[i + 1]]
    assert len(peaks) == 2
    x, y, _ = trace("circling")
    angles = np.unwrap(np.arctan2(y - y.mean(), x - x.mean()))
    assert angles[-1] - angles[0] > 5.5  # clockwise on the screen, once around


@pytest.mark.parametrize(("motion", "sign"), [("turning clockwise", 1), ("turning counterclockwise", -1)])
def test_it_turns_the_way_the_caption_says(motion, sign):
    """The third moment of a triangle turns with it."""
    frames = draw_clip(clip_of(motion, kind="triangle"), np.random.default_rng(0)).astype(float)
    angles = []
    for frame in frames:
        y, x = np.nonzero(np.abs(frame - np.array(COLORS["red"])).sum(-1) < 120)
        z = (x - x.mean()) + 1j * (y - y.mean())
        angles.append(np.angle((z**3).sum()))  # a triangle looks the same after a third of a turn
    turned = np.unwrap(angles) / 3
    assert sign * (turned[-1] - turned[0]) == pytest.approx(2.4, abs=0.25)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_clips_of_its_own(split):
    rng = np.random.default_rng(0)
    clips = [sample_clip(rng, split) for _ in range(50)]
    assert {split_of(clip.caption) for clip in clips} == {split}
    assert len({clip.caption for clip in clips}) > 40
    assert {len(clip.actors) for clip in clips} == {1, 2}
    for clip in clips:
        for actor in clip.actors:
            assert actor.motion in ALONE
            assert actor.motion not in TURNING or actor.shape.kind not in ROUND


@pytest.mark.parametrize("folder", sorted(PIPELINES.glob("*/prompts.json")), ids=lambda p: p.parent.name)
def test_the_prompts_of_the_pipelines_belong_to_their_splits(folder):
    prompts = json.loads(folder.read_text())
    for split, captions in prompts.items():
        assert len(set(captions)) == len(captions) >= 32
        assert {split_of(caption) for caption in captions} == {split}
