"""Ray Serve: one policy for all replicas, what is learnt shared between them, figures of guard and audits in one place.

    pip install 'ertacache[cli,ray]'
    python examples/serve_ray.py --replicas 2 --policy policy.safetensors
    curl "localhost:8000/generate?prompt=a+red+star&steps=30" --output star.png
    curl localhost:8000/stats

Requests of the policy's setting follow it, with its guard. Others are learnt from: the first one of each setting runs
in full, later ones compute half of the steps, one in fifty is audited. Equal requests that arrive together become one
batch. Deploying `application` again with another policy replaces it while requests go on: no replica is restarted.
Replace `load` by your own pipeline of pictures; ZOO=flux is another small one, in a checkout.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import ertacache
from ertacache import zoo
from ertacache.learning.learnt import LearntFolder

MODEL = os.environ.get("ZOO", "emoji")
MOST_STEPS = 100


def load():
    """The pipeline, and what every call of it is given."""
    torch.set_num_threads(1)
    embedded = zoo.load(MODEL)
    return embedded.pipe, embedded.arguments


@ray.remote(num_cpus=0)
class Figures:
    """What all replicas have served."""

    def __init__(self):
        self.served, self.scores = Counter(), []

    def add(self, way, scores, limit):
        """Note one batch."""
        self.served[way] += 1
        self.scores += [(score, score > limit) for score in scores]

    def told(self):
        """All of it."""
        flagged = sum(left for _, left in self.scores)
        return {"batches": dict(self.served), "guarded": len(self.scores), "flagged by the guard": flagged}


@dataclass(frozen=True)
class Asked:
    """One request."""

    prompt: str
    seed: int
    steps: int
    guidance: float


@serve.deployment
class Generator:
    """One pipeline; it makes one call at a time, for as many equal requests as wait."""

    def __init__(self, learn, speedup, audit, figures):
        self.pipe, self.arguments = load()
        self.learn, self.speedup, self.audit, self.figures = Path(learn), speedup, audit, figures
        self.policy = None

    def reconfigure(self, config):
        """Take another policy; Ray Serve calls this in every replica when it is deployed with another configuration."""
        self.policy = ertacache.Policy.load(config["policy"]) if config.get("policy") else None

    async def __call__(self, request: Request) -> Response:
        given = request.query_params
        if request.url.path == "/stats":
            return JSONResponse(await self.stats())
        if request.url.path != "/generate" or not given.get("prompt"):
            return PlainTextResponse("GET /generate?prompt=...&seed=0&steps=30&guidance=4, or GET /stats\n", 404)
        try:
            steps = int(given.get("steps", self.arguments["num_inference_steps"]))
            guidance = float(given.get("guidance", self.arguments["true_cfg_scale"]))
            if not 2 <= steps <= MOST_STEPS:
                raise ValueError(f"steps are 2 to {MOST_STEPS}, not {steps}")
            made = await self.generate(Asked(given["prompt"], int(given.get("seed", 0)), steps, guidance))
            if isinstance(made, Exception):
                raise made
        except (ertacache.ERTACacheError, ValueError) as error:
            return PlainTextResponse(f"{error}\n", 400)
        content, told = made
        return Response(content, media_type="image/png", headers=told)

    async def stats(self) -> dict[str, Any]:
        """What all replicas served, and what is known of each setting."""
        known = {
            name: {str(steps): learnt.told(steps) for steps in sorted(set(learnt.audited_steps))}
            for name, learnt in LearntFolder(self.learn).all().items()
        }
        return {**await self.figures.told.remote(), "audits": known}

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.02)
    async def generate(self, requests):
        """A picture of each request, as PNG, and what its call did; equal ones are made in one call.

        An error is the answer to the requests of its call, and not to the others that came along.
        """
        alike = defaultdict(list)
        for place, asked in enumerate(requests):
            alike[asked.steps, asked.guidance].append(place)
        made = {}
        for places in alike.values():
            try:
                answers = await asyncio.to_thread(self.called, [requests[k] for k in places])
            except Exception as error:
                answers = [error] * len(places)
            made |= zip(places, answers, strict=True)
        return [made[place] for place in range(len(requests))]

    def called(self, requests):
        """Make one call for requests of one setting."""
        first, policy = requests[0], self.policy  # the same for the whole call, even if another one arrives
        arguments = {**self.arguments, "num_inference_steps": first.steps, "true_cfg_scale": first.guidance}
        arguments["generator"] = [torch.Generator().manual_seed(asked.seed) for asked in requests]
        arguments["prompt"] = [asked.prompt for asked in requests]
        if policy is not None and policy.asked_steps == first.steps and first.guidance == self.guidance_of(policy):
            guard = "report" if policy.envelope is not None else None
            way, context = policy.fingerprint, ertacache.accelerated(self.pipe, policy, guard=guard)
        else:
            way = "learnt"
            context = ertacache.accelerated(self.pipe, speedup=self.speedup, learn=self.learn, audit=self.audit)
        with context as run:
            pictures = self.pipe(**arguments).images
        report, guard = run.report, run.report.guard
        self.figures.add.remote(way, guard.scores if guard else (), guard.limit if guard else 0)
        computed = len(report.computed_steps)
        told = {"X-Computed-Steps": f"{computed} of {computed + len(report.cached_steps)}", "X-Way": way}
        return [(png(picture), told) for picture in pictures]

    def guidance_of(self, policy):
        """The guidance that a policy was calibrated with."""
        return policy.origin.guidance.get("true_cfg_scale") if policy.origin else None


def png(picture):
    """A picture as a file's content."""
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue()


def application(figures, *, replicas=1, learn="learnt", speedup=2.0, audit=0.02, policy=None):
    """The application; with another policy, deploying it again swaps the policy in running replicas."""
    options = {"num_replicas": replicas, "max_ongoing_requests": 32, "user_config": {"policy": policy}}
    return Generator.options(**options).bind(str(Path(learn).resolve()), speedup, audit, figures)


def main():
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--policy", help="a policy file, of `ertacache calibrate`")
    parser.add_argument("--learn", default="learnt", help="the folder for what is learnt")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--audit", type=float, default=0.02, help="the share of requests that run in full")
    options = vars(parser.parse_args())
    serve.run(application(Figures.remote(), **options), blocking=True)


if __name__ == "__main__":
    main()
