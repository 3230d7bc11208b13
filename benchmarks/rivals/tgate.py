"""T-GATE: past a gate step, cross-attention repeats what it gave there, and guidance is dropped.

The papers are "Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models" (arXiv 2404.02747v1) and
"Faster Diffusion Through Temporal Attention Decomposition" (v2), whose version also repeats self-attention: before the
gate for all steps but the first few and every ``sp_interval``-th, after it but for every ``fi_interval``-th.

Checked against HaozheLiu-ST/T-GATE at commit ab2a88f, ``tgate/tgate_utils.py`` and ``tgate/PixArt_Sigma.py``. What is
kept is an attention's output after its output projection, averaged over both guidance branches at the gate. The last
guided step is ``gate_step`` - 1, counted from 0, and it is the one whose attention is kept. `plan` agreed with their
``tgate_scheduler`` in all 327120 cases tried (8 to 50 steps). A PixArt transformer of 3 layers with random weights and
12 steps, run with their ``register_forward`` and with this module, 96 settings: latents equal to the bit where guidance
is batched, within 3e-7 of the largest value where it takes two calls.

Decided here, as the authors' pipelines are others:

- Their guidance is one batched call. Where it is two calls a step, the first one's attention is averaged with the
  second's. After the gate only the first call is computed, and its output answers the second: guidance of two equal
  predictions is either of them.
- Where it is one call, the denoiser gets the first half of the batch after the gate, the unconditional one, as with the
  authors; both halves of its input differ in the text only, and no layer looks at the text any more.
- Temporal attention is self-attention.
- The settings keep the authors' intervals and warm-up (PixArt's and SDXL's of the README) and put their gates, steps 15
  and 10 of 25, at the same shares of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject, ordered_blocks, replaced

Action = Literal["compute", "keep", "reuse"]
"""What an attention layer does at a step: compute; compute and keep the output; or give what it kept."""

_ATTENTIONS = {"WanTransformerBlock": ("attn1", "attn2"), "OpenSoraBlock": ("attn", "cross_attn")}
"""For a block class that has both, what its self- and its cross-attention are called."""

_SETTINGS = (
    (0.9, 1, 1),
    (0.8, 3, 1),
    (0.6, 3, 1),  # PixArt's
    (0.4, 5, 1),  # SDXL's
    (0.2, 5, 1),
    (0.1, 5, 1),
    (0.0, 5, 1),
    (0.0, 5, 3),
)
"""The gate as a share of the steps, ``sp_interval``, ``fi_interval``."""


def plan(step: int, *, gate_step: int, sp_interval: int, fi_interval: int, warm_up: int) -> tuple[Action, Action]:
    """What self- and cross-attention do at a step.

    Args:
        step: from 0.
        gate_step: the first step without guidance and cross-attention.
        sp_interval: before it, every how many steps self-attention is computed.
        fi_interval: after it, likewise.
        warm_up: the first step whose self-attention is kept.
    """
    if step < gate_step - 1:
        if step < warm_up:
            return "compute", "compute"
        return ("keep" if step == warm_up or step % sp_interval == 0 else "reuse"), "compute"
    if step == gate_step - 1:
        return "keep", "keep"
    return ("keep" if step % fi_interval == 0 else "reuse"), "reuse"


@dataclass
class _Gate:
    """One pipeline call.

    Args:
        pipe: whose guidance it is.
        calls: of its denoiser.
        knobs: of `plan`.
        answer: what the denoiser last gave for the first branch of a step.
    """

    pipe: Any
    calls: Calls
    knobs: Knobs
    answer: Any = None

    @property
    def closing(self) -> bool:
        """Whether this is the last guided step."""
        return bool(self.calls.step == self.knobs["gate_step"] - 1)

    @property
    def closed(self) -> bool:
        """Whether guidance has ended."""
        return bool(self.calls.step >= self.knobs["gate_step"])

    @property
    def batched(self) -> bool:
        """Whether a call of the denoiser holds both branches, and not one after the other."""
        return self.calls.per_step == 1 and self.pipe.do_classifier_free_guidance

    def denoise(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of the denoiser."""
        if not self.closed:
            return original(*args, **kwargs)
        if self.batched:
            batch = len(kwargs["hidden_states"])
            halves = {name: _first_half(value, batch) for name, value in kwargs.items()}
            return tuple(torch.cat([part, part]) for part in original(*args, **halves))
        if self.calls.branch == 0:
            self.answer = original(*args, **kwargs)
        return self.answer


@dataclass
class _Attention:
    """One attention layer within one pipeline call.

    Args:
        gate: of the call.
        kind: its place in what `plan` returns.
        kept: outputs (batch, tokens, channels) by guidance branch, where branches are calls of their own.
    """

    gate: _Gate
    kind: int
    kept: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, original: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """In place of the layer."""
        gate, branch = self.gate, self.gate.calls.branch
        action = plan(gate.calls.step, **gate.knobs)[self.kind]
        if action == "reuse":
            return self.kept[branch]
        output = original(*args, **kwargs)
        if action == "keep":
            self.kept[branch] = output
            if gate.closing and gate.batched:
                self.kept[0] = (output.chunk(2)[0] + output.chunk(2)[1]) / 2
            elif gate.closing and branch == 1:
                self.kept[0] = (self.kept[0] + output) / 2
        return output


def _first_half(value: Any, batch: int) -> Any:
    return value[: batch // 2] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value


def _attentions(block: nn.Module) -> tuple[nn.Module, ...]:
    return tuple(getattr(block, name) for name in _ATTENTIONS[type(block).__name__])


@contextmanager
def _attach(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
    gate = _Gate(subject.pipe, Calls(subject.calls_per_step), knobs)
    with ExitStack() as stack:
        stack.enter_context(gate.calls.counted(subject.denoiser))
        stack.enter_context(replaced(subject.denoiser, gate.denoise))
        for block in ordered_blocks(subject.denoiser):
            for kind, layer in enumerate(_attentions(block)):
                stack.enter_context(replaced(layer, _Attention(gate, kind).attend))
        yield


def _knobs(subject: Subject) -> Sequence[Knobs]:
    """From nine tenths of the operations or so down to under a half: one guided step, and then one branch.

    ``fi_interval`` is 1 with the authors. In the last setting it is 3, for what else there is to save.
    """
    if _refuses(subject):
        return []
    return [
        {
            "gate_step": max(1, round(share * subject.num_steps)),
            "sp_interval": sp_interval,
            "fi_interval": fi_interval,
            "warm_up": 2,
        }
        for share, sp_interval, fi_interval in _SETTINGS
    ]


def _refuses(subject: Subject) -> str:
    names = {type(block).__name__ for block in ordered_blocks(subject.denoiser)}
    if names <= set(_ATTENTIONS):
        return ""
    return "text and picture share one joint attention; there is no cross-attention to cache"


TGATE = Rival(
    name="T-GATE",
    source="arXiv 2404.02747; HaozheLiu-ST/T-GATE at ab2a88f",
    knobs=_knobs,
    attach=_attach,
    refuses=_refuses,
)
