"""Pictures, clips and plots as text that an HTML page can contain."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ertacache.presenting.films import mp4, wav
from ertacache.presenting.pictures import pixels_of
from ertacache.presenting.plot_style import CACHED, COMPUTED

LOSSLESS_UP_TO = 512
"""Pictures with a side longer than this many pixels are compressed with loss, so that a page can be sent by mail."""
_LEAST_WIDTH = 192
_COLOURS = {"#000000": "currentColor", COMPUTED: "var(--computed)", CACHED: "var(--cached)"}
"""Colours of plots, and the page's names for them: its dark scheme has other values."""
_TAG = re.compile(r"<[^>]*>")
_COLOUR = re.compile("|".join(_COLOURS))
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')


def picture_uri(picture: Tensor) -> str:
    """A picture as a ``data:`` URI: PNG, or WebP of high quality if it is large.

    Args:
        picture: float (3, height, width) in 0 .. 1.
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
        uri: the film as a ``data:`` URI, MP4.
        frames: how many.
        fps: frames per second.
        width: of each clip in the film, in pixels; clip k begins at column k * width.
        height: in pixels.
    """

    uri: str
    frames: int
    fps: int
    width: int
    height: int


def film_of(clips: Mapping[str, Tensor], fps: int) -> Film:
    """Put clips side by side into one film.

    Small clips are enlarged, since films store colours at half the resolution.

    Args:
        clips: each float (frames, 3, height, width) in 0 .. 1, all of one shape.
        fps: frames per second.
    """
    frames, _, height, width = next(iter(clips.values())).shape
    enlarged = max(2, -(-_LEAST_WIDTH // width)) if width < 2 * _LEAST_WIDTH else 1
    film = pixels_of(torch.cat(list(clips.values()), dim=-1), enlarged)
    # Every frame is a key frame, for seeking; little loss, so that artefacts seen are the clip's own.
    content = mp4(film, fps, quality=None, output_params=["-crf", "12", "-g", "1", "-movflags", "+faststart"])
    return Film(_data_uri(content, "video/mp4"), int(frames), fps, int(width * enlarged), int(height * enlarged))


def sound_uri(sound: Tensor, sampling_rate: int) -> str:
    """A sound as a ``data:`` URI, WAV of 16 bits.

    Args:
        sound: float (channels, samples) in -1 .. 1; values outside are clipped.
        sampling_rate: in Hz.
    """
    return _data_uri(wav(sound, sampling_rate), "audio/wav")


def inline_svg(figure: Figure) -> str:
    """A figure as SVG markup for a page: black becomes the page's text colour, the background transparent.

    Its ids are unique to the figure, so that several can stand in one page.
    """
    written = io.StringIO()
    # A fixed salt and no date: the same figure gives the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ertacache"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = _replace_in_tags(_COLOUR, lambda colour: _COLOURS[colour[0]], svg)
    prefix = f"plot-{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    return _replace_in_tags(_ID, rf"\g<1>{prefix}", svg)


def _replace_in_tags(pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str], svg: str) -> str:
    """Replace inside of tags only: the text between them is labels, which may look like anything."""
    return _TAG.sub(lambda tag: pattern.sub(new, tag[0]), svg)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
