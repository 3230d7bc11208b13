"""The choice of a method: which schedule, what is cached, how it is predicted; and the documented methods by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from ertacache.errors import ArgumentError, MethodError
from ertacache.method.aligned_weights import MAX_ORDER
from ertacache.method.rectification import GRANULARITIES, Granularity
from ertacache.method.residual import LEVELS, Level
from ertacache.value_checks import abbreviated, as_error, flag, one_of

Predictor = Literal["reuse", "taylor", "aligned"]
PREDICTORS: tuple[Predictor, ...] = ("reuse", "taylor", "aligned")


@dataclass(frozen=True)
class Method:
    """How to choose the cached steps, and what replaces the denoiser's output there.

    `Method.named` has the documented methods: ``aligned`` (the default of `ertacache.calibrate`), ``taylor``,
    ``reuse``, ``uniform``, ``offline``, ``offline+time`` and ``paper``.

    Args:
        schedule: ``uniform`` (evenly spaced), ``offline`` (the paper's, by
            `ertacache.method.threshold.threshold`), or ``search`` (the schedule with the smallest closed-loop error
            on the calibration prompts).
        level: what is cached: ``velocity`` (the model output), ``output`` (the model output minus the latent), or
            ``hidden`` (the residual of the denoiser's block stack; its patch embedding and output head then run at
            cached steps too). See `ertacache.method.residual`.
        predictor: how a cached step's output is predicted: ``reuse`` (the last computed one), ``taylor`` (first
            order over noise levels) or ``aligned`` (fitted weights, see `ertacache.method.aligned_weights`).
        order: the highest difference that ``aligned`` uses, 1 to 3.
        timestep_adjustment: whether cached steps are shortened, see `ertacache.method.timesteps`.
        rectification: the granularity of the paper's error model at a cached step: ``step`` (one line in all),
            ``channel`` (one for each channel) or ``element`` (one for each element, which ties the policy to one latent
            shape); None to use none. See `ertacache.method.rectification`.

    Raises:
        MethodError: on an unknown name, or on parts that do not go together: ``search`` without ``aligned``; or
            timestep adjustment or rectification with another predictor than ``reuse``.

    Notes:
        All methods take the budgets ``speedup``, ``num_computed_steps`` and ``seconds``. ``threshold`` needs
        ``schedule="offline"``. ``min_psnr`` and ``min_ssim`` need another schedule than that, and neither timestep
        adjustment nor rectification.

    >>> Method.named("paper").schedule
    'offline'
    """

    schedule: Literal["uniform", "offline", "search", "prior", "learnt"] = "uniform"
    level: Level = "velocity"
    predictor: Predictor = "reuse"
    order: int = 3
    timestep_adjustment: bool = False
    rectification: Granularity | None = None

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[object, ...]] = {
            "schedule": ("uniform", "offline", "search", "prior", "learnt"),
            "level": LEVELS,
            "predictor": PREDICTORS,
            "order": tuple(range(1, MAX_ORDER + 1)),
            "rectification": (None, *GRANULARITIES),
        }
        for name, values in allowed.items():
            try:
                object.__setattr__(self, name, one_of(*values)(name, getattr(self, name)))
            except ArgumentError as wrong:
                cure = f"Choose one of {', '.join(map(repr, values))}."
                raise MethodError(f"there is no such {name}", given=wrong.given, cure=cure) from None
        adjusted = as_error(flag, MethodError)("timestep_adjustment", self.timestep_adjustment)
        object.__setattr__(self, "timestep_adjustment", adjusted)
        if self.predictor != "reuse" and (self.timestep_adjustment or self.rectification):
            raise MethodError(
                "timestep adjustment and error rectification work with predictor 'reuse' only",
                given=f"predictor={self.predictor!r}",
                cure="Leave both out, or use predictor='reuse'.",
            )
        if self.schedule in ("search", "prior", "learnt") and self.predictor != "aligned":
            raise MethodError(
                f"schedule={self.schedule!r} works with predictor 'aligned' only",
                given=f"predictor={self.predictor!r}",
                cure="Use schedule='uniform' or 'offline', or predictor='aligned'.",
            )

    @classmethod
    def named(cls, name: str) -> Method:
        """Look up a documented method.

        Args:
            name: ``aligned``, ``taylor``, ``reuse``, ``uniform``, ``offline``, ``offline+time`` or ``paper``.

        Raises:
            MethodError: if there is no such name.
        """
        if not isinstance(name, str) or name not in NAMED_METHODS:
            raise MethodError(
                "there is no such method", given=abbreviated(name), cure=f"Choose one of {', '.join(NAMED_METHODS)}."
            )
        return NAMED_METHODS[name]

    @property
    def name(self) -> str:
        """The documented name; for any other combination, its parts."""
        for name, method in (NAMED_METHODS | UNCALIBRATED_METHODS).items():
            if method == self:
                return name
        return ", ".join(f"{key}={value}" for key, value in asdict(self).items())

    @property
    def residuals_kept(self) -> int:
        """For how many computed steps the blocks' residuals are kept at level ``hidden``; 0 at the other levels."""
        return 0 if self.level != "hidden" else 2 if self.predictor == "taylor" else 1

    @property
    def fits_cached_trajectory(self) -> bool:
        """Whether what is fitted needs the true outputs along a cached trajectory, so that every step is computed."""
        return self.schedule == "offline" or self.timestep_adjustment or self.rectification is not None

    @property
    def fits_weights(self) -> bool:
        """Whether the weights of its predictions are fitted in closed loops."""
        return self.predictor == "aligned" and self.schedule not in ("prior", "learnt")

    @property
    def depends_on_calibration(self) -> bool:
        """Whether the policy contains anything measured, so that it holds for the calibrated noise levels only."""
        fitted = self.timestep_adjustment or self.rectification is not None
        return fitted or self.schedule != "uniform" or self.predictor == "aligned"


NAMED_METHODS: dict[str, Method] = {
    "uniform": Method(level="output"),
    "offline": Method(schedule="offline", level="output"),
    "offline+time": Method(schedule="offline", level="output", timestep_adjustment=True),
    "paper": Method(schedule="offline", level="output", timestep_adjustment=True, rectification="channel"),
    "reuse": Method(),
    "taylor": Method(predictor="taylor"),
    "aligned": Method(schedule="search", predictor="aligned"),
}
"""The names that ``calibrate(method=...)`` takes."""
INSTANT = Method(schedule="prior", predictor="aligned")
"""Schedule and weights by the prior of `ertacache.method.prior`, for a model that nothing was recorded of."""
LEARNT = Method(schedule="learnt", predictor="aligned")
"""Schedule and weights from the outputs of full generations that users asked for, without a closed loop."""
UNCALIBRATED_METHODS = {"instant": INSTANT, "learnt": LEARNT}
"""The names of methods whose policies `ertacache.accelerated` makes by itself."""


def check_streams_method(method: Method, streams: int) -> None:
    """Raise `MethodError` if a method cannot predict several latents that one loop steps, such as a clip and its sound.

    Args:
        method: the method.
        streams: how many latents the loop steps.
    """
    if streams > 1 and (method.level == "hidden" or method.fits_cached_trajectory):
        raise MethodError(
            "this pipeline steps several latents in one loop, and this method is for one",
            given=f"method {method.name!r}, {streams} latents",
            cure="Use 'aligned', 'taylor', 'reuse' or 'uniform'.",
        )
