"""Quantised denoisers: a policy calibrated on one, and one carried over from plain weights: docs/records/quantised.md.

    make test-integrations    # makes the environment with torchao, gguf, bitsandbytes and quanto
    .venv-integrations/bin/python -m benchmarks.quantised

Each kind is the FLUX-type pipeline with its denoiser stored otherwise. Its own full run is the reference, so a figure
says what the cache costs, not what the quantisation costs. Held-out prompts and seeds; each policy has ten full runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import diffusers
import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps
from ertacache.evaluation.harness import measure
from ertacache.metrics import psnr

SPEEDUPS = (2.0, 3.0)
NUM_PROMPTS = 8


def torchao(config: str) -> Callable[[Any], Any]:
    """Quantise in place by torchao, with one of its configurations."""

    def quantised(transformer: Any) -> Any:
        from torchao import quantization

        quantization.quantize_(transformer, getattr(quantization, config)(), filter_fn=_in_a_block)
        return transformer

    return quantised


def _in_a_block(module: nn.Module, name: str) -> bool:
    """Whether to quantise a layer: those of the blocks, which hold nearly all weights."""
    return isinstance(module, nn.Linear) and "blocks" in name


def nf4(transformer: Any) -> Any:
    """Quantise by bitsandbytes to four bits, as diffusers does where it loads."""
    import bitsandbytes as bnb

    for name, layer in [(n, m) for n, m in transformer.named_modules() if _in_a_block(m, n)]:
        options = {"bias": layer.bias is not None, "quant_type": "nf4", "compute_dtype": torch.float32}
        coarse = bnb.nn.Linear4bit(layer.in_features, layer.out_features, **options)
        coarse.load_state_dict(layer.state_dict(), strict=False)
        coarse.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
        parent, _, last = name.rpartition(".")
        setattr(transformer.get_submodule(parent), last, coarse)
    return transformer


def quanto(transformer: Any) -> Any:
    """Quantise by quanto to eight bits."""
    from optimum.quanto import freeze, qint8, quantize

    quantize(transformer, weights=qint8, exclude=["*embed*", "proj_out", "norm_out*"])
    freeze(transformer)
    return transformer


def gguf(kind: str) -> Callable[[Any], Any]:
    """Write a GGUF file, and load it as diffusers does."""

    def quantised(transformer: Any) -> Any:
        import gguf as library

        of = library.GGMLQuantizationType[kind]
        with TemporaryDirectory() as folder:
            path, config = Path(folder) / "model.gguf", Path(folder) / "config"
            transformer.save_pretrained(config)
            writer = library.GGUFWriter(path, "flux")
            for name, parameter in transformer.state_dict().items():
                array = parameter.float().numpy()
                coarse = array.ndim == 2 and "blocks" in name and array.shape[1] % 32 == 0
                stored = library.quants.quantize(array, of) if coarse else array
                writer.add_tensor(name, stored, raw_dtype=of if coarse else None)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return diffusers.FluxTransformer2DModel.from_single_file(
                str(path),
                quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
                dtype=torch.float32,
                config=str(config),
            )

    return quantised


def layerwise(transformer: Any) -> Any:
    """Store in float8 and compute in float32, by diffusers' layerwise casting."""
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return transformer


KINDS: dict[str, Callable[[Any], Any]] = {
    "int8, torchao": torchao("Int8WeightOnlyConfig"),
    "float8, torchao": torchao("Float8WeightOnlyConfig"),
    "int8, quanto": quanto,
    "float8, layerwise casting": layerwise,
    "NF4, bitsandbytes": nf4,
    "Q8_0, GGUF": gguf("Q8_0"),
    "Q4_0, GGUF": gguf("Q4_0"),
}


def quantised(kind: str) -> zoo.Embedded:
    """The small FLUX-type pipeline, its denoiser stored as this kind."""
    embedded = zoo.load("flux")
    embedded.pipe.transformer = KINDS[kind](embedded.pipe.transformer)
    return embedded


def policy_for(embedded: zoo.Embedded, speedup: float, path: Path) -> Policy:
    """Calibrate, or find it calibrated."""
    if not path.exists():
        prompts = embedded.calibration_prompts[:NUM_PROMPTS]
        calibrate(embedded.pipe, prompts, speedup=speedup, progress=False, **embedded.arguments).save(path)
    return Policy.load(path)


def of_kind(kind: str, prompts: int, seed: int, work: Path) -> dict[str, Any]:
    """PSNR against its own full run, and speedup over step ratio, by way; and how far the quantisation itself goes."""
    plain, coarse = zoo.load("flux"), quantised(kind)
    folder = work / key_of(coarse, kind, prompts, seed)
    calls = calls_of(coarse.arguments, coarse.held_out_prompts[:prompts], seed)
    full = Variant("full", coarse.arguments["num_inference_steps"])
    variants, ratios = [], []
    for speedup in SPEEDUPS:
        own = policy_for(coarse, speedup, folder / f"own-{speedup:g}.safetensors")
        carried = policy_for(plain, speedup, work / key_of(plain, "plain") / f"{speedup:g}.safetensors")
        for name, policy in (("calibrated on it", own), ("carried over", carried)):
            variants.append(Variant(f"{speedup:g}x {name}", full.num_inference_steps, policy=policy))
            ratios.append(policy.step_ratio)
        variants.append(Variant(f"{speedup:g}x fewer steps", fewer_steps(len(own.computed_steps)).num_inference_steps))
        ratios.append(own.step_ratio)
    rows = measure(coarse.pipe, full, variants, calls, folder / "measured")
    found = {
        row.name: {"psnr": row.psnr, "speedup_by_step_ratio": median(row.speedup) / ratio}
        for row, ratio in zip(rows, ratios, strict=True)
    }
    return {"kind": kind, "psnr_of_the_quantised_full_run": _own_loss(plain, coarse, calls), "ways": found}


def _own_loss(plain: zoo.Embedded, coarse: zoo.Embedded, calls: list[dict[str, Any]]) -> list[float]:
    """PSNR of the quantised model's full runs against the plain model's, in dB."""
    found = []
    for call in calls[:4]:
        arguments = {**{k: v for k, v in call.items() if k != "seed"}, "output_type": "pt"}
        steps = plain.arguments["num_inference_steps"]
        pictures = [
            one.pipe(
                **arguments, num_inference_steps=steps, generator=torch.Generator().manual_seed(call["seed"])
            ).images
            for one in (coarse, plain)
        ]
        found.append(psnr(*pictures))
    return found


def quality_table(results: list[dict[str, Any]]) -> str:
    """A row for each kind of storage."""
    head = [
        f"{speedup:g}x {way}" for speedup in SPEEDUPS for way in ("calibrated on it", "carried over", "fewer steps")
    ]
    lines = [["stored as", "quantised against plain", *head, "speedup ÷ step ratio, 2x"]]
    for result in results:
        ways = result["ways"]
        cells = [f"{fmean(ways[name]['psnr']):.1f}" for name in head]
        own = f"{fmean(result['psnr_of_the_quantised_full_run']):.1f}"
        ratio = f"{ways['2x calibrated on it']['speedup_by_step_ratio']:.2f}"
        lines.append([result["kind"], own, *cells, ratio])
    return table(lines)


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="by default all")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-quantised"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 8,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
) -> None:
    """Measure, and write the figures."""
    torch.set_num_threads(1)
    results = []
    for kind in kinds or KINDS:
        results.append(of_kind(kind, prompts, seed, work))
        print(quality_table(results), flush=True)
    figures = {**environment(), "prompts": prompts, "seed": seed, "results": results}
    write_figures(out, "quantised", figures, {"quantised": quality_table(results)}, Console())


if __name__ == "__main__":
    typer.run(main)
