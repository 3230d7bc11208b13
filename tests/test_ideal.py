"""The ideal denoiser is the posterior mean, its pipeline is one that this library takes, and what its table says."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks.ideal import __main__ as ideal
from benchmarks.ideal import pictures as sets
from benchmarks.ideal.denoiser import ALL, IdealDenoiser
from benchmarks.ideal.pipeline import IdealPipeline
from ertacache import accelerated, calibrate, zoo

SIDE = 8
PROMPTS = ("a dark one", "a light one")


@pytest.fixture(scope="module")
def known():
    """Twelve pictures of two classes, -1 .. 1."""
    torch.manual_seed(0)
    dark, light = torch.rand(6, 3, SIDE, SIDE) - 1, torch.rand(6, 3, SIDE, SIDE)
    return torch.cat([dark, light]), torch.tensor([0] * 6 + [1] * 6)


def brute_force(pictures, x, level, half):
    """Pixel by pixel: the mean of the set, each picture weighted by how well it fits within the window."""
    found = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    place = torch.arange(SIDE, dtype=torch.float64)
    for row in range(SIDE):
        for column in range(SIDE):
            down, across = ((half + 1 - (place - at).abs()).clamp(0, 1) for at in (row, column))
            misfits = ((x.double() - (1 - level) * pictures.double()) ** 2).sum(1) * down[:, None] * across
            weights = torch.softmax(-misfits.sum((1, 2)) / (2 * level**2), 0)
            found[:, row, column] = (weights[:, None] * pictures[:, :, row, column].double()).sum(0)
    return found


@pytest.mark.parametrize("level", [0.05, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("window", [3, 5, 2 * SIDE - 1])
@pytest.mark.parametrize("label", [ALL, 1])
def test_it_is_the_mean_of_the_set_given_the_window_around_each_pixel(known, level, window, label):
    denoiser = IdealDenoiser.of(*known, window)
    x = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    chosen = known[0] if label == ALL else known[0][known[1] == label]
    wanted = brute_force(chosen, x, level, denoiser.half_width(level))
    torch.testing.assert_close(denoiser.denoised(x, level, label), wanted, rtol=1e-9, atol=1e-9)


def test_with_the_whole_picture_as_window_it_is_the_exact_posterior(known):
    denoiser, level = IdealDenoiser.of(*known, 2 * SIDE - 1), 0.5
    x = (1 - level) * known[0][3] + level * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    misfits = ((x.double() - (1 - level) * known[0].double()) ** 2).sum((1, 2, 3))
    weights = torch.softmax(-misfits / (2 * level**2), 0)
    wanted = torch.einsum("n,nchw->chw", weights, known[0].double())
    torch.testing.assert_close(denoiser.denoised(x, level, ALL), wanted)
    velocity = denoiser(x[None], torch.tensor(500.0), torch.tensor([ALL])).sample[0]
    torch.testing.assert_close(velocity, ((x - wanted) / level).float())


def test_without_noise_a_picture_of_the_set_is_known(known):
    denoiser = IdealDenoiser.of(*known)
    found = denoiser.denoised(known[0][2] * 0.999, 0.001, ALL)
    torch.testing.assert_close(found, known[0][2].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [2, 2 * SIDE])
def test_no_such_window(known, window):
    with pytest.raises(ValueError, match=r"choose 3 to 15"):
        IdealDenoiser.of(*known, window)


def test_a_noise_level_outside_is_refused(known):
    with pytest.raises(ValueError, match=r"over 0 and at most 1"):
        IdealDenoiser.of(*known)(known[0][:1], torch.tensor(0.0), torch.tensor([ALL]))


@pytest.fixture
def embedded(known):
    pipe = IdealPipeline(IdealDenoiser.of(*known), FlowMatchEulerDiscreteScheduler(shift=3.0), PROMPTS)
    pipe.set_progress_bar_config(disable=True)
    prompts = list(PROMPTS) * 2
    return zoo.Embedded(pipe, {"num_inference_steps": 10, "guidance_scale": 2.0}, prompts, prompts)


def made(pipe, prompt, **given):
    return pipe(prompt, generator=torch.Generator().manual_seed(5), output_type="latent", **given).images


def test_a_guidance_of_one_is_the_conditional_alone_and_a_class_is_what_it_says(embedded):
    pipe = embedded.pipe
    dark, light = (made(pipe, prompt, guidance_scale=1.0) for prompt in PROMPTS)
    assert dark.max() < 0.05
    assert light.min() > -0.05
    both = made(pipe, list(PROMPTS), guidance_scale=1.0)
    assert both.shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(both[0], dark[0])
    once = {"num_inference_steps": 1}
    alone, guided = (made(pipe, PROMPTS[0], guidance_scale=scale, **once) for scale in (1.0, 2.0))
    torch.testing.assert_close(guided - alone, alone - made(pipe, "", guidance_scale=1.0, **once), rtol=0, atol=1e-5)
    assert (guided - alone).abs().max() > 0.1
    torch.testing.assert_close(made(pipe, PROMPTS[0], negative_prompt=PROMPTS[0], guidance_scale=2.0), dark)


def test_an_unknown_prompt_is_refused(embedded):
    with pytest.raises(ValueError, match="choose one of a dark one, a light one, or an empty prompt"):
        embedded.pipe("a gray one")


def test_it_is_calibrated_and_accelerated_as_any_pipeline(embedded):
    pipe, arguments = embedded.pipe, embedded.arguments
    policy = calibrate(pipe, embedded.calibration_prompts, speedup=2.0, full_runs=8, progress=False, **arguments)
    full = made(pipe, PROMPTS[0], **arguments)
    with accelerated(pipe, policy) as run:
        ours = made(pipe, PROMPTS[0], **arguments)
    assert len(run.report.computed_steps) == 5
    fewer = made(pipe, PROMPTS[0], **{**arguments, "num_inference_steps": 5})
    assert (ours - full).norm() < (fewer - full).norm()
    with accelerated(pipe, speedup=2.0) as run:
        made(pipe, PROMPTS[0], **arguments)
    assert len(run.report.computed_steps) == 5


def test_sets_have_as_many_of_each_class_and_smaller_ones_are_part_of_larger(monkeypatch):
    pixels = torch.randint(0, 255, (40, 128, 128, 4), dtype=torch.uint8).numpy()
    things = [thing for kinds in sets.CLASSES.values() for kind in kinds for thing in sets.emoji.KINDS[kind]]
    firsts = [sets.emoji.KINDS[kinds[0]][0] for kinds in sets.CLASSES.values()]
    of_thing = {thing: [] for thing in things}
    of_thing |= {thing: list(range(10 * k, 10 * k + 10)) for k, thing in enumerate(firsts)}
    monkeypatch.setattr(sets.emoji, "pictures", lambda: sets.emoji.Pictures(pixels, [], of_thing))
    (few, labels), (more, _) = sets.sampled(12, 0), sets.sampled(20, 0)
    assert few.shape == (12, 3, sets.SIZE, sets.SIZE)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert torch.equal(more[:3], few[:3])
    assert -1 <= few.min() < few.max() <= 1
    with pytest.raises(ValueError, match="a face has 10 pictures, not 15"):
        sets.sampled(60, 0)


def test_the_table_names_every_way_and_the_best_is_bold(embedded, monkeypatch, tmp_path):
    monkeypatch.setattr(ideal, "embedded_of", lambda size, steps: replace(embedded))
    rivals = [rival for rival in ideal.RIVALS if rival.name in ("L2P", "T-GATE")]
    result, _, variants = ideal.measured(ideal.Size(100, 3), ideal.BRIEF, rivals, tmp_path, quick=True)
    shown = ideal.full_table(result)
    assert all(ideal.NAMES.get(name, name) in shown for name in (*ideal.BRIEF, ideal.INSTANT, ideal.FEWER))
    assert list(result["refused"]) == ["T-GATE"]
    assert result["refused"]["T-GATE"]
    assert "| L2P |" in shown
    assert "2 aligned" in variants
    for column in list(zip(*(line.split("|")[2:-1] for line in shown.splitlines()[2:]), strict=True)):
        cells = [float(cell.strip(" *").partition(",")[0].strip("*")) for cell in column if cell.strip() != "-"]
        assert f"**{max(cells):.1f}**" in {cell.strip().partition(",")[0] for cell in column}
