"""Pictures, clips and plots as text that an HTML page can hold."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ertacache.evaluation.plots import CACHED, COMPUTED, mp4, pixels_of

LOSSLESS_UP_TO = 512
"""Pictures larger than this many pixels on a side are compressed with loss: a page is to be sent by mail."""
_LEAST_WIDTH = 192
_COLOURS = {"#000000": "currentColor", COMPUTED: "var(--computed)", CACHED: "var(--cached)"}
"""Of plots, and what they are called in the page, whose dark form has others."""
_TAG = re.compile(r"<[^>]*>")
_COLOUR = re.compile("|".join(_COLOURS))
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')


def picture_uri(picture: Tensor) -> str:
    """A picture as a ``data:`` address: PNG, large ones WebP of high quality.

    Args:
        picture: float (channels, height, width) in 0 .. 1.
    """
    image = Image.fromarray(pixels_of(picture).numpy())
    small = max(image.size) <= LOSSLESS_UP_TO
    written = io.BytesIO()
    image.save(written, **({"format": "PNG"} if small else {"format": "WebP", "quality": 92}))
    return _data_uri(written.getvalue(), "image/png" if small else "image/webp")


@dataclass(frozen=True)
class Film:
    """Clips side by side in one film.

    Args:
        uri: the film as a ``data:`` address, MP4.
        frames: how many.
        fps: frames a second.
        width: of each clip in the film, in pixels; the k-th begins at k times that.
        height: in pixels.
    """

    uri: str
    frames: int
    fps: int
    width: int
    height: int


def film_of(clips: Mapping[str, Tensor], fps: int) -> Film:
    """Put clips side by side into one film.

    Small clips are enlarged, since films keep colours at half the resolution.

    Args:
        clips: each float (frames, channels, height, width) in 0 .. 1, all of one shape.
        fps: frames a second.
    """
    frames, _, height, width = next(iter(clips.values())).shape
    enlarged = max(2, -(-_LEAST_WIDTH // width)) if width < 2 * _LEAST_WIDTH else 1
    film = pixels_of(torch.cat(list(clips.values()), dim=-1), enlarged)
    # Every frame may be sought; little loss, so that what is seen is the clip's own.
    content = mp4(film, fps, quality=None, output_params=["-crf", "12", "-g", "1", "-movflags", "+faststart"])
    return Film(_data_uri(content, "video/mp4"), int(frames), fps, int(width * enlarged), int(height * enlarged))


def inline_svg(figure: Figure) -> str:
    """A figure as SVG markup to stand in a page: black in the page's text colour, no background, ids of its own."""
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ertacache"}):  # the same figure, the same text
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = _in_tags(_COLOUR, lambda colour: _COLOURS[colour[0]], svg)
    prefix = f"plot-{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    return _in_tags(_ID, rf"\g<1>{prefix}", svg)


def _in_tags(pattern: re.Pattern[str], new: Any, svg: str) -> str:
    """What stands between tags are labels, which may look like anything."""
    return _TAG.sub(lambda tag: pattern.sub(new, tag[0]), svg)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
