"""EasyCache: its rule by hand, and what it does to pipelines."""

import pytest
import torch

from benchmarks.rivals.base import Subject
from benchmarks.rivals.easycache import EASYCACHE, Controller
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, subject_of


@pytest.fixture(scope="module")
def flux() -> Subject:
    return subject_of("flux")


def decisions(rule: Controller, inputs: list[float], outputs: list[float]) -> list[bool]:
    skips = []
    for step, (x, v) in enumerate(zip(inputs, outputs, strict=True)):
        skips.append(rule.skips(step, torch.tensor([x, -x], dtype=torch.float32)))
        if not skips[-1]:
            rule.computed(torch.tensor([x, -x], dtype=torch.float32), torch.tensor([v, -v], dtype=torch.float32))
    return skips


def test_expected_changes_accumulate_until_the_threshold():
    # k = |1.2 - 1.0| / |9 - 10| = 0.2, so a step adds 0.2 * 1 / 1.2 = 0.167 and the third reaches 0.38. Then
    # k = |2 - 1.2| / |6 - 9| = 0.267, so a step adds 0.267 * 1 / 2 = 0.133, and the third does again.
    rule = Controller(thresh=0.38, ret_steps=2, last_step=8)
    inputs, outputs = [10, 9, 8, 7, 6, 5, 4, 3, 2], [1.0, 1.2, 9, 9, 2.0, 9, 9, 9, 9]
    assert decisions(rule, inputs, outputs) == [False, False, True, True, False, True, True, False, False]


def test_the_change_of_the_input_is_taken_from_the_step_before_even_if_that_was_skipped():
    # k = 0.1: steps of 1, 1 and 1 add 0.1 each at v = 1; from the last computed step they would add 0.1, 0.2 and 0.3.
    rule = Controller(thresh=0.35, ret_steps=2, last_step=9)
    assert decisions(rule, [10, 9, 8, 7, 6], [0.9, 1.0, 0, 0, 0]) == [False, False, True, True, True]


def test_warm_up_steps_and_the_last_are_always_computed():
    rule = Controller(thresh=1e9, ret_steps=3, last_step=6)
    skips = decisions(rule, [7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7])
    assert skips == [False, False, False, True, True, True, False]


def test_nothing_is_skipped_before_a_rate_is_known():
    rule = Controller(thresh=1e9, ret_steps=0, last_step=9)
    assert decisions(rule, [7, 6, 5], [1, 2, 3]) == [False, False, True]


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_at_threshold_zero_nothing_changes_and_at_a_strong_one_work_is_saved(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    with EASYCACHE.attach(subject, {"thresh": 0.0, "ret_steps": 1}, None):
        assert torch.equal(generate(subject), plain)

    made = []
    for _ in range(2):
        with EASYCACHE.attach(subject, {"thresh": 1e9, "ret_steps": 2}, None), counting_flops(subject.pipe) as cost:
            made.append(generate(subject))
        assert cost.flops == full.flops * 3 // 8  # two steps at the start, and the last
    assert torch.equal(*made)
    assert made[0].isfinite().all()
    assert not torch.equal(made[0], plain)
    assert found(subject) == before


def test_a_skipped_call_adds_the_last_change_of_its_own_branch(flux):
    entered, left = [], []

    def note(module, args, kwargs, output):
        entered.append(kwargs["hidden_states"])
        left.append(output[0])

    hook = flux.denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        with EASYCACHE.attach(flux, {"thresh": 1e9, "ret_steps": 2}, None) as cache:
            generate(flux)
    finally:
        hook.remove()
    changes = [output - sample for output, sample in zip(left, entered, strict=True)]
    conditional, unconditional = changes[2], changes[3]  # of step 1, the last before the skipped ones
    assert not torch.allclose(conditional, unconditional)
    for step in range(2, 7):
        torch.testing.assert_close(changes[2 * step], conditional)
        torch.testing.assert_close(changes[2 * step + 1], unconditional)
    assert set(cache.changes) == {0, 1}


def test_open_soras_unused_channels_stay_those_of_the_last_computed_step():
    subject, left = subject_of("opensora"), []
    hook = subject.denoiser.register_forward_hook(lambda module, args, output: left.append(output[0]))
    try:
        with EASYCACHE.attach(subject, {"thresh": 1e9, "ret_steps": 2}, None):
            generate(subject)
    finally:
        hook.remove()
    used = left[0].shape[1] // 2
    assert torch.equal(left[2][:, used:], left[1][:, used:])
    assert not torch.equal(left[2][:, :used], left[1][:, :used])
