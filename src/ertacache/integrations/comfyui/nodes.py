"""The nodes, in ComfyUI's V3 schema."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io, ui

from ertacache.errors import ArgumentError, ERTACacheError
from ertacache.integrations.comfyui.accelerating import ModelAcceleration, acceleration_of
from ertacache.integrations.comfyui.calibrating import Workflow, calibrated
from ertacache.integrations.comfyui.timeline import picture_of
from ertacache.integrations.comfyui.wording import report_text, worded_for_nodes
from ertacache.policy import Policy

_log = logging.getLogger(__name__)
CATEGORY = "sampling/ertacache"
SUFFIX, OLD_SUFFIX = ".safetensors", ".json"
PolicyType = io.Custom("ERTACACHE_POLICY")


def policies_folder() -> Path:
    """Where policies are saved and found: ``models/ertacache``."""
    return Path(folder_paths.models_dir) / "ertacache"


def _named(name: str) -> Path:
    """The file in which a policy of this name is saved.

    Raises:
        ArgumentError: if the name leads out of the folder.
    """
    plain = name.removesuffix(OLD_SUFFIX).removesuffix(SUFFIX)
    file = policies_folder() / f"{plain}{SUFFIX}"  # a name may have a point, as flux-1.5x
    if not file.resolve().is_relative_to(policies_folder().resolve()) or Path(plain).name in ("", ".", ".."):
        raise ArgumentError("this is no name of a policy", given=repr(name), cure="Give a plain name, such as flux-2x.")
    return file


def _found(name: str) -> Path:
    """The file from which a policy of this name is loaded: saved as today, or as earlier versions did."""
    file = _named(name)
    old = file.with_name(file.name.removesuffix(SUFFIX) + OLD_SUFFIX)
    return old if old.exists() and not file.exists() else file


def policy_names() -> list[str]:
    """The names of all policies, also in folders within the folder."""
    base = policies_folder()
    files = [path for suffix in (SUFFIX, OLD_SUFFIX) for path in base.rglob(f"*{suffix}")]
    return sorted({path.relative_to(base).as_posix().removesuffix(path.suffix) for path in files})


def _saved(policy: Policy, file: Path) -> str:
    """Save a policy; says where, and what it took the place of."""
    before = file.read_bytes() if file.exists() else None
    there = "" if before is None else _told(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    policy.save(file)
    where = f"saved as {file.relative_to(policies_folder()).as_posix()}"
    return where if before is None or before == file.read_bytes() else f"{where}, in place of {there}"


def _told(file: Path) -> str:
    """What a file that is about to be replaced holds, in words."""
    try:
        policy = Policy.load(file)
    except ERTACacheError:
        return "a file that was no policy"
    return f"another policy ({len(policy.computed_steps)} of {policy.num_made_steps} steps computed)"


def _speedup() -> Any:
    return io.Float.Input(
        "speedup",
        default=2.0,
        min=1.0,
        max=5.0,
        step=0.1,
        display_mode=io.NumberDisplay.slider,
        tooltip="At least so many steps for each computed one. 1 computes every step: off, with a policy too.",
    )


class Accelerate(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACache",
            display_name="ERTACache",
            category=CATEGORY,
            description="Skip sampling steps and predict what they would have given. Needs no calibration; a "
            "calibrated policy is closer to the full run.",
            search_aliases=["cache", "teacache", "easycache", "faster"],
            inputs=[
                io.Model.Input("model"),
                _speedup(),
                PolicyType.Input("policy", optional=True, tooltip="From Calibrate or Load. It has its own speedup."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, speedup: float, policy: Policy | None = None) -> io.NodeOutput:
        if policy is None or speedup == 1:  # 1 switches off, whatever is connected
            acceleration = ModelAcceleration.instant(speedup)
        else:
            acceleration = ModelAcceleration(policy, speedup)
        return io.NodeOutput(acceleration.on(model))


class Learn(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACacheLearn",
            display_name="ERTACache Learn",
            category=CATEGORY,
            description="The first generation of a setting (model, LoRAs, sampler, schedule, guidance) runs in full "
            "and is learnt from; later ones are accelerated.",
            inputs=[
                io.Model.Input("model"),
                _speedup(),
                io.String.Input("folder", default="learnt", tooltip="Where it is kept, in the user directory."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, speedup: float, folder: str) -> io.NodeOutput:
        base = Path(folder_paths.get_user_directory()) / "ertacache"
        kept = base / folder
        if not kept.resolve().is_relative_to(base.resolve()):
            raise ArgumentError("this folder is not in the user directory", given=repr(folder), cure="Give a name.")
        kept.mkdir(parents=True, exist_ok=True)
        return io.NodeOutput(ModelAcceleration.learning(speedup, str(kept)).on(model))


class Prompts(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACachePrompts",
            display_name="ERTACache Prompts",
            category=CATEGORY,
            description="Encode one prompt a line, for Calibrate.",
            inputs=[
                io.Clip.Input("clip"),
                io.String.Input("prompts", multiline=True, tooltip="One prompt a line; eight of your own."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditionings", is_output_list=True)],
        )

    @classmethod
    def execute(cls, clip: Any, prompts: str) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise ArgumentError("there is no prompt", given=repr(prompts), cure="Write one prompt a line.")
        return io.NodeOutput([clip.encode_from_tokens_scheduled(clip.tokenize(line)) for line in lines])


class Calibrate(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACacheCalibrate",
            display_name="ERTACache Calibrate",
            category=CATEGORY,
            description="Fit a policy to this model, sampler and schedule: ten full generations by default. Set steps, "
            "cfg, sampler and scheduler as in your KSampler.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive", tooltip="One for each prompt: from ERTACache Prompts, or any list."),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image", tooltip="The empty latent of your workflow."),
                io.Int.Input("steps", default=20, min=3, max=10000),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler_name", options=list(comfy.samplers.SAMPLER_NAMES)),
                io.Combo.Input("scheduler", options=list(comfy.samplers.SCHEDULER_NAMES)),
                _speedup(),
                io.Float.Input(
                    "full_runs",
                    default=10.0,
                    min=1.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="What the calibration may cost, in full generations in all.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                ),
                io.Sampler.Input("sampler", optional=True, tooltip="In place of sampler_name."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="In place of steps and scheduler."),
            ],
            outputs=[PolicyType.Output(display_name="policy")],
        )

    @classmethod
    def execute(cls, positive: list[Any], **lists: Any) -> io.NodeOutput:
        one = {name: values[0] for name, values in lists.items() if values}
        model, latent = one["model"], one["latent_image"]["samples"]
        usual = comfy.samplers.KSampler(
            model, one["steps"], model.load_device, one["sampler_name"], one["scheduler"], 1.0, model.model_options
        )
        sampler, sigmas = one.get("sampler"), one.get("sigmas")
        workflow = Workflow(
            model,
            positive,
            one["negative"],
            comfy.sample.fix_empty_latent_channels(model, latent)[:1],
            comfy.samplers.sampler_object(usual.sampler) if sampler is None else sampler,
            usual.sigmas.cpu() if sigmas is None else sigmas,
            one["cfg"],
            one["seed"],
        )
        if len(positive) == 1:
            _log.warning("ERTACache: calibrating on one prompt; with eight a policy holds better for others")
        with worded_for_nodes(model):
            policy = calibrated(workflow, one["speedup"], one["full_runs"])
        _log.info("ERTACache: %s", policy)
        return io.NodeOutput(policy)


class SavePolicy(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACacheSavePolicy",
            display_name="ERTACache Save policy",
            category=CATEGORY,
            description="Save a policy under models/ertacache.",
            is_output_node=True,
            inputs=[PolicyType.Input("policy"), io.String.Input("name", default="policy")],
            outputs=[PolicyType.Output(display_name="policy")],
        )

    @classmethod
    def execute(cls, policy: Policy, name: str) -> io.NodeOutput:
        said = _saved(policy, _named(name))
        _log.info("ERTACache: %s", said)
        return io.NodeOutput(policy, ui=ui.PreviewText(said))


class LoadPolicy(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACacheLoadPolicy",
            display_name="ERTACache Load policy",
            category=CATEGORY,
            description="Load a policy from models/ertacache.",
            inputs=[io.Combo.Input("name", options=policy_names())],
            outputs=[PolicyType.Output(display_name="policy")],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(Policy.load(_found(name)))

    @classmethod
    def fingerprint_inputs(cls, name: str) -> float:
        """A file that was saved anew is loaded anew."""
        file = _found(name)
        return file.stat().st_mtime if file.exists() else 0.0


class ShowReport(io.ComfyNode):  # type: ignore[misc]
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ERTACacheReport",
            display_name="ERTACache Report",
            category=CATEGORY,
            description="What the latest sampling skipped. Connect the accelerated model and the sampler's latent.",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[
                io.Latent.Output(),
                io.Image.Output(display_name="timeline"),
                io.String.Output(display_name="report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any) -> io.NodeOutput:
        acceleration = acceleration_of(model)
        if acceleration is None or not acceleration.reports:
            raise ArgumentError(
                "this model has made no accelerated sampling",
                given="a model without ERTACache" if acceleration is None else "a model that has not sampled yet",
                cure="Connect the model that ERTACache gives, and the latent that a sampler made with it.",
            )
        report = acceleration.reports[-1]
        image = torch.from_numpy(picture_of(report)).float().div(255)[None]
        return io.NodeOutput(latent, image, report_text(report), ui=ui.PreviewImage(image, cls=cls))


class Extension(ComfyExtension):  # type: ignore[misc]
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Accelerate, Learn, Prompts, Calibrate, SavePolicy, LoadPolicy, ShowReport]


async def comfy_entrypoint() -> Extension:
    """What ComfyUI asks a folder of ``custom_nodes`` for."""
    return Extension()
