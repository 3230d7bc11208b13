"""Calibration on the embedded pipeline: what it makes, what it costs, what it refuses."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import hooks

import ertacache
from ertacache import Method, Policy
from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.loop_result import Fit, FittedOn
from ertacache.calibration.make_policy import better_policy
from ertacache.calibration.prompts import calls_for, prompts_of
from ertacache.calibration.worthwhile import warnings_of
from ertacache.errors import BudgetError, CalibrationError, GuardError, MethodError, PipelineError
from ertacache.method.named_methods import NAMED_METHODS
from ertacache.method.prediction import Prediction
from ertacache.method.worthwhile import FEW_STEPS
from ertacache.policy import CalibrationRecord


def generate(embedded, policy=None, prompt="a red star on a gray background", **changes):
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent", **changes}
    generator = torch.Generator().manual_seed(5)
    if policy is None:
        return embedded.pipe(prompt, generator=generator, **arguments).images
    with ertacache.accelerated(embedded.pipe, policy):
        return embedded.pipe(prompt, generator=generator, **arguments).images


@pytest.mark.parametrize("method", NAMED_METHODS)
def test_every_named_method_meets_its_budget_and_its_cost(prompts, method, made_by):
    made = made_by(method)
    assert len(made.policy.computed_steps) == 5
    assert made.policy.step_ratio == 2
    record = made.policy.calibration
    assert record.full_runs <= 5
    assert record.denoiser_calls == made.calls == record.full_runs * 10 * 2 * len(prompts)
    assert 0 < record.error < 1


@pytest.mark.parametrize(("method", "cost"), [("offline", 2), ("paper", 3), ("uniform", 1.5)])
def test_what_does_not_search_says_what_it_costs(made_by, method, cost):
    made = made_by(method)
    assert made.policy.calibration.full_runs == cost
    assert f"at most {2 * cost:g} full runs in all, on 2 prompts: a full run takes" in made.told


def test_a_saved_and_loaded_policy_gives_bit_identical_pictures(embedded, made_by, tmp_path):
    for method in ("aligned", "paper"):
        policy = made_by(method).policy
        policy.save(tmp_path / "policy.safetensors")
        loaded = Policy.load(tmp_path / "policy.safetensors")
        assert torch.equal(generate(embedded, policy), generate(embedded, loaded))


def test_calibration_is_reproducible(embedded, settings, prompts, made_by):
    first = made_by("aligned").policy
    second = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="aligned", **settings)
    assert first.cached_steps == second.cached_steps
    assert first.predictions == second.predictions


@pytest.mark.parametrize(
    ("model", "prompts", "full_runs"),
    [("embedded", 4, 16), pytest.param("trained", 8, 24, marks=pytest.mark.slow)],
)
def test_aligned_is_nearer_to_the_full_run_than_reuse_and_taylor_on_held_out_prompts(
    model, prompts, full_runs, tmp_path, request
):
    errors, small = {}, request.getfixturevalue(model)
    steps = 20  # at 10 they are so long that reuse is as good
    held_out, settings = small.held_out_prompts[:prompts], {**small.arguments, "num_inference_steps": steps}
    full = [generate(small, prompt=prompt, num_inference_steps=steps) for prompt in held_out]
    for method in ("reuse", "taylor", "aligned"):
        policy = ertacache.calibrate(
            small.pipe,
            small.calibration_prompts[:prompts],
            speedup=2,
            method=method,
            full_runs=full_runs,
            checkpoint=tmp_path,
            progress=False,
            **settings,
        )
        fast = [generate(small, policy, prompt=prompt, num_inference_steps=steps) for prompt in held_out]
        errors[method] = sum(math.log(float((a - b).norm() / b.norm())) for a, b in zip(fast, full, strict=True))
    assert errors["aligned"] < errors["taylor"]
    assert errors["aligned"] < errors["reuse"]


@pytest.mark.parametrize(("method", "speedup"), [("taylor", 2), ("aligned", 5)])
def test_the_closed_loop_error_is_that_of_the_same_prompts_generated_anew(
    embedded, settings, prompts, method, speedup, monkeypatch
):
    # The search begins with a schedule that ends with cached steps; nothing that comes after it is to be better.
    monkeypatch.setattr("ertacache.calibration.search.beginnings", lambda *_: iter([(1, 2, 3, 4, 6, 7, 8, 9)]))
    monkeypatch.setattr("ertacache.calibration.search.clearly_better", lambda fit, best, standard_errors: False)
    policy = ertacache.calibrate(embedded.pipe, prompts, speedup=speedup, method=method, **settings)
    assert (9 in policy.cached_steps) == (method == "aligned")
    error = size = 0.0
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent"}
    for k, prompt in enumerate(prompts):
        full = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
        with ertacache.accelerated(embedded.pipe, policy):
            fast = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
        error, size = error + float((fast - full).square().sum()), size + float(full.square().sum())
    assert policy.calibration.error == pytest.approx((error / size) ** 0.5, rel=1e-3)


def test_a_budget_of_all_steps_caches_nothing_and_says_so(embedded, settings, prompts):
    for budget in ({"speedup": 1}, {"num_computed_steps": 10}):
        policy = ertacache.calibrate(embedded.pipe, prompts, **budget, **settings)
        assert policy.cached_steps == ()
        assert policy.calibration.full_runs == 1
        assert "nothing is cached" in policy.calibration.notes[0]
    assert torch.equal(generate(embedded, policy), generate(embedded))
    with pytest.raises(GuardError, match="nothing to guard"):
        ertacache.enable(embedded.pipe, policy, guard="report")


def test_calibration_leaves_the_pipeline_and_the_users_objects_as_they_were(embedded, settings, prompts):
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(4))
    kept = generator.get_state().clone(), latents.clone()
    generate(embedded)  # the pipeline sets attributes of its own in its first call
    before = [dict(vars(thing)) for thing in (embedded.pipe, embedded.pipe.scheduler, embedded.pipe.transformer)]
    calls = [{"prompt": prompts[0], "generator": generator}, {"prompt": prompts[1], "latents": latents}]
    ertacache.calibrate(embedded.pipe, calls, speedup=2, full_runs=4, **settings)
    after = [dict(vars(thing)) for thing in (embedded.pipe, embedded.pipe.scheduler, embedded.pipe.transformer)]
    assert [list(a) for a in after] == [list(b) for b in before]
    assert all(a[key] is b[key] for a, b in zip(after, before, strict=True) for key in b)
    assert torch.equal(generator.get_state(), kept[0])
    assert torch.equal(latents, kept[1])


def test_a_threshold_runs_algorithm_2_in_closed_loop(embedded, settings, prompts):
    sizes = [
        len(ertacache.calibrate(embedded.pipe, prompts, threshold=lam, method="offline", **settings).cached_steps)
        for lam in (1e-6, 0.3, 1e3)
    ]
    assert sizes[0] == 0
    assert sizes[2] == 8
    assert sizes == sorted(sizes)


def test_a_parameterised_method_is_taken_too(embedded, settings, prompts):
    method = Method(schedule="offline", level="velocity", rectification="step")
    policy = ertacache.calibrate(embedded.pipe, prompts, num_computed_steps=4, method=method, **settings)
    assert policy.rectification.k.shape == (6,)
    assert not torch.equal(generate(embedded, policy), generate(embedded))


def test_an_element_wise_error_model_is_tied_to_its_latent_shape(embedded, settings, prompts):
    method = Method(schedule="offline", level="output", rectification="element")
    policy = ertacache.calibrate(embedded.pipe, prompts, num_computed_steps=5, method=method, **settings)
    generate(embedded, policy)
    with pytest.raises(ertacache.ERTACacheError, match="latent shape"):
        generate(embedded, policy, height=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speedup": 2, "threshold": 0.1}, "exactly one budget"),
        ({}, "exactly one budget"),
        ({"speedup": 6}, "cannot be met"),
        ({"speedup": 0.5}, "under 1"),
        ({"num_computed_steps": 1}, "cannot be met"),
        ({"threshold": 0.1, "method": "aligned"}, "Algorithm 2 only"),
        ({"threshold": -1.0, "method": "paper"}, "positive"),
    ],
)
def test_an_impossible_budget_is_refused_before_anything_runs(embedded, settings, prompts, changes, message):
    with pytest.raises(BudgetError, match=message):
        ertacache.calibrate(embedded.pipe, prompts, **settings, **changes)


def test_bad_prompts_methods_and_schedulers_are_refused(embedded, settings, prompts):
    for bad in ([], "a red star", [3]):
        with pytest.raises(CalibrationError):
            ertacache.calibrate(embedded.pipe, bad, speedup=2, **settings)
    with pytest.raises(MethodError, match="taylor"):
        ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="teacache", **settings)
    from diffusers import HeunDiscreteScheduler

    own, embedded.pipe.scheduler = embedded.pipe.scheduler, HeunDiscreteScheduler()
    try:
        with pytest.raises(PipelineError, match=r"HeunDiscreteScheduler.*DDIMScheduler"):
            ertacache.calibrate(embedded.pipe, prompts, speedup=2, **settings)
    finally:
        embedded.pipe.scheduler = own


def test_a_prompt_with_a_number_of_steps_of_its_own_is_refused(embedded, settings):
    with pytest.raises(CalibrationError, match=r"prompt 1 brings a number of steps of its own.*8, and 10 for all"):
        ertacache.calibrate(
            embedded.pipe, ["a red star", {"prompt": "a ring", "num_inference_steps": 8}], speedup=2, **settings
        )


def test_a_bfloat16_pipeline_is_calibrated_and_its_policy_is_followed(own_embedded):
    embedded = own_embedded
    embedded.pipe.to(torch.bfloat16)
    arguments = {**embedded.arguments, "num_inference_steps": 16}
    prompts, method = embedded.calibration_prompts[:4], Method(schedule="uniform", predictor="aligned")
    policy = ertacache.calibrate(
        embedded.pipe, prompts, num_computed_steps=8, method=method, progress=False, **arguments
    )
    reuse = Policy(16, policy.cached_steps, Method.named("reuse"), origin=policy.origin)
    errors = {policy: 0.0, reuse: 0.0}
    for prompt in embedded.held_out_prompts[:3]:
        full = generate(embedded, prompt=prompt, num_inference_steps=16)
        assert full.dtype == torch.bfloat16
        for chosen in errors:
            with ertacache.accelerated(embedded.pipe, chosen) as run:
                fast = generate(embedded, prompt=prompt, num_inference_steps=16)
            assert run.cached_steps == policy.cached_steps
            assert run.report.notes == []
            errors[chosen] += math.log(float((fast.float() - full.float()).norm() / full.float().norm()))
    assert errors[policy] < errors[reuse]


@pytest.mark.parametrize(
    "setting", [torch.autocast("cpu", torch.bfloat16), torch.inference_mode()], ids=["autocast", "inference"]
)
def test_closed_loops_run_under_the_callers_settings_of_torch(embedded, settings, prompts, setting):
    """Where nothing is cached the closed loop is the full run again, to the bit."""
    with setting:
        policy = ertacache.calibrate(embedded.pipe, prompts, num_computed_steps=10, method="reuse", **settings)
    assert policy.calibration.error == 0


def test_model_offloading_never_holds_a_text_encoder_beside_the_denoiser(own_embedded, settings, prompts, monkeypatch):
    pipe = own_embedded.pipe
    names = {id(part): name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    here, together = set(), set()

    load, unload = hooks.CpuOffload.pre_forward, hooks.CpuOffload.init_hook

    def loading(hook, module, *args, **kwargs):
        if hook.prev_module_hook is not None:
            here.discard(names[id(hook.prev_module_hook.model)])
        here.add(names[id(module)])
        together.add(frozenset(here))
        return load(hook, module, *args, **kwargs)

    def unloading(hook, module):
        here.discard(names[id(module)])
        return unload(hook, module)

    monkeypatch.setattr(hooks.CpuOffload, "pre_forward", loading)
    monkeypatch.setattr(hooks.CpuOffload, "init_hook", unloading)
    pipe.enable_model_cpu_offload(device="cpu")
    ertacache.calibrate(pipe, prompts, speedup=2, full_runs=4, **settings)
    assert {frozenset({"transformer"}), frozenset({"text_encoder"})} <= together
    assert not any("transformer" in group and len(group) > 1 for group in together)


def test_nan_in_a_denoiser_output_names_the_prompt_and_the_step(embedded, settings, prompts):
    calls = 0

    def spoil(module, args, output):
        nonlocal calls
        calls += 1
        return (output[0] * float("nan"),) if calls == 2 * 10 + 7 else output

    hook = embedded.pipe.transformer.register_forward_hook(spoil)
    try:
        with pytest.raises(CalibrationError, match="prompt 1, step 3"):
            ertacache.calibrate(embedded.pipe, prompts, speedup=2, **settings)
    finally:
        hook.remove()
    assert torch.isfinite(generate(embedded)).all()


def test_prompts_of_different_resolutions_are_refused(embedded, settings, prompts):
    mixed = [{"prompt": prompts[0]}, {"prompt": prompts[1], "height": 64}]
    with pytest.raises(PipelineError, match="one setting"):
        ertacache.calibrate(embedded.pipe, mixed, speedup=2, **settings)


class StoredLoops:
    """Closed loops whose fits are known beforehand: with the weights of all prompts, and by Taylor's."""

    num_prompts, denoiser_calls, full_run = 3, 9, 9
    setting = SimpleNamespace(num_steps=2)

    def __init__(self, taylor, of_all=None):
        self.taylor, self.of_all, self.holds_out = taylor, of_all, of_all is not None

    def predict(self, cached_steps, method, *, predictor=None, weights=None):
        assert cached_steps == (1,)
        assert (predictor, weights) in (("taylor", None), (None, FittedOn.ALL_PROMPTS))
        return self.taylor if predictor else self.of_all


def fit_of(*errors, factor=1.0):
    scores = tuple(math.log(error) for error in errors)
    pooled = math.sqrt(sum(error**2 for error in errors) / len(errors))
    return Fit((1,), {1: Prediction((0,), (factor,))}, (pooled, pooled), (sum(scores) / len(scores),), scores)


def made_of(fit, loops):
    return better_policy(loops, Method.named("aligned"), StepsBudget(asked="num_computed_steps=1", computed=1), fit)


def test_taylor_weights_are_kept_for_most_prompts_not_for_one_of_a_large_error():
    taylor = fit_of(0.04, 0.04, 0.5, factor=3.0)
    for fitted, keeps in ((fit_of(0.01, 0.01, 0.6), False), (fit_of(0.05, 0.05, 0.45), True)):
        policy = made_of(fitted, StoredLoops(taylor))
        expected = taylor if keeps else fitted
        assert (policy.predictions, policy.calibration.error) == (expected.predictions, expected.error)
        assert policy.calibration.taylor_kept == keeps
        assert len(policy.calibration.notes) == keeps


def test_taylor_weights_are_compared_with_those_of_all_prompts():
    """Errors of held-out prompts are reported, and do not say which weights are better in a policy."""
    taylor, held_out = fit_of(0.05, factor=3.0), fit_of(0.09)
    kept = made_of(held_out, StoredLoops(taylor, fit_of(0.04, factor=2.0)))
    assert kept.predictions == {1: Prediction((0,), (2.0,))}
    assert kept.calibration.error == held_out.error
    policy = made_of(held_out, StoredLoops(taylor, fit_of(0.06, factor=2.0)))
    assert (policy.predictions, policy.calibration.error) == (taylor.predictions, taylor.error)
    assert "(error 0.06 against 0.05)" in policy.calibration.notes[0]


class Column:
    """Of a table, as pandas has them: neither a list nor a sequence."""

    def __init__(self, *values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __bool__(self):
        raise ValueError("The truth value of a Series is ambiguous.")


class Table:
    """It gives the names of its columns when it is gone through."""

    columns = ("prompt",)

    def __iter__(self):
        return iter(self.columns)


TEXTS = ["a red star", "a ring"]


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        iter(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        Column(*TEXTS),
        Column(*map(np.str_, TEXTS)),
    ],
    ids=lambda given: type(given).__name__,
)
def test_prompts_are_taken_from_whatever_can_be_gone_through(given):
    found = prompts_of(given)
    assert found == TEXTS
    assert [type(text) for text in found] == [str, str]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a red star", "needs a list of prompts.*'a red star'"),
        (b"a red star", "needs a list of prompts"),
        ({"prompt": "a red star"}, "needs a list of prompts"),
        (None, "needs a list of prompts.*NoneType"),
        (3, "needs a list of prompts.*3"),
        (np.array("a red star"), "needs a list of prompts"),
        ([], "needs a list of prompts"),
        (np.array([]), "needs a list of prompts"),
        (iter([]), "needs a list of prompts"),
        (Table(), "needs a list of prompts.*Table"),
        (["a red star", None], "prompt 1 is neither a text nor a dict of call arguments.*NoneType"),
        (["a red star", b"a ring"], "prompt 1 is neither"),
        (["a red star", float("nan")], "prompt 1 is neither.*nan.*float"),
        (np.array([TEXTS]), "prompt 0 is neither"),
        (["a red star", ""], "prompt 1 is empty"),
        ([" \n", "a red star"], "prompt 0 is empty"),
    ],
)
def test_what_are_no_prompts_is_refused_in_words(embedded, settings, given, message):
    policy = Policy(num_inference_steps=10, cached_steps=(2,), method=Method())
    options = {name: value for name, value in settings.items() if name != "num_inference_steps"}
    for refused in (
        lambda: ertacache.calibrate(embedded.pipe, given, speedup=2, **settings),
        lambda: ertacache.profile(embedded.pipe, given, **settings),
        lambda: ertacache.draft(embedded.pipe, policy, given, **options),
    ):
        with pytest.raises(CalibrationError, match=message):
            refused()


def test_a_text_for_a_pipeline_that_takes_none_is_refused_with_what_it_takes():
    class Unconditional:
        def __call__(self, num_inference_steps=50, batch_size=1, generator=None):
            raise AssertionError("not to be called")

    with pytest.raises(CalibrationError, match="Unconditional takes no prompt") as refused:
        calls_for(Unconditional(), [{"batch_size": 1}, "a red star"], {}, 0)
    assert "num_inference_steps, batch_size, generator" in str(refused.value)

    class Open:
        def __call__(self, **arguments):
            raise AssertionError("not to be called")

    assert calls_for(Open(), ["a red star"], {}, 0)[0].arguments()["prompt"] == "a red star"


def test_few_steps_and_a_large_error_are_noted(embedded, settings, prompts, make_policy):
    few = ertacache.calibrate(embedded.pipe, prompts, speedup=2, **{**settings, "num_inference_steps": 4})
    little, far = few.calibration.notes[-2:]
    assert "a run of 4 steps leaves little to skip" in little
    assert f"{few.calibration.error:.0%} from those of the full runs" in far
    assert warnings_of(make_policy(12, (1,), calibration=CalibrationRecord("", error=0.05))) == []
    assert warnings_of(make_policy(4, ())) == []  # nothing is skipped
    assert warnings_of(make_policy(FEW_STEPS, (1,))) != []
    assert warnings_of(make_policy(FEW_STEPS + 1, (1,))) == []
