"""Measure policies, calibrated or not, on a user's own pipeline and prompts: against full runs, beside fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ertacache._version import __version__
from ertacache.calibration.shard import Workers
from ertacache.errors import PolicyMismatchError
from ertacache.evaluation.comparison import Variant, fewer_steps, fewer_steps_on_subgrid
from ertacache.evaluation.harness import Measured, measure
from ertacache.evaluation.perceptual import perceptual_metrics
from ertacache.evaluation.uncalibrated import Judged, Uncalibrated, followed
from ertacache.policy import Policy
from ertacache.runtime.identity import circumstances_of
from ertacache.runtime.pipeline_key import digest_of, pipeline_key


def variants_of(policies: Mapping[str, Judged]) -> list[Variant]:
    """All of `variants_by_policy`, one after another."""
    return [variant for variants in variants_by_policy(policies).values() for variant in variants]


def variants_by_policy(policies: Mapping[str, Judged]) -> dict[str, list[Variant]]:
    """For each policy three variants: the policy, fewer steps, and fewer steps on the policy's sub-grid.

    Image-to-image has no sub-grid: it lays a grid of more levels than it uses.

    Args:
        policies: by name.

    Raises:
        PolicyMismatchError: if a policy was written by hand.
    """
    found = {}
    for name, judged in policies.items():
        policy = followed(judged)
        plain = fewer_steps(plain_steps(policy))
        sub_grids = [] if policy.first_step else [fewer_steps_on_subgrid(policy)]
        beside = f" ({plain.num_inference_steps}, as {name})" if len(policies) > 1 else ""
        baselines = [replace(variant, name=variant.name + beside) for variant in (plain, *sub_grids)]
        found[name] = [_own(name, judged), *baselines]
    return found


def _own(name: str, judged: Judged) -> Variant:
    if isinstance(judged, Uncalibrated):
        return Variant(name, judged.policy.asked_steps, speedup=judged.speedup, learn=judged.learn)
    return Variant(name, judged.asked_steps, policy=judged)


def plain_steps(policy: Policy) -> int:
    """The ``num_inference_steps`` with which a plain call makes as many steps as a policy computes.

    Image-to-image makes a share of the steps that it is asked for, and some schedulers make one more.
    """
    computed = len(policy.computed_steps)
    if policy.first_step:
        return max(1, round(policy.asked_steps * computed / policy.num_made_steps))
    return computed + policy.asked_steps - policy.num_inference_steps


def evaluate(
    pipe: Any,
    policies: Mapping[str, Judged],
    calls: Sequence[Mapping[str, Any]],
    work: Path,
    *,
    on_generation: Callable[[int], None] = lambda count: None,
    workers: Workers | None = None,
) -> list[Measured]:
    """Measure policies on held-out calls: prompts and seeds that calibration did not use.

    Args:
        pipe: a diffusers pipeline; with workers, a function that loads one, or a model's id or folder.
        policies: by name; all for one number of steps. `ertacache.evaluation.uncalibrated.uncalibrated` makes one of a
            speedup alone.
        calls: the arguments of each call, without ``num_inference_steps`` and with ``seed`` in place of ``generator``.
        work: a folder for unfinished measurements, so that an interrupted evaluation continues.
        on_generation: called with the number of variants that were generated or found in ``work``; not with workers.
        workers: processes that share the calls; the quality is the same to the bit for any number of them.

    Returns:
        Three for each policy, or two for image-to-image: itself, fewer steps, and fewer steps on the policy's
        sub-grid. LPIPS and the CLIP score are measured too if their weights are on this machine.

    Raises:
        PolicyMismatchError: if the policies are for different numbers of steps, or for another pipeline.
    """
    steps = {followed(judged).asked_steps for judged in policies.values()}
    if len(steps) != 1:
        raise PolicyMismatchError(
            "policies for different numbers of steps cannot be compared with one full run",
            given=f"policies for {', '.join(map(str, sorted(steps)))} steps",
            cure="Evaluate the policies of each number of steps separately.",
        )
    if workers is not None:
        return workers.run(evaluate, pipe, (policies, list(calls), work), {})
    circumstances = circumstances_of(pipe, (), {name: value for name, value in calls[0].items() if name != "seed"})
    marks = [(name, followed(judged).fingerprint) for name, judged in policies.items()]
    folder = work / digest_of([pipeline_key(pipe, circumstances), marks, list(calls)])
    full = Variant("full", steps.pop())
    variants = variants_of(policies)
    return measure(pipe, full, variants, calls, folder, metrics=perceptual_metrics(), on_generation=on_generation)


def as_json(rows: Sequence[Measured], **about: Any) -> dict[str, Any]:
    """All figures, prompt by prompt, as JSON takes them.

    Args:
        rows: what `evaluate` returned.
        about: further entries, such as the model and the prompts.
    """
    return {"ertacache": __version__, **about, "rows": [asdict(row) for row in rows]}


def rows_of(policy: Policy, figures: Mapping[str, Any]) -> list[Measured]:
    """One policy's rows from what `as_json` wrote, named as if it had been evaluated alone, as ``policy``.

    Args:
        policy: one of the policies that were evaluated.
        figures: with ``rows``, those of `variants_of` for each of ``fingerprints`` in the same order, and ``prompts``.

    Raises:
        ValueError, KeyError, TypeError: if the figures do not have this form.
    """
    names = [variant.name for variant in variants_of({"policy": policy})]
    first = len(names) * list(figures["fingerprints"].values()).index(policy.fingerprint)
    rows = [Measured(**row) for row in figures["rows"][first : first + len(names)]]
    if [len(row.psnr) for row in rows] != [len(figures["prompts"])] * len(names) or not figures["prompts"]:
        raise ValueError("there is not one figure for each prompt")
    return [replace(row, name=name) for row, name in zip(rows, names, strict=True)]
