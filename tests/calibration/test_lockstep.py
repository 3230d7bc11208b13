"""Threads of calibration: the caller's settings hold in them, they draw what full runs drew, and they end."""

import contextvars
import random
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from diffusers.guiders import SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig

import ertacache
from contract.case import Family
from contract.families import CASES
from contract.state import differences, state_of
from ertacache.calibration.lockstep import Lockstep
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recorder import record
from ertacache.calibration.timing import time_call
from ertacache.errors import CalibrationError, RunError
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.scheduler_step import plain_step

STEPS = 8
TASTE = contextvars.ContextVar("taste", default="plain")


@contextmanager
def taste(value):
    token = TASTE.set(value)
    yield
    TASTE.reset(token)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def settings_here():
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        "cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "errors": np.geterr()["over"],
        "taste": TASTE.get(),
    }


SETTINGS = {
    "as usual": taste("plain"),
    "no grad": torch.no_grad(),
    "inference mode": torch.inference_mode(),
    "autocast": torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    "default dtype": doubles(),
    "default device": torch.device("cpu:0"),
    "deterministic": deterministic(),
    "numpy's errors": np.errstate(over="raise"),
    "context variables": taste("sour"),
}


class Ungraded:
    """A pipeline of the user's own, which leaves it to the caller whether gradients are kept."""

    def __init__(self, toy):
        self.transformer, self.scheduler = toy.transformer, toy.scheduler

    def __call__(self, latents, num_inference_steps=8):
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            latents = self.scheduler.step(self.transformer(latents, t), t, latents, return_dict=False)[0]
        return latents


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_callers_settings_hold_in_every_call(setting, make_toy):
    seen = {}

    def answer(sample, timestep):
        seen.setdefault(threading.current_thread().name, []).append(settings_here())
        return sample * 0.5

    pipe = Ungraded(make_toy(answer))
    latents = torch.ones(1, 4, 2)
    with SETTINGS[setting]:
        expected = settings_here()
        policy = ertacache.calibrate(
            pipe, [{"latents": latents}, {"latents": -latents}], num_inference_steps=8, speedup=2, progress=False
        )
    assert (expected != settings_here()) == (setting != "as usual")
    assert len(seen) > 2  # the caller's thread, and those of the loops
    assert sum(map(len, seen.values())) == policy.calibration.denoiser_calls > 2 * 8
    assert all(found == expected for calls in seen.values() for found in calls)


@pytest.mark.parametrize("setting", ["no grad", "inference mode"])
def test_nothing_keeps_a_gradient_where_the_caller_wants_none(setting, make_toy):
    """Latents would carry the activations of every step before along."""
    weight = torch.nn.Parameter(torch.tensor(0.5))
    kept = []

    def answer(sample, timestep):
        output = sample * weight + timestep / 1000
        kept.append(sample.requires_grad or output.requires_grad)
        return output

    pipe, calls = Ungraded(make_toy(answer)), [{"latents": torch.ones(1, 4, 2)}, {"latents": -torch.ones(1, 4, 2)}]
    options = {"num_inference_steps": 8, "speedup": 2, "progress": False}
    with {"no grad": torch.no_grad, "inference mode": torch.inference_mode}[setting]():
        policy = ertacache.calibrate(pipe, calls, **options)
    assert len(kept) == policy.calibration.denoiser_calls > 2 * 8
    assert not any(kept)
    kept.clear()
    assert ertacache.calibrate(pipe, calls, **options).predictions == policy.predictions
    assert any(kept)


class Drawing:
    """A pipeline that draws from all that is global, in its beginning and on the way."""

    def __init__(self, toy):
        self.transformer, self.scheduler = toy.transformer, toy.scheduler

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=8, generator=None):
        noise = torch.randn(1, 4, 2) + random.random() + np.random.rand()
        latents = noise + torch.randn(1, 4, 2, generator=generator) + len(prompt)
        self.scheduler.set_timesteps(num_inference_steps)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for t in self.scheduler.timesteps:
            scaled = getattr(self.scheduler, "scale_model_input", lambda x, _: x)(latents, t)
            output = self.transformer(scaled, t) + 0.1 * torch.randn(1, 4, 2) * random.random() * np.random.rand()
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
        return latents


def global_state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()


@pytest.fixture
def drawing(make_toy):
    return Drawing(make_toy(lambda sample, t: torch.tanh(sample) * 0.7 + t / 1000))


def recorded(pipe, calls):
    found = [record(pipe, call, k, STEPS, lambda step: None, lambda n: None)[0] for k, call in enumerate(calls)]
    return [torch.stack([tensors[f"x{i}"] for i in range(1, STEPS + 1)]) for tensors in found]


def calls_of(pipe, seed=0):
    return calls_for(pipe, ["one", "three", "seven"], {"num_inference_steps": STEPS}, seed)


def test_each_prompt_draws_in_its_loops_what_it_drew_in_its_full_run(drawing):
    calls = calls_of(drawing)
    full = recorded(drawing, calls)
    torch.manual_seed(77)
    random.seed(77)
    again = []
    with Lockstep(drawing, calls, lambda step: False) as lockstep:
        for prompts in lockstep:
            if prompts[0].index:
                again.append(torch.stack(lockstep.outputs()))
            torch.randn(3)  # what the loop draws is the loop's own
        again.append(torch.stack(lockstep.outputs()))
    assert torch.equal(torch.stack(again, dim=1), torch.stack(full))
    assert len({tuple(latents.flatten().tolist()) for latents in full}) == 3


def test_what_a_prompt_draws_depends_on_its_number_and_the_seed_alone(drawing):
    first = recorded(drawing, calls_of(drawing))
    torch.manual_seed(77)
    np.random.seed(77)
    assert all(map(torch.equal, recorded(drawing, calls_of(drawing)), first))
    assert all(torch.equal(*pair) for pair in zip(recorded(drawing, calls_of(drawing)[2:]), first[2:], strict=True))
    assert not any(map(torch.equal, recorded(drawing, calls_of(drawing, seed=1)), first))
    state = RandomState.of(5, 0)
    with state.lent():
        drawn = torch.randn(4)
    assert not torch.equal(drawn, torch.randn(4, generator=torch.Generator().manual_seed(5)))


def test_calibration_draws_nothing_of_the_users(drawing, flux, flux_call, tmp_path):
    torch.manual_seed(1)
    before = global_state()
    calls = calls_of(drawing)
    recorded(drawing, calls)
    time_call(drawing, calls[0], None)
    options = {"num_inference_steps": STEPS, "progress": False}
    policy = ertacache.calibrate(drawing, ["one", "three"], num_computed_steps=4, seed=3, **options)
    ertacache.draft(drawing, policy, ["one", "three", "five", "seven"], progress=False)
    given = [flux_call(seed=seed, output_type="pil") for seed in range(12)]
    for call in given:
        del call["num_inference_steps"]
    ertacache.profile(flux, given, ratios=(2.0,), **{**options, "num_inference_steps": 4})
    assert global_state() == before


def test_the_policy_is_the_same_from_a_checkpoint_whatever_was_drawn_meanwhile(drawing, tmp_path):
    def calibrated(prompts=("one", "three", "seven"), **more):
        return ertacache.calibrate(drawing, prompts, num_inference_steps=8, speedup=2, progress=False, **more)

    policy = calibrated(checkpoint=tmp_path)
    torch.manual_seed(77)
    found = calibrated(checkpoint=tmp_path)
    assert (found.predictions, found.calibration.error) == (policy.predictions, policy.calibration.error)
    assert len(list(tmp_path.rglob("full-run-*"))) == 3
    own = [{"prompt": text, "generator": torch.Generator()} for text in ("one", "three", "seven")]
    for count, seed in enumerate((0, 1, 1), start=2):
        calibrated(own, checkpoint=tmp_path, seed=seed)
        assert len(list(tmp_path.rglob("full-run-*"))) == 3 * min(count, 3)


SAMPLERS = {
    "Euler": lambda: EulerAncestralDiscreteScheduler(beta_schedule="linear"),
    "DDPM": lambda: DDPMScheduler(clip_sample=False),
    "DPM": lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
}
"""They add noise, of the global generator where they are given none."""


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_that_is_tried_adds_the_noise_that_the_call_is_about_to_add(name, make_toy):
    pipe = make_toy(lambda s, t: s * 0.5 + t / 1000, scheduler=SAMPLERS[name]())
    calls = calls_for(pipe, [{"latents": torch.ones(1, 4, 2)}] * 2, {"num_inference_steps": STEPS}, 0)
    tried = []
    with Lockstep(pipe, calls, lambda step: False) as lockstep:
        for prompts in lockstep:
            assert tried == [] or all(map(torch.equal, lockstep.outputs(), tried))
            tried = []
            for prompt in prompts:
                with prompt.random.lent():
                    tried.append(plain_step(prompt.step.scheduler, prompt.step.arguments, prompt.reply))
    assert all(map(torch.equal, lockstep.outputs(), tried))
    assert not torch.equal(*tried)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_draws_from_the_global_generator_is_served(name, make_toy):
    """The error that calibration tells is that of the same calls made anew, from the same state."""
    toy = make_toy(lambda s, t: s * 0.5 + t / 1000, scheduler=SAMPLERS[name]())
    call = {"latents": 3 * torch.ones(1, 4, 2)}
    policy = ertacache.calibrate(toy, [call, call], num_inference_steps=8, speedup=2, progress=False)
    error = size = 0.0
    for k in range(2):
        with RandomState.of(0, k).lent():
            full = toy(**call)
        with RandomState.of(0, k).lent(), ertacache.accelerated(toy, policy) as run:
            fast = toy(**call)
        assert run.cached_steps == policy.cached_steps
        error, size = error + float((fast - full).square().sum()), size + float(full.square().sum())
    assert 0 < policy.calibration.error < 0.2
    assert policy.calibration.error == pytest.approx((error / size) ** 0.5, rel=1e-3)


# How calls end.


class Stubborn:
    """A pipeline that catches whatever comes, and tries the same again or goes on with the next step."""

    def __init__(self, toy, around, again):
        self.transformer, self.scheduler, self.around, self.again = toy.transformer, toy.scheduler, around, again

    def tried(self, what, function, *args):
        while what in self.around:
            try:
                return function(*args)
            except:  # noqa: E722
                if not self.again:
                    return None
        return function(*args)

    @torch.no_grad()
    def __call__(self, latents, num_inference_steps=8):
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            output = self.tried("denoiser", self.transformer, latents, t)
            stepped = self.tried("step", self.scheduler.step, latents if output is None else output, t, latents)
            latents = latents if stepped is None else stepped.prev_sample
        return latents


STUBBORN = [(around, again) for around in (("denoiser",), ("step",), ("denoiser", "step")) for again in (False, True)]


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ertacache")]


def within_seconds(action):
    """What comes of it, in a thread that may hang without the tests hanging too."""
    found = []

    def run():
        try:
            found.append(action())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    return found[0]


@pytest.mark.parametrize(("around", "again"), STUBBORN)
def test_a_call_that_catches_everything_ends_when_it_is_abandoned(around, again, make_toy):
    pipe = Stubborn(make_toy(), around, again)
    calls = calls_for(pipe, [{"latents": torch.ones(1, 4, 2) * k} for k in (1, 2)], {"num_inference_steps": STEPS}, 0)

    def abandoned():
        with Lockstep(pipe, calls, lambda step: False) as lockstep:
            for prompts in lockstep:
                if prompts[0].index == 2:
                    break

    assert within_seconds(abandoned) is None
    assert threads() == []


@pytest.mark.parametrize(("around", "again"), STUBBORN)
def test_an_error_that_a_call_catches_comes_after_it(around, again, make_toy, make_policy):
    """At a cached step the denoiser is not called at all."""

    class Uneven(Stubborn):
        made = 0

        def tried(self, what, function, *args):
            self.made += 1
            found = None
            for _ in range(0 if self.made == 9 else 1):
                found = super().tried(what, function, *args)
            return found

    pipe = Uneven(make_toy(), around, again)

    def accelerated():
        with ertacache.accelerated(pipe, make_policy(8, (4, 5))):
            return pipe(torch.ones(1, 4, 2))

    assert isinstance(within_seconds(accelerated), RunError)
    assert "_compiled_call_impl" not in vars(pipe.transformer)


def test_nan_in_a_call_that_catches_everything_is_told(make_toy):
    pipe = Stubborn(make_toy(lambda sample, t: sample * float("nan")), ("step",), True)
    error = within_seconds(
        lambda: ertacache.calibrate(
            pipe, [{"latents": torch.ones(1, 4, 2)}], num_inference_steps=8, speedup=2, progress=False
        )
    )
    assert isinstance(error, CalibrationError)
    assert "NaN" in str(error)


class StoppedError(Exception):
    pass


def fail():
    raise StoppedError


def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.fixture
def heeded():
    """An interrupt is one, in tests that run in the background too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


BUDGETS = {  # prompts, steps, and what is asked for
    "search": (2, 8, {"speedup": 2, "full_runs": 7}),
    "seconds": (3, 8, {"seconds": 1e-9}),
    "quality": (12, 5, {"min_psnr": 60.0, "method": "taylor"}),
}


TOTALS = {}
"""The denoiser's calls of each, once they are known."""


@pytest.mark.parametrize("end", [fail, interrupt])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.85, 1.0])
@pytest.mark.parametrize("budget", BUDGETS)
def test_whenever_calibration_ends_all_is_as_before(budget, share, end, make_flux, flux_call, heeded):
    pipe, (prompts, steps, asked) = make_flux(), BUDGETS[budget]
    calls = [flux_call(seed=seed, output_type="pil") for seed in range(prompts)]
    for call in calls:
        del call["num_inference_steps"]
    wanted = pipe(**flux_call()).images
    before, drawn = state_of(pipe), global_state()
    made = []

    def calibrate(at=0):
        made.clear()

        def count(*_):
            made.append(threading.current_thread())
            if len(made) == at:
                end()

        hook = pipe.transformer.register_forward_pre_hook(count)
        try:
            ertacache.calibrate(pipe, calls, num_inference_steps=steps, progress=False, **asked)
        except (StoppedError, KeyboardInterrupt, ertacache.errors.BudgetError):
            pass
        finally:
            hook.remove()

    if budget not in TOTALS:
        calibrate()
        TOTALS[budget] = len(made)
    total = TOTALS[budget]
    calibrate(at=max(1, int(share * total)))
    assert len(made) < total or share == 1.0 or end is interrupt  # an interrupted search gives what it has
    assert differences(state_of(pipe), before) == []
    assert global_state() == drawn
    assert threads() == []
    assert torch.equal(pipe(**flux_call()).images, wanted)


def test_an_interrupt_while_calls_are_ended_waits_until_they_are(make_toy, heeded):
    entered = threading.Event()

    def answer(sample, timestep):
        if threading.current_thread() is not threading.main_thread() and timestep < 700:
            entered.set()
            interrupt()
            interrupt()
        return sample * 0.5

    pipe = make_toy(answer)
    calls = calls_for(pipe, [{"latents": torch.ones(1, 4, 2)}] * 3, {"num_inference_steps": STEPS}, 0)
    with pytest.raises(KeyboardInterrupt), Lockstep(pipe, calls, lambda step: False) as lockstep:
        for _ in lockstep:
            pass
    assert entered.is_set()
    assert threads() == []


@pytest.mark.parametrize("number", [26, 27, 50, 51, 60])
def test_layers_that_a_guider_has_skipped_are_whole_again(number):
    """Its hooks stand in the model for one denoiser call of three; two prompts make 48 in full."""
    family = Family(CASES["HunyuanVideo15"])
    skipped = LayerSkipConfig([0], fqn="transformer_blocks", skip_attention=False)
    family.pipe.guider = SkipLayerGuidance(
        skip_layer_config=skipped, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
    )
    plain, calls, before = family.run(), [family.arguments(1), family.arguments(2)], state_of(family.pipe)
    made, hooked = [], []

    def count(module, *_):
        made.append(None)
        hooked.append("forward" in vars(module.transformer_blocks[0].ff))
        if len(made) == number:
            fail()

    hook = family.pipe.transformer.register_forward_pre_hook(count)
    with pytest.raises(StoppedError):
        ertacache.calibrate(family.pipe, calls, num_inference_steps=8, speedup=2, progress=False, method="taylor")
    hook.remove()
    assert hooked[-1] or number % 3
    assert differences(state_of(family.pipe), before) == []
    assert torch.equal(family.run(), plain)
