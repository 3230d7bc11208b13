"""The schedule search: its moves, its surrogate, and what a loop may take over from an earlier one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ertacache
from ertacache.calibration.full_runs import record_all
from ertacache.calibration.gram import surrogate_of
from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recording_store import RecordingStore
from ertacache.calibration.search import Search, beginnings, clearly_better, turns
from ertacache.errors import BudgetError
from ertacache.method.gram_weights import Outputs
from ertacache.method.named_methods import Method
from ertacache.method.schedule import all_denser_at_ends, denser_at_ends, evenly_spaced, moves, safe_bends, uniform
from ertacache.method.surrogate import ORDER, Surrogate, climb

ALIGNED = Method.named("aligned")


@pytest.fixture(scope="module")
def loops(embedded):
    arguments = {**embedded.arguments, "num_inference_steps": 10}
    calls = calls_for(embedded.pipe, embedded.calibration_prompts[:2], arguments, seed=0)
    with CalibrationProgress(False) as progress:
        recordings, setting = record_all(embedded.pipe, calls, 10, RecordingStore(None, None, 1 << 30), progress)
    surrogate = surrogate_of(recordings, setting, 4.0)
    return ClosedLoops(embedded.pipe, calls, recordings, setting, surrogate, lambda calls: None)


@pytest.fixture
def attempted(loops, monkeypatch):
    """The schedules of the closed loops run, in order; none of them is given up."""
    schedules = []

    def attempt(cached, method, *, give_up, **more):
        schedules.append(cached)
        return own(cached, method, **more)

    own = loops.attempt
    monkeypatch.setattr(loops, "attempt", attempt)
    return schedules


def test_moves_keep_the_number_of_computed_steps_and_the_forced_ones():
    start = uniform(12, 5)
    found = list(moves(start, 12, forced=(3,)))
    assert found
    assert len(set(found)) == len(found)
    for schedule in found:
        assert len(schedule) == len(start)
        assert len(set(schedule) ^ set(start)) == 2
        assert not {0, 11} & set(schedule)
        assert 3 not in set(schedule) - set(start)


def test_evenly_spaced_computes_the_forced_steps_within_the_budget():
    for forced in ((), (4,), (4, 5, 6)):
        cached = evenly_spaced(20, 6, forced)
        assert len(cached) == 14
        assert not set(cached) & {0, 19, *forced}
    for forced in ((), (9,), (9, 10, 11)):
        cached = evenly_spaced(20, 11, forced, first=4)
        assert len(cached) == 9
        assert not set(cached) & {0, 1, 2, 3, 4, 19, *forced}
    assert evenly_spaced(20, 11, (), first=4) == (5, 7, 8, 10, 11, 13, 15, 17, 18)
    assert evenly_spaced(20, 13, (), first=4, last=2) == (5, 7, 9, 11, 12, 14, 16)


@pytest.mark.parametrize(
    ("computed", "turning", "better"), [(6, True, True), (6, True, False), (6, False, True), (5, True, True)]
)
def test_a_dense_beginning_is_tried_where_prompts_turn_and_taken_if_it_is_better(
    loops, attempted, monkeypatch, computed, turning, better
):
    monkeypatch.setattr("ertacache.calibration.search.turns", lambda fit: turning)
    monkeypatch.setattr("ertacache.calibration.search.clearly_better", lambda fit, best, wanted: better)
    limit = loops.denoiser_calls + 100
    search = Search(loops, loops.surrogate, ALIGNED, limit)
    best = search.run(computed)
    first, dense = attempted[0], evenly_spaced(10, computed, (), first=int(0.35 * computed), last=2)
    assert first == next(beginnings(10, computed, (), search.surrogate))
    if turning and computed == 6:
        assert attempted[1] == dense
        assert [fit.cached_steps for fit in search.fits[:2]] == ([first, dense] if better else [first])
    else:
        assert dense not in attempted[:2]
    assert best is search.fits[-1]


def test_a_forced_step_takes_the_place_of_the_nearest_computed_one_in_a_bend():
    found = [i for i in range(30) if i not in denser_at_ends(30, 10, (10, 11, 12, 13))]
    assert found == [0, 3, 10, 11, 12, 13, 19, 23, 26, 29]  # in place of 6, 10, 13 and 16 of the even spacing
    assert denser_at_ends(30, 10, ()) == evenly_spaced(30, 10, ())


@pytest.mark.parametrize("num_steps", [3, 4, 5, 8])
def test_every_bend_has_the_steps_asked_for(num_steps):
    for forced in ((), (num_steps - 1,), (1,), (num_steps // 2, num_steps // 2 + 1)):
        inside = tuple(sorted({step for step in forced if 0 < step < num_steps}))
        for computed in range(len({0, num_steps - 1, *inside}), num_steps):
            for cached in all_denser_at_ends(num_steps, computed, inside):
                assert len(cached) == num_steps - computed
                assert not {0, *inside} & {*cached}


def test_a_gap_at_the_end_is_for_grids_with_several_steps_there():
    def latest(levels, computed):
        return {max({*range(30)} - {*cached}) for cached in safe_bends(30, computed, (), levels)}

    even = np.linspace(1, 0, 31)
    shifted = 3 * even / (1 + 2 * even)
    assert latest(even.tolist(), 10) == {27, 28, 29}
    assert latest(even.tolist(), 28) == {28, 29}
    assert latest(even.tolist(), 29) == {29}
    assert latest(shifted.tolist(), 10) == latest(None, 10) == {29}
    assert set(safe_bends(30, 10, (), shifted.tolist())) < set(safe_bends(30, 10, (), even.tolist()))


@pytest.mark.parametrize(("computed", "forced"), [(6, ()), (6, (4, 5)), (3, ()), (2, ()), (3, (5,))])
def test_beginnings_have_the_steps_asked_for_and_evenly_spaced_ones_among_them(loops, computed, forced):
    surrogate = replace(loops.surrogate, forced=forced)
    found = list(beginnings(10, computed, forced, surrogate))
    even = evenly_spaced(10, computed, forced)
    assert even == found[-1]
    assert found[0] in safe_bends(10, computed, forced, surrogate.outputs.levels)
    for cached in found:
        assert len(cached) == 10 - computed
        assert not {0, *forced} & set(cached)
    worst = [max(one.error(cached) for one in surrogate.alone) for cached in (found[0], even)]
    assert worst[0] <= worst[1]
    assert surrogate.error(found[1]) <= surrogate.error(found[0])
    if computed > 2:
        assert surrogate.error(found[2]) <= surrogate.error(found[1])


def test_prompts_turn_where_some_errors_are_far_above_the_usual():
    def fit(*errors):
        return Fit((1,), {}, (), (), tuple(np.log(errors)))

    assert not turns(fit(0.01, 0.012, 0.009, 0.011))
    assert turns(fit(0.01, 0.012, 0.009, 0.2))
    assert not turns(fit(0.2))


def test_the_surrogate_is_exact_where_the_denoiser_does_not_depend_on_the_latent():
    # With outputs v_i = g(sigma_i) that no latent changes, the final error is that of the predictions alone.
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(8, 50))
    slopes = -rng.uniform(0.05, 0.2, 8)
    levels = tuple(np.linspace(1, 0, 9).tolist())
    response = np.tril(np.broadcast_to(slopes, (8, 8)))
    surrogate = Surrogate(Outputs.of(outputs @ outputs.T, levels), response)
    cached = (2, 3, 5)
    error, history = np.zeros(50), []
    for i in range(8):
        if i not in cached:
            history = [outputs[i], *history]
        error = error + slopes[i] * (history[0] - outputs[i])
        if i > 1:
            differences = [history[k] - history[k + 1] for k in range(min(ORDER, len(history) - 1))]
            features = slopes[i] * np.stack([*differences, history[0]])
            error = error - np.linalg.lstsq(features.T, error)[0] @ features
    way = np.linalg.norm(response[-1] @ outputs)
    assert surrogate.error(cached) == pytest.approx(np.linalg.norm(error) / way, rel=1e-4)


def test_the_first_schedule_is_the_one_under_which_the_worst_prompt_suffers_least():
    levels, response = tuple(np.linspace(1, 0, 13).tolist()), np.tril(np.full((12, 12), -1 / 12))
    steps = np.arange(12)[:, None]

    def turning_at(turn, seed):  # outputs that swing round at one step, and drift
        rng = np.random.default_rng(seed)
        swing, drift, bend = rng.normal(size=(3, 40))
        rows = np.tanh((steps - turn) / 1.5) * swing + 0.02 * steps * drift + 0.002 * steps**2 * bend
        return rows @ rows.T

    def surrogate(gram):
        return Surrogate(Outputs.of(gram, levels), response)

    grams = [*(turning_at(1, seed) for seed in range(3)), turning_at(7, 3)]  # three turn early, one late
    alone = [surrogate(gram) for gram in grams]
    together = surrogate(sum(grams))
    found = replace(together, alone=alone).best_bend(6)

    def worst(cached):
        return max(one.error(cached) for one in alone)

    assert worst(found) == min(map(worst, safe_bends(12, 6, ())))
    assert worst(found) < worst(together.best_bend(6))


def test_a_climb_ends_where_no_move_is_better():
    def cost(cached):
        return sum((i - 7) ** 2 for i in cached)  # cached steps want to be around 7

    best = climb(uniform(15, 11), (), 15, cost)
    assert all(cost(move) >= cost(best) for move in moves(best, 15, ()))
    assert best == (6, 7, 8, 9) or best == (5, 6, 7, 8)


@pytest.mark.parametrize("in_files", [False, True])
def test_a_loop_that_starts_as_an_earlier_one_finds_the_same_with_fewer_calls(loops, in_files):
    base, other = (2, 4, 6, 7), (2, 4, 5, 7)
    trace = Trace(base, in_files=in_files)
    loops.attempt(base, ALIGNED, trace=trace)
    before = loops.denoiser_calls
    alone = loops.attempt(other, ALIGNED)
    cost_alone = loops.denoiser_calls - before
    following = loops.attempt(other, ALIGNED, earlier=trace)
    cost_following = loops.denoiser_calls - before - cost_alone
    assert following.predictions == alone.predictions
    assert following.step_errors == alone.step_errors
    assert cost_alone == 6 * 2 * 2
    assert cost_following == (6 - 2) * 2 * 2  # steps 1 and 3 are taken over


def test_a_loop_can_be_given_up_and_leaves_no_thread_behind(loops):
    import threading

    threads = threading.active_count()
    before = loops.denoiser_calls
    assert loops.attempt((2, 4, 6), ALIGNED, give_up=lambda step, score: step == 3) is None
    assert loops.denoiser_calls - before <= 4 * 2 * 2
    assert threading.active_count() == threads


def test_a_schedule_is_better_only_if_its_gain_exceeds_the_standard_error_over_prompts():
    def fit(*prompt_scores):
        return Fit((1,), {}, (), (float(np.mean(prompt_scores)),), prompt_scores)

    best = fit(-2.0, -3.0, -4.0, -5.0)
    assert clearly_better(fit(-2.1, -3.1, -4.1, -5.1), best)  # a little, on every prompt
    assert clearly_better(fit(-2.1, -3.2, -4.0, -5.2), best)
    assert not clearly_better(fit(-2.1, -3.2, -4.0, -5.2), best, 3.0)
    assert not clearly_better(fit(-2.0, -3.0, -4.0, -7.0), best)  # much, on one: as large as its standard error
    assert not clearly_better(fit(-2.6, -2.7, -4.5, -4.8), best)  # now better, now worse
    assert not clearly_better(best, best)
    assert clearly_better(fit(-2.1), fit(-2.0))  # one prompt tells nothing of luck


def test_the_search_stays_within_its_limit_and_gains_on_evenly_spaced_steps(loops):
    start = loops.predict(evenly_spaced(10, 4, ()), ALIGNED)
    surrogate = loops.surrogate
    limit = loops.denoiser_calls + 100
    search = Search(loops, surrogate, ALIGNED, limit)
    best = search.run(4)
    assert loops.denoiser_calls <= limit
    assert len(search.tried) > 2
    assert best.score <= start.score


@pytest.mark.parametrize(("computed", "errors"), [(4, 1.0), (2, 2.0)])
def test_single_moves_must_gain_two_standard_errors_and_beginnings_of_more_steps_one(
    loops, attempted, monkeypatch, computed, errors
):
    compared = []

    def compare(fit, best, standard_errors):
        compared.append((fit.cached_steps, standard_errors))
        return False

    monkeypatch.setattr("ertacache.calibration.search.clearly_better", compare)
    limit = loops.denoiser_calls + 200
    search = Search(loops, loops.surrogate, ALIGNED, limit)
    search.run(computed)
    assert {cached for cached, _ in compared} == {*attempted[1:]}
    begun = set(beginnings(10, computed, (), search.surrogate))
    assert {wanted for cached, wanted in compared if cached in begun} == {errors}
    assert {wanted for cached, wanted in compared if cached not in begun} <= {2.0}
    assert errors == 2.0 or any(cached not in begun for cached, _ in compared)


def test_an_interrupted_search_keeps_the_best_so_far(loops, monkeypatch):
    search = Search(loops, loops.surrogate, ALIGNED, 10**6)
    finished = []

    def interrupted(cached, method, **more):
        if len(finished) == 3:
            raise KeyboardInterrupt
        finished.append(cached)
        return own(cached, method, **more)

    own = loops.attempt
    monkeypatch.setattr(loops, "attempt", interrupted)
    best = search.run(4)
    assert search.stopped
    assert best is search.fits[-1]
    assert best.cached_steps in finished
    assert len(search.tried) == 4


def test_a_longer_search_tries_more_and_is_within_what_was_allowed(embedded, settings):
    prompts, asked = embedded.calibration_prompts[:2], {**settings, "num_computed_steps": 4}
    short, long = (ertacache.calibrate(embedded.pipe, prompts, full_runs=runs, **asked) for runs in (5, 12))
    assert short.calibration.total_full_runs <= 5 < long.calibration.total_full_runs <= 12
    assert long.calibration.error <= short.calibration.error
    for runs in (0.5, float("inf"), float("nan")):
        with pytest.raises(BudgetError, match="Allow 1 "):
            ertacache.calibrate(embedded.pipe, prompts, full_runs=runs, **asked)


def test_the_fit_of_a_loop_that_took_steps_over_is_that_of_a_loop_of_its_own(loops):
    surrogate = loops.surrogate
    search = Search(loops, surrogate, ALIGNED, loops.denoiser_calls + 200)
    best = search.run(4)
    again = loops.predict(best.cached_steps, search.method)
    assert best.step_errors == again.step_errors
    assert best.predictions == again.predictions


def test_the_fitted_weights_land_nearer_than_others_at_the_first_fitted_step(loops):
    fit = loops.predict((3,), ALIGNED)
    prediction = fit.predictions[3]
    assert prediction.history == (2, 1, 0)
    assert len(prediction.contrast_factors) == 3
    taylor = loops.predict((3,), ALIGNED, predictor="taylor")
    reuse = loops.predict((3,), ALIGNED, predictor="reuse")
    assert fit.step_errors[3] < taylor.step_errors[3]
    assert fit.step_errors[3] < reuse.step_errors[3]
    assert fit.step_errors[:3] == (0, 0, 0)


def test_computed_steps_are_corrected_after_the_first_cached_one_and_not_before(loops):
    fit = loops.predict((3, 4, 6), ALIGNED)
    assert set(fit.predictions) == {3, 4, 5, 6, 7, 8, 9}
    assert fit.predictions[5].history == (5, 2, 1, 0)
    assert fit.predictions[7].history == (7, 5, 2, 1)
    assert fit.step_errors[5] < fit.step_errors[4]  # it takes back some of what the cached steps had missed


def test_recorded_samples_follow_the_schedulers_own_step(loops):
    levels, recording = loops.setting.noise_levels, loops.recordings[0]
    for i in range(10):
        moved = recording.sample(i) + (levels[i + 1] - levels[i]) * recording.model_output(i)
        torch.testing.assert_close(moved, recording.sample(i + 1), rtol=1e-4, atol=1e-5)
