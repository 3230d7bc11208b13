"""An interrupted calibration goes on from what it had saved; large recordings go to files."""

import pytest
import torch

import ertacache
from ertacache.calibration.checkpoint import key_of
from ertacache.calibration.prompts import calls_for


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


def test_an_interrupted_calibration_resumes(embedded, settings, prompts, tmp_path):
    expected = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="aligned", **settings)
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


def test_recordings_above_the_limit_go_to_files_and_change_nothing(embedded, settings, prompts, capsys):
    shown = {**settings, "progress": True}
    small = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="paper", memory_limit=1000, **shown)
    text = capsys.readouterr().err.replace("\n", "")
    assert "ertacache-" in text
    assert "full runs' denoiser calls per prompt" in text
    large = ertacache.calibrate(embedded.pipe, prompts, speedup=2, method="paper", **settings)
    assert small.cached_steps == large.cached_steps
    assert torch.equal(small.rectification.k, large.rectification.k)


def test_another_callback_is_another_calibration(embedded, settings, prompts):
    def make(amount):
        def callback(pipe, i, t, kwargs):
            return callback and {"latents": kwargs["latents"] + amount}  # it holds itself

        return callback

    def key(callback):
        call = {**settings, "callback_on_step_end": callback}
        return key_of(embedded.pipe, calls_for(embedded.pipe, prompts, call, seed=0), 10, hidden=False)

    assert key(make(1)) == key(make(1))
    assert len({key(make(1)), key(make(2)), key(lambda *_: {}), key(lambda *_: None), key(None)}) == 5
