"""The nodes in the real ComfyUI server, on the CPU, with checkpoints of random weights: plumbing, not quality.

``make test-comfyui`` fetches ComfyUI into its own environment and runs these.
"""

import importlib.util
import json
import math
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ertacache
from ertacache.method.named_methods import Method
from ertacache.method.schedule import evenly_spaced
from ertacache.method.worthwhile import FEW_STEPS

sys.path.insert(0, str(Path(__file__).parent))
from server import Server, WorkflowError
from workflows import accelerated, base, calibrating, in_two_parts, node, sampled, saved

import examples
from tests.presenting.conftest import chromium  # noqa: F401

COMFYUI = Path(os.environ.get("COMFYUI", "ComfyUI")).resolve()
if not (COMFYUI / "main.py").exists() or importlib.util.find_spec("aiohttp") is None:
    pytest.skip("ComfyUI is fetched by make test-comfyui", allow_module_level=True)

SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "res_multistep", "euler_ancestral", "dpmpp_2m_sde")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(COMFYUI, tmp_path_factory.mktemp("comfyui"))
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def made(server, graph):
    """The latent of a workflow, and how often the model ran."""
    outputs = server.run(graph)
    return server.latent(outputs), outputs["count"]["count"][0]


def closeness(one, full):
    """PSNR-like, in dB: the size of the full run's latent over the difference."""
    return 10 * math.log10(float(full.square().mean() / (one - full).square().mean()))


def test_the_nodes_are_there_with_their_help(server):
    nodes = server.get("/object_info")
    for name in ("", "Learn", "Prompts", "Calibrate", "SavePolicy", "LoadPolicy", "Report"):
        assert nodes[f"ERTACache{name}"]["description"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_nothing_cached_it_is_exact_and_at_2x_it_runs_half(server, sampler):
    full, calls = made(server, sampled(base(), sampler_name=sampler))
    assert calls == 12
    exact, calls = made(server, sampled(accelerated(base(), speedup=1.0), "fast", sampler_name=sampler))
    assert calls == 12
    assert torch.equal(exact, full)
    fast, calls = made(server, sampled(accelerated(base()), "fast", sampler_name=sampler))
    assert calls == 6
    assert closeness(fast, full) > 10
    removed, calls = made(server, sampled(base(), sampler_name=sampler))
    assert calls == 12
    assert torch.equal(removed, full)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "dpmpp_3m_sde_gpu", "dpmpp_2m_sde_heun"])
def test_replays_make_the_samplers_own_steps_and_draw_no_noise_twice(server, sampler):
    inputs = {"model": ["model", 0], "positive": ["positive", 0], "negative": ["negative", 0], "latent": ["empty", 0]}
    graph = base() | {"replays": node("TestReplays", sampler_name=sampler, steps=12, seed=5, **inputs)}
    found = server.run(graph)["replays"]
    assert found["steps"] == [12]
    assert found["far"][0] < 2e-6
    assert found["asked"][0] == (2 * 11 if "dpmpp_2m_sde" in sampler or "3m" in sampler else 0)


def test_an_instant_policy_is_made_once_for_all_nodes_and_strengths(server):
    graph = base() | {"one": node("ERTACache", model=["model", 0], speedup=2.0)}
    graph |= {"two": node("ERTACache", model=["model", 0], speedup=2.0)}
    setting = {"sampler_name": "dpmpp_2m_sde", "steps": 17}
    for model, seed in (("one", 31), ("two", 32)):
        _, calls = made(server, sampled(graph, model, seed=seed, **setting))
        assert calls == 8
    assert server.log.read_text().count("instant policy for ComfyUI dpmpp_2m_sde, 17 steps: made in") == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_calibrated_policy_beats_taylor_and_fewer_steps_on_held_out_seeds(server, sampler):
    outputs = server.run(calibrating(base(), f"{sampler}-2x", sampler_name=sampler))
    policy = ertacache.Policy.load(server.base / f"models/ertacache/{sampler}-2x.safetensors")
    assert outputs["count"]["count"][0] == policy.calibration.denoiser_calls <= 10 * 12
    taylor = ertacache.Policy(12, evenly_spaced(12, 6, ()), Method.named("taylor"))
    taylor.save(server.base / "models/ertacache/taylor-2x.json")
    scores = {"calibrated": [], "taylor": [], "fewer steps": []}
    for seed in (1000, 1001, 1002):
        setting = {"sampler_name": sampler, "seed": seed}
        full, _ = made(server, sampled(base(), **setting))
        for way, name in (("calibrated", f"{sampler}-2x"), ("taylor", "taylor-2x")):
            graph = base() | {"policy": node("ERTACacheLoadPolicy", name=name)}
            fast, calls = made(server, sampled(accelerated(graph, policy=["policy", 0]), "fast", **setting))
            assert calls == 6
            scores[way].append(closeness(fast, full))
        fewer, _ = made(server, sampled(base(), **setting, steps=6))
        scores["fewer steps"].append(closeness(fewer, full))
    mean = {way: sum(values) / len(values) for way, values in scores.items()}
    assert mean["calibrated"] > mean["taylor"], mean
    assert mean["calibrated"] > mean["fewer steps"], mean


def test_learn_runs_the_first_in_full_and_accelerates_the_next(server):
    graph = base() | {"fast": node("ERTACacheLearn", model=["model", 0], speedup=2.0, folder="test")}
    full, _ = made(server, sampled(base(), seed=7))
    first, calls = made(server, sampled(graph, "fast", seed=7))
    assert calls == 12
    assert torch.equal(first, full)
    second, calls = made(server, sampled(graph, "fast", seed=8))
    assert calls == 6
    assert closeness(second, made(server, sampled(base(), seed=8))[0]) > 20
    _, calls = made(server, sampled(graph, "fast", seed=8, sampler_name="dpmpp_2m"))
    assert calls == 12, "another sampler is another setting"


def test_learn_takes_a_part_of_a_schedule_for_a_setting(server):
    graph = base() | {"fast": node("ERTACacheLearn", model=["model", 0], speedup=2.0, folder="parts")}
    parts = graph | in_two_parts(("fast", "fast"), 6)
    for seed, expected in ((61, 12), (62, 6)):
        parts["one"]["inputs"]["noise_seed"] = seed
        assert made(server, parts)[1] == expected
    for seed, expected in ((63, 12), (64, 6)):
        assert made(server, sampled(graph, "fast", seed=seed, denoise=0.6))[1] == expected


def test_a_batch_runs_as_one(server):
    graph = base()
    graph["empty"]["inputs"]["batch_size"] = 3
    full, calls = made(server, sampled(graph))
    assert calls == 12
    fast, calls = made(server, sampled(accelerated(graph), "fast"))
    assert calls == 6
    assert fast.shape == full.shape == (3, 16, 8, 8)
    assert closeness(fast, full) > 20


def test_denoise_below_1_begins_in_the_middle(server):
    graph = sampled(base(), seed=3)
    graph |= {"first": graph.pop("sample")}
    again = {"seed": 4, "denoise": 0.6, "latent_image": ["first", 0]}
    full, _ = made(server, sampled(graph, **again))
    exact, _ = made(server, sampled(accelerated(graph, speedup=1.0), "fast", **again))
    assert torch.equal(exact, full)
    fast, calls = made(server, sampled(accelerated(graph), "fast", **again))
    assert calls == 6
    assert closeness(fast, full) > 20


def test_a_mask_keeps_what_it_keeps(server):
    graph = sampled(base(), seed=3)
    graph |= {
        "first": graph.pop("sample"),
        "mask": node("SolidMask", value=1.0, width=64, height=64),
        "half": node("CropMask", mask=["mask", 0], x=0, y=0, width=64, height=32),
        "black": node("SolidMask", value=0.0, width=64, height=64),
        "joined": node("MaskComposite", destination=["black", 0], source=["half", 0], x=0, y=0, operation="add"),
        "masked": node("SetLatentNoiseMask", samples=["first", 0], mask=["joined", 0]),
    }
    again = {"seed": 4, "latent_image": ["masked", 0]}
    before = server.latent(server.run({**graph, **saved("first")}))
    full, _ = made(server, sampled(graph, **again))
    fast, _ = made(server, sampled(accelerated(graph), "fast", **again))
    assert torch.allclose(fast[:, :, 4:], before[:, :, 4:], atol=1e-5)
    assert closeness(fast, full) > 15


def test_two_samplers_with_two_experts_keep_apart(server):
    graph = base("tiny-wan-high", 4096) | {
        "low": node("UNETLoader", unet_name="tiny-wan-low.safetensors", weight_dtype="default"),
        "low model": node("TestCounted", model=["low", 0]),
    }

    def two(high, low):
        return graph | {
            "fast high": node("ERTACache", model=["model", 0], speedup=high),
            "fast low": node("ERTACache", model=["low model", 0], speedup=low),
            **in_two_parts(("fast high", "fast low"), 6),
        }

    full, calls = made(server, two(1.0, 1.0))
    assert calls == 12
    fast, calls = made(server, two(2.0, 2.0))
    assert calls == 6
    assert closeness(fast, full) > 20


def test_a_part_of_a_policys_grid_is_followed_where_it_lies(server):
    name = "part"
    server.run(calibrating(base(), name))
    policy = ertacache.Policy.load(server.base / f"models/ertacache/{name}.safetensors")
    graph = base() | {"policy": node("ERTACacheLoadPolicy", name=name)}
    graph = accelerated(graph, policy=["policy", 0])
    graph |= in_two_parts(("fast", "fast"), 5)
    _, calls = made(server, graph)
    begins_anew = 5 not in policy.computed_steps
    assert calls == len(policy.computed_steps) + begins_anew


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde", "euler_cfg_pp"])
def test_samplers_that_cannot_be_skipped_are_refused_with_those_to_take(server, sampler):
    with pytest.raises(WorkflowError, match=r"this sampler cannot be accelerated.*Take euler, dpmpp_2m"):
        server.run(sampled(accelerated(base()), "fast", sampler_name=sampler))


def test_another_setting_than_the_policys_is_refused_in_the_words_of_the_nodes(server):
    server.run(calibrating(base(), "setting"))
    graph = accelerated(base() | {"policy": node("ERTACacheLoadPolicy", name="setting")}, policy=["policy", 0])
    for change, match in (
        ({"cfg": 2.4}, r"cfg was 3 .* is 2.4 now; the nodes see guided outputs only.*Set cfg to 3, or queue Calibrate"),
        ({"sampler_name": "dpmpp_2m"}, "Set sampler_name to euler, or queue Calibrate with sampler_name dpmpp_2m"),
        ({"steps": 20}, "Set steps to 12, or queue Calibrate with steps 20"),
        ({"scheduler": "karras"}, "scheduler was simple .* is karras now.*Set scheduler to simple"),
        ({"denoise": 0.6}, "other noise levels, those of simple .*given: denoise below 1"),
    ):
        with pytest.raises(WorkflowError, match=match) as refused:
            server.run(sampled(graph, "fast", **change))
        said = json.loads(str(refused.value))[-1][1]["exception_message"]
        assert "take the policy off the ERTACache node" in said
        assert not re.search(r"pipe\b|ertacache\.|\w=|true_cfg|ComfyLine|num_inference", said), said


def test_a_policy_of_a_diffusers_pipeline_is_refused(server):
    server.run(calibrating(base(), "elsewhere"))
    origin = ertacache.Policy.load(server.base / "models/ertacache/elsewhere.safetensors").origin
    elsewhere = replace(origin, pipeline_class="FluxPipeline", denoisers={"transformer": origin.denoisers["denoiser"]})
    policy = ertacache.Policy(12, evenly_spaced(12, 6, ()), Method.named("taylor"), origin=elsewhere)
    policy.save(server.base / "models/ertacache/elsewhere.safetensors")
    graph = accelerated(base() | {"policy": node("ERTACacheLoadPolicy", name="elsewhere")}, policy=["policy", 0])
    with pytest.raises(WorkflowError, match=r"another model, or outside of ComfyUI: FluxPipeline.*queue Calibrate"):
        server.run(sampled(graph, "fast"))


def test_names_with_a_point_keep_policies_apart_and_what_is_replaced_is_said(server):
    small = {"steps": 6, "full_runs": 4.0, "scheduler": "normal"}
    for name, speedup in (("styles/flux-1.5x", 1.5), ("styles/flux-1.8x", 2.0), ("styles/flux-1.5x", 2.0)):
        outputs = server.run(calibrating(base(), name, speedup=speedup, **small))
        said = outputs["keep"]["text"][0]
        kept = ertacache.Policy.load(server.base / f"models/ertacache/{name}.safetensors")
        assert kept.step_ratio >= speedup
        assert said.startswith(f"saved as {name}.safetensors")
    assert said.endswith("in place of another policy (4 of 6 steps computed)")
    names = server.get("/object_info/ERTACacheLoadPolicy")["ERTACacheLoadPolicy"]["input"]["required"]["name"]
    assert {"styles/flux-1.5x", "styles/flux-1.8x"} <= set(names[1]["options"])
    graph = base() | {"policy": node("ERTACacheLoadPolicy", name="styles/flux-1.8x")}
    setting = {"steps": 6, "scheduler": "normal"}
    _, calls = made(server, sampled(accelerated(graph, policy=["policy", 0]), "fast", **setting))
    assert calls == 3


def test_a_function_among_a_samplers_options_tells_settings_apart(server):
    """SamplerER_SDE gives its sampler a function that holds eta."""
    graph = base() | {
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="simple", steps=12, denoise=1.0),
        "fast": node("ERTACacheLearn", model=["model", 0], speedup=2.0, folder="functions"),
        "count": node("TestCount", after=["sample", 0]),
    }
    for eta, seed, calls in ((1.0, 1, 12), (1.0, 2, 6), (0.5, 3, 12)):
        options = {"solver_type": "Reverse-time SDE", "max_stage": 3, "eta": eta, "s_noise": 1.0}
        graph["sampler"] = node("SamplerER_SDE", **options)
        inputs = {name: [name, 0] for name in ("positive", "negative", "sampler", "sigmas")}
        graph["sample"] = node(
            "SamplerCustom",
            model=["fast", 0],
            add_noise=True,
            noise_seed=seed,
            cfg=3.0,
            latent_image=["empty", 0],
            **inputs,
        )
        assert server.run(graph)["count"]["count"] == [calls]


def test_comfyuis_own_cache_beside_it_is_refused(server):
    graph = base() | {
        "easy": node(
            "EasyCache", model=["model", 0], reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False
        ),
        "fast": node("ERTACache", model=["easy", 0], speedup=2.0),
    }
    with pytest.raises(WorkflowError, match="another cache is on this model"):
        server.run(sampled(graph, "fast"))


def test_an_interrupted_calibration_leaves_nothing_behind(server):
    full, _ = made(server, sampled(base(), seed=11))
    number = server.queue(calibrating(base(), "never", steps=60, full_runs=200.0, seed=77))
    time.sleep(2)
    server.post("/interrupt", {})
    with pytest.raises(WorkflowError, match="interrupted"):
        server.finished(number)
    assert not (server.base / "models/ertacache/never.safetensors").exists()
    server.run({"count": node("TestCount", after=["empty", 0]), "empty": base()["empty"]})
    again, calls = made(server, sampled(base(), seed=11))
    assert calls == 12
    assert torch.equal(again, full)


def test_a_lora_is_another_setting(server):
    folder = server.base / "models/loras"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for name, size in (("one", 0.3), ("two", 0.6)):
        parts = {
            "lora_up": torch.randn(128, 2, generator=generator),
            "lora_down": torch.randn(2, 64, generator=generator),
        }
        save_file(
            {f"diffusion_model.img_in.{k}.weight": size * v for k, v in parts.items()}, folder / f"{name}.safetensors"
        )
    graph = base()
    graph["tuned"] = node("LoraLoaderModelOnly", model=["load", 0], lora_name="one.safetensors", strength_model=1.0)
    graph["model"]["inputs"]["model"] = ["tuned", 0]
    server.run(calibrating(graph, "lora"))
    graph |= {"policy": node("ERTACacheLoadPolicy", name="lora")}
    full, _ = made(server, sampled(graph))
    fast, calls = made(server, sampled(accelerated(graph, policy=["policy", 0]), "fast"))
    assert calls == 6
    assert closeness(fast, full) > 20
    for change in ({"lora_name": "two.safetensors"}, {"strength_model": 0.5}):
        other = dict(graph)
        other["tuned"] = node("LoraLoaderModelOnly", **(graph["tuned"]["inputs"] | change))
        with pytest.raises(WorkflowError, match="patches"):
            server.run(sampled(accelerated(other, policy=["policy", 0]), "fast"))
    graph["model"]["inputs"]["model"] = ["load", 0]
    with pytest.raises(WorkflowError, match="patches"):
        server.run(sampled(accelerated(graph, policy=["policy", 0]), "fast"))


@pytest.mark.parametrize("name", examples.examples())
def test_each_example_runs(server, name):
    """With the tiny model in place of FLUX.1-dev, at 64 pixels, and the latent saved in place of the picture."""
    graph = examples.examples()[name] | {
        "load": node("UNETLoader", unet_name="tiny-flux.safetensors", weight_dtype="default"),
        "unet": node("TestCounted", model=["load", 0]),
        "clip": node("TestClip", width=32),
        **saved("report"),
    }
    for gone in ("vae", "decode", "full decode", "fewer decode", "two", "three"):
        graph.pop(gone, None)
    if "full sampler" in graph:
        graph["two"] = node("LatentBatch", samples1=["full sampler", 0], samples2=["report", 0])
        graph["three"] = node("LatentBatch", samples1=["two", 0], samples2=["fewer sampler", 0])
        graph |= saved("three")
    graph["size"]["inputs"] |= {"width": 64, "height": 64}
    computed = {"2 learn": [20, 10], "4 compare": [20 + 10 + 10]}.get(name, [10])
    for seed, calls in enumerate(computed):
        graph["sampler"]["inputs"]["seed"] = seed
        outputs = server.run(graph)
        calibration = 0 if name != "3 calibrate" else load_policy(server, "flux-dev-2x").calibration.denoiser_calls
        assert outputs["count"]["count"][0] == calls + calibration


def load_policy(server, name):
    return ertacache.Policy.load(server.base / f"models/ertacache/{name}.safetensors")


def test_the_examples_open_in_the_front_end(server, chromium, tmp_path):  # noqa: F811
    definitions = server.get("/object_info")
    page = chromium.new_page(viewport={"width": 3400, "height": 1200})
    page.goto(server.address)
    page.wait_for_function("window.app && window.app.graph && window.app.canvas", timeout=120_000)
    page.wait_for_timeout(4000)
    page.keyboard.press("Escape")  # the templates, which open at the first start
    pictures = Path(os.environ.get("PICTURES", tmp_path))
    for name, graph in examples.examples().items():
        opened = json.loads((examples.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        assert opened == json.loads(json.dumps(examples.as_opened(graph, definitions))), "write the examples anew"
        page.evaluate("graph => window.app.loadGraphData(graph)", opened)
        page.wait_for_timeout(2000)
        types = page.evaluate("window.app.graph._nodes.map(node => node.has_errors ? '' : node.type)")
        assert sorted(types) == sorted(one["class_type"] for one in graph.values())
        links = page.evaluate("Object.keys(window.app.graph.links).length || window.app.graph.links.size")
        assert links == len(opened["links"])
        page.keyboard.press(".")  # fits the view
        page.wait_for_timeout(1500)
        page.screenshot(path=pictures / f"{name}.png")
    page.close()


def reported(server, graph, **changes):
    """The text of the report of a sampling."""
    graph = sampled(graph, "fast", **changes)
    graph |= {
        "report": node("ERTACacheReport", model=["fast", 0], latent=["sample", 0]),
        "text": node("PreviewAny", source=["report", 2]),
    }
    outputs = server.run(graph)
    assert outputs["report"]["images"]
    return outputs["text"]["text"][0]


def test_the_report_shows_what_was_skipped_in_the_words_of_the_nodes(server):
    text = reported(server, accelerated(base()), seed=21)
    assert "6 of 12 steps computed" in text
    assert "Learn and Calibrate come closer" in text
    assert "few steps" not in text
    assert "models of few steps gain little" in reported(server, accelerated(base()), seed=21, steps=FEW_STEPS)
    graph = base() | {"fast": node("ERTACacheLearn", model=["model", 0], speedup=2.0, folder="reported")}
    reported(server, graph, seed=22)
    assert "learnt from 1 full generation; not compared" in reported(server, graph, seed=23)


def test_the_report_says_what_a_connected_policy_means(server):
    graph = calibrating(base(), "one")
    graph["prompts"]["inputs"]["prompts"] = "a red boat"
    server.run(graph)
    assert "calibrating on one prompt" in server.log.read_text()
    graph = base() | {"policy": node("ERTACacheLoadPolicy", name="one")}
    text = reported(server, accelerated(graph, policy=["policy", 0], speedup=3.0), seed=24)
    assert "the slider's speedup 3 is not used: the connected policy has its own, 2" in text
    assert "calibrated on one prompt" in text
    assert "is not used" not in reported(server, accelerated(graph, policy=["policy", 0], speedup=2.0), seed=25)
