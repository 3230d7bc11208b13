"""A policy with a LoRA that it was not calibrated with, beside one calibrated with it: docs/records/lora.md.

    python -m benchmarks.lora flux     # about ten minutes on one core
    python -m benchmarks.lora emoji

The LoRA is trained here, on pictures of the pipeline itself in one style: all in reds. Prompts and seeds of the
comparison are held out from training, from the LoRA and from calibration. The reference of every figure is the full run
with the LoRA at the same scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model_state_dict
from rich.console import Console
from torch import Tensor

from benchmarks.keys import environment
from benchmarks.markdown import table, with_interval, write_figures
from ertacache import calibrate, transferred, zoo
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps, generate, started
from ertacache.metrics import psnr
from training.denoiser import flow_matching, mean_error, noised
from training.families import FAMILIES

MODELS = ("flux", "emoji")
SCALES = (0.5, 1.0, 2.0)
SPEEDUP = 2.0
WEIGHTS = "pytorch_lora_weights.safetensors"
STYLE_STEPS = 15
"""Of the pictures that the LoRA is trained on."""


def in_reds(pictures: Tensor) -> Tensor:
    """The style: what was dark stays dark, what was light becomes pink. (n, 3, h, w), 0 .. 1."""
    light = pictures.mean(1)
    return torch.stack([light.sqrt(), light**2, light**1.5], 1)


def trained(embedded: zoo.Embedded, model: str, folder: Path, *, pictures: int, steps: int, seed: int = 0) -> Path:
    """Train a LoRA of rank 8 on the attention of a pipeline's denoiser, or find it trained.

    Args:
        embedded: the pipeline; its denoiser has the LoRA afterwards.
        model: its name.
        folder: where the LoRA goes.
        pictures: how many it is trained on.
        steps: of training, each on a batch of eight.
        seed: of the pictures, the LoRA and the training.
    """
    path = folder / WEIGHTS
    if path.exists():
        return path
    pipe, family = embedded.pipe, FAMILIES[model]
    prompts = embedded.calibration_prompts[-pictures:]  # policies are calibrated on the first ones
    arguments = {**embedded.arguments, "num_inference_steps": STYLE_STEPS, "output_type": "pt"}
    generator = torch.Generator().manual_seed(seed)
    made = [pipe(prompt, generator=generator, **arguments).images for prompt in prompts]
    length = {"max_sequence_length": embedded.arguments["max_sequence_length"]}
    with torch.no_grad():
        latents = family.latents(pipe.vae, in_reds(torch.cat(made)) * 2 - 1)
        texts, pooled, _ = pipe.encode_prompt([*prompts, ""], prompt_2=None, **length)
    torch.manual_seed(seed)
    denoiser = pipe.transformer.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    _fit(_predictor(pipe, latents), denoiser, latents, (texts, pooled), steps, generator)
    pipe.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(denoiser))
    return path


def _predictor(pipe: Any, latents: Tensor) -> Callable[..., Tensor]:
    """The denoiser as a function of noisy latents, timesteps and encoded prompts."""
    side = int(latents.shape[1] ** 0.5)
    places = pipe._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)

    def predict(noisy: Tensor, timestep: Tensor, texts: Tensor, pooled: Tensor) -> Tensor:
        output: Tensor = pipe.transformer(
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=texts,
            pooled_projections=pooled,
            txt_ids=torch.zeros(texts.shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        return output

    return predict


def _fit(
    predict: Callable[..., Tensor],
    denoiser: Any,
    latents: Tensor,
    prompts: tuple[Tensor, Tensor],
    steps: int,
    generator: torch.Generator,
) -> None:
    """Train what of the denoiser takes gradients; the last of the prompts is the empty one, for one draw in ten."""
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=2e-3)
    for step in range(steps):
        rows = torch.randint(len(latents), (8,), generator=generator)
        captions = torch.where(torch.rand(8, generator=generator) < 0.1, len(latents), rows)
        level = flow_matching(8, generator)
        noisy, target = noised(latents[rows], torch.randn(latents[rows].shape, generator=generator), level)
        loss = mean_error((predict(noisy, level.timestep, *(part[captions] for part in prompts)),), (target,))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.4f}", flush=True)


def with_lora(model: str, path: Path, scale: float) -> zoo.Embedded:
    """The pipeline with the LoRA loaded from its file, as a user loads one."""
    embedded = zoo.load(model)
    embedded.pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="reds")
    embedded.pipe.set_adapters("reds", scale)
    return embedded


def at_scale(model: str, path: Path, scale: float, plain: Any, prompts: int, seed: int) -> dict[str, Any]:
    """PSNR against the full run with the LoRA, by way; and how far that is from the full run without it."""
    embedded = with_lora(model, path, scale)
    steps = embedded.arguments["num_inference_steps"]
    own = calibrate(
        embedded.pipe, embedded.calibration_prompts[:8], speedup=SPEEDUP, progress=False, **embedded.arguments
    )
    ways = [
        Variant("calibrated with it", steps, policy=own),
        Variant("carried over", steps, policy=transferred(plain, adapters="any")),
        fewer_steps(len(own.computed_steps)),
    ]
    found: dict[str, list[float]] = {name: [] for name in ("without the LoRA", *(way.name for way in ways))}
    bare = zoo.load(model).pipe
    for call in calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed):
        full = generate(embedded.pipe, Variant("full", steps), started(call)).pictures
        found["without the LoRA"].append(psnr(generate(bare, Variant("full", steps), started(call)).pictures, full))
        for way in ways:
            found[way.name].append(psnr(generate(embedded.pipe, way, started(call)).pictures, full))
    return {"model": model, "scale": scale, "psnr": found}


def loss_table(results: Sequence[dict[str, Any]]) -> str:
    """A row for each pipeline and scale."""
    lines = [["pipeline", "scale", "without the LoRA", "fewer steps", "calibrated with it", "carried over", "lost, dB"]]
    for result in results:
        values = result["psnr"]
        lost = [a - b for a, b in zip(values["calibrated with it"], values["carried over"], strict=True)]
        means = [f"{fmean(values[name]):.1f}" for name in lines[0][2:6]]
        lines.append([result["model"], f"{result['scale']:g}", *means, with_interval(lost)])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Of flux and emoji; by default both.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the figures.")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="The folder for the trained LoRAs.")] = Path("out/benchmark-lora"),
    prompts: Annotated[int, typer.Option(min=2, help="How many held-out prompts.")] = 6,
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures the LoRA is trained on.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of its training.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the first held-out prompt.")] = 1000,
) -> None:
    """Train a LoRA, measure, and write the figures."""
    torch.set_num_threads(1)
    results = []
    for model in models or MODELS:
        path = trained(zoo.load(model), model, work / model, pictures=pictures, steps=steps)
        embedded = zoo.load(model)
        plain = calibrate(
            embedded.pipe, embedded.calibration_prompts[:8], speedup=SPEEDUP, progress=False, **embedded.arguments
        )
        for scale in SCALES:
            results.append(at_scale(model, path, scale, plain, prompts, seed))
            print(loss_table(results), flush=True)
    name = "lora" if models is None else f"lora-{'-'.join(models)}"
    figures = {**environment(), "prompts": prompts, "seed": seed, "pictures": pictures, "steps": steps}
    write_figures(out, name, {**figures, "results": results}, {name: loss_table(results)}, Console())


if __name__ == "__main__":
    typer.run(main)
