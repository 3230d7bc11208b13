"""A picture of a run: one bar a step, computed or predicted, with the report's text under it."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ertacache.integrations.comfyui.wording import report_text
from ertacache.runtime.report import Report

WIDTH, MARGIN, BAR = 640, 16, 64
COMPUTED, PREDICTED, PAPER, INK = (46, 134, 171), (214, 219, 224), (255, 255, 255), (34, 40, 49)


def picture_of(report: Report) -> NDArray[np.uint8]:
    """Draw a run: (height, width, 3), uint8."""
    computed = set(report.computed_steps)
    steps = sorted(computed | set(report.cached_steps))
    font = ImageFont.load_default(14)
    lines = [row for line in report_text(report).splitlines() for row in textwrap.wrap(line, 84) or [""]]
    height = MARGIN * 2 + BAR + 24 + 18 * len(lines)
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    wide = (WIDTH - 2 * MARGIN) / max(len(steps), 1)
    for place, step in enumerate(steps):
        left = MARGIN + place * wide
        box = (left + 1, MARGIN, left + wide - 1, MARGIN + BAR)
        draw.rectangle(box, fill=COMPUTED if step in computed else PREDICTED)
    top = MARGIN + BAR + 6
    for left, color, text in ((MARGIN, COMPUTED, "computed"), (MARGIN + 110, PREDICTED, "predicted")):
        draw.rectangle((left, top + 3, left + 10, top + 13), fill=color)
        draw.text((left + 16, top), text, fill=INK, font=font)
    for row, line in enumerate(lines):
        draw.text((MARGIN, top + 24 + 18 * row), line, fill=INK, font=font)
    return np.asarray(image)
