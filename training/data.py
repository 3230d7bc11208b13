"""Pictures drawn ahead of training, on all cores, kept as one file of uint8 and one of captions."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from training.scenes import PIXELS, draw, sample_scene

CHUNK = 500


def _chunk(job: tuple[int, str]) -> tuple[np.ndarray, list[str]]:
    index, split = job
    rng = np.random.default_rng([index, len(split)])
    scenes = [sample_scene(rng, split) for _ in range(CHUNK)]
    return np.stack([draw(scene, rng) for scene in scenes]), [scene.caption for scene in scenes]


def scenes_on_disk(folder: Path, count: int, split: str = "training") -> tuple[np.ndarray, list[str]]:
    """``count`` pictures, uint8 (count, PIXELS, PIXELS, 3), memory-mapped, and their captions; drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, captions = folder / f"{split}-{count}.npy", folder / f"{split}-{count}.json"
    if not captions.exists():
        out = np.lib.format.open_memmap(pictures, "w+", np.uint8, (count, PIXELS, PIXELS, 3))
        texts: list[str] = []
        with ProcessPoolExecutor() as pool:
            for k, (chunk, lines) in enumerate(pool.map(_chunk, [(k, split) for k in range(count // CHUNK)])):
                out[k * CHUNK : (k + 1) * CHUNK] = chunk
                texts += lines
        out.flush()
        captions.write_text(json.dumps(texts))
    return np.load(pictures, mmap_mode="r"), json.loads(captions.read_text())
