"""Schedulers that users write, wrap or patch: served to the bit, or refused with the reason before the first call."""

from __future__ import annotations

import abc
import copy
import operator
import threading
import types

import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config

import ertacache
from ertacache.errors import CalibrationError, PipelineError, PolicyMismatchError, RunError
from ertacache.method.named_methods import Method
from ertacache.runtime.scheduler_step import StepCall

Euler = FlowMatchEulerDiscreteScheduler
CACHED = (2, 3, 5)
START = torch.linspace(-1, 1, 8).reshape(1, 4, 2)


class Renamed(Euler):
    def step(self, noise_pred, t, latents, **kwargs):
        return super().step(noise_pred, t, latents, **kwargs)


class Passing(Renamed):
    """Hands on what it was given, and looks at it by place."""

    def step(self, *args, **kwargs):
        assert args[1] in self.timesteps
        return super().step(*args, **kwargs)


class PassingTwice(Passing):
    def step(self, *args, log=False, **kwargs):
        return super().step(*args, **kwargs)


class NamesOne(Euler):
    def step(self, velocity, *args, **kwargs):
        return super().step(velocity, *args, **kwargs)


class NamesAllBut(Euler):
    """Names what is not there to be named, and takes its own parameters in between."""

    def step(self, model_output, strength, timestep, x_t, return_dict=True):
        assert strength == 1.0
        return super().step(model_output, timestep, x_t, return_dict=return_dict)


class ByNameOnly(Euler):
    def step(self, *, sample, timestep, model_output, **kwargs):
        return super().step(model_output, timestep, sample, **kwargs)


class AllByName(Euler):
    def step(self, **kwargs):
        return super().step(**kwargs)


class Decorated(Euler):
    @torch.no_grad()
    def step(self, v, t, x, /, *rest, **more):
        return super().step(v, t, x, *rest, **more)


class Recursive(Euler):
    """Whose step and grid are made of its own."""

    def step(self, model_output, timestep, sample, return_dict=True, half=False):
        return (
            super().step(model_output, timestep, sample, return_dict=return_dict)
            if half
            else self.step(model_output, timestep, sample, return_dict, half=True)
        )

    def set_timesteps(self, num_inference_steps=None, device=None, again=True, **kwargs):
        if again:
            return self.set_timesteps(num_inference_steps, device, again=False, **kwargs)
        return super().set_timesteps(num_inference_steps, device, **kwargs)


class Wrapping(SchedulerMixin, ConfigMixin):
    """Wraps another scheduler, and has no more than pipelines ask for."""

    order, config_name = 1, "scheduler_config.json"

    @register_to_config
    def __init__(self, num_train_timesteps=1000):
        self.inner = Euler()
        self.inner.owner = self  # and knows whom it is in

    def set_timesteps(self, num_inference_steps=None, device=None):
        self.inner.set_timesteps(num_inference_steps, device=device)
        self.timesteps, self.sigmas = self.inner.timesteps, self.inner.sigmas
        self.num_inference_steps = num_inference_steps

    def step(self, v, t, x, return_dict=True):
        return self.inner.step(v, t, x, return_dict=return_dict)


class WrappingBlindly(Wrapping):
    """Does not say what it takes."""

    def step(self, *args, **kwargs):
        return self.inner.step(*args, **kwargs)


class HandingOn(metaclass=abc.ABCMeta):  # noqa: B024
    """Has nothing of its own but what it wraps, not even a step, and a metaclass."""

    def __init__(self):
        self.inner = Euler()

    def __getattr__(self, name):
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        (super().__setattr__ if name == "inner" else self.inner.__setattr__)(name, value)


class Listing(Euler):
    """Returns a list."""

    def step(self, model_output, timestep, sample, return_dict=True):
        return list(super().step(model_output, timestep, sample, return_dict=False))


KINDS = [
    Renamed,
    Passing,
    PassingTwice,
    NamesOne,
    Decorated,
    Recursive,
    Wrapping,
    WrappingBlindly,
    HandingOn,
    Listing,
]
NAMES = {
    Renamed: ("noise_pred", "t", "latents"),
    Wrapping: ("v", "t", "x"),
    NamesOne: ("velocity", "timestep", "sample"),
    WrappingBlindly: ("model_output", "timestep", "sample"),
    ByNameOnly: ("model_output", "timestep", "sample"),
    AllByName: ("model_output", "timestep", "sample"),
    NamesAllBut: ("model_output", "timestep", "x_t"),
}


class Loop:
    """A pipeline that calls ``step`` in a way of its own."""

    def __init__(self, like, call):
        self.transformer, self.scheduler, self.call = like.transformer, like.scheduler, call

    def __call__(self, latents, num_inference_steps=8):
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            latents = self.call(self.scheduler.step, self.transformer(latents, t), t, latents)[0]
        return latents


def made(pipe, policy=None, start=START):
    """A picture, and what the run did."""
    if policy is None:
        return pipe(start), None
    with ertacache.accelerated(pipe, policy) as run:
        return pipe(start), run.report


class Counted:
    """What toys answer, and how often they were asked; calibration puts back what a module counts itself."""

    def __init__(self):
        self.calls = 0

    def __call__(self, sample, timestep):
        self.calls += 1
        return sample * 0.5 + timestep / 1000


@pytest.fixture
def answer():
    return Counted()


@pytest.fixture
def expected(make_toy, make_policy):
    """The pictures of diffusers' own scheduler, by method."""
    return {method: made(make_toy(), make_policy(8, CACHED, method))[0] for method in ("reuse", "taylor")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_of_ones_own_is_served_to_the_bit(kind, make_toy, make_policy, expected):
    pipe, plain = make_toy(scheduler=kind()), make_toy(scheduler=kind())
    for method, picture in expected.items():
        out, report = made(pipe, make_policy(8, CACHED, method))
        assert torch.equal(out, picture)
        assert (tuple(report.cached_steps), report.notes) == (CACHED, [])
    assert torch.equal(made(pipe)[0], made(plain)[0])
    assert torch.equal(made(pipe)[0], made(make_toy())[0])
    assert type(pipe.scheduler) is kind
    assert list(vars(pipe.scheduler)) == list(vars(plain.scheduler))


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("by_position", [0, 1])
def test_it_is_called_by_its_own_names(kind, by_position, make_toy, make_policy, expected):
    """With nothing, or the model output alone, by position."""

    def call(step, *values):
        given = values[: 0 if kind in (ByNameOnly, AllByName) else by_position]
        more = {"strength": 1.0} if kind is NamesAllBut else {}
        named = dict(list(zip(NAMES[kind], values, strict=True))[len(given) :])
        return step(*given, **named, **more, return_dict=False)

    pipe = Loop(make_toy(scheduler=kind()), call)
    for method, picture in expected.items():
        out, report = made(pipe, make_policy(8, CACHED, method))
        assert torch.equal(out, picture)
        assert (tuple(report.cached_steps), report.notes) == (CACHED, [])


def test_what_it_returns_may_be_the_latent_or_hold_it(make_toy):
    class Bare(Euler):
        def step(self, model_output, timestep, sample):
            return super().step(model_output, timestep, sample).prev_sample

    expected = calibrated(make_toy())
    for like, call in (
        (make_toy(scheduler=Bare()), lambda step, v, t, x: (step(v, t, x),)),
        (make_toy(), lambda step, v, t, x: (step(v, t, x).prev_sample,)),
    ):
        policy = calibrated(Loop(like, call))
        # Nearly: what the prior expects depends on the guidance, which a loop does not show.
        assert policy.calibration.error == pytest.approx(expected.calibration.error, rel=0.05)
        assert torch.allclose(made(Loop(like, call), policy)[0], made(make_toy(), expected)[0], atol=1e-5)


def calibrated(pipe, start=START, **more):
    call = [{"latents": start}, {"latents": -2 * start}]
    options = {"num_computed_steps": 4, "method": Method(schedule="uniform", predictor="aligned"), "progress": False}
    given = {name: value for name, value in (options | more).items() if value is not None}
    return ertacache.calibrate(pipe, call, num_inference_steps=8, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_calibrated_as_what_it_stands_for(kind, make_toy):
    """The policy is the same to the bit, and so are the pictures that it makes."""
    expected, found = (calibrated(make_toy(scheduler=made())) for made in (Euler, kind))
    assert (found.cached_steps, found.predictions) == (expected.cached_steps, expected.predictions)
    assert found.calibration.error == expected.calibration.error
    pictures = [made(make_toy(scheduler=k()), p) for k, p in ((Euler, expected), (kind, found))]
    assert torch.equal(pictures[0][0], pictures[1][0])
    assert pictures[1][1].notes == []


def test_what_a_wrapped_scheduler_remembers_is_not_disturbed_by_calibration(make_toy):
    pipe = make_toy(scheduler=Wrapping())
    plain = made(pipe)[0]
    state = {name: value for name, value in vars(pipe.scheduler.inner).items() if name != "owner"}
    calibrated(pipe)
    assert all(value is vars(pipe.scheduler.inner)[name] for name, value in state.items())
    assert torch.equal(made(pipe)[0], plain)


class NoArguments(Euler):
    def step(self):
        """Nothing to tell it."""


class TwoArguments(Euler):
    def step(self, v, x, **kwargs):
        """No timestep."""


class Foreign(Euler):
    step = operator.attrgetter("sample")


@pytest.mark.parametrize("kind", [NoArguments, TwoArguments, Foreign])
def test_a_step_that_takes_no_step_is_refused_before_the_first_call(kind, make_toy, make_policy, answer):
    pipe = make_toy(answer, scheduler=kind())
    reason = rf"step\(\) does not take a model output, a timestep and a sample .*{kind.__name__}\.step"
    with pytest.raises(PipelineError, match=reason):
        ertacache.enable(pipe, make_policy(8, CACHED))
    with pytest.raises(PipelineError, match=reason):
        calibrated(pipe)
    exchanged = make_toy(answer)
    with ertacache.accelerated(exchanged, make_policy(8, CACHED)):
        exchanged.scheduler = kind()
        with pytest.raises(PipelineError, match=reason):
            exchanged(START)
    assert answer.calls == 0


def test_a_step_that_takes_them_in_another_order_is_refused_and_never_wrong(make_toy, make_policy):
    class Backwards(Euler):
        def step(self, latents, t, noise_pred):
            return super().step(noise_pred, t, latents)

    pipe = Loop(make_toy(scheduler=Backwards()), lambda step, v, t, x: step(x, t, v))
    assert pipe(START).isfinite().all()
    with pytest.raises(RunError, match=r"else than a model output, a timestep and a sample.*latents: tensor.* in this"):
        made(pipe, make_policy(8, (1, 2, 3)))
    mixed = Loop(make_toy(scheduler=Renamed()), lambda step, v, t, x: step(v, x, t))
    with pytest.raises(RunError, match=r"Renamed\.step\(noise_pred: tensor of shape \(1, 4, 2\), t: tensor of shape"):
        made(mixed, make_policy(8, (1, 2, 3)))
    assert type(mixed.scheduler) is Renamed


def test_a_step_that_returns_no_latent_is_refused(make_toy, make_policy):
    class Silent(Euler):
        def step(self, model_output, timestep, sample, return_dict=True):
            super().step(model_output, timestep, sample)

    with pytest.raises(RunError, match=r"returned no latent .*NoneType"):
        made(make_toy(scheduler=Silent()), make_policy(8, CACHED))


def test_a_step_that_takes_only_real_latents_cannot_be_calibrated_and_says_why(make_toy, make_policy, expected):
    class Particular(Euler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return super().step(model_output, timestep, sample.reshape(1, 4, 2), return_dict=return_dict)

    pipe = make_toy(scheduler=Particular())
    assert torch.equal(made(pipe, make_policy(8, CACHED))[0], expected["reuse"])
    with pytest.raises(CalibrationError, match=r"latent of one number.*Particular, RuntimeError: shape '\[1, 4, 2\]'"):
        calibrated(pipe)


def test_a_scheduler_that_cannot_be_copied_is_refused_before_calibration(make_toy, make_policy, expected, answer):
    pipe = make_toy(answer)
    pipe.scheduler.lock = threading.Lock()
    with pytest.raises(PipelineError, match=r"cannot be copied.*TypeError: cannot pickle '_thread.lock' object"):
        calibrated(pipe)
    assert answer.calls == 0
    assert torch.equal(made(pipe, make_policy(8, CACHED))[0], expected["reuse"])


class TestPatched:
    """A method that stands on the scheduler object itself, in front of its class's."""

    @staticmethod
    def closure(scheduler, name, seen):
        own = getattr(scheduler, name)

        def patched(*args, **kwargs):
            seen.append(name)
            return own(*args, **kwargs)

        return patched

    @staticmethod
    def method(scheduler, name, seen):
        """Which finds the class's own when it is called."""

        def patched(self, *args, **kwargs):
            seen.append(name)
            return getattr(type(self), name)(self, *args, **kwargs)

        return types.MethodType(patched, scheduler)

    @pytest.mark.parametrize("how", ["closure", "method"])
    def test_it_is_called_through_and_stays(self, how, make_toy, make_policy, expected):
        pipe, seen = make_toy(), []
        pipe(START)  # which leaves attributes
        patched = {name: getattr(self, how)(pipe.scheduler, name, seen) for name in ("step", "set_timesteps")}
        vars(pipe.scheduler).update(patched)
        names = list(vars(pipe.scheduler))
        for method, picture in expected.items():
            out, report = made(pipe, make_policy(8, CACHED, method))
            assert torch.equal(out, picture)
            assert tuple(report.cached_steps) == CACHED
            assert [note[:34] for note in report.notes] == ["the scheduler's step() is patched "]
        assert seen == ["set_timesteps", *["step"] * 8] * 2
        assert list(vars(pipe.scheduler)) == names
        assert all(vars(pipe.scheduler)[name] is method for name, method in patched.items())
        assert type(pipe.scheduler) is Euler

    @pytest.mark.parametrize("how", ["closure", "method"])
    def test_a_grid_that_it_lays_is_retimed_once(self, how, make_toy, make_policy):
        grid = tuple((i / 8) ** 1.5 for i in range(9))
        policy = make_policy(8, CACHED, Method(timestep_adjustment=True), time_grid=grid)
        pipes, seen = [make_toy(), make_toy()], []
        pipes[0].scheduler.set_timesteps = getattr(self, how)(pipes[0].scheduler, "set_timesteps", seen)
        pictures = [made(pipe, policy)[0] for pipe in pipes]
        assert torch.equal(*pictures)
        plain = make_policy(8, CACHED, Method(timestep_adjustment=False))
        assert not torch.equal(pictures[0], made(make_toy(), plain)[0])
        assert seen == ["set_timesteps"]

    def test_what_it_changes_is_changed(self, make_toy, make_policy):
        class Shifted(Euler):
            def step(self, model_output, timestep, sample, return_dict=True):
                return super().step(model_output + 0.25, timestep, sample, return_dict=return_dict)

            def set_timesteps(self, num_inference_steps=None, device=None):
                super().set_timesteps(num_inference_steps, device=device)
                self.sigmas = self.sigmas**2

        patched, policy = Euler(), make_policy(8, CACHED, "taylor")
        step, set_timesteps = patched.step, patched.set_timesteps
        patched.step = lambda v, t, x, **more: step(v + 0.25, t, x, **more)

        def squared(*args, **kwargs):
            set_timesteps(*args, **kwargs)
            patched.sigmas = patched.sigmas**2

        patched.set_timesteps = squared
        pictures = [made(make_toy(scheduler=scheduler), policy)[0] for scheduler in (patched, Shifted())]
        assert torch.equal(*pictures)
        assert not torch.equal(pictures[0], made(make_toy(), policy)[0])

    def test_it_stays_where_the_call_fails_and_the_next_one_is_served(self, make_toy, make_policy, expected):
        pipe, failing = make_toy(), [True]
        own = pipe.scheduler.step

        def patched(*args, **kwargs):
            if failing and own.__self__.step_index == 4:
                raise OSError(failing.pop())
            return own(*args, **kwargs)

        pipe.scheduler.step = patched
        with pytest.raises(OSError, match="True"):
            made(pipe, make_policy(8, CACHED))
        assert vars(pipe.scheduler)["step"] is patched
        assert type(pipe.scheduler) is Euler
        assert torch.equal(made(pipe, make_policy(8, CACHED))[0], expected["reuse"])

    def test_what_is_patched_anew_in_a_call_stays(self, make_toy, make_policy, expected):
        def denoise(pipe, i, sample, t):
            if i == 4:
                pipe.scheduler.step = self.closure(pipe.scheduler, "step", seen)
            return pipe.transformer(sample, t)

        pipe, seen, policy = make_toy(denoise=denoise), [], make_policy(8, (*CACHED, 6))
        pipe.scheduler.step = self.closure(pipe.scheduler, "step", [])
        assert torch.equal(made(pipe, policy)[0], made(make_toy(), policy)[0])
        assert seen == ["step"] * 4
        pipe.denoise = lambda pipe, i, sample, t: pipe.transformer(sample, t)
        assert torch.equal(made(pipe)[0], made(make_toy())[0])
        assert seen == ["step"] * 12

    def test_a_copy_that_the_pipeline_makes_is_followed(self, make_toy, make_policy, expected):
        """A method that is bound to the scheduler is bound to the copy in its place."""

        def denoise(pipe, i, sample, t):
            if i == 1:
                first.append(pipe.scheduler)
                pipe.scheduler = copy.deepcopy(pipe.scheduler)
                first[0].sigmas = torch.full((9,), torch.nan)
            return pipe.transformer(sample, t)

        pipe, first, seen = make_toy(denoise=denoise), [], []
        pipe.scheduler.step = self.method(pipe.scheduler, "step", seen)
        out, report = made(pipe, make_policy(8, CACHED))
        assert torch.equal(out, expected["reuse"])
        assert tuple(report.cached_steps) == CACHED
        assert seen == ["step"] * 8

    def test_copies_of_it_are_not_made(self, make_toy, make_policy, answer):
        """Neither in calibration nor for drafts, which say so before the first denoiser call."""
        for within, name in ((False, "step"), (True, "step"), (False, "set_timesteps"), (False, "index_for_timestep")):
            pipe = make_toy(answer, scheduler=Wrapping() if within else Euler())
            patched = pipe.scheduler.inner if within else pipe.scheduler
            setattr(patched, name, self.closure(patched, name, []))
            calls = [{"latents": START}] * 12
            reason = rf"{name}\(\) is patched on the object cannot be copied.*FlowMatchEulerDiscreteScheduler\.{name}\)"
            common = {"num_inference_steps": 8, "progress": False}
            with pytest.raises(PipelineError, match=reason):
                calibrated(pipe)
            with pytest.raises(PipelineError, match=reason):
                ertacache.profile(pipe, calls, **common)
            for by in (None, make_policy(8, (1, 2, 3))):
                with pytest.raises(PipelineError, match=reason):
                    ertacache.draft(pipe, make_policy(8, CACHED), calls, by=by, progress=False)
        assert answer.calls == 0

    def test_a_policy_is_not_transferred_to_what_is_not_known(self, make_toy, answer):
        pipe = make_toy(answer)
        policy = calibrated(pipe, method=None)
        with ertacache.accelerated(pipe, policy) as run:
            pipe(START, num_inference_steps=10)
            assert run.report.notes[0].startswith("the policy was calibrated on other noise levels")
            answer.calls, pipe.scheduler.step = 0, self.closure(pipe.scheduler, "step", [])
            with pytest.raises(PolicyMismatchError, match=r"step\(\) is patched on the object, so its response"):
                pipe(START, num_inference_steps=10)
        assert answer.calls == 0

    def test_a_step_that_would_be_made_by_a_copy_is_refused_before_the_first_call(self, make_toy, make_policy):
        grid = tuple((i / 8) ** 1.5 for i in range(9))
        policy = make_policy(8, CACHED, Method(timestep_adjustment=True), time_grid=grid)
        for name, reason in (("step", "adjusts timesteps"), ("set_timesteps", "set again on a copy")):
            pipe = make_toy(scheduler=DDIMScheduler(clip_sample=False, prediction_type="v_prediction"))
            setattr(pipe.scheduler, name, self.closure(pipe.scheduler, name, []))
            with pytest.raises(PipelineError, match=reason):
                made(pipe, policy)
            assert pipe.transformer.calls == 0
            assert type(pipe.scheduler) is DDIMScheduler


@pytest.mark.parametrize(
    ("kind", "names", "by_position", "guessed"),
    [
        (Euler, ("model_output", "timestep", "sample"), 3, False),
        (Renamed, ("model_output", "timestep", "sample"), 3, True),
        (PassingTwice, ("model_output", "timestep", "sample"), 3, True),
        (NamesAllBut, ("model_output", "strength", "timestep", "sample"), 4, True),
        (ByNameOnly, (), 0, False),
        (AllByName, (), 0, False),
        (WrappingBlindly, ("model_output", "timestep", "sample"), 3, True),
    ],
)
def test_what_a_step_takes_is_read_off_its_signature(kind, names, by_position, guessed):
    found = StepCall.of(kind())
    assert found.names[: max(by_position, len(names))] == names
    assert (found.by_position, found.guessed) == (by_position, guessed)


def test_only_the_model_output_of_a_call_is_another():
    call = StepCall.of(Wrapping())
    for args, kwargs, found in (
        ((1, 2, 3), {"log": 4}, ((9, 2, 3), {"log": 4})),
        ((1,), {"t": 2, "x": 3}, ((9,), {"t": 2, "x": 3})),
        ((), {"v": 1, "t": 2, "x": 3}, ((), {"v": 9, "t": 2, "x": 3})),
        ((), {"model_output": 1, "timestep": 2}, ((), {"model_output": 9, "timestep": 2})),
    ):
        assert call.arguments(args, kwargs)["model_output"] == 1
        assert call.with_output(args, kwargs, 9) == found


def test_a_copy_is_called_as_pipelines_call_with_all_that_came_beyond():
    class Odd(Euler):
        def step(self, v, t, x, *rest, **more):
            return (v, t, x, *rest), more

    scheduler, many = Odd(), tuple(range(20))
    call = StepCall.of(scheduler)
    assert call.call(scheduler.step, call.arguments(many, {"log": 1})) == (many, {"log": 1})
    named = {"model_output": 1, "timestep": 2, "sample": 3, "log": 4}
    assert call.call(scheduler.step, named) == ((1, 2, 3), {"log": 4})


class TestExchangedInTheMiddleOfACall:
    @staticmethod
    def at_three(change):
        def denoise(pipe, i, sample, t):
            if i == 3:
                change(pipe)
            return pipe.transformer(sample, t)

        return denoise

    @pytest.mark.parametrize("cached", [(2, 3, 4), (2, 5)])
    def test_another_denoiser_is_named(self, cached, make_toy, make_policy):
        pipe = make_toy(denoise=self.at_three(lambda pipe: setattr(pipe, "transformer", make_toy().transformer)))
        with pytest.raises(RunError, match=r"pipe\.transformer was replaced in the middle of the call.*ToyDenoiser"):
            made(pipe, make_policy(8, cached))

    @pytest.mark.parametrize("cached", [(2, 3, 4), (2, 5)])
    def test_another_scheduler_is_named(self, cached, make_toy, make_policy):
        def change(pipe):
            pipe.scheduler = Renamed()
            pipe.scheduler.set_timesteps(8)

        pipe = make_toy(denoise=self.at_three(change))
        own = pipe.scheduler
        with pytest.raises(RunError, match=r"pipe\.scheduler was replaced .*Renamed in place of FlowMatchEuler"):
            made(pipe, make_policy(8, cached))
        assert type(own) is Euler


def test_full_runs_in_a_checkpoint_are_not_lent_to_another_noise_schedule(make_toy, tmp_path):
    """Whether the configuration of a scheduler within tells of it or nothing does."""

    class Untold(Wrapping):
        shift = 1.0

        def set_timesteps(self, num_inference_steps=None, device=None):
            super().set_timesteps(num_inference_steps, device)
            self.inner.sigmas = self.sigmas = self.sigmas**self.shift

    spent = []
    for shift, folder in ((1.0, tmp_path), (1.0, tmp_path), (5.0, tmp_path), (5.0, None)):
        answer = Counted()
        pipe = make_toy(answer, scheduler=Wrapping())
        pipe.scheduler.inner = Euler(shift=shift)
        spent.append((calibrated(pipe, checkpoint=folder).predictions, answer.calls))
    first, again, other, alone = spent
    assert again[0] == first[0] != other[0] == alone[0]
    assert again[1] < first[1] == other[1] == alone[1]
    pipe = make_toy(scheduler=Untold())
    calibrated(pipe, checkpoint=tmp_path)
    pipe.scheduler.shift = 2.0
    with pytest.raises(CalibrationError, match=r"levels changed since .*step \d+: .*, was .*new checkpoint folder"):
        calibrated(pipe, checkpoint=tmp_path)
