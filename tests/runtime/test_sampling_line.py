"""Samplers that are one loop, and denoisers that are no module: the example of docs/how-to/own-model.md."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

import ertacache
from ertacache.errors import PolicyMismatchError, RunError
from ertacache.integrations.replayed_sampler import replayed_sampler
from ertacache.runtime.sampler_response import response_of

ADDING = (Path(__file__).parents[2] / "docs/how-to/own-model.md").read_text(encoding="utf-8")
CALLS: list[None] = []
"""Of the networks; an attribute of theirs would be restored after calibration."""
SETTING = {"num_inference_steps": 12, "guidance_scale": 1.0}


class Network(torch.nn.Module):
    """A small network that counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        CALLS.append(None)
        with torch.no_grad():
            return self.layers(latent)


@pytest.fixture(scope="module")
def names():
    _, engine, _, _ = re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL)
    names = {"torch": torch}
    exec(engine, names)
    return names


@pytest.fixture
def network():
    CALLS.clear()
    return Network()


@pytest.fixture
def line(names, network):
    return names["Line"](network)


def taken():
    calls = len(CALLS)
    CALLS.clear()
    return calls


def test_replays_make_the_loops_own_steps(names, network):
    scheduler = replayed_sampler("two-step", names["two_step"], {})
    levels = torch.linspace(1, 0, 7)
    seen, outputs = [], []

    def evaluate(latent, level):
        seen.append(latent)
        outputs.append(network(latent))
        return outputs[-1]

    last = names["two_step"](evaluate, torch.ones(1, 16), levels, 0)
    scheduler.set_timesteps(levels.tolist())
    for k, output in enumerate(outputs):
        (latent,) = scheduler.step(output, None, seen[k])
        assert torch.equal(latent, seen[k + 1] if k + 1 < len(seen) else last)
    twin = copy.deepcopy(scheduler)
    twin.set_timesteps(levels.tolist())
    assert scheduler.step_index == 6
    assert twin.step_index == 0


def test_the_response_takes_two_runs_of_the_loop_and_is_that_of_single_steps(names):
    levels = torch.linspace(1, 0, 13).tolist()
    runs = []

    def counted(*arguments):
        runs.append(arguments)
        return names["two_step"](*arguments)

    scheduler = replayed_sampler("counted", counted, {})
    scheduler.set_timesteps(levels)
    found = response_of(scheduler, 0, levels)
    assert len(runs) == 2
    latent, rows = torch.zeros(1, 12), []
    for step, output in enumerate(torch.eye(12)):
        (latent,) = scheduler.step(output[None], levels[step], latent)
        rows.append(latent[0])
    assert torch.equal(torch.from_numpy(found), torch.stack(rows).double())


@pytest.mark.parametrize("evaluations", [1, 3])
def test_all_steps_of_a_loop_that_does_not_evaluate_once_a_step_are_refused(evaluations):
    def loop(evaluate, latent, levels, seed):
        for _ in range(evaluations):
            latent = latent - evaluate(latent, levels[0])
        return latent

    scheduler = replayed_sampler(f"evaluates {evaluations} times", loop, {})
    scheduler.set_timesteps([1.0, 0.5, 0.0])
    with pytest.raises(RunError, match="does not evaluate the model once a step"):
        scheduler.all_steps([torch.ones(1, 3)] * 2, torch.zeros(1, 3))


def test_a_policy_is_calibrated_and_followed(line, network):
    full = line(network, seed=5, **SETTING)
    taken()
    prompts = [{"network": network, "seed": k} for k in range(4)]
    policy = ertacache.calibrate(line, prompts, speedup=2.0, progress=False, **SETTING)
    assert taken() == policy.calibration.denoiser_calls
    with ertacache.accelerated(line, policy) as run:
        fast = line(network, seed=5, **SETTING)
    assert taken() == 6 == len(run.computed_steps)
    assert (fast - full).norm() < 0.001 * full.norm()
    with ertacache.accelerated(line, speedup=1.0):
        assert torch.equal(line(network, seed=5, **SETTING), full), "nothing is cached"
    with ertacache.accelerated(line, policy), pytest.raises(PolicyMismatchError, match="guidance_scale"):
        line(network, seed=5, **SETTING | {"guidance_scale": 4.0})


def test_another_network_sampler_or_grid_is_refused(names, line, network):
    prompts = [{"network": network, "seed": k} for k in range(2)]
    policy = ertacache.calibrate(line, prompts, speedup=2.0, progress=False, **SETTING)
    other = Network(seed=1)
    with pytest.raises(PolicyMismatchError, match="weights"), ertacache.accelerated(names["Line"](other), policy):
        names["Line"](other)(other, **SETTING)
    twin = names["Line"](network)
    twin.scheduler = replayed_sampler("another", names["two_step"], {})
    with pytest.raises(PolicyMismatchError, match="two-step"), ertacache.accelerated(twin, policy):
        twin(network, **SETTING)
    with ertacache.accelerated(line, policy), pytest.raises(PolicyMismatchError, match="not tested"):
        line(network, **SETTING | {"num_inference_steps": 20})


def test_it_learns(line, network, tmp_path):
    with ertacache.accelerated(line, speedup=2.0, learn=tmp_path):
        line(network, seed=1, **SETTING)
        assert taken() == 12
        line(network, seed=2, **SETTING)
        assert taken() == 6


def test_more_evaluations_than_steps_are_refused(line, network):
    line.scheduler.set_timesteps([1.0, 0.5, 0.0])
    latent = torch.ones(1, 16)
    for _ in range(2):
        line.evaluated(latent, lambda: network(latent))
    with pytest.raises(RunError, match="evaluates the model more often than it has steps"):
        line.evaluated(latent, lambda: network(latent))


def test_steps_that_evaluate_other_things_are_computed(line, network):
    """Which conditionings apply is part of what tells steps apart."""
    computed = []

    def call(marks):
        line.scheduler.set_timesteps(torch.linspace(1, 0, 9).tolist())
        latent = torch.ones(1, 16)
        for step in range(8):

            def evaluated(latent=latent, step=step):
                computed.append(step)
                return network(latent)

            latent = latent - 0.1 * line.evaluated(latent, evaluated, marks(step))

    kind = type(line)
    policy = ertacache.Policy(8, (1, 3, 4, 6), ertacache.Method.named("reuse"))
    try:
        kind.__call__, own = lambda self, marks: call(marks), kind.__call__
        with ertacache.accelerated(line, policy):
            line(lambda step: [1, 1])
        assert computed == [0, 2, 5, 7]
        computed.clear()
        with ertacache.accelerated(line, policy) as run:
            line(lambda step: [1, int(step < 4)])
        assert computed == [0, 2, 4, 5, 7]
        assert "step 4 was computed" in str(run.report)
    finally:
        kind.__call__ = own
