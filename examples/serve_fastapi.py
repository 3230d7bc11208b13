"""A FastAPI service that starts without a policy, learns from its first requests, audits some, and says how good it is.

    pip install 'ertacache[cli]' fastapi uvicorn
    uvicorn --app-dir examples serve_fastapi:app --port 8000
    curl -D - localhost:8000/generate --json '{"prompt": "a red star", "steps": 20, "seed": 7}' -o star.png
    curl -D - localhost:8000/generate --json '{"prompt": "a red star", "accelerate": false}' -o full.png
    curl localhost:8000/stats

The first request of each setting runs in full; later ones compute half of the steps, or as ``speedup`` says. One in
fifty runs in full again: its user gets the full picture, and /stats how far the accelerated one would have been from
it. ``"learn": false`` is accelerated at once, by what diffusion models have in common: for settings that do not repeat.
Headers say how a picture was made; the log, where a call departed from its policy. Set LEARN to a folder that outlives
the service; processes may share it. AUDIT is the share of audits, FPS the rate of clips.

Replace `load` by your own pipeline, of pictures or clips. ZOO=wan is a small one of clips, in a checkout. Several GPUs
have a process each, with one LEARN between them and a proxy before them:

    CUDA_VISIBLE_DEVICES=0 LEARN=/shared/learnt uvicorn --app-dir examples serve_fastapi:app --host 0.0.0.0 --port 8000
    CUDA_VISIBLE_DEVICES=1 LEARN=/shared/learnt uvicorn --app-dir examples serve_fastapi:app --host 0.0.0.0 --port 8001
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import secrets
import threading
import time
from collections import Counter
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from diffusers.utils import export_to_video
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

import ertacache
from ertacache import zoo
from ertacache.learning.learnt import LearntFolder

LEARN, AUDIT = Path(os.environ.get("LEARN", "learnt")), float(os.environ.get("AUDIT", "0.02"))
FRAMES_PER_SECOND = int(os.environ.get("FPS", "8"))


def load():
    """The pipeline, and what every call of it is given unless the request says otherwise. With Wan:

    pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", dtype=torch.bfloat16).to("cuda")
    return pipe, {"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0}
    """
    embedded = zoo.load(os.environ.get("ZOO", "emoji"))
    return embedded.pipe, embedded.arguments


app = FastAPI(title="ERTACache")
pipe, arguments = load()
GUIDANCE = "true_cfg_scale" if "true_cfg_scale" in arguments else "guidance_scale"
one_at_a_time = threading.Lock()  # a pipeline serves one call at a time
WAITING = int(os.environ.get("WAITING", "30"))  # of FastAPI's 40 threads; others keep answering /stats
places = threading.BoundedSemaphore(WAITING)
served: Counter[str] = Counter()
log = logging.getLogger("uvicorn.error")  # the one that uvicorn shows


class Generation(BaseModel):
    """What is arguments of the pipeline has their name as its alias; what a request leaves out is as in `load`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=2000)
    negative_prompt: str | None = Field(None, max_length=2000)
    steps: int | None = Field(None, ge=2, le=100, serialization_alias="num_inference_steps")
    guidance: float | None = Field(None, ge=1, le=20, serialization_alias=GUIDANCE)
    height: int | None = Field(None, ge=16, le=1536, multiple_of=16)
    width: int | None = Field(None, ge=16, le=1536, multiple_of=16)
    num_frames: int | None = Field(None, ge=1, le=257)
    seed: int = Field(default_factory=lambda: secrets.randbelow(2**32), ge=0, lt=2**32, exclude=True)
    accelerate: bool = Field(True, exclude=True)
    learn: bool = Field(True, exclude=True)
    speedup: float = Field(2.0, ge=1, le=4, exclude=True)

    def accelerated(self):
        """The context of the call."""
        if not self.accelerate:
            return nullcontext()
        learn = {"learn": LEARN, "audit": AUDIT} if self.learn else {}
        return ertacache.accelerated(pipe, speedup=self.speedup, **learn)

    def call(self) -> dict[str, Any]:
        """The arguments of the call.

        Raises:
            ValueError: if the pipeline takes no such argument.
        """
        asked = self.model_dump(by_alias=True, exclude_none=True)
        if unknown := asked.keys() - inspect.signature(pipe.__call__).parameters.keys():
            raise ValueError(f"this model takes no {', '.join(sorted(unknown))}")
        return {**arguments, **asked, "generator": torch.Generator().manual_seed(self.seed), "output_type": "pil"}


@app.post("/generate", response_class=Response)
def generate(asked: Generation) -> Response:
    """A picture as PNG, or a clip as MP4."""
    if not places.acquire(blocking=False):
        raise HTTPException(503, f"{WAITING} requests wait already", {"Retry-After": "10"})
    try:
        with one_at_a_time:
            made, about = made_of(asked)
    except ValueError as error:  # by the library's and diffusers' checks of what was asked for
        raise HTTPException(422, str(error)) from error
    finally:
        places.release()
    content, kind = encoded(made)
    return Response(content, 200, about, kind)


def made_of(asked: Generation) -> tuple[Any, dict[str, str]]:
    """What the pipeline returns, and the headers about it."""
    call, begun = asked.call(), time.perf_counter()
    with asked.accelerated() as run:
        made = pipe(**call)
    seconds = f"{time.perf_counter() - begun:.2f}"
    how, computed = told(asked, run, call.get("num_inference_steps"))
    served[how] += 1
    return made, {"X-Made": how, "X-Computed-Steps": computed, "X-Seconds": seconds, "X-Seed": str(asked.seed)}


@app.exception_handler(RequestValidationError)
def refused(request: Request, error: RequestValidationError) -> JSONResponse:
    """The reason in words; FastAPI's own answer would repeat what was given, and fail on NaN."""
    reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(reasons)}, 422)


def told(asked: Generation, run: ertacache.Acceleration | None, steps: int | None) -> tuple[str, str]:
    """How it was made: full, audit, learnt or instant; and how many steps were computed."""
    if run is None:
        return "full", f"{steps} of {steps}" if steps else "all"
    report = run.report
    for note in report.notes:
        log.info("seed %d: %s", asked.seed, note)
    computed, cached = len(report.computed_steps), len(report.cached_steps)
    accelerated = "learnt" if asked.learn else "instant"
    how = accelerated if cached else "full" if report.audit is None else "audit"
    return how, f"{computed} of {computed + cached}"


def encoded(made: Any) -> tuple[bytes, str]:
    """A picture as PNG; a clip as MP4, or as WebP where ``imageio-ffmpeg`` is not installed; and the media type."""
    file = io.BytesIO()
    if not hasattr(made, "frames"):
        made.images[0].save(file, "png")
        return file.getvalue(), "image/png"
    frames = made.frames[0]
    if find_spec("imageio_ffmpeg") is None:
        frames[0].save(file, "webp", save_all=True, append_images=frames[1:], duration=1000 // FRAMES_PER_SECOND)
        return file.getvalue(), "image/webp"
    with NamedTemporaryFile(suffix=".mp4") as written:
        export_to_video(frames, written.name, fps=FRAMES_PER_SECOND)
        return Path(written.name).read_bytes(), "video/mp4"


@app.get("/stats")
def stats() -> dict[str, Any]:
    """What this process served; of each setting, how many full generations taught it, and what audits found."""
    settings = [
        {
            "setting": known.setting,
            "full generations": known.generations,
            "audits": {f"{steps} steps computed": known.audited(steps) for steps in sorted(set(known.audited_steps))},
        }
        for known in LearntFolder(LEARN).all().values()
    ]
    return {"served": dict(served), "settings": settings}
