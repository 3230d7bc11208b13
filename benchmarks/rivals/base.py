"""What a rival is, and what the rivals written here share: counting denoiser calls, and skipping blocks."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ertacache.opensora import STDiT3Transformer3DModel
from ertacache.runtime.block_stack import blocks_of, handed_on
from ertacache.runtime.layout_tables import BLOCK_OUTPUTS

Knobs = Mapping[str, Any]
"""One setting of a rival, by the names of its authors."""


@dataclass(frozen=True)
class Subject:
    """What a rival is tried on.

    Args:
        name: of the pipeline, as the zoo has it.
        pipe: the pipeline.
        arguments: of every call but the prompt and the seed; ``num_inference_steps`` is the full run's.
        calibration_prompts: what a rival may fit itself on.
        calls_per_step: denoiser calls in a step: 2 where guidance calls twice, 1 where it calls once with both.
        work: a folder for what is prepared, so that it need not be prepared twice.
    """

    name: str
    pipe: Any
    arguments: Mapping[str, Any]
    calibration_prompts: Sequence[str]
    calls_per_step: int
    work: Path

    @property
    def family(self) -> str:
        """Which denoiser's blocks it has."""
        return "flux" if self.name == "emoji" else self.name

    @property
    def num_steps(self) -> int:
        """Steps of the full run."""
        return int(self.arguments["num_inference_steps"])

    @property
    def budgets(self) -> list[int]:
        """Numbers of steps, falling: what a rival sweeps whose knob is how many of them are computed."""
        ratios = (1.15, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6)
        least = 2  # the first and the last
        return sorted({max(least, round(self.num_steps / ratio)) for ratio in ratios}, reverse=True)

    @property
    def denoiser(self) -> nn.Module:
        """The network that rivals change."""
        return self.pipe.transformer  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rival:
    """A cache to compare with, or another way to be fast.

    Args:
        name: as tables show it.
        source: the paper, and the code that it was checked against.
        knobs: settings to try, from mild to strong, for a subject; empty where `refuses` gives a reason.
        attach: given subject, setting and what `prepare` returned, a context within which one call of the pipeline
            runs with this rival; at its end the pipeline is as it was.
        prepare: whatever the rival fits in advance, on calibration prompts alone.
        refuses: why it cannot run on a subject, or "".
        num_steps: how many steps the pipeline is asked for at a setting; by default the full run's.
        adaptive: whether what it skips depends on what it sees, and so on the prompt.
    """

    name: str
    source: str
    knobs: Callable[[Subject], Sequence[Knobs]]
    attach: Callable[[Subject, Knobs, Any], AbstractContextManager[Any]]
    prepare: Callable[[Subject], Any] = lambda subject: None
    refuses: Callable[[Subject], str] = lambda subject: ""
    num_steps: Callable[[Subject, Knobs], int] = lambda subject, knobs: subject.num_steps
    adaptive: bool = False


def ordered_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """The blocks in the order in which they run."""
    if isinstance(denoiser, STDiT3Transformer3DModel):
        pairs = zip(denoiser.spatial_blocks, denoiser.temporal_blocks, strict=True)
        return [block for pair in pairs for block in pair]
    return blocks_of(denoiser)


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let ``forward(original, *args, **kwargs)`` stand in for the module's own."""
    assert "forward" not in vars(module), "another cache is attached"
    original = module.forward
    module.forward = lambda *args, **kwargs: forward(original, *args, **kwargs)
    try:
        yield
    finally:
        del module.forward


@contextmanager
def left_as_found(network: nn.Module, *others: Any) -> Iterator[None]:
    """Take all attributes set meanwhile from ``network``, its parts and ``others`` again, and undo every change.

    What its dictionaries hold is restored too, in its order: a block list that is taken out and put back stands last
    among the children, and whoever looks for blocks by their order finds another one first.
    """
    before = [(part, dict(vars(part))) for part in (*network.modules(), *others)]
    held = [(v, dict(v)) for _, attributes in before for v in attributes.values() if type(v) in (dict, OrderedDict)]
    try:
        yield
    finally:
        for part, attributes in before:
            for name in [name for name in vars(part) if name not in attributes]:
                del vars(part)[name]
            vars(part).update(attributes)
        for dictionary, contents in held:
            dictionary.clear()
            dictionary.update(contents)


@dataclass
class Calls:
    """Which step and guidance branch the current denoiser call belongs to; both 0 at the first call.

    Args:
        per_step: denoiser calls in a step.
    """

    per_step: int
    made: int = -1

    @property
    def step(self) -> int:
        """The step of the current call."""
        return self.made // self.per_step

    @property
    def branch(self) -> int:
        """0 for the first call of a step, the conditional one, 1 for the second."""
        return self.made % self.per_step

    @contextmanager
    def counted(self, denoiser: nn.Module) -> Iterator[Calls]:
        """Count the calls of ``denoiser``."""

        def count(module: nn.Module, args: Any) -> None:
            self.made += 1

        hook = denoiser.register_forward_pre_hook(count)
        try:
            yield self
        finally:
            hook.remove()


@dataclass
class Span:
    """Consecutive blocks that are skipped as one, by adding what they changed at the last call that ran them.

    Args:
        blocks: in the order in which they run.
        calls: whose branch says whose change to add.
        skip: asked when the first block is reached, with its arguments by name; True to skip. Never asked before the
            branch has something to add.
    """

    blocks: Sequence[nn.Module]
    calls: Calls
    skip: Callable[[Mapping[str, Any]], bool]
    changes: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    _entered: dict[str, Tensor] = field(default_factory=dict)
    _skipping: bool = False

    @contextmanager
    def attached(self) -> Iterator[Span]:
        """Put the span between the model and its blocks."""
        with ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                stack.enter_context(replaced(block, self._forward(number, block)))
            yield self

    def _forward(self, number: int, block: nn.Module) -> Callable[..., Any]:
        names = list(inspect.signature(block.forward).parameters)
        places = BLOCK_OUTPUTS.get(type(block).__name__)

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            # A block that returns a tensor leaves the text as it is.
            streams = ("hidden_states",) if places is None else ("hidden_states", "encoder_hidden_states")
            if number == 0:
                self._entered = {name: given[name] for name in streams}
                self._skipping = self.calls.branch in self.changes and self.skip(given)
            if self._skipping:
                if number == 0:
                    change = self.changes[self.calls.branch]
                    given |= {name: given[name] + change[name] for name in streams}
                return handed_on(block, given["hidden_states"], given.get("encoder_hidden_states"))
            output = original(*args, **kwargs)
            if number == len(self.blocks) - 1:
                left = (output,) if places is None else (output[place] for place in places)
                pairs = zip(streams, left, strict=True)
                self.changes[self.calls.branch] = {name: state - self._entered[name] for name, state in pairs}
            return output

        return forward
