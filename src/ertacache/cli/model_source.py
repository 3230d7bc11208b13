"""Where a command's pipeline comes from and how it is loaded, here or in a worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ertacache.cli.input_image import taking_image
from ertacache.cli.loras import Lora, load_loras
from ertacache.cli.one_line_errors import first_line
from ertacache.errors import ArgumentError
from ertacache.memory_errors import full_memory

if TYPE_CHECKING:  # wrong paths and options are reported before torch is imported
    from ertacache.zoo import Embedded

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSource:
    """A model as the options name it; it can be sent to a worker, which then loads its own.

    Args:
        model: a diffusers folder, a Hub id, or ``zoo:`` and the name of a small pipeline.
        device: where to run; `AUTO` for the accelerator if there is one, else the CPU.
        dtype: of the weights, one of `DTYPES`; `AUTO` for half precision on an accelerator, else float32.
        loras: loaded into it.
        takes_image: whether its calls are to take an ``image``; a text-to-image pipeline then becomes its
            image-to-image sibling.
        offload: whether each part is on the device only while it runs, and in main memory else.

    Raises:
        ArgumentError: if there is no such dtype.
    """

    model: str
    device: str = AUTO
    dtype: str = AUTO
    loras: tuple[Lora, ...] = ()
    takes_image: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in (AUTO, *DTYPES):
            cure = f"Choose one of {', '.join((AUTO, *DTYPES))}."
            raise ArgumentError("there is no dtype of that name", given=self.dtype, cure=cure)

    def chosen(self) -> ModelSource:
        """The same source with a device and a dtype in place of `AUTO`.

        Raises:
            ArgumentError: if the device cannot be used here.
        """
        import torch

        device = _best_device() if self.device == AUTO else self.device
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:  # no such device, or a build of PyTorch without it
            if full_memory(error):
                raise
            raise ArgumentError(
                f"the device {device!r} cannot be used here: {first_line(error)}",
                given=f"--device {device}",
                cure="Choose another: cpu works everywhere.",
            ) from error
        return replace(self, device=device, dtype=_best_dtype(device) if self.dtype == AUTO else self.dtype)

    def load(self) -> tuple[Any, dict[str, Any], Embedded | None]:
        """Load the pipeline of a source whose device and dtype are `chosen`.

        Returns:
            The pipeline, the arguments that a small pipeline brings for its calls, and that small pipeline, if it is
            one.

        Raises:
            ArgumentError: if the model or a LoRA cannot be loaded, or the pipeline takes no picture, or cannot be
                offloaded.
            PipelineError: if there is no such small pipeline.
        """
        pipe, arguments, embedded = self._alone()
        load_loras(pipe, self.loras)
        pipe = taking_image(pipe) if self.takes_image else pipe
        if self.offload:
            offload_parts(pipe, self.device)
        return pipe, arguments, embedded

    def pipeline(self) -> Any:
        """Load the pipeline alone, as a worker does."""
        return self.load()[0]

    def _alone(self) -> tuple[Any, dict[str, Any], Embedded | None]:
        import torch

        from ertacache import zoo

        dtype = getattr(torch, self.dtype)
        if self.model.startswith("zoo:"):
            embedded = zoo.load(self.model.removeprefix("zoo:"), dtype=dtype, device=self._first_device)
            return embedded.pipe, embedded.arguments, embedded
        try:
            return self._from_diffusers(dtype), {}, None
        except Exception as error:  # a folder may hold anything, and its files may be damaged in any way
            if full_memory(error):
                raise
            raise ArgumentError(
                f"the model {self.model!r} cannot be loaded: {first_line(error)}",
                given=self.model,
                cure="Give a folder that holds a diffusers pipeline, a Hub id, or zoo:emoji.",
            ) from error

    def _from_diffusers(self, dtype: Any) -> Any:
        from ertacache import zoo
        from ertacache.runtime.repeatable_call import silence
        from ertacache.runtime.unwrap import is_modular

        precision = zoo.in_precision(dtype)
        with zoo.quiet():
            pipe = zoo.pipeline_class(self.model).from_pretrained(self.model, **precision)
            if is_modular(pipe):
                pipe.load_components(**precision)
        silence(pipe)
        zoo.hide_empty_truncations(pipe)
        return pipe.to(self._first_device)

    @property
    def _first_device(self) -> str:
        """Where it is loaded to."""
        return "cpu" if self.offload else self.device


def offload_parts(pipe: Any, device: str) -> None:
    """Keep the parts of a pipeline in main memory, each but while it runs.

    Args:
        pipe: a pipeline of diffusers, in main memory.
        device: where the parts run.

    Raises:
        ArgumentError: if the pipeline cannot be offloaded like this, or accelerate is not installed.
    """
    try:
        if not hasattr(pipe, "enable_model_cpu_offload"):
            raise ValueError("modular pipelines have it in Python alone, by their ComponentsManager")
        pipe.enable_model_cpu_offload(device=device)
    except (ImportError, ValueError, RuntimeError) as error:
        if full_memory(error):
            raise
        raise ArgumentError(
            f"the parts of {type(pipe).__name__} cannot be offloaded: {first_line(error)}",
            given="--offload",
            cure="Leave it out; or pip install accelerate, if that is what is missing.",
        ) from error


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _best_dtype(device: str) -> str:
    """Half precision where the device computes in it by itself: bfloat16, whose range is that of float32, if it can."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float16" if kind == "mps" else "float32"
