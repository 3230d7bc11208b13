"""An interrupted calibration goes on from what it had saved; large recordings go to files."""

import dataclasses
import functools

import accelerate
import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image

import ertacache
from ertacache.calibration import checkpoint_key
from ertacache.calibration.prompts import calls_for
from ertacache.errors import CalibrationError
from ertacache.runtime.identity import circumstances_of


def key_of(pipe, calls, steps):
    return checkpoint_key.key_of(pipe, circumstances_of(pipe, (), {}), calls, steps)


class Interrupting:
    """Raises KeyboardInterrupt at the n-th denoiser call, and counts all of them."""

    def __init__(self, module, at=None):
        self.calls, self.at = 0, at
        self.hook = module.register_forward_pre_hook(self)

    def __call__(self, module, args):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


def test_an_interrupted_calibration_resumes(embedded, settings, prompts, made_by, tmp_path):
    expected = made_by("aligned").policy
    for at in (2 * 10 + 5, 4):  # in the middle of the second full run; then in the first fit
        with Interrupting(embedded.pipe.transformer, at) as seen, pytest.raises(KeyboardInterrupt):
            ertacache.calibrate(embedded.pipe, prompts, speedup=2, checkpoint=tmp_path, **settings)
    with Interrupting(embedded.pipe.transformer) as seen:
        policy = ertacache.calibrate(embedded.pipe, prompts, speedup=2, checkpoint=tmp_path, **settings)
    # The first full run was found; the second was made in the second attempt, or is made now.
    assert seen.calls <= expected.calibration.denoiser_calls - 20
    assert policy.cached_steps == expected.cached_steps
    assert policy.predictions == expected.predictions


def test_another_budget_starts_from_the_same_full_runs(embedded, settings, prompts, tmp_path):
    ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="taylor", checkpoint=tmp_path, **settings)
    with Interrupting(embedded.pipe.transformer) as seen:
        ertacache.calibrate(embedded.pipe, prompts, speedup=2.5, method="taylor", checkpoint=tmp_path, **settings)
    assert seen.calls == 4 * 2 * 2  # only the closed loop: four computed steps, two branches, two prompts


def test_a_larger_limit_makes_the_full_runs_of_further_prompts_only(embedded, settings, tmp_path):
    prompts = embedded.calibration_prompts[:3]
    asked = {**settings, "speedup": 2, "checkpoint": tmp_path}
    assert ertacache.calibrate(embedded.pipe, prompts, full_runs=1, **asked).calibration.num_prompts == 1
    with Interrupting(embedded.pipe.transformer) as seen:
        more = ertacache.calibrate(embedded.pipe, prompts, full_runs=3, **asked)
        assert more.calibration.num_prompts == 2
        assert seen.calls == (10 + 2 * 5) * 2  # one full run, and a loop of both prompts
        ertacache.calibrate(embedded.pipe, prompts[::-1], full_runs=1, seed=-2, **asked)  # its first prompt is new
        assert seen.calls == (10 + 2 * 5 + 10) * 2


def test_another_setting_does_not_find_the_full_runs_of_this_one(embedded, settings, prompts, tmp_path):
    ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="taylor", checkpoint=tmp_path, **settings)
    other = {**settings, "true_cfg_scale": 2.0}
    with Interrupting(embedded.pipe.transformer) as seen:
        ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="taylor", checkpoint=tmp_path, **other)
    assert seen.calls == (10 + 5) * 2 * 2


def test_a_damaged_recording_is_made_again(embedded, settings, prompts, tmp_path):
    first = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="taylor", checkpoint=tmp_path, **settings)
    victim = sorted(tmp_path.rglob("*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    second = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="taylor", checkpoint=tmp_path, **settings)
    assert second.calibration.error == first.calibration.error


def test_recordings_above_the_limit_go_to_files_and_change_nothing(embedded, settings, prompts, made_by, capsys):
    shown = {**settings, "progress": True}
    small = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="paper", memory_limit=1000, **shown)
    text = capsys.readouterr().err
    assert "ertacache-" in text.replace("\n", "")
    assert "at most 6 full runs in all" in " ".join(text.split())
    large = made_by("paper").policy
    assert small.cached_steps == large.cached_steps
    assert torch.equal(small.rectification.k, large.rectification.k)


@dataclasses.dataclass
class Condition:
    """As some video pipelines take pictures at frames."""

    image: torch.Tensor
    frame: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(2, 8), torch.ones(4, 4)),
        (torch.tensor(3.5), torch.tensor(4.5)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (Image.new("L", (2, 8)), Image.new("L", (8, 2))),
        (np.zeros(4), np.ones(4)),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (Condition(torch.ones(2), 0), Condition(torch.ones(2), 8)),
        (torch.nn.Linear(2, 2), torch.nn.Linear(3, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_argument_holds_is_part_of_the_key(embedded, settings, prompts, one, other):
    def key(value):
        return key_of(embedded.pipe, calls_for(embedded.pipe, prompts, {**settings, "argument": value}, seed=0), 10)

    assert key(one) == key(one)
    assert key(one) != key(other)


def scaled(pipe, i, t, kwargs, by=1.0):
    return {"latents": kwargs["latents"] * by}


@pytest.mark.parametrize(
    "callback", [scaled, lambda *_: {}, functools.partial(scaled, by=2.0), SDCFGCutoffCallback(0.2)]
)
def test_a_function_among_the_arguments_is_refused_for_a_checkpoint_only(
    embedded, settings, prompts, callback, tmp_path
):
    given = {**settings, "callback_on_step_end": callback}
    if callback is scaled:
        ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="reuse", **given)
    with pytest.raises(CalibrationError, match=r"function among the call arguments.*without checkpoint=, or without"):
        ertacache.calibrate(embedded.pipe, prompts, speedup=2, checkpoint=tmp_path, **given)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_an_argument_that_cannot_be_told_apart_is_refused_for_a_checkpoint_only(embedded, settings, prompts):
    odd = {**settings, "joint_attention_kwargs": {"odd": iter([1])}}
    with pytest.raises(CalibrationError, match="list_iterator"):
        key_of(embedded.pipe, calls_for(embedded.pipe, prompts, odd, seed=0), 10)


def test_other_weights_of_any_part_are_another_calibration(make_flux, settings, prompts):
    def key(pipe):
        return key_of(pipe, calls_for(pipe, prompts, settings, seed=0), 10)

    one, other = make_flux(seed=0), make_flux(seed=5)
    keys = {key(one), key(other)}
    with torch.no_grad():
        for parameter in one.vae.parameters():  # it encodes the picture of image-to-image
            parameter.mul_(3)
    keys.add(key(one))
    assert len(keys) == 3
    for pipe in (one, other):
        accelerate.cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in pipe.transformer.parameters())
    assert {key(one), key(other)} <= keys  # the weights are read where offloading keeps them


def test_traces_above_the_limit_go_to_files_and_change_nothing(embedded, settings, prompts, made_by, capsys):
    small = ertacache.calibrate(embedded.pipe, prompts, speedup=2, memory_limit=1000, **{**settings, "progress": True})
    needs = " ".join(capsys.readouterr().err.split())
    large = made_by("aligned").policy
    assert "for recordings in" in needs
    assert small.calibration.denoiser_calls == large.calibration.denoiser_calls
    assert small.predictions == large.predictions
