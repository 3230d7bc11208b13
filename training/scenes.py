"""Captioned scenes, drawn from signed distance functions: the training data of the embedded pipelines.

A scene is one or two shapes on a patterned background, and its caption says all of it but the jitter:
``a small red star above a striped blue ring on a checkered teal background``. Shapes are antialiased
analytically (coverage = clamp(0.5 - distance in pixels)), so no supersampling is needed.

Captions are split for good by a checksum of their text: what falls into ``held_out`` is never drawn for
training, and never used for calibration either.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

PIXELS = 96

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 50),
    "green": (50, 165, 70),
    "blue": (45, 90, 225),
    "purple": (135, 55, 185),
    "pink": (250, 130, 185),
    "brown": (125, 75, 40),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
}
BACKGROUND_COLORS: dict[str, tuple[int, int, int]] = {
    "gray": (165, 165, 170),
    "beige": (225, 205, 165),
    "teal": (75, 165, 165),
    "navy": (45, 60, 110),
    "mint": (180, 230, 195),
    "lavender": (195, 180, 235),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
TEXTURES = ("", "striped", "dotted", "checkered")
SIZES = {"small": 0.16, "": 0.21, "large": 0.26}  # radius, as a share of the picture's width
BACKGROUNDS = ("", "striped", "dotted", "checkered")
RELATIONS = ("above", "below", "left of", "right of", "inside")
PLACES = ("in the center", "at the top", "at the bottom", "on the left", "on the right")
SPLITS = ("held_out", "calibration", "training")


@dataclass(frozen=True)
class Shape:
    """One shape as its caption names it; ``texture`` and ``size`` may be empty."""

    kind: str
    color: str
    texture: str
    size: str

    def __str__(self) -> str:
        words = [word for word in (self.size, self.texture, self.color, self.kind) if word]
        return " ".join(["an" if words[0] == "orange" else "a", *words])


@dataclass(frozen=True)
class Scene:
    """One or two shapes, how they stand to each other (or to the frame), and the background."""

    shapes: tuple[Shape, ...]
    relation: str
    background: str
    background_color: str

    @property
    def caption(self) -> str:
        """The sentence that the text encoders read."""
        pattern = f"{self.background} " if self.background else ""
        subject = f" {self.relation} ".join(str(shape) for shape in self.shapes)
        if len(self.shapes) == 1:
            subject = f"{subject} {self.relation}"
        return f"{subject} on a {pattern}{self.background_color} background"


def split_of(caption: str) -> str:
    """Which split a caption belongs to, for good: about 3 % held out, 3 % calibration, the rest training."""
    bucket = zlib.crc32(caption.encode()) % 100
    return "held_out" if bucket < 3 else "calibration" if bucket < 6 else "training"


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random scene whose caption lies in ``split``.

    Raises:
        ValueError: if ``split`` is none of `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; choose one of {', '.join(SPLITS)}")
    while True:
        scene = _random_scene(rng)
        if split_of(scene.caption) == split:
            return scene


def _random_scene(rng: np.random.Generator) -> Scene:
    def choose(options):
        return options[rng.integers(len(options))]

    background, background_color = choose(BACKGROUNDS), choose(tuple(BACKGROUND_COLORS))

    def shape(kinds=SHAPES, size=None, colors=tuple(COLORS)):
        size = choose(tuple(SIZES)) if size is None else size
        # A small shape has no room for a pattern that could be recognised.
        texture = choose(TEXTURES) if size != "small" and rng.random() < 0.5 else ""
        return Shape(choose(kinds), choose(colors), texture, size)

    if rng.random() < 0.4:
        return Scene((shape(),), choose(PLACES), background, background_color)
    relation = choose(RELATIONS)
    if relation == "inside":
        outer = shape(kinds=("ring", "circle", "square"), size="large")
        inner = shape(size="small", colors=tuple(c for c in COLORS if c != outer.color))
        return Scene((inner, outer), relation, background, background_color)
    first = shape()
    second = shape(colors=tuple(c for c in COLORS if c != first.color))
    return Scene((first, second), relation, background, background_color)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of a scene: uint8, (PIXELS, PIXELS, 3). ``rng`` draws what the caption leaves open."""
    canvas = backdrop(scene.background, scene.background_color, rng.uniform(0, 1, 2), PIXELS)
    centers = _centers(scene, rng)
    order = range(len(scene.shapes))
    nested = scene.relation == "inside"
    for index in reversed(order) if nested else order:
        shape = scene.shapes[index]
        scale = 0.8 if nested and index == 0 else 1.0  # so that it fits into the hole of a ring
        radius = scale * SIZES[shape.size] * rng.uniform(0.94, 1.06)
        paint(canvas, shape, centers[index], radius, rng.uniform(-0.2, 0.2))
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)


def _centers(scene: Scene, rng: np.random.Generator) -> list[np.ndarray]:
    jitter = rng.uniform(-0.03, 0.03, (2, 2))
    if len(scene.shapes) == 1:
        at = {
            "in the center": (0.5, 0.5),
            "at the top": (0.5, 0.3),
            "at the bottom": (0.5, 0.7),
            "on the left": (0.3, 0.5),
            "on the right": (0.7, 0.5),
        }[scene.relation]
        return [np.array(at) + jitter[0]]
    if scene.relation == "inside":
        center = 0.5 + 3 * jitter[0]
        return [center, center]
    offset = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}[scene.relation]
    step = np.array(offset) * 0.24
    return [0.5 + step + jitter[0], 0.5 - step + jitter[1]]


def backdrop(pattern: str, color: str, phase: np.ndarray, pixels: int) -> np.ndarray:
    """A patterned background, float32 (pixels, pixels, 3) in 0 .. 1."""
    x, y = _grid(pixels)
    base = np.array(BACKGROUND_COLORS[color], np.float32) / 255
    other = base * 0.78 if base.mean() > 0.35 else 1 - (1 - base) * 0.78
    ink = _pattern(pattern, x, y, cell=0.125, phase=phase)[..., None]
    return base * (1 - ink) + other * ink


def _grid(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    return tuple(np.meshgrid(axis, axis))


def paint(
    canvas: np.ndarray, shape: Shape, center: np.ndarray, radius: float, turn: float, opacity: float = 1.0
) -> None:
    """Paint a shape and its shadow onto ``canvas``, float (pixels, pixels, 3) in 0 .. 1.

    ``center`` (x, y) and ``radius`` are shares of the width, ``turn`` is in radians, clockwise.
    """
    x, y = _grid(len(canvas))
    u, v = (x - center[0]) / radius, (y - center[1]) / radius
    u, v = u * np.cos(turn) + v * np.sin(turn), -u * np.sin(turn) + v * np.cos(turn)
    pixels = radius * len(canvas)
    distance = _distance(shape.kind, u, v) * pixels
    color = np.array(COLORS[shape.color], np.float32) / 255
    dark = color.mean() < 0.25
    second = 1 - (1 - color) * 0.55 if dark else color * 0.5
    ink = _pattern(shape.texture, u, v, cell=max(0.5, 7 / pixels), phase=(0.25, 0.25))[..., None]
    fill = color * (1 - ink) + second * ink
    shadow = np.clip(0.5 - (_distance(shape.kind, u - 0.1, v - 0.1) * pixels - 1) / 5, 0, 1)[..., None]
    canvas *= 1 - 0.3 * opacity * shadow
    inside = opacity * np.clip(0.5 - distance, 0, 1)[..., None]
    edge = np.clip(distance + min(2.5, pixels / 4), 0, 1)[..., None]
    rim = 1 - (1 - color) * 0.6 if dark else color * 0.35
    canvas[:] = canvas * (1 - inside) + (fill * (1 - edge) + rim * edge) * inside


def _pattern(name: str, x, y, cell: float, phase) -> np.ndarray:
    """Coverage in 0 .. 1 of the second colour, with edges softened over about two pixels."""
    if not name:
        return np.zeros_like(x)
    a, b = x / cell + phase[0], y / cell + phase[1]
    soft = max(float(np.abs(np.diff(a[0])).max() + np.abs(np.diff(a[:, 0])).max()), 1e-6)

    def wave(value):  # a triangle wave in -0.25 .. 0.25, positive over half of each period
        return np.abs((value % 1) - 0.5) - 0.25

    if name == "striped":
        return np.clip(0.5 + wave((a + b) / 2) * 2 / soft, 0, 1)
    if name == "checkered":
        signed = wave(a / 2) * wave(b / 2) * 16
        return np.clip(0.5 + signed / soft, 0, 1)
    return np.clip(0.5 + (0.3 - np.hypot((a % 1) - 0.5, (b % 1) - 0.5)) / soft, 0, 1)


def _distance(kind: str, u, v) -> np.ndarray:
    """Signed distance (negative inside) to a shape of radius about 1 around the origin; y points down."""
    if kind == "circle":
        return np.hypot(u, v) - 0.95
    if kind == "ring":
        return np.abs(np.hypot(u, v) - 0.78) - 0.24
    if kind == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.82
    if kind == "diamond":
        return (np.abs(u) * 1.25 + np.abs(v) - 1.1) / 1.6
    if kind == "cross":
        a, b = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        return np.maximum(a - 0.98, b - 0.33)
    if kind == "triangle":
        return np.maximum(np.abs(u) * 0.874 - (v + 0.95) * 0.485 * 0.85, v - 0.72)
    if kind == "heart":
        return _heart(np.abs(u), -v)
    return _star(u, v)


def _heart(u, v):
    # A quarter-turned square with two half discs on its upper sides; ``u`` is already folded, v points up.
    u, v = u / 1.75, (v + 0.98) / 1.75
    lobe = np.hypot(u - 0.25, v - 0.75) - 2**0.5 / 4
    along = 0.5 * np.maximum(u + v, 0)
    below = np.minimum(np.hypot(u, v - 1), np.hypot(u - along, v - along)) * np.sign(u - v)
    return np.where(u + v > 1, lobe, below) * 1.75


def _star(u, v):
    # Five-fold symmetry: fold the plane into one half of one arm, then the distance to the arm's edge.
    angle = np.abs((np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    length = np.hypot(u, v)
    a, b = length * np.cos(angle), length * np.sin(angle)
    outer, inner = np.array([1.12, 0.0]), 0.5 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    edge = inner - outer
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (a - outer[0]) * normal[0] + (b - outer[1]) * normal[1]
