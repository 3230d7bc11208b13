"""The plug-in in SGLang's own wheel, on the CPU: its real stages with small pipelines. No server, worker or GPU.

``make test-sglang`` installs the wheel into its own environment, with stand-ins for CUDA packages (`absent`).
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import nn

import ertacache
from ertacache import zoo
from ertacache.errors import ArgumentError, PipelineError, PolicyMismatchError, RunError
from ertacache.method.named_methods import Method
from ertacache.method.schedule import evenly_spaced

if importlib.util.find_spec("sglang") is None:
    pytest.skip("SGLang is installed by make test-sglang", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
import absent  # noqa: F401
from sglang.multimodal_gen.configs.sample.sampling_params import SamplingParams
from sglang.multimodal_gen.runtime.distributed.cfg_policy import CFGPolicy
from sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from sglang.multimodal_gen.runtime.pipelines_core.schedule_batch import Req
from sglang.multimodal_gen.runtime.platforms import plugins
from sglang.multimodal_gen.runtime.server_args import server_args as arguments_of_server

plugins.load_plugins()
plugins.HookRegistry.apply_hooks()

from sglang.multimodal_gen.runtime.pipelines.diffusers_pipeline import DiffusersExecutionStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingContext, DenoisingStage

STEPS = 12


class Server(SimpleNamespace):
    """Arguments of a server, as far as the stages read them."""

    comfyui_mode = False
    disable_autocast = True
    enable_cfg_parallel = False
    enable_layerwise_nvtx_marker = False
    pipeline_config = SimpleNamespace(
        get_classifier_free_guidance_scale=lambda batch, scale: scale,
        slice_noise_pred=lambda output, latents: output,
        postprocess_cfg_noise=lambda batch, output, cond: output,
        dit_config=SimpleNamespace(arch_config=SimpleNamespace(patch_size=1)),
        task_type=None,
    )


arguments_of_server.set_global_server_args(Server())


@pytest.fixture(scope="module")
def flux():
    embedded = zoo.load("flux")
    embedded.pipe.to(torch.float32)
    return embedded


@pytest.fixture
def stage(flux):
    return DiffusersExecutionStage(flux.pipe)


@pytest.fixture
def forwards(flux):
    calls = []
    hook = flux.pipe.transformer.register_forward_hook(lambda *given: calls.append(1))
    yield lambda: (len(calls), calls.clear())[0]
    hook.remove()


def request(flux, seed=1, steps=STEPS, **asked):
    """A request of the diffusers backend."""
    given = {name: flux.arguments[name] for name in ("true_cfg_scale", "negative_prompt", "max_sequence_length")}
    sampling = SamplingParams(
        prompt=flux.held_out_prompts[0], num_inference_steps=steps, height=96, width=96, seed=seed
    )
    made = Req(sampling_params=sampling)
    made.extra["diffusers_kwargs"] = given | asked
    made.generator = torch.Generator().manual_seed(seed)
    return made


def test_the_plug_in_is_found_by_its_entry_point():
    assert (
        sum("DenoisingStage" in name or "DiffusersExecutionStage" in name for name in plugins.HookRegistry._patched)
        == 3
    )


def test_a_request_that_does_not_ask_is_untouched(stage, flux, forwards, monkeypatch):
    full = stage.forward(request(flux), Server()).output
    assert forwards() == 2 * STEPS
    for asked in ({"ertacache": "off"}, {"ertacache": "instant:1"}):
        assert torch.equal(stage.forward(request(flux, **asked), Server()).output, full)
        assert forwards() == 2 * STEPS
    monkeypatch.setenv("ERTACACHE", "instant:2")
    fast = request(flux)
    assert (stage.forward(fast, Server()).output - full).abs().mean() < 0.05
    assert forwards() == STEPS
    assert "6 of 12 steps computed" in fast.extra["ertacache_report"]
    assert torch.equal(stage.forward(request(flux, ertacache="off"), Server()).output, full), "the request decides"


def test_interleaved_requests_with_other_policies_do_not_touch_each_other(stage, flux, forwards, monkeypatch, tmp_path):
    monkeypatch.setenv("ERTACACHE_POLICIES", str(tmp_path))
    monkeypatch.setenv("ERTACACHE_LEARN", str(tmp_path / "learnt"))
    (tmp_path / "learnt").mkdir()
    for name, method in (("taylor", "taylor"), ("reuse", "reuse")):
        ertacache.Policy(STEPS, evenly_spaced(STEPS, 4, ()), Method.named(method)).save(tmp_path / f"{name}.json")
    alone = {}
    for wish, calls in (("taylor", 8), ("reuse", 8), ("instant:3", 8), ("off", 24), ("learn", 24)):
        alone[wish] = stage.forward(request(flux, ertacache=wish), Server()).output
        assert forwards() == calls
    for wish in ("reuse", "off", "taylor", "instant:3", "off", "reuse", "taylor"):
        assert torch.equal(stage.forward(request(flux, ertacache=wish), Server()).output, alone[wish])
    forwards()
    stage.forward(request(flux, seed=2, ertacache="learn"), Server())
    assert forwards() == 12, "learnt from the first"


def test_what_cannot_be_done_is_refused_with_the_cure(stage, flux, monkeypatch, tmp_path):
    monkeypatch.setenv("ERTACACHE_POLICIES", str(tmp_path))
    ertacache.Policy(STEPS, (3, 5), Method.named("taylor")).save(tmp_path / "known.json")
    for asked, error, match in (
        ("unknown", ArgumentError, r"no policy of this name.*Known ones.*known"),
        ("instant:0.5", ArgumentError, "does not say how"),
        ("learn", ArgumentError, "ERTACACHE_LEARN"),
        ("../known", ArgumentError, "no policy of this name"),
    ):
        with pytest.raises(error, match=match):
            stage.forward(request(flux, ertacache=asked), Server())
    with pytest.raises(PolicyMismatchError, match="steps"):
        stage.forward(request(flux, steps=20, ertacache="known"), Server())
    assert stage.forward(request(flux), Server()).output.isfinite().all()


class Network(nn.Module):
    """A transformer as SGLang calls one."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 16))
        self.calls = 0

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        self.calls += 1
        level = (timestep / 1000).view(-1, 1).to(hidden_states)
        return self.layers(torch.cat([hidden_states + encoder_hidden_states, level], -1))


class Stage(DenoisingStage):
    """The native stage, but for the residency of weights and attention metadata, which need a server."""

    def __init__(self, transformer, transformer_2=None):
        self.server_args = Server()
        self.transformer, self.transformer_2 = transformer, transformer_2
        self._extra_func_kwarg_names_cache = {}

    def _manage_dit_use_site(self, current_model, current_phase, batch):
        pass

    def _build_attn_metadata(self, *args, **kwargs):
        return None

    def _maybe_get_bcg_runner(self, current_model):
        return None

    def _finish_active_component_use(self):
        pass

    def loop(self, scheduler, seed=0, boundary=None, **asked):
        """Run a request's loop; returns the last latent and the request."""
        sampling = SamplingParams(prompt="", num_inference_steps=STEPS, guidance_scale=3.0)
        batch = Req(sampling_params=sampling)
        batch.guidance_scale_2 = 2.0
        batch.do_classifier_free_guidance = True
        batch.raw_latent_shape = (1, 16)
        batch.extra["diffusers_kwargs"] = asked
        scheduler.set_timesteps(STEPS)
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(1, 16, generator=generator)
        texts = {"encoder_hidden_states": torch.ones(1, 16)}, {"encoder_hidden_states": torch.zeros(1, 16)}
        ctx = DenoisingContext(
            scheduler=scheduler,
            extra_step_kwargs={},
            target_dtype=torch.float32,
            autocast_enabled=False,
            timesteps=scheduler.timesteps,
            num_inference_steps=STEPS,
            num_warmup_steps=0,
            image_kwargs={},
            pos_cond_kwargs=texts[0],
            neg_cond_kwargs=texts[1],
            latents=latents,
            boundary_timestep=boundary,
            z=None,
            reserved_frames_mask=None,
            seq_len=None,
            guidance=None,
            is_warmup=False,
            cfg_policy=CFGPolicy().build(batch, {}, *texts),
        )
        with torch.no_grad():
            self._run_denoising_loop(ctx, batch, self.server_args)
        return ctx.latents, batch


SCHEDULERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_native_stage_is_accelerated(kind):
    network = Network(0)
    stage, scheduler = Stage(network), SCHEDULERS[kind]()

    def taken():
        calls, network.calls = network.calls, 0
        return calls

    full, _ = stage.loop(scheduler)
    assert taken() == 2 * STEPS
    exact, _ = stage.loop(scheduler, ertacache="instant:1")
    assert torch.equal(exact, full)
    assert taken() == 2 * STEPS
    fast, batch = stage.loop(scheduler, ertacache="instant")
    assert taken() == STEPS
    assert (fast - full).norm() < 0.05 * full.norm()
    assert "6 of 12 steps computed" in batch.extra["ertacache_report"]
    again, _ = stage.loop(scheduler)
    assert torch.equal(again, full)
    assert taken() == 2 * STEPS


def test_the_native_stage_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("ERTACACHE_LEARN", str(tmp_path))
    network = Network(0)
    stage, scheduler = Stage(network), SCHEDULERS["euler"]()
    stage.loop(scheduler, ertacache="learn")
    assert network.calls == 2 * STEPS
    stage.loop(scheduler, seed=1, ertacache="learn")
    assert network.calls == 3 * STEPS
    monkeypatch.setattr(Stage, "_sp_world_size", lambda self: 2)
    with pytest.raises(RunError, match="ranks that share a latent cannot learn"):
        stage.loop(scheduler, ertacache="learn")


def test_the_first_step_of_another_expert_is_computed():
    high, low = Network(0), Network(1)
    stage, scheduler = Stage(high, low), SCHEDULERS["euler"]()
    _, batch = stage.loop(scheduler, boundary=900, ertacache="instant:3")
    scheduler.set_timesteps(STEPS)
    change = int((scheduler.timesteps >= 900).sum())
    assert 0 < change < STEPS
    assert low.calls >= 2
    report = batch.extra["ertacache_report"]
    assert f"step {change} was computed" in report or low.calls + high.calls == 8


def test_a_scheduler_of_several_evaluations_is_refused():
    from diffusers import FlowMatchHeunDiscreteScheduler

    with pytest.raises(PipelineError, match=r"several times|times a step|twice"):
        Stage(Network(0)).loop(FlowMatchHeunDiscreteScheduler(), ertacache="instant")
