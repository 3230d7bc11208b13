"""Record a full run with all its latents and outputs, and refuse runs that nothing can be fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.recording import Setting, StreamSetting, of_stream
from ertacache.errors import CalibrationError, PipelineError
from ertacache.method.dot_products import gram_of_rows
from ertacache.runtime.block_stack import sketch
from ertacache.runtime.driver import Driver, Step
from ertacache.runtime.guidance_contrast import contrast
from ertacache.runtime.repeatable_call import Call, twin_of
from ertacache.runtime.run import Run
from ertacache.runtime.sampler_response import response_of
from ertacache.runtime.scheduler_step import is_affine
from ertacache.runtime.schedulers import angles_of, sampler_of, thresholds
from ertacache.runtime.unwrap import own_class


def record(
    pipe: Any,
    call: Call,
    prompt: int,
    num_inference_steps: int,
    on_first: Callable[[Step], None],
    on_step: Callable[[int], None],
    *,
    hidden: bool = False,
) -> tuple[dict[str, Tensor], Setting]:
    """Make one full run, and record it.

    Args:
        pipe: the pipeline; left as it was found.
        call: the call of the prompt.
        prompt: the number of the prompt, for error messages.
        num_inference_steps: T.
        on_first: called with the first step, once the denoiser has returned.
        on_step: called after each step with the number of its denoiser calls.
        hidden: whether to record a sketch of the blocks' residuals too.

    Returns:
        The tensors of a `Recording` by name, on the CPU, and the setting.

    Raises:
        CalibrationError: if a model output is not finite, or not every step was made.
        PipelineError: if the call samples more than once, or its latents change their shape.
    """
    recorder = Recorder(prompt, on_first, on_step, hidden)
    twin = twin_of(pipe, decodes=call.decodes)
    with call.random.lent(), Run(twin, recorder) as run:
        run.call(**call.arguments())
    steps, first = len(recorder.patterns), recorder.first_step
    if steps + first != len(recorder.noise_levels) - 1:
        raise CalibrationError(
            "the call stopped early, or made other steps than num_inference_steps asks for",
            given=f"{steps} steps from step {first} on, of {num_inference_steps}",
            cure="Calibrate with a call that samples once, to the end: no denoising_end, no interrupting callback.",
        )
    return recorder.finished()


class Recorder(Driver):
    """The driver of a full run: keeps everything, changes nothing.

    Args:
        prompt, on_first, on_step, hidden: see `record`.
    """

    def __init__(
        self, prompt: int, on_first: Callable[[Step], None], on_step: Callable[[int], None], hidden: bool
    ) -> None:
        self.prompt, self._on_first, self._on_step = prompt, on_first, on_step
        self.residuals_kept = int(hidden)
        self.streams: list[_StreamRecord] = []
        self.patterns: list[tuple[Any, ...]] = []
        self.forms: list[list[Any]] = []
        self.residuals: dict[str, Tensor] = {}
        self.noise_levels: tuple[float, ...] = ()
        self.first_step = self.calls_per_step = 0
        self.changes: list[int] = []
        self.over = False

    def open_segment(self, scheduler: Any) -> None:
        self.over = bool(self.patterns)  # unless more steps are made: some lay a grid once more that they do not use
        if not self.over:
            self.noise_levels = tuple(sampler_of(scheduler).noise_levels(scheduler))

    def conditions_changed(self, step: int, what: str) -> None:
        if step not in self.changes:
            self.changes.append(step)

    def model_output(self, step: Step) -> Tensor:
        self._check(step)
        if step.stream == len(self.streams):
            levels = self.noise_levels if step.stream == 0 else sampler_of(step.scheduler).noise_levels(step.scheduler)
            self.streams.append(_StreamRecord(step, levels))
            if step.stream == 0:
                self.first_step, self.calls_per_step = step.index, step.denoiser_calls
                self._on_first(step)
        self.streams[step.stream].keep(step, self.prompt)
        if step.stream == 0:
            if self.residuals_kept:
                self.residuals[f"r{len(self.patterns)}"] = sketch(step.residuals)
            self.patterns.append(step.pattern)
            self.forms.append(step.form)
            self._on_step(step.denoiser_calls)
        return step.model_output

    def stepped(self, index: int, sample: Tensor, stream: int) -> None:
        self.streams[stream].stepped(index - self.first_step + 1, sample)

    def finished(self) -> tuple[dict[str, Tensor], Setting]:
        """Return the tensors and the setting of the run."""
        patterns, forms, main = self.patterns, self.forms, self.streams[0]
        setting = Setting(
            grid=self.noise_levels,
            first_step=self.first_step,
            forced=tuple(i for i in range(1, len(patterns)) if patterns[i] != patterns[i - 1]),
            calls_per_step=self.calls_per_step,
            latent_shape=main.setting.latent_shape,
            angles=main.setting.angles,
            same_shape=main.setting.same_shape,
            changes=tuple(self.changes),
            streams=tuple(stream.setting for stream in self.streams[1:]),
            emptied=tuple(i for i in range(1, len(forms)) if forms[i] != forms[i - 1]),
        )
        tensors = dict(self.residuals)
        for k, stream in enumerate(self.streams):
            tensors |= {of_stream(name, k): tensor for name, tensor in stream.finished().items()}
        return tensors, setting

    def _check(self, step: Step) -> None:
        if self.over:
            raise PipelineError(
                "this call samples more than once (segments, chunks or stages of a clip), and calibration needs one "
                "sampling run",
                given=f"a second set_timesteps() after {len(self.patterns)} steps",
                cure="Calibrate with a call that makes one segment, or the stages one by one; a policy is then "
                "followed in each.",
            )


class _StreamRecord:
    """What is recorded of one of the latents that the loop steps.

    Args:
        step: its first step.
        levels: the noise levels of its grid.
    """

    def __init__(self, step: Step, levels: Sequence[float]) -> None:
        check_sampler(step)
        self._sample_shape, self._output_shape = step.sample.shape, step.model_output.shape
        left = levels[step.index :]
        self.setting = StreamSetting(
            scheduler_class=own_class(step.scheduler).__name__,
            grid=tuple(levels),
            latent_shape=tuple(self._sample_shape[1:]),
            angles=tuple(angles_of(step.scheduler, left)),
            same_shape=self._sample_shape == self._output_shape,
        )
        response = torch.from_numpy(response_of(step.scheduler, step.index, left))
        self._tensors = {"response": response, "x0": step.sample.detach().cpu().clone()}
        self._outputs: list[Tensor] = []
        self._contrasts: list[Tensor] = []

    def keep(self, step: Step, prompt: int) -> None:
        """Keep the output of a step."""
        check_finite(step.model_output, prompt, step.index)
        if step.sample.shape != self._sample_shape:
            raise PipelineError(
                "the latents change their shape on the way, and calibration needs one shape",
                given=f"{tuple(step.sample.shape)} after {tuple(self._sample_shape)}",
                cure="Turn off the option that shortens or crops latents during sampling (such as ChronoEdit's "
                "enable_temporal_reasoning).",
            )
        self._tensors[f"v{len(self._outputs)}"] = output = step.model_output.detach().cpu().clone()
        self._outputs.append(output)
        between = contrast(step)
        if between is not None:
            self._contrasts.append(between.to("cpu", copy=True))

    def stepped(self, count: int, sample: Tensor) -> None:
        """Keep the latent after so many steps."""
        self._tensors[f"x{count}"] = sample.detach().cpu().clone()

    def finished(self) -> dict[str, Tensor]:
        """Return the tensors, with `Recording.gram`; the contrasts are further rows if every step has one."""
        contrasts = self._contrasts if len(self._contrasts) == len(self._outputs) else []
        return self._tensors | {"gram": gram_of_rows([*self._outputs, *contrasts])}


def check_sampler(step: Step) -> None:
    """Raise `CalibrationError` if nothing can be fitted to a step of this sampler."""
    scheduler, arguments = step.scheduler, step.arguments
    name = type(scheduler).__name__
    timestep = arguments["timestep"]
    if (getattr(timestep, "ndim", 0) and timestep.numel() > 1) or arguments.get("per_token_timesteps") is not None:
        raise CalibrationError(
            "this pipeline denoises each frame or token at a noise level of its own (image or video conditioning), and "
            "weights cannot be fitted through that",
            given=name,
            cure="Call it without conditioning frames, if it can do that, or make a policy by hand (ertacache.Policy).",
        )
    if step.sample.shape != step.model_output.shape and str(scheduler.config.get("variance_type")).startswith(
        "learned"
    ):
        raise CalibrationError(
            "the model also predicts the variance of the scheduler's noise, and calibration cannot fit that",
            given=f"{name}, variance_type={scheduler.config['variance_type']!r}",
            cure="Use a scheduler that adds none: pipe.scheduler = DPMSolverMultistepScheduler.from_config("
            "pipe.scheduler.config, variance_type=None).",
        )
    if thresholds(scheduler) or not is_affine(scheduler, arguments):
        raise CalibrationError(
            "the scheduler clips the predicted picture, or changes it non-linearly in another way, and weights cannot "
            "be fitted through that",
            given=name,
            cure=f"Switch that off: pipe.scheduler = {name}.from_config(pipe.scheduler.config, clip_sample=False), or "
            "likewise clip_denoised=False or thresholding=False; or use another scheduler.",
        )


def check_finite(output: Tensor, prompt: int, step: int) -> None:
    """Raise `CalibrationError` if a model output is not finite: nothing can be fitted to it."""
    if not bool(torch.isfinite(output).all()):
        raise CalibrationError(
            "the denoiser returned NaN or infinity during calibration",
            given=f"prompt {prompt}, step {step}",
            cure="Check the model's dtype (float16 overflows), the prompt, and the pipeline without a cache.",
        )
