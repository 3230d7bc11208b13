"""The picture of ``--image``, for pipelines that begin with one."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ertacache.cli.one_line_errors import first_line
from ertacache.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

_SOURCE = "ertacache source"


def read_image(file: Path | None) -> Image | None:
    """Read the picture, in RGB and upright; None if none is given.

    Raises:
        ArgumentError: if the file is not a picture, or not a whole one.
        OSError: if it cannot be read.
    """
    if file is None:
        return None
    from PIL import Image, ImageOps

    try:
        content = file.read_bytes()
        with Image.open(BytesIO(content)) as opened:
            upright: Image.Image = ImageOps.exif_transpose(opened).convert("RGB")
        upright.info[_SOURCE] = {"file": file.name, "sha256": hashlib.sha256(content).hexdigest()}
        return upright
    except (OSError, Image.DecompressionBombError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # there is no such file, say, and the message names it
            raise
        raise ArgumentError(
            f"the picture cannot be read: {first_line(error)}", given=file, cure="Give a PNG or JPEG."
        ) from error


def source_of(picture: Image) -> dict[str, str]:
    """Where a picture that `read_image` read is from: the name of the ``file``, and the ``sha256`` of its content."""
    source: dict[str, str] = picture.info[_SOURCE]
    return source


def taking_image(pipe: Any) -> Any:
    """The pipeline if its calls take an ``image``, else diffusers' image-to-image pipeline of the same parts.

    Raises:
        ArgumentError: if there is none.
    """
    from ertacache.runtime.call_signature import CallSignature

    if "image" in CallSignature.of(pipe):
        return pipe
    from diffusers import AutoPipelineForImage2Image

    try:
        return AutoPipelineForImage2Image.from_pipe(pipe)
    except (ValueError, TypeError, AttributeError) as error:  # a class without a sibling
        raise ArgumentError(
            "this pipeline takes no picture, and diffusers has no image-to-image pipeline of its parts",
            given=f"--image, and {type(pipe).__name__}",
            cure="Leave --image out, or give a model that begins with a picture.",
        ) from error
