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


def weights_of(fit):
    """The weights of two features, from the factors of a prediction."""
    newest, second = fit.prediction.factors
    return [-second, newest + second - 1]


def test_where_prompts_agree_the_fit_leaves_what_was_expected():
    terms, noise = problem(5, 2)
    equations = equations_of(terms, 0.4 * terms[:, 0] + 0.1 * terms[:, 1] + 1e-3 * noise)
    fit = fit_step(equations, (2, 0), leave_one_out=False, expected=[-1.0, 0.0])
    assert weights_of(fit) == pytest.approx([0.4, 0.1], abs=1e-3)


def test_where_prompts_contradict_each_other_the_fit_stays_at_what_was_expected():
    terms, _ = problem(4, 2)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    equations = equations_of(terms, 0.3 * terms[:, 0] + signs * terms[:, 1])
    fit = fit_step(equations, (2, 0), leave_one_out=False, expected=[0.3])
    assert weights_of(fit) == pytest.approx([0.3, 0.0], abs=1e-9)


def test_between_them_the_fit_goes_as_far_as_brings_left_out_prompts_nearest():
    terms, noise = problem(4, 2)
    equations = equations_of(terms, 0.4 * terms[:, 0] + 3 * noise)
    expected = torch.tensor([0.2, 0.1], dtype=torch.float64)
    free, drawn = (
        torch.tensor(weights_of(fit_step(equations, (2, 0), leave_one_out=False, expected=given)), dtype=torch.float64)
        for given in (None, expected.tolist())
    )
    trust = float((drawn - expected)[0] / (free - expected)[0])
    assert torch.allclose(drawn, expected + trust * (free - expected), atol=1e-9)

    def loss(share):
        total = 0.0
        for k, one in enumerate(equations):
            rest = [other for j, other in enumerate(equations) if j != k]
            others = torch.tensor((rest[0] + rest[1] + rest[2]).solve(), dtype=torch.float64)
            own = expected + share * (others - expected)
            total += float(own @ one.gram @ own - 2 * own @ one.right)
        return total

    shares = torch.linspace(0, 1, 1001).tolist()
    assert 0.05 < trust < 0.95
    assert trust == pytest.approx(min(shares, key=loss), abs=1e-3)


def test_one_prompt_alone_is_not_drawn():
    terms, noise = problem(1, 2)
    equations = equations_of(terms, terms[:, 0] + noise)
    assert fit_step(equations, (2, 0), leave_one_out=False, expected=[5.0]) == fit_step(
        equations, (2, 0), leave_one_out=False
    )


def test_left_out_weights_are_drawn_as_far_as_those_of_all():
    terms, noise = problem(MIN_HELD_OUT, 2)
    equations = equations_of(terms, 0.4 * terms[:, 0] + 3 * noise)
    free, drawn = (fit_step(equations, (2, 0), leave_one_out=True, expected=given) for given in (None, [0.2, 0.1]))
    shares = [
        (after.factors[1] + 0.2) / (before.factors[1] + 0.2)
        for before, after in zip([free.prediction, *free.left_out], [drawn.prediction, *drawn.left_out], strict=True)
    ]
    assert shares == pytest.approx([shares[0]] * len(shares))
    assert 0 < shares[0] < 1
