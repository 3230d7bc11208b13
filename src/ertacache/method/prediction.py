"""How a step's model output is predicted from what computed steps left in the cache: the one formula of a cached step.

    v^_i = sum_k c_k h_k + sum_k e_k d_k,

with ``h_1, h_2, ...`` what the cache holds of the last computed steps, newest first, and ``d_1, d_2, ...`` how the
guidance branches differed there. It covers reuse (``c = (1)``), Taylor and aligned prediction, of any order, and the
correction of a computed step, whose own output is then ``h_1``. Inference and calibration both call `predicted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ertacache.arguments import each, invalid, normalized, number, whole
from ertacache.method.choice import Method
from ertacache.method.history import History
from ertacache.method.residual import from_cache
from ertacache.method.schedule import MOST_STEPS

LARGEST_FACTOR = 1e9
"""No fitted factor comes near this; outputs made with much larger ones are not finite."""


@dataclass(frozen=True)
class Prediction:
    """What a step goes on with: ``sum_k factors[k] * h_k + sum_k contrast_factors[k] * d_k``.

    Args:
        history: the computed steps, newest first; a computed step's own correction has itself in front.
        factors: of what the cache holds of each.
        contrast_factors: of how the guidance branches differed at each, or empty.

    Raises:
        PolicyFileError: if an entry is no step, or no factor within `LARGEST_FACTOR`.
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
        """From fitted weights.

        Args:
            history: the computed steps, newest first.
            weights: those of the outputs' features (see `ertacache.method.alignment.features`), as many as the history
                has steps, and behind them, where contrasts take part, as many of the contrasts' features.
        """
        own, between = weights[: len(history)], weights[len(history) :]
        contrast_factors = coefficients(between[:-1], between[-1]) if len(between) else ()
        return cls(tuple(history), coefficients(own[:-1], 1 + own[-1]), contrast_factors)

    @property
    def weights(self) -> tuple[float, ...]:
        """The inverse of `by_weights`."""
        between = weights_of(self.contrast_factors, 0.0) if self.contrast_factors else ()
        return *weights_of(self.factors), *between


def predicted(prediction: Prediction, history: History, method: Method, sample: Tensor, model_output: Tensor) -> Tensor:
    """The model output that a step goes on with: Eq. (6) with the prediction in place of the plain residual.

    At level ``hidden`` the blocks of a cached step were predicted on the way to the step boundary, with the same
    factors; but ``aligned`` reuses their residual, and adds what its factors have over plain reuse of the output.

    Args:
        prediction: its factors.
        history: what the cache holds, float32.
        method: its level and predictor.
        sample: ``x_i``, (batch, ...), floating.
        model_output: what the pipeline gives to the scheduler, (batch, ...); only read at level ``hidden``.

    Returns:
        (batch, ...), float32.
    """
    if method.level == "hidden" and (method.predictor != "aligned" or prediction == reuse(history.steps)):
        return model_output.float()
    terms = history.entries[: len(prediction.factors)] + history.contrasts[: len(prediction.contrast_factors)]
    out = combine(terms, prediction.factors + prediction.contrast_factors)
    if method.level == "hidden":
        return out.add_(model_output).sub_(history.entries[0])
    return from_cache(sample.float(), out, method.level)


def reuse(history: Sequence[int]) -> Prediction:
    """What the newest computed step left, as it is.

    Args:
        history: the computed steps, newest first.
    """
    return Prediction((history[0],), (1.0,))


def taylor(levels: Sequence[float], step: int, history: Sequence[int]) -> Prediction:
    """First-order Taylor over noise levels; plain reuse while the history holds one step.

    Args:
        levels: the noise level of every step, in sampling order.
        step: the step to predict.
        history: the computed steps, newest first.
    """
    factors = coefficients(taylor_weights(levels, step, history))
    return Prediction(tuple(history[: len(factors)]), factors)


def taylor_weights(levels: Sequence[float], step: int, history: Sequence[int]) -> tuple[float, ...]:
    """``(s_i - s_1) / (s_1 - s_2)`` over noise levels s; no weight while the history holds one step or stands still.

    Args:
        levels: the noise level of every step, in sampling order.
        step: the step to predict.
        history: the computed steps, newest first.
    """
    if len(history) < 2:
        return ()
    newest, older = levels[history[0]], levels[history[1]]
    return ((levels[step] - newest) / (newest - older),) if newest != older else ()


def combine(history: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """``sum_k c_k h_k`` over as many entries as there are factors.

    Args:
        history: tensors of one shape and dtype, newest first.
        factors: at least one, at most as many as there are entries.

    Returns:
        A new tensor of that shape and dtype.
    """
    out = history[0] * factors[0]
    for k in range(1, len(factors)):
        out.add_(history[k], alpha=factors[k])
    return out


def coefficients(weights: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """The factors of ``h_1, h_2, ...`` in ``newest h_1 + sum_k weights[k] (h_k - h_{k+1})``; they sum to ``newest``.

    >>> coefficients([0.5])
    (1.5, -0.5)
    """
    factors = [newest, *(0.0 for _ in weights)]
    for k, w in enumerate(weights):
        factors[k] += w
        factors[k + 1] -= w
    return tuple(factors)


def weights_of(factors: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """The weights whose `coefficients` with ``newest`` plus the last of them are these factors: the inverse of a fit.

    One for each difference, and then that of ``h_1``.

    >>> weights_of([1.75, -0.5])
    (0.5, 0.25)
    """
    weights = [0.0] * len(factors)
    for k in range(len(factors) - 1, 0, -1):
        weights[k - 1] = (weights[k] if k < len(factors) - 1 else 0.0) - factors[k]
    weights[-1] = factors[0] - newest - (weights[0] if len(factors) > 1 else 0.0)
    return tuple(weights)
