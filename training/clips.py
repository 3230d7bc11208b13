"""Captioned clips: one or two shapes that move, turn, bounce, grow, appear; the training data of the video pipelines.

A caption says who does what, and on which background: ``a small red star moving right above a large blue square
turning clockwise on a striped teal background``. Captions are split for good as those of the scenes are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.scenes import BACKGROUND_COLORS, BACKGROUNDS, COLORS, SHAPES, SPLITS, Shape, backdrop, paint, split_of

FRAMES = 17
PIXELS = 48
SIZES = {"small": 0.19, "large": 0.26}  # radius, as a share of the width
TURNING = ("turning clockwise", "turning counterclockwise")
IN_PLACE = (*TURNING, "growing", "shrinking", "appearing", "disappearing")
SIDEWAYS = ("moving right", "moving left")
ALONE = (*IN_PLACE, *SIDEWAYS, "moving up", "moving down", "bouncing", "circling")
ROUND = ("circle", "ring")  # these show no turning


@dataclass(frozen=True)
class Actor:
    """A shape and what it does."""

    shape: Shape
    motion: str

    def __str__(self) -> str:
        return f"{self.shape} {self.motion}"


@dataclass(frozen=True)
class Clip:
    """One actor, or two of which the first is above the second, and the background."""

    actors: tuple[Actor, ...]
    background: str
    background_color: str

    @property
    def caption(self) -> str:
        """The sentence that the text encoder reads."""
        pattern = f"{self.background} " if self.background else ""
        return f"{' above '.join(map(str, self.actors))} on a {pattern}{self.background_color} background"


@dataclass(frozen=True)
class Pose:
    """Where a shape is in one frame: shares of the width, radians, 0 .. 1."""

    x: float
    y: float
    scale: float
    turn: float
    opacity: float


def sample_clip(rng: np.random.Generator, split: str) -> Clip:
    """A random clip whose caption lies in ``split``.

    Raises:
        ValueError: if ``split`` is none of `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; choose one of {', '.join(SPLITS)}")
    while True:
        clip = _random_clip(rng)
        if split_of(clip.caption) == split:
            return clip


def _random_clip(rng: np.random.Generator) -> Clip:
    def choose(options):
        return options[rng.integers(len(options))]

    def actor(motions, colors=tuple(COLORS)):
        motion = choose(motions)
        kinds = tuple(kind for kind in SHAPES if motion not in TURNING or kind not in ROUND)
        return Actor(Shape(choose(kinds), choose(colors), "", choose(tuple(SIZES))), motion)

    if rng.random() < 0.6:
        actors = (actor(ALONE),)
    else:
        first = actor(IN_PLACE + SIDEWAYS)
        actors = (first, actor(IN_PLACE + SIDEWAYS, tuple(c for c in COLORS if c != first.shape.color)))
    return Clip(actors, choose(BACKGROUNDS), choose(tuple(BACKGROUND_COLORS)))


def pose(motion: str, time: float, x: float, y: float) -> Pose:
    """Where an actor around (x, y) is at ``time`` 0 .. 1 of the clip."""
    way = 2 * time - 1  # -1 .. 1
    scale, turn, opacity = 1.0, 0.0, 1.0
    if motion in SIDEWAYS:
        x += 0.24 * way * (1 if motion == "moving right" else -1)
    elif motion in ("moving up", "moving down"):
        y += 0.24 * way * (1 if motion == "moving down" else -1)
    elif motion in TURNING:
        turn = 2.4 * time * (1 if motion == "turning clockwise" else -1)
    elif motion in ("growing", "shrinking"):
        scale = 1 + 0.35 * way * (1 if motion == "growing" else -1)
    elif motion in ("appearing", "disappearing"):
        opacity = float(np.clip(1.25 * (time if motion == "appearing" else 1 - time) - 0.05, 0, 1))
    elif motion == "bouncing":
        y += 0.2 - 0.42 * abs(np.sin(2 * np.pi * time))
    else:  # circling, clockwise from the top
        x, y = x + 0.2 * np.sin(2 * np.pi * time), y - 0.2 * np.cos(2 * np.pi * time)
    return Pose(float(x), float(y), scale, turn, opacity)


@dataclass(frozen=True)
class Track:
    """One actor in one drawing of a clip: what the caption leaves open is fixed here.

    Args:
        actor: who does what.
        x, y: the place around which it does so, shares of the width.
        turn: radians at the start, clockwise.
        shrink: of its radius; shapes in pairs are smaller.
    """

    actor: Actor
    x: float
    y: float
    turn: float
    shrink: float

    def at(self, time: float) -> tuple[Pose, float]:
        """The pose at ``time`` 0 .. 1 of the clip, with the turn from the upright, and the radius."""
        here = pose(self.actor.motion, time, self.x, self.y)
        radius = here.scale * SIZES[self.actor.shape.size] * self.shrink
        return replace(here, turn=self.turn + here.turn), radius


def tracks(clip: Clip, rng: np.random.Generator) -> list[Track]:
    """The actors' tracks. All that is random about a drawing is drawn here, so that frames and sound can share it."""
    rows = (0.5,) if len(clip.actors) == 1 else (0.27, 0.73)
    places = [np.array([0.5, row]) + rng.uniform(-0.03, 0.03, 2) for row in rows]
    starts = [rng.uniform(-0.2, 0.2) for _ in rows]
    shrink = 0.85 if len(rows) == 2 else 1.0
    return [Track(actor, x, y, start, shrink) for actor, (x, y), start in zip(clip.actors, places, starts, strict=True)]


def draw_clip(clip: Clip, rng: np.random.Generator, pixels: int = PIXELS) -> np.ndarray:
    """The frames of a clip: uint8, (FRAMES, pixels, pixels, 3). ``rng`` draws what the caption leaves open."""
    ground = backdrop(clip.background, clip.background_color, np.zeros(2), pixels)
    actors = tracks(clip, rng)
    frames = np.empty((FRAMES, pixels, pixels, 3), np.uint8)
    for index in range(FRAMES):
        canvas = ground.copy()
        for track in actors:
            at, radius = track.at(index / (FRAMES - 1))
            paint(canvas, track.actor.shape, np.array([at.x, at.y]), radius, at.turn, at.opacity)
        frames[index] = np.clip(canvas * 255 + 0.5, 0, 255)
    return frames
