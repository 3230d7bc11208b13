"""The weights of one step: those of all prompts, and for each prompt those of the others."""

import pytest
import torch

from ertacache.calibration.step_fit import MIN_HELD_OUT, fit_step, holds_out
from ertacache.method.aligned_weights import NormalEquations
from ertacache.method.prediction import coefficients


def equations_of(prompts, targets):
    """One system for each prompt, over features of shape (features, elements)."""
    found = []
    for terms, target in zip(prompts, targets, strict=True):
        found.append(NormalEquations(len(terms), ridge=0.0))
        found[-1].add(list(terms), target)
    return found


def problem(prompts, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    terms = torch.randn(prompts, size, 200, generator=generator, dtype=torch.float64)
    noise = torch.randn(prompts, 200, generator=generator, dtype=torch.float64)
    return terms, noise


def test_each_prompt_goes_on_with_what_the_others_say():
    terms, noise = problem(MIN_HELD_OUT, 3)
    targets = 0.4 * terms[:, 0] - 0.1 * terms[:, 1] + 0.2 * terms[:, 2] + 0.3 * noise
    equations = equations_of(terms, targets)
    fit = fit_step(equations, (5, 3, 0), leave_one_out=True)
    for k, own in enumerate(fit.left_out):
        rest = [equation for j, equation in enumerate(equations) if j != k]
        total = rest[0]
        for one in rest[1:]:
            total = total + one
        weights = total.solve()
        assert own.factors == pytest.approx(coefficients(weights[:-1], 1 + weights[-1]), rel=1e-6)
    assert len({own.factors for own in fit.left_out}) == MIN_HELD_OUT
    assert fit.prediction.factors not in {own.factors for own in fit.left_out}


def test_no_prompt_is_held_out_unless_asked_for():
    terms, noise = problem(MIN_HELD_OUT, 2)
    equations = equations_of(terms, terms[:, 0] + noise)
    fit = fit_step(equations, (2, 0), leave_one_out=False)
    assert fit.left_out == ()
    assert fit.prediction == fit_step(equations, (2, 0), leave_one_out=True).prediction
    assert (holds_out(MIN_HELD_OUT - 1), holds_out(MIN_HELD_OUT)) == (False, True)


def test_contrasts_have_weights_of_their_own():
    terms, noise = problem(MIN_HELD_OUT, 4)
    fit = fit_step(equations_of(terms, terms[:, 0] + noise), (2, 0), leave_one_out=False)
    assert len(fit.prediction.factors) == len(fit.prediction.contrast_factors) == 2
