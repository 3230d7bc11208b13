"""Pictures or clips drawn ahead of training, on all cores, kept as one file of uint8 and one of captions."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from training.families import Family, Sounding

CHUNK = 500


def _chunk(job: tuple[Family, int, str]) -> tuple[np.ndarray, list[str]]:
    family, index, split = job
    rng = np.random.default_rng([index, len(split)])
    scenes = [family.sample(rng, split) for _ in range(CHUNK)]
    return np.stack([family.draw(scene, rng) for scene in scenes]), [scene.caption for scene in scenes]


def drawn_on_disk(family: Family, folder: Path, count: int, split: str = "training") -> tuple[np.ndarray, list[str]]:
    """``count`` pictures or clips, uint8, channels last, memory-mapped, and their captions; drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, captions = folder / f"{split}-{count}.npy", folder / f"{split}-{count}.json"
    if not captions.exists():
        out, texts = None, []
        with ProcessPoolExecutor() as pool:
            for k, (chunk, lines) in enumerate(pool.map(_chunk, [(family, k, split) for k in range(count // CHUNK)])):
                if out is None:
                    out = np.lib.format.open_memmap(pixels, "w+", np.uint8, (count, *chunk.shape[1:]))
                out[k * CHUNK : (k + 1) * CHUNK] = chunk
                texts += lines
        assert out is not None
        out.flush()
        captions.write_text(json.dumps(texts))
    return np.load(pixels, mmap_mode="r"), json.loads(captions.read_text())


def _sounds(job: tuple[Sounding, int, str]) -> np.ndarray:
    family, index, split = job
    rng = np.random.default_rng([index, len(split)])
    scenes = [family.sample(rng, split) for _ in range(CHUNK)]
    return np.stack([family.sound(scene, rng) for scene in scenes])


def sounds_on_disk(family: Sounding, folder: Path, count: int, split: str = "training") -> np.ndarray:
    """The waveforms of the clips that `drawn_on_disk` draws: float32, (count, samples); made once."""
    path = folder / f"{split}-{count}-sound.npy"
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            chunks = list(pool.map(_sounds, [(family, k, split) for k in range(count // CHUNK)]))
        np.save(path, np.concatenate(chunks))
    return np.load(path, mmap_mode="r")
