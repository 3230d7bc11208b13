"""TeaCache: its rule by hand, and what it does to pipelines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.rivals.base import Subject, ordered_blocks
from benchmarks.rivals.teacache import TEACACHE, Indicator, watching
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, subject_of

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0, 0.0])
"""The polynomial that rescales nothing."""


@pytest.fixture(scope="module")
def flux() -> Subject:
    return subject_of("flux")


def decisions(rule: Indicator, inputs: list[float]) -> list[bool]:
    skips = []
    for step, value in enumerate(inputs):
        rule.see(step, torch.tensor([value, -value], dtype=torch.float32))
        skips.append(rule.skips)
    return skips


def test_distances_accumulate_until_the_threshold():
    # Relative distances: 1/10, 1.1/11 and so on are all 0.1, so the third of them reaches 0.25.
    inputs = [10 * 1.1**i for i in range(8)]
    rule = Indicator(lambda distance: distance, rel_l1_thresh=0.25, last_step=7)
    assert decisions(rule, inputs) == [False, True, True, False, True, True, False, False]


def test_a_distance_is_taken_from_the_step_before_even_if_that_was_skipped():
    # From step 1 to step 2 it is 0.1; from step 0, the last computed one, it would be 0.21.
    rule = Indicator(lambda distance: 2 * distance if distance > 0.15 else 0.0, rel_l1_thresh=0.3, last_step=9)
    assert decisions(rule, [10, 11, 12.1, 13.31]) == [False, True, True, True]


def test_distances_are_rescaled():
    rule = Indicator(np.poly1d([10, 0, 0]), rel_l1_thresh=0.15, last_step=9)  # 10 * 0.1² = 0.1 a step
    assert decisions(rule, [10 * 1.1**i for i in range(5)]) == [False, True, False, True, False]


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_at_threshold_zero_nothing_changes_and_at_a_strong_one_work_is_saved(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    with TEACACHE.attach(subject, {"rel_l1_thresh": 0.0}, IDENTITY):
        assert torch.equal(generate(subject), plain)

    made = []
    for _ in range(2):
        with TEACACHE.attach(subject, {"rel_l1_thresh": 1e9}, IDENTITY), counting_flops(subject.pipe) as cost:
            made.append(generate(subject))
        assert 2 / 8 < cost.flops / full.flops < 2.2 / 8  # the blocks of the first and the last step alone
    assert torch.equal(*made)
    assert made[0].isfinite().all()
    assert not torch.equal(made[0], plain)
    assert found(subject) == before


def test_each_branch_decides_for_itself(flux):
    with TEACACHE.attach(flux, {"rel_l1_thresh": 0.3}, IDENTITY) as indicators:
        generate(flux)
    conditional, unconditional = indicators[0].previous, indicators[1].previous
    assert conditional.shape == unconditional.shape
    assert not torch.equal(conditional, unconditional)  # the caption is in FLUX's modulation


def test_each_branch_adds_its_own_change(flux):
    """With thresholds that only one branch reaches, only that branch's blocks are skipped."""
    ran: list[int] = []
    first = ordered_blocks(flux.denoiser)[0]
    hook = first.attn.register_forward_hook(lambda *call: ran.append(1))
    try:
        with TEACACHE.attach(flux, {"rel_l1_thresh": 1e9}, IDENTITY) as indicators:
            indicators[1].rel_l1_thresh = 0.0
            generate(flux)
    finally:
        hook.remove()
    assert len(ran) == 2 + 8


def test_what_is_compared_is_what_the_first_block_attends_to(flux):
    seen, entered = [], []
    attention = ordered_blocks(flux.denoiser)[0].attn
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(kwargs["hidden_states"]), with_kwargs=True
    )
    with watching(flux.denoiser, seen.append):
        generate(flux)
    hook.remove()
    assert len(seen) == len(entered) == 16
    assert all(torch.equal(*pair) for pair in zip(seen, entered, strict=True))


def test_the_polynomial_predicts_the_change_of_the_output(flux):
    coefficients = TEACACHE.prepare(replace(flux, calibration_prompts=flux.calibration_prompts[:1]))
    assert coefficients.shape == (5,)
    outputs, inputs = [], []
    hook = flux.denoiser.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    with watching(flux.denoiser, inputs.append):
        generate(flux)  # what the fit has seen
    hook.remove()

    def distances(tensors):
        pairs = zip(tensors[2:], tensors, strict=False)  # two calls a step
        return np.array([((b - a).abs().sum() / a.abs().sum()).item() for b, a in pairs])

    errors = np.polyval(coefficients, distances(inputs)) - distances(outputs)
    assert abs(errors.mean()) < 1e-4  # least squares with a constant
    assert errors.std() < distances(outputs).std()


def test_an_unknown_denoiser_is_refused(flux, make_toy):
    assert TEACACHE.refuses(flux) == ""
    assert "ToyDenoiser" in TEACACHE.refuses(Subject("toy", make_toy(), {}, (), 1, work=Path()))
