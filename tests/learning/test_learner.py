"""Learning from ordinary generations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ertacache
from ertacache.errors import ArgumentError, OutputError, PolicyFileError
from ertacache.learning import learner
from ertacache.learning.full_generation import FullGeneration
from ertacache.learning.learnt import Learnt, LearntFolder, read, write
from ertacache.learning.output_store import OutputStore
from ertacache.runtime.memo import Memo
from tests.cli.running import refused, run

STEPS = 10


def generate(pipe, call, folder, count=1, **more):
    """The pictures, and the report of each call."""
    found = []
    with ertacache.accelerated(pipe, num_computed_steps=5, learn=folder, **more) as run:
        for _ in range(count):
            images = pipe(**call()).images
            found.append((images, run.report))
    return found


@pytest.fixture
def call(flux_call):
    return lambda **more: flux_call(steps=STEPS, guided=True, **more)


def test_the_first_generation_is_the_full_one_and_the_second_is_accelerated(flux, call, counted, tmp_path):
    plain = flux(**call()).images
    counter = counted(flux.transformer)
    (first, told), (second, report) = generate(flux, call, tmp_path, 2)
    assert torch.equal(first, plain)
    assert counter.take() == 2 * STEPS + 2 * 5
    assert "learnt from, 1 in all" in str(told)
    assert len(report.computed_steps) == 5
    assert 0 < (second - plain).norm() / plain.norm() < 0.2
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [next(tmp_path.glob("learnt-*.safetensors")).name]


def test_another_process_would_go_on_from_the_folder(flux, make_flux, call, tmp_path):
    generate(flux, call, tmp_path)
    ((_, report),) = generate(make_flux(), call, tmp_path)
    assert len(report.computed_steps) == 5


@pytest.fixture
def solved(monkeypatch):
    """One entry for each policy that is solved; other tests learn the same, so nothing of theirs is remembered."""
    times, solve = [], learner.learnt_policy
    monkeypatch.setattr(learner, "_SOLVED", Memo(32))
    monkeypatch.setattr(learner, "learnt_policy", lambda *given: (times.append(1), solve(*given))[1])
    return times


def test_a_setting_is_solved_once_for_all_blocks_and_anew_when_its_file_changed(flux, call, tmp_path, solved):
    for _ in range(4):  # as a service does, which has a block for each request
        generate(flux, call, tmp_path)
    assert len(solved) == 1
    folder = LearntFolder(tmp_path)
    (file,) = folder.files()
    folder.add(file.stem.removeprefix("learnt-"), read(file))  # as another process would
    for _ in range(2):
        ((_, report),) = generate(flux, call, tmp_path)
        assert "learnt from 2 full generations" in str(report)
    assert len(solved) == 2


def test_what_is_solved_follows_the_whole_content_of_the_file(flux, call, tmp_path, solved):
    generate(flux, call, tmp_path)
    ((before, _),) = generate(flux, call, tmp_path)
    (file,) = LearntFolder(tmp_path).files()
    known, content = read(file), file.read_bytes()
    apart = 0.5 * known.gram + 0.5 * known.gram.diag().diag()  # steps that are less alike, with the same trace
    write(replace(known, gram=apart), file)
    ((other, _),) = generate(flux, call, tmp_path)
    assert not torch.equal(other, before)
    file.write_bytes(content)
    ((again, _),) = generate(flux, call, tmp_path)
    assert torch.equal(again, before)
    assert len(solved) == 2, "the first state was known still"


@pytest.mark.parametrize("change", ["guidance", "steps", "weights", "shift"])
def test_another_setting_is_learnt_apart(flux, make_flux, call, tmp_path, change):
    generate(flux, call, tmp_path)
    other, changed = flux, call
    if change == "guidance":
        changed = lambda: call(true_cfg_scale=2.5)  # noqa: E731
    if change == "steps":
        changed = lambda: {**call(), "num_inference_steps": STEPS + 1}  # noqa: E731
    if change == "weights":
        other = make_flux(seed=5)
    if change == "shift":
        other = make_flux(shift=2.0)
    ((_, report),) = generate(other, changed, tmp_path)
    assert report.cached_steps == []
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_audits_run_in_full_teach_and_say_how_good_the_policy_is(flux, call, tmp_path):
    plain = flux(**call()).images
    (_, first), *audited = generate(flux, call, tmp_path, 3, audit=1.0)
    for images, report in audited:
        assert torch.equal(images, plain)
        assert "audited: the policy in force differs from this full run by" in str(report)
    learnt = read(next(tmp_path.glob("*.safetensors")))
    assert learnt.generations == 3
    assert first.audit is None
    assert learnt.audits == tuple(report.audit for _, report in audited)
    assert 0 < learnt.audits[0] < 0.2
    assert learnt.audited_steps == (5, 5)
    assert "mean of 2 audits" in learnt.told(5)
    assert "no audit yet" in learnt.told(6)
    for error, large in ((0.09, False), (0.11, True)):
        told = replace(learnt, audits=(error,), audited_steps=(5,)).told(5)
        assert ("large, so expect pictures that differ visibly" in told) is large


def test_every_report_says_what_the_policy_was_learnt_from_and_how_good_it_is(flux, call, tmp_path):
    _, (_, report) = generate(flux, call, tmp_path, 2)
    assert "learnt from 1 full generation; no audit yet" in str(report)
    generate(flux, call, tmp_path, 1, audit=1.0)
    ((_, report),) = generate(flux, call, tmp_path)
    assert "learnt from 2 full generations; relative error of the final latent 0." in str(report)
    first, *rest = run("inspect", tmp_path).stdout.splitlines()
    assert first == "FluxPipeline, 10 steps, FlowMatchEulerDiscreteScheduler, guidance 4"
    assert rest[0] == "  2 full generations, 2 samples"
    assert rest[1].startswith("  5 steps computed: relative error of the final latent 0.")
    assert (tmp_path / rest[2].strip()).is_file()
    assert "has no plot" in refused("inspect", tmp_path, "--plot", tmp_path / "plot.png")


def test_batches_count_as_several(flux, flux_call, tmp_path):
    generate(flux, lambda: flux_call(steps=STEPS, guided=True, prompts=3), tmp_path)
    assert read(next(tmp_path.glob("*.safetensors"))).samples == 3


def test_a_call_that_fails_or_stops_early_is_not_learnt_from(flux, call, tmp_path):
    def stop(pipe, step, timestep, kwargs):
        pipe._interrupt = step == 4
        return {}

    def fail(pipe, step, timestep, kwargs):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        generate(flux, lambda: call() | {"callback_on_step_end": fail}, tmp_path)
    ((_, report),) = generate(flux, lambda: call() | {"callback_on_step_end": stop}, tmp_path)
    assert "nothing was learnt" in str(report)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_folder_that_cannot_be_written_loses_no_picture(flux, call, tmp_path, monkeypatch):
    def full(self, key, more):
        raise OutputError("the disk is full", given="it", cure="Empty it.")

    monkeypatch.setattr(LearntFolder, "add", full)
    ((images, report),) = generate(flux, call, tmp_path)
    assert images.isfinite().all()
    assert "nothing was learnt from this generation: OutputError: the disk is full" in str(report)


@pytest.mark.parametrize("audit", [-0.1, 1.5, "often", float("nan")])
def test_an_audit_is_a_share(flux, tmp_path, audit):
    with pytest.raises(ArgumentError, match="audit"):
        ertacache.enable(flux, speedup=2.0, learn=tmp_path, audit=audit)


def test_what_does_not_fit_into_memory_goes_to_a_file_and_gives_the_same_sums():
    rows = torch.randn(6, 500, generator=torch.Generator().manual_seed(0))
    grams = []
    for limit in (float("inf"), 3 * 2000, 0):
        store = OutputStore(limit)
        for k, row in enumerate(rows):
            store.keep(f"output {k}", row)
        kept = store.rows([f"output {k}" for k in range(6)])
        assert torch.equal(torch.stack(kept), rows)
        grams.append(torch.stack(kept).double() @ torch.stack(kept).double().T)
        store.clear()
    assert torch.equal(grams[0], grams[1])
    assert torch.equal(grams[0], grams[2])
    assert not FullGeneration(3, 0, 0).whole


def test_a_damaged_record_is_made_anew(tmp_path):
    folder, learnt = LearntFolder(tmp_path), Learnt("it", torch.eye(4, dtype=torch.float64))
    write(learnt, folder.path("a"))
    content = bytearray(folder.path("a").read_bytes())
    content[-3] ^= 1
    folder.path("a").write_bytes(bytes(content))
    with pytest.raises(PolicyFileError):
        read(folder.path("a"))
    assert folder.find("a") is None
    assert folder.add("a", learnt).generations == 1
    assert torch.equal(read(folder.path("a")).gram, learnt.gram)


WORKERS = """
import os, sys, time, torch
from pathlib import Path
from ertacache.learning.learnt import Learnt, LearntFolder

def learn(number):
    folder = LearntFolder(Path(sys.argv[1]))
    for k in range(20):
        gram = torch.zeros(12, 12, dtype=torch.float64)
        gram[number, number] = 1.0
        folder.add("shared", Learnt("shared", gram))

torch.set_num_threads(1)
for number in range(10):  # one program that forks: ten programs would take most of their time to start
    worker = os.fork()
    if worker == 0:
        learn(number)
        os._exit(0)
    print(worker, flush=True)
print(*(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(10)))
"""


def test_ten_processes_learn_into_one_folder_and_one_of_them_is_killed(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    folder = tmp_path / "learnt"
    command = [sys.executable, script, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as program:
        first, *_ = workers = [int(program.stdout.readline()) for _ in range(10)]
        assert len({*workers}) == 10
        time.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        codes = sorted(map(int, program.stdout.read().split()))
    assert codes[0] in (-signal.SIGKILL, 0)  # it may have been the first to end, too
    assert codes[1:] == [0] * 9
    known = read(LearntFolder(folder).path("shared"))
    counts = known.gram.diagonal()[:10].tolist()
    assert counts[1:] == [20.0] * 9
    assert 0 <= counts[0] <= 20
    assert known.generations == sum(counts) == known.samples
    assert [path.suffix for path in Path(folder).iterdir() if ".partial" in path.name] == []
