"""What every rival keeps to: it saves work, leaves the pipeline as found, and carries nothing from call to call."""

from dataclasses import replace

import pytest
import torch

from benchmarks.rivals.harness import subject_of as counted_subject
from benchmarks.rivals.roster import OURS, RIVALS
from ertacache import zoo
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, generate_with, subject_of

REFUSED = {
    "flux": {"T-GATE"},
    "wan": {"fewer steps, UniPC"},
    "cogvideox": {"T-GATE"},
    "opensora": {"DBCache", "DBCache + TaylorSeer"},
}
"""The rivals that may refuse a pipeline; all others must run on it."""


@pytest.fixture(scope="module", params=["flux", "opensora"])
def full(request):
    """A subject, the latents of its full run, and their cost."""
    subject = subject_of(request.param)
    generate(subject)  # entering a cache context for the first time leaves registries behind
    with counting_flops(subject.pipe) as cost:
        latents = generate(subject)
    return subject, latents, cost.flops


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_rival_saves_work_and_leaves_nothing_behind(rival, full):
    subject, latents, work = full
    if rival.name in REFUSED[subject.name]:
        assert len(rival.refuses(subject)) > 20, "it refuses without a reason"
        return
    assert rival.refuses(subject) == "", "it must run on this pipeline"
    prepared = rival.prepare(subject)
    knobs = rival.knobs(subject)[-1]
    with rival.attach(subject, knobs, prepared):  # what is fitted at the first use is fitted here
        pass
    before = found(subject)
    with counting_flops(subject.pipe) as cost:
        ours = generate_with(rival, subject, knobs, prepared)
    again = generate_with(rival, subject, knobs, prepared)
    assert found(subject) == before, "left something behind"
    assert cost.flops < 0.95 * work
    assert torch.isfinite(ours).all()
    assert not torch.equal(ours, latents)
    assert torch.equal(ours, again), "a call changed the next one"
    assert torch.equal(generate(subject), latents), "the pipeline is not as it was"


def test_every_rival_says_where_it_comes_from_and_has_settings_from_mild_to_strong(full):
    assert [rival.name for rival in RIVALS].count(OURS) == 1
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)
    for rival in RIVALS:
        assert rival.source
        if rival.name not in REFUSED[full[0].name]:
            assert len(rival.knobs(full[0])) >= 4


@pytest.mark.parametrize("name", zoo.OF_THE_PAPER)
def test_only_the_rivals_that_are_listed_refuse_a_pipeline(name):
    assert {rival.name for rival in RIVALS if rival.refuses(subject_of(name))} == REFUSED[name]


@pytest.mark.parametrize("name", zoo.OF_THE_PAPER)
def test_the_calls_of_a_step_are_counted(name, tmp_path):
    assert counted_subject(zoo.load(name), name, tmp_path).calls_per_step == CALLS_PER_STEP[name]


def test_without_guidance_a_step_calls_once(tmp_path):
    embedded = zoo.load("flux")
    unguided = replace(embedded, arguments={**embedded.arguments, "true_cfg_scale": 1.0})
    assert counted_subject(unguided, "flux", tmp_path).calls_per_step == 1
