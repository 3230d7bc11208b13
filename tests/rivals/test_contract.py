"""What every rival keeps to: it saves work, leaves the pipeline as found, and carries nothing from call to call."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.rivals.harness import subject_of
from benchmarks.rivals.roster import OURS, RIVALS
from ertacache import zoo
from ertacache.evaluation.comparison import Variant, generate
from ertacache.evaluation.cost import counting_flops

STEPS = 10


@pytest.fixture(scope="module")
def embedded():
    return zoo.load()


@pytest.fixture(scope="module")
def subject(embedded, tmp_path_factory):
    small = replace(
        embedded,
        arguments={**embedded.arguments, "num_inference_steps": STEPS},
        calibration_prompts=embedded.calibration_prompts[:2],
    )
    return subject_of(small, "flux", tmp_path_factory.mktemp("rivals"))


def run(subject, variant):
    settings = {k: v for k, v in subject.arguments.items() if k != "num_inference_steps"}
    call = {**settings, "prompt": subject.calibration_prompts[0], "generator": torch.Generator().manual_seed(5)}
    with counting_flops(subject.pipe) as cost:
        result = generate(subject.pipe, variant, call)
    return result.pictures, cost.flops


def attributes(subject):
    """What a rival may not change: of the pipeline and its scheduler, which any call writes into, the names alone."""
    pipe = subject.pipe
    parts, hooks = {}, {}
    for name, part in subject.denoiser.named_modules():
        parts[name] = {key: id(value) for key, value in vars(part).items()}
        hooks[name] = (list(part._forward_hooks), list(part._forward_pre_hooks))
    order = [name for name, _ in subject.denoiser.named_modules()]
    own = type(pipe), type(pipe).__call__, id(pipe.scheduler)
    return parts, hooks, order, own, set(vars(pipe)), set(vars(pipe.scheduler))


@pytest.fixture(scope="module")
def full(subject):
    run(subject, Variant("full", STEPS))  # entering a cache context for the first time leaves registries behind
    return run(subject, Variant("full", STEPS))


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_rival_saves_work_and_leaves_nothing_behind(rival, subject, full):
    if why := rival.refuses(subject):
        assert len(why) > 20
        return
    prepared = rival.prepare(subject)
    knobs = rival.knobs(subject)[-1]
    variant = Variant(
        rival.name,
        rival.num_steps(subject, knobs),
        around=lambda pipe: rival.attach(subject, knobs, prepared),
    )
    pictures, work = full
    with variant.around(subject.pipe):  # what is fitted at the first use is fitted here
        pass
    before = attributes(subject)
    ours, less = run(subject, variant)
    again, _ = run(subject, variant)
    assert attributes(subject) == before, "left something behind"
    assert less < 0.95 * work
    assert torch.isfinite(ours).all()
    assert not torch.equal(ours, pictures)
    assert torch.equal(ours, again), "a call changed the next one"
    assert torch.equal(run(subject, Variant("full", STEPS))[0], pictures), "the pipeline is not as it was"


def test_every_rival_says_where_it_comes_from_and_has_settings_from_mild_to_strong(subject):
    assert [rival.name for rival in RIVALS].count(OURS) == 1
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)
    for rival in RIVALS:
        assert rival.source
        if not rival.refuses(subject):
            assert len(rival.knobs(subject)) >= 4


def test_a_subject_counts_the_calls_of_a_step(subject, embedded):
    assert subject.calls_per_step == 2
    once = subject_of(
        type(embedded)(embedded.pipe, {**embedded.arguments, "true_cfg_scale": 1.0}, embedded.calibration_prompts, []),
        "flux",
        Path(subject.work) / "once",
    )
    assert once.calls_per_step == 1
