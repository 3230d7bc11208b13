"""EasyCache: add the denoiser's last change of its input again, while the rate of change so far allows it.

Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching", arXiv
2507.02860; checked against https://github.com/H-EmbodVis/EasyCache at 5127804:

- Where guidance calls twice, the conditional call decides for both, and each adds its own change:
  EasyCache4Wan2.1/easycache_generate.py.
- Where one call holds the whole step: EasyCache4HunyuanVideo/easycache_sample_video.py. Its guidance is distilled;
  here the two halves of a batch count alike.

Their Wan forward and this were run side by side on the inputs and outputs of a run of 30 steps, with 8 thresholds and
warm-ups of 3 and 10 steps: all 960 decisions the same, 472 of them to skip, and all outputs bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject, replaced


def size(x: Tensor) -> float:
    """Their norm: the mean of magnitudes."""
    return x.abs().mean().item()


@dataclass
class Controller:
    """Decides for a whole step, from the inputs and outputs of its deciding call.

    Args:
        thresh: expected relative change of the output (the paper's τ) at which the denoiser runs again.
        ret_steps: steps at the start that are always computed (the paper's R).
        last_step: which is always computed too.
        rate: of transformation (the paper's k): change of the output over that of the input, between the last two
            computed steps.
        error: expected relative change since the last computed step (the paper's E).
        seen: input of the step before, whether that was computed or not.
        entered, left: input and output of the last computed step.
    """

    thresh: float
    ret_steps: int
    last_step: int
    rate: float | None = None
    error: float = 0.0
    seen: Tensor | None = None
    entered: Tensor | None = None
    left: Tensor | None = None

    def skips(self, step: int, entering: Tensor) -> bool:
        """Whether to skip a step, given what enters the denoiser."""
        before, self.seen = self.seen, entering
        if step < self.ret_steps or step >= self.last_step:
            self.error = 0.0
            return False
        if before is None or self.left is None or self.rate is None:
            return False
        self.error += self.rate * size(entering - before) / size(self.left)
        if self.error < self.thresh:
            return True
        self.error = 0.0
        return False

    def computed(self, entering: Tensor, leaving: Tensor) -> None:
        """Learn from a computed step."""
        if self.entered is not None and self.left is not None:
            self.rate = size(leaving - self.left) / size(entering - self.entered)
        self.entered, self.left = entering, leaving


@dataclass
class EasyCache:
    """The denoiser with its cache, during one call of the pipeline.

    Args:
        controller: whose decision both guidance branches follow.
        calls: says which branch a call belongs to.
        changes: output minus input of each branch's last computed call.
        skipping: the decision of the current step.
    """

    controller: Controller
    calls: Calls
    changes: dict[int, Tensor] = field(default_factory=dict)
    skipping: bool = False

    def forward(self, original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the denoiser's own forward."""
        # A scheduler may write its step into the same memory.
        entering = hidden_states.clone()
        deciding = self.calls.branch == 0
        if deciding:
            self.skipping = self.controller.skips(self.calls.step, entering)
        if self.skipping:
            return _wrapped(_plus(self.changes[self.calls.branch], entering, 1), kwargs.get("return_dict", True))
        output = original(hidden_states, *args, **kwargs)
        leaving: Tensor = output[0]
        if deciding:
            self.controller.computed(entering, _velocity(leaving, entering))
        self.changes[self.calls.branch] = _plus(leaving, entering, -1)
        return output


def _velocity(output: Tensor, entering: Tensor) -> Tensor:
    """The part of the output that has the input's shape: Open-Sora's has as many channels again, used by no sampler."""
    return output[tuple(map(slice, entering.shape))]


def _plus(output: Tensor, entering: Tensor, sign: int) -> Tensor:
    result = output.clone()
    _velocity(result, entering).add_(entering, alpha=sign)
    return result


def _wrapped(output: Tensor, return_dict: bool) -> Any:
    return Transformer2DModelOutput(sample=output) if return_dict else (output,)


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: None = None) -> Iterator[EasyCache]:
    """Skip steps during one call of the pipeline."""
    controller = Controller(knobs["thresh"], knobs["ret_steps"], subject.num_steps - 1)
    cache = EasyCache(controller, Calls(subject.calls_per_step))
    with cache.calls.counted(subject.denoiser), replaced(subject.denoiser, cache.forward):
        yield cache


def _knobs(subject: Subject) -> Sequence[Knobs]:
    # 5 of 50 for HunyuanVideo; the 10 of 50 for Wan leave no room for low costs, and were no better in trials.
    ret_steps = round(subject.num_steps / 10)
    return [{"thresh": thresh, "ret_steps": ret_steps} for thresh in (0.02, 0.03, 0.05, 0.09, 0.16, 0.3, 0.6, 1.2)]


EASYCACHE = Rival(
    name="EasyCache",
    source="arXiv 2507.02860, https://github.com/H-EmbodVis/EasyCache",
    knobs=_knobs,
    attach=attach,
    adaptive=True,
)
