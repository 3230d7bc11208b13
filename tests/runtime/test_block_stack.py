"""The level `hidden`: the blocks of the denoiser are left out, and nothing else."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline

import ertacache
from ertacache.errors import PipelineError
from ertacache.method.named_methods import Method
from ertacache.runtime.block_stack import blocks_of, sketch
from ertacache.runtime.driver import Driver
from ertacache.runtime.run import Run

HIDDEN = Method(level="hidden")


class Cached(Driver):
    """Skips these steps at level hidden, with these factors, and looks at the residuals."""

    def __init__(self, cached, factors=(1.0,)):
        self.cached, self.factors, self.residuals_kept, self.seen = cached, factors, len(factors), {}

    def is_cached(self, step):
        return step in self.cached

    def block_factors(self, step):
        return self.factors

    def model_output(self, step):
        self.seen[step.index] = step.model_output, step.residuals
        return step.model_output


def block_calls(pipe, counted):
    return [counted(block) for block in blocks_of(pipe.transformer)]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("model", ["flux", "sd3"])
def test_cached_steps_run_the_denoiser_without_its_blocks(model, guided, request, counted):
    pipe, arguments = request.getfixturevalue(model), request.getfixturevalue(f"{model}_call")
    whole, blocks = counted(pipe.transformer), block_calls(pipe, counted)
    driver = Cached((2, 3, 5))
    with Run(pipe, driver) as run:
        pipe(**arguments(guided=guided))
    calls = 2 if guided and model == "flux" else 1
    assert whole.take() == 8 * calls
    assert [block.take() for block in blocks] == [5 * calls] * len(blocks)
    assert run.report.denoiser_calls == 5 * calls
    assert run.report.cached_steps == [2, 3, 5]
    assert all(len(residuals) == calls for _, residuals in driver.seen.values())


@pytest.mark.parametrize("model", ["flux", "sd3"])
def test_with_the_true_residual_nothing_changes(model, request):
    """A step that is skipped with the residual that it would have had is that step."""
    pipe, arguments = request.getfixturevalue(model), request.getfixturevalue(f"{model}_call")
    full = Cached(())
    with Run(pipe, full):
        plain = pipe(**arguments(guided=True)).images

    class Replayed(Cached):
        def is_cached(self, step):
            if step in self.cached:  # the blocks' residual of this very step, in place of the last one's
                for history, residual in zip(self.run.residuals.values(), full.seen[step][1], strict=True):
                    history.entries[0] = residual
            return step in self.cached

    driver = Replayed((2, 3, 5))
    with Run(pipe, driver) as driver.run:
        out = pipe(**arguments(guided=True)).images
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)
    with Run(pipe, Cached((2, 3, 5))):
        reused = pipe(**arguments(guided=True)).images
    assert (reused - plain).abs().max() > 1e-2


def test_with_nothing_cached_it_is_exact_and_leaves_no_trace(flux, flux_call):
    plain = flux(**flux_call()).images
    before = {name: set(vars(module)) for name, module in flux.transformer.named_modules()}
    with Run(flux, Cached(())):
        assert torch.equal(flux(**flux_call()).images, plain)
    with Run(flux, Cached((2, 3))):
        assert not torch.equal(flux(**flux_call()).images, plain)
    assert {name: set(vars(module)) for name, module in flux.transformer.named_modules()} == before
    assert torch.equal(flux(**flux_call()).images, plain)


def test_factors_combine_the_residuals_of_the_last_computed_steps(flux, flux_call):
    """The hidden states before the output head, caught at its norm, show what was added."""
    entered, left = [], []
    flux.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda m, args, kwargs: entered.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    flux.transformer.x_embedder.register_forward_hook(lambda m, args, out: entered.append(out.clone()))
    flux.transformer.norm_out.register_forward_pre_hook(lambda m, args: left.append(args[0].clone()))
    driver = Cached((3,), (1.5, -0.5))
    with Run(flux, driver):
        flux(**flux_call(steps=5))
    embedded = entered[-3]  # at step 3 the first block is not called, so the embedding stands alone
    expected = embedded + 1.5 * driver.seen[2][1][0] - 0.5 * driver.seen[1][1][0]
    torch.testing.assert_close(left[3], expected)


def test_a_denoiser_compiled_as_a_whole_is_refused_with_the_reason(flux, flux_call, make_policy):
    flux.transformer.compile(backend="eager")
    with (
        ertacache.accelerated(flux, make_policy(8, (2, 3), HIDDEN)),
        pytest.raises(PipelineError, match=r"compiled as a whole.*compile_repeated_blocks"),
    ):
        flux(**flux_call())


def test_blocks_that_are_compiled_one_by_one_work(make_flux, flux_call, make_policy):
    outputs = []
    for compiled in (False, True):
        pipe = make_flux()
        if compiled:
            for block in blocks_of(pipe.transformer):
                block.compile(backend="eager")
        with ertacache.accelerated(pipe, make_policy(8, (2, 3), HIDDEN)) as run:
            outputs.append(pipe(**flux_call(guided=True)).images)
        assert run.cached_steps == (2, 3)
    torch.testing.assert_close(*outputs)


def test_a_denoiser_without_blocks_is_refused(make_toy, make_policy):
    pipe = make_toy()
    with (
        ertacache.accelerated(pipe, make_policy(8, (2,), HIDDEN)),
        pytest.raises(PipelineError, match=r"this denoiser has none \(given: ToyDenoiser: no list of blocks"),
    ):
        pipe(torch.ones(1, 4, 2))


def test_a_sketch_is_evenly_spaced_and_bounded():
    residuals = [torch.arange(10.0), torch.arange(7.0)]
    assert sketch(residuals, size=5).tolist() == [0, 2, 4, 6, 8, 0, 2, 4, 6]


@pytest.mark.parametrize(
    "method",
    [
        HIDDEN,
        Method(level="hidden", predictor="taylor"),
        Method(level="hidden", predictor="aligned"),
        Method(level="hidden", predictor="aligned", schedule="search"),
        Method(level="hidden", schedule="offline"),
        Method(level="hidden", schedule="offline", timestep_adjustment=True, rectification="channel"),
    ],
    ids=lambda m: m.name.replace("level=hidden, ", ""),
)
@pytest.mark.parametrize("guided", [False, True])
def test_every_method_can_be_calibrated_and_followed(method, guided, flux, flux_call):
    """What calibration says of the final latent is what the policy does on the calibration prompts."""
    calls = [{**flux_call(guided=guided, seed=s), "generator": torch.Generator().manual_seed(s)} for s in (1, 2)]
    prompts = [{k: v for k, v in c.items() if k != "num_inference_steps"} for c in calls]
    policy = ertacache.calibrate(
        flux, prompts, num_inference_steps=8, num_computed_steps=5, method=method, progress=False
    )
    assert len(policy.computed_steps) == 5
    assert policy.calibration.full_runs <= 5
    errors = sizes = 0.0
    for call in calls:
        state = call["generator"].get_state()
        full = flux(**call).images
        call["generator"].set_state(state)
        with ertacache.accelerated(flux, policy) as run:
            out = flux(**call).images
        assert run.report.notes == []
        errors, sizes = errors + (out - full).square().sum(), sizes + full.square().sum()
    assert float((errors / sizes) ** 0.5) == pytest.approx(policy.calibration.error, rel=1e-3)


def test_guidance_that_ends_is_computed_at_the_step_where_it_does(make_flux, flux_call):
    """The residuals before and after are of another number of calls, and are not compared."""

    class Ending(FluxPipeline):
        def __call__(self, *args, **kwargs):
            def stop(pipe, index, timestep, tensors):
                if index == 3:
                    pipe.transformer.guided = False
                return {}

            self.transformer.guided = True
            return super().__call__(*args, **kwargs, callback_on_step_end=stop)

    pipe = make_flux()
    pipe.__class__ = Ending
    original = type(pipe.transformer).__call__

    class Narrowing(type(pipe.transformer)):
        def __call__(self, *args, **kwargs):
            length = 4 if self.guided else 3
            kwargs["encoder_hidden_states"] = kwargs["encoder_hidden_states"][:, :length]
            kwargs["txt_ids"] = kwargs["txt_ids"][:length]
            return original(self, *args, **kwargs)

    pipe.transformer.__class__ = Narrowing
    call = {k: v for k, v in flux_call().items() if k != "num_inference_steps"}
    for method in (Method(level="hidden", schedule="offline"), Method(level="output", schedule="offline")):
        policy = ertacache.calibrate(pipe, [call], num_inference_steps=8, threshold=50.0, method=method, progress=False)
        assert policy.computed_steps == (0, 4, 7)


def test_what_is_added_between_blocks_is_refused(make_flux, flux_call):
    """A ControlNet's residuals would be in the residual of the blocks, and be added once more by the model."""
    pipe = make_flux(num_single_layers=2)
    own = pipe.transformer.forward

    def forward(*args, **kwargs):
        extra = [torch.ones(1, 16, 16), torch.ones(1, 16, 16)]
        return own(*args, **kwargs, controlnet_single_block_samples=extra)

    pipe.transformer.forward = forward
    with (
        pytest.raises(PipelineError, match=r"something is added between two of them .*ControlNet"),
        Run(pipe, Cached(())),
    ):
        pipe(**flux_call())
