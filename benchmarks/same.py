"""Whether two versions of the library make the same policies, to the bit: for changes that must change nothing.

    git worktree add /tmp/before <commit>
    PYTHONPATH=/tmp/before/src python -m benchmarks.same before
    python -m benchmarks.same after
    python -m benchmarks.same before after

One folder makes the policies of all small pipelines that are here, into it; two compare those in them, field by field
and tensor by tensor. Ends with status 1 where any differ. Sums depend on the number of threads, so there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ertacache import Policy, calibrate, zoo

SUBJECTS = (("aligned", 2.0), ("aligned", 3.0), ("paper", 2.0))
NUM_PROMPTS = 3


def make(folder: Path) -> None:
    """Calibrate whatever is not in the folder yet."""
    torch.set_num_threads(1)
    for model in zoo.available():
        embedded = zoo.load(model)
        for method, speedup in SUBJECTS:
            path = folder / f"{model}-{method}-{speedup:g}x.safetensors"
            if path.exists():
                continue
            policy = calibrate(
                embedded.pipe,
                embedded.calibration_prompts[:NUM_PROMPTS],
                speedup=speedup,
                method=method,
                full_runs=5 * NUM_PROMPTS,
                checkpoint=folder / "full-runs",
                progress=False,
                **embedded.arguments,
            )
            folder.mkdir(parents=True, exist_ok=True)
            policy.save(path)
            print(f"{path.name}: {policy.fingerprint}, {policy.calibration.denoiser_calls} calls", flush=True)


def differences(one: Policy, other: Policy) -> list[str]:
    """What is not the same in two policies, by the names in their files."""
    found = _differing("", one.metadata(), other.metadata())
    mine, theirs = one.tensors(), other.tensors()
    found += sorted(mine.keys() ^ theirs.keys())
    return found + [
        name
        for name in sorted(mine.keys() & theirs.keys())
        if not mine[name].equal(theirs[name]) and not _same_with_nan(mine[name], theirs[name])
    ]


def _same_with_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _differing(name: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys(), key=str)
        return [entry for key in keys for entry in _differing(f"{name}.{key}", one.get(key), other.get(key))]
    return [] if one == other else [name.removeprefix(".")]


def main(folders: Annotated[list[Path], typer.Argument()]) -> None:
    """Make the policies of this version, or compare two versions' policies."""
    if len(folders) == 1:
        return make(folders[0])
    one, other = folders
    names = sorted({path.name for folder in folders for path in folder.glob("*.safetensors")})
    wrong = 0
    for name in names:
        found = differences(Policy.load(one / name), Policy.load(other / name))
        wrong += bool(found)
        print(f"{name}: {', '.join(found) or 'equal'}")
    if wrong or not names:
        raise SystemExit(f"{wrong} of {len(names)} differ" if names else "there are no policies to compare")


if __name__ == "__main__":
    typer.run(main)
