"""The model card of a policy: how to use it, what it was made for, its quality, and how to measure that again."""

from __future__ import annotations

import json
import re
import shlex
from statistics import fmean
from typing import Any

from huggingface_hub import ModelCardData

from ertacache.policy import Policy
from ertacache.policy.origin import ANY_ADAPTERS
from ertacache.presenting.published_figures import EVALUATION_FILE, POLICY_FILE, PROMPTS_FILE, Figures
from ertacache.runtime.call_setting import to_name
from ertacache.untrusted_text import visible

FEW_PROMPTS = 8
"""With fewer prompts, an interval over prompts is unreliable, and the card says so."""


def card(policy: Policy, repo_id: str, *, figures: Figures | None = None, base_model: str | None = None) -> str:
    """The card, as Markdown with a YAML head.

    Args:
        policy: the policy.
        repo_id: its repository on the Hub.
        figures: what was measured; without them the card says that nothing was.
        base_model: the Hub id of the model that the policy is for, or the name of an embedded pipeline, ``zoo:emoji``;
            by default the one in ``figures``.
    """
    model = base_model or (figures.model if figures else None)
    shown = f"the small pipeline `{model}` of ertacache" if (model or "").startswith("zoo:") else model
    parts = [
        f"---\n{_head(model)}\n---",
        f"# {repo_id}",
        f"A caching policy of `ertacache` for {shown or 'a diffusion pipeline'}. It computes "
        f"{len(policy.computed_steps)} of {policy.num_made_steps} denoising steps (step ratio {policy.step_ratio:.2f}) "
        "and predicts the others. It holds no weights of the model.",
        _usage(policy, repo_id, model, figures),
        _settings(policy),
        _quality(figures, model) if figures else _unmeasured(model),
    ]
    return "\n\n".join(parts) + "\n"


def _head(model: str | None) -> str:
    about: dict[str, Any] = {"library_name": "ertacache", "tags": ["ertacache", "diffusers"]}
    if model is not None and not model.startswith("zoo:"):
        # Without the relation the Hub would list the policy as a finetune of the model.
        about |= {"base_model": model, "base_model_relation": "adapter"}
    return ModelCardData(**about).to_yaml()


def _usage(policy: Policy, repo_id: str, model: str | None, figures: Figures | None) -> str:
    kind = policy.origin.pipeline_class if policy.origin else ""
    kind = kind if kind.isidentifier() else "DiffusionPipeline"
    imports = ["import ertacache"]
    if model is not None and model.startswith("zoo:"):
        imports.append("from ertacache import zoo")
        opened = f'zoo.load("{model.removeprefix("zoo:")}").pipe'
    else:
        imports.append(f"from {'ertacache.opensora' if kind == 'OpenSoraPipeline' else 'diffusers'} import {kind}")
        opened = f'{kind}.from_pretrained("{model or "MODEL"}")'
        if figures is not None:
            imports.insert(0, "import torch")
            opened = f"{opened[:-1]}, dtype=torch.{figures.dtype})"
            opened += "\npipe.enable_model_cpu_offload()" if figures.offload else f'.to("{figures.device}")'
    settings = {"num_inference_steps": policy.asked_steps, **_call(policy, figures)}
    lines = [
        *imports,
        "",
        f"pipe = {opened}",
        f'policy = ertacache.Policy.from_pretrained("{repo_id}")',
        "with ertacache.accelerated(pipe, policy):",
        f'    result = pipe("your prompt", {", ".join(f"{name}={value!r}" for name, value in settings.items())})',
    ]
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _call(policy: Policy, figures: Figures | None) -> dict[str, Any]:
    """The arguments of a call for this policy: its guidance, and those that the measured calls had."""
    given = {**(to_name(policy.origin.guidance) if policy.origin else {}), **(figures.arguments if figures else {})}
    return {name: value for name, value in given.items() if name.isidentifier()}


def _settings(policy: Policy) -> str:
    record, origin = policy.calibration, policy.origin
    steps = str(policy.asked_steps)
    facts = {
        "method": policy.method.name,
        "steps": steps + (f", starting at step {policy.first_step}" if policy.first_step else ""),
        "computed steps": ", ".join(map(str, policy.computed_steps)),
    }
    lead = "This policy was written by hand: it is not checked against the pipeline."
    if origin is not None:
        lead = (
            "A call with another denoiser, adapter, scheduler or number of steps is refused, and the error names the "
            "difference. If the policy was fitted, so is a call with other noise levels or guidance."
        )
        adapters = [
            "any" if name == ANY_ADAPTERS else name
            for denoiser in origin.denoisers.values()
            for name in denoiser.adapters
        ]
        facts |= {
            "pipeline": origin.pipeline_class,
            "denoisers": ", ".join(f"{name}: {d.model_class}" for name, d in origin.denoisers.items()),
            "adapters": ", ".join(adapters) or "none",
            "scheduler": origin.scheduler_class,
            "guidance": ", ".join(f"{name}={value!r}" for name, value in origin.guidance.items()) or "none",
            "latent of one sample": " x ".join(map(str, origin.latent_shape)),
        }
    facts["budget"] = record.budget
    if record.num_prompts:
        facts["calibration"] = (
            f"{record.num_prompts} prompts, {record.denoiser_calls} denoiser calls "
            f"({record.total_full_runs:.1f} full runs in all)"
        )
    if record.error is not None:
        facts["relative error of the final latent, calibration prompts"] = f"{record.error:.4g}"
    rows = [_row(name, value) for name, value in facts.items()]
    notes = "".join(f"\n- {_text(note)}" for note in record.notes)
    return "\n".join(["## Made for", "", lead, "", _row("", ""), "|---|---|", *rows]) + (f"\n{notes}" if notes else "")


def _quality(figures: Figures, model: str | None) -> str:
    from ertacache.metrics import interval  # figures exist only where the metrics are installed

    digits, count = {"PSNR, dB": 1, "SSIM": 4}, len(figures.prompts)
    lines: list[str] = []
    for row in figures.rows:
        values = {"PSNR, dB": row.psnr, "SSIM": row.ssim, "motion error": row.motion, **row.more}
        shown = {name: numbers for name, numbers in values.items() if numbers}
        if not lines:
            lines = [_row("", "speedup of denoising", *shown), "|" + "---|" * (2 + len(shown))]
        cells = []
        for name, numbers in shown.items():
            mean, low, high = (f"{value:.{digits.get(name, 3)}f}" for value in (fmean(numbers), *interval(numbers)))
            cells.append(f"{mean} ({low} to {high})")
        lines.append(_row("this policy" if row is figures.rows[0] else row.name, f"{row.median_speedup:.2f}x", *cells))
    few = f" Fewer than {FEW_PROMPTS} prompts are a check, not a measurement." if count < FEW_PROMPTS else ""
    text = (
        f"Against the full run, on the prompts of [{PROMPTS_FILE}]({PROMPTS_FILE}): means with 95 % intervals over "
        f"prompts (bootstrap), and the median speedup on one machine ({_text(figures.device)}, "
        f"{_text(figures.dtype)}).{few} "
        '"Fewer steps" is the pipeline without a cache, at as many steps as the policy computes, on the scheduler\'s '
        f"grid and on the policy's. All figures are in [{EVALUATION_FILE}]({EVALUATION_FILE}), measured with ertacache "
        f"{_text(figures.version)}.{_inputs(figures)} In a folder with the files of this repository, this measures "
        "them again:"
    )
    given = [part for name, value in figures.arguments.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    given += ["--image", figures.image["file"]] if figures.image else []
    given += [part for lora in figures.loras for part in ("--lora", f"{lora['place']}:{lora['scale']:g}")]
    given += ["--limit", str(count), "--seed", str(figures.seed)]
    given += ["--device", figures.device, "--dtype", figures.dtype, *(["--offload"] if figures.offload else [])]
    return "\n".join(["## Quality", "", *lines, "", text, "", *_command(model, given)])


def _inputs(figures: Figures) -> str:
    """What the calls were given beside prompts and plain arguments, in sentences; it is not in the repository."""
    told = [f"with the LoRA {_text(lora['place'])} at {lora['scale']:g}" for lora in figures.loras]
    if figures.image:
        told.append(f"from the picture {_text(figures.image['file'])} (sha256 {_text(figures.image['sha256'])})")
    if figures.own_arguments:
        told.append(f"with arguments of each prompt's own, which {EVALUATION_FILE} lists and the command leaves out")
    return f" Measured {', '.join(told)}." if told else ""


def _unmeasured(model: str | None) -> str:
    text = f"Not measured. With prompts of your own in `{PROMPTS_FILE}`, one per line, this measures it:"
    return "\n".join(["## Quality", "", text, "", *_command(model, [])])


def _command(model: str | None, given: list[str]) -> list[str]:
    """The command that measures the policy; it writes to a file with another name, so that both can be compared."""
    parts = ["ertacache", "evaluate", model or "MODEL", POLICY_FILE, "--prompts", PROMPTS_FILE, *given]
    return ["```sh", shlex.join([*parts, "--out", "again.json"]), "```"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    r"""Untrusted text as one line of Markdown that shows it literally.

    >>> _text("a_b and *c*\n<d>")
    'a_b and \\*c\\* \\<d\\>'
    """
    line = " ".join(visible(text).split())
    line = re.sub(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    return re.sub(r"^(\d*)([-+#.)])(?=[\s-]|$)", r"\1\\\2", line)  # those would begin a list or a heading
