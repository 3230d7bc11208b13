"""Predict the model output of a cached step. All methods use this one formula:

    v^_i = sum_k c_k h_k + sum_k e_k d_k.

``h_1, h_2, ...`` are the cache entries of the last computed steps, newest first, and ``d_1, d_2, ...`` the contrasts
there (the difference of the guidance branches). The factors c and e make it reuse (``c = (1)``), Taylor or aligned
prediction of any order, or the correction of a computed step, whose own output is then ``h_1``. Inference and
calibration both call `predicted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ertacache.method.history import History
from ertacache.method.named_methods import Method
from ertacache.method.residual import from_cache
from ertacache.method.schedule import MOST_STEPS
from ertacache.value_checks import each, invalid, normalized, number, whole

LARGEST_FACTOR = 1e9
"""Bound on factors. Fitted ones stay far below it; much larger ones would give outputs that are not finite."""


@dataclass(frozen=True)
class Prediction:
    """The factors of one step's prediction, ``sum_k factors[k] * h_k + sum_k contrast_factors[k] * d_k``.

    Args:
        history: the computed steps that are used, newest first. In the correction of a computed step, that step itself
            comes first.
        factors: the factor of each step's cache entry.
        contrast_factors: the factor of each step's contrast; empty without contrasts.

    Raises:
        PolicyFileError: if a step is not a whole number of 0 to 10,000, or a factor is not a number within
            `LARGEST_FACTOR`.
    """

    history: tuple[int, ...]
    factors: tuple[float, ...]
    contrast_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        step = partial(whole, at_least=0, at_most=MOST_STEPS)
        factor = partial(number, at_least=-LARGEST_FACTOR, at_most=LARGEST_FACTOR)
        each_factor = each(factor)
        normalized(self, invalid("policy"), history=each(step), factors=each_factor, contrast_factors=each_factor)

    @classmethod
    def by_weights(cls, history: Sequence[int], weights: Sequence[float]) -> Prediction:
        """Turn fitted weights into factors.

        Args:
            history: the computed steps, newest first.
            weights: one for each feature of the outputs (see `ertacache.method.aligned_weights.features`), as many as
                the history has steps; then, if contrasts are used, as many for the features of the contrasts.
        """
        of_outputs, of_contrasts = weights[: len(history)], weights[len(history) :]
        contrast_factors = coefficients(of_contrasts[:-1], of_contrasts[-1]) if len(of_contrasts) else ()
        return cls(tuple(history), coefficients(of_outputs[:-1], 1 + of_outputs[-1]), contrast_factors)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the features: the inverse of `by_weights`."""
        of_contrasts = weights_of(self.contrast_factors, 0.0) if self.contrast_factors else ()
        return *weights_of(self.factors), *of_contrasts


def predicted(prediction: Prediction, history: History, method: Method, sample: Tensor, model_output: Tensor) -> Tensor:
    """Predict the model output of a step: `ertacache.method.residual.from_cache` of the predicted cache entry.

    At level ``hidden`` the denoiser has run without its blocks, whose residual was predicted with the same factors, so
    the pipeline's model output is the prediction. Only ``aligned`` differs: its blocks' residual is reused, and the
    difference between its prediction of the output and plain reuse of the output is added here.

    Args:
        prediction: the factors.
        history: the cache, float32 entries.
        method: for its level and predictor.
        sample: the latent ``x_i``, (batch, ...), floating.
        model_output: what the pipeline gives to the scheduler, (batch, ...); only read at level ``hidden``.

    Returns:
        The shape of ``model_output``, float32.
    """
    if method.level == "hidden" and (method.predictor != "aligned" or prediction == reuse(history.steps)):
        return model_output.float()
    terms = history.entries[: len(prediction.factors)] + history.contrasts[: len(prediction.contrast_factors)]
    out = combine(terms, prediction.factors + prediction.contrast_factors)
    if method.level == "hidden":
        return out.add_(model_output).sub_(history.entries[0])
    return from_cache(sample.float(), out, method.level)


def reuse(history: Sequence[int]) -> Prediction:
    """Reuse the newest cache entry unchanged.

    Args:
        history: at least one computed step, newest first.
    """
    return Prediction((history[0],), (1.0,))


def taylor(levels: Sequence[float], step: int, history: Sequence[int]) -> Prediction:
    """Extrapolate by a first-order Taylor step over noise levels; plain reuse if the history holds one step only.

    Args:
        levels: the noise level of every step, in sampling order.
        step: the step to predict.
        history: at least one computed step, newest first.
    """
    factors = coefficients(taylor_weights(levels, step, history))
    return Prediction(tuple(history[: len(factors)]), factors)


def taylor_weights(levels: Sequence[float], step: int, history: Sequence[int]) -> tuple[float, ...]:
    """Compute the weight of first-order Taylor, ``(s_i - s_1) / (s_1 - s_2)`` over noise levels s.

    Args:
        levels: the noise level of every step, in sampling order.
        step: the step to predict.
        history: the computed steps, newest first.

    Returns:
        One weight; none if the history holds fewer than two steps, or two of the same noise level.
    """
    if len(history) < 2:
        return ()
    newest, older = levels[history[0]], levels[history[1]]
    return ((levels[step] - newest) / (newest - older),) if newest != older else ()


def combine(history: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Sum cache entries: ``sum_k c_k h_k``, over as many entries as there are factors.

    Args:
        history: ``h_1, h_2, ...``: tensors of one shape, (batch, ...), and one floating dtype, newest first.
        factors: ``c_1, c_2, ...``: at least one, at most as many as there are tensors.

    Returns:
        A new tensor of that shape and dtype.
    """
    out = history[0] * factors[0]
    for k in range(1, len(factors)):
        out.add_(history[k], alpha=factors[k])
    return out


def coefficients(weights: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """Turn weights of differences into factors of ``h_1, h_2, ...``; the factors sum to ``newest``.

    They are those of ``newest * h_1 + sum_k weights[k] * (h_k - h_{k+1})``.

    Args:
        weights: one for each difference, newest first; may be empty.
        newest: the factor of ``h_1`` beside the differences.

    >>> coefficients([0.5])
    (1.5, -0.5)
    """
    factors = [newest, *(0.0 for _ in weights)]
    for k, w in enumerate(weights):
        factors[k] += w
        factors[k + 1] -= w
    return tuple(factors)


def weights_of(factors: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """Turn factors back into weights: the inverse of `coefficients`.

    Args:
        factors: of ``h_1, h_2, ...``; at least one.
        newest: the factor of ``h_1`` where all weights are 0.

    Returns:
        A weight for each difference, and at last the weight of ``h_1``, which is the factors' sum minus ``newest``.

    >>> weights_of([1.75, -0.5])
    (0.5, 0.25)
    """
    weights = [0.0] * len(factors)
    for k in range(len(factors) - 1, 0, -1):
        weights[k - 1] = (weights[k] if k < len(factors) - 1 else 0.0) - factors[k]
    weights[-1] = factors[0] - newest - (weights[0] if len(factors) > 1 else 0.0)
    return tuple(weights)
