"""A FastAPI service in which each request says how it is accelerated.

    pip install 'ertacache[cli]' fastapi uvicorn
    uvicorn --app-dir examples serve_fastapi:app --port 8000
    curl "localhost:8000/generate?prompt=a+cat&speedup=3" --output cat.png
    curl "localhost:8000/generate?prompt=a+cat&way=learn" --output cat.png
    curl localhost:8000/stats

``way`` is ``off``, ``instant`` or ``learn``. The first request of ``learn`` runs in full and teaches the later ones;
set LEARN to a folder that outlives the service. The answer's headers say what was computed. Replace `load` by your own
pipeline.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from fastapi import FastAPI, HTTPException, Response
from PIL import Image

import ertacache
from ertacache import zoo
from ertacache.learning.learnt import LearntFolder

LEARN = os.environ.get("LEARN", "learnt")


def load():
    """The pipeline, and what every call of it is given."""
    embedded = zoo.load()
    return embedded.pipe, embedded.arguments


app = FastAPI(title="ERTACache")
pipe, arguments = load()
one_at_a_time = threading.Lock()  # a pipeline serves one call at a time


@app.get("/generate", response_class=Response)
def generate(
    prompt: str, way: Literal["off", "instant", "learn"] = "instant", speedup: float = 2.0, seed: int = 0
) -> Response:
    """A picture, as PNG."""
    with one_at_a_time:
        try:
            learn = {"learn": LEARN} if way == "learn" else {}
            around = nullcontext() if way == "off" else ertacache.accelerated(pipe, speedup=speedup, **learn)
            with around as run:
                generator = torch.Generator().manual_seed(seed)
                picture = pipe(prompt, generator=generator, output_type="pt", **arguments).images[0]
        except ertacache.ERTACacheError as error:
            raise HTTPException(422, str(error)) from error
    pixels = (picture.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "png")
    steps = arguments["num_inference_steps"]
    computed = len(run.computed_steps) if run else steps
    return Response(file.getvalue(), media_type="image/png", headers={"X-Computed-Steps": f"{computed} of {steps}"})


@app.get("/stats")
def stats() -> dict[str, int]:
    """How many full generations each setting was learnt from."""
    known = LearntFolder(Path(LEARN)).all().values() if os.path.isdir(LEARN) else []
    return {one.setting: one.generations for one in known}
