"""BudCache: its search by hand, and what it does to pipelines."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from benchmarks.rivals import budcache
from benchmarks.rivals.budcache import BUDCACHE, COLDEST, HOTTEST, Search, Steps, shared
from benchmarks.rivals.lemica import generated, reusing
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, STEPS, found, generate, subject_of


@pytest.fixture(scope="module")
def flux():
    return subject_of("flux")


def uneven(steps: Steps) -> float:
    """Zero for one choice alone, and rugged around it."""
    wanted = (0, 1, 4, 9, 13, 17)
    return 0.01 * sum(abs(a - b) + 3 * (a != b) for a, b in zip(steps, wanted, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_best_choice(seed):
    assert Search(18, 6, uneven, seed).run() == (0, 1, 4, 9, 13, 17)


def test_the_best_of_all_choices_of_ten_steps():
    def loss(steps: Steps) -> float:
        return 0.01 * sum((b - a - 1) ** 2 * (10 - a) for a, b in zip(steps, (*steps[1:], 10), strict=True))

    best = min(((0, *rest) for rest in combinations(range(1, 10), 3)), key=loss)
    assert Search(10, 4, loss).run() == best


def test_a_choice_is_asked_for_once_and_the_first_quarter_is_always_computed():
    asked: list[Steps] = []

    def loss(steps: Steps) -> float:
        asked.append(steps)
        return sum(steps) / 1000

    search = Search(20, 9, loss)
    assert search.run() == tuple(range(9))
    assert len(asked) == len({*asked}) == len(search.known) > 100
    assert all(len({*steps}) == 9 and steps[:2] == (0, 1) and sorted(steps) == [*steps] for steps in asked)


@pytest.mark.parametrize(("num_steps", "k"), [(8, 1), (8, 8), (2, 1), (3, 2)])
def test_choices_without_much_to_choose(num_steps, k):
    search = Search(num_steps, k, lambda steps: float(sum(steps)))
    assert search.run() == tuple(range(k))


def test_a_neighbour_moves_one_step_by_up_to_three_or_anywhere():
    search = Search(12, 4, lambda steps: 0.0)
    here = (0, 3, 4, 10)
    neighbours = search._neighbours(here)
    # 3 goes to 1, 2, 5, 6; 4 to 1, 2, 5, 6, 7; 10 to 7, 8, 9, 11.
    near = [(1, 3), (2, 3), (5, 3), (6, 3), (1, 4), (2, 4), (5, 4), (6, 4), (7, 4), (7, 10), (8, 10), (9, 10), (11, 10)]
    expected = [tuple(sorted({*here} - {source} | {target})) for target, source in near]
    assert neighbours[: len(expected)] == expected
    assert len(neighbours) <= len(expected) + 2 * 3
    assert all(len({*here} & {*other}) == 3 and other[0] == 0 for other in neighbours)
    assert here not in neighbours


def test_annealing_moves_one_step_or_two_and_mostly_near():
    search = Search(30, 10, lambda steps: 0.0)
    here = (0, 1, *range(3, 27, 3))
    moves = [sorted({*here} - {*search._moved(here)}) for _ in range(500)]
    assert {len(move) for move in moves} == {1, 2}
    assert 20 < sum(len(move) == 2 for move in moves) < 90
    assert {step for move in moves for step in move} == {*here[2:]}


def test_a_worse_choice_is_taken_while_it_is_hot():
    taken = []
    for loss in (HOTTEST, 1e3 * HOTTEST):
        search = Search(10, 4, lambda steps, loss=loss: loss * (steps != (0, 1, 2, 3)))
        search.best = (0, 1, 2, 3)
        search.value(search.best)
        visited = []
        search._visit = lambda steps, visited=visited: (visited.append(steps), steps)[1]
        search._anneal(search.best)
        taken.append(visited)
    assert taken[0]
    assert taken[1] == []
    assert COLDEST < HOTTEST / 1000


def test_steps_before_the_first_skipped_one_are_shared():
    assert [shared(steps) for steps in ((0, 1, 2), (0, 2, 3), (0, 1, 5))] == [3, 1, 2]


def test_a_choice_is_judged_by_the_final_latents_and_kept(flux, tmp_path, monkeypatch):
    subject = replace(flux, work=tmp_path)
    searches = BUDCACHE.prepare(subject)
    with reusing(flux, (0, 1, 4, 7)):
        made = generated(flux, flux.calibration_prompts[0], 0)
    apart = made - generate(flux)
    assert searches._loss((0, 1, 4, 7)) == pytest.approx(apart.square().mean().item())
    assert searches._loss(tuple(range(STEPS))) == 0

    losses = {(0, step): abs(step - 5) / 100 for step in range(1, STEPS)}
    monkeypatch.setattr(searches, "_loss", losses.__getitem__)
    assert searches.steps(2) == (0, 5)
    (file,) = tmp_path.iterdir()
    # Of 7 choices one computes two steps before it skips, the others one; a full run comes before.
    assert json.loads(file.read_text()) == {"steps": [0, 5], "tried": 7, "full_runs": 1 + 6 / STEPS}
    monkeypatch.setattr(budcache, "Search", None)
    assert searches.steps(2) == (0, 5)


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_the_chosen_steps_run_all_blocks(name, monkeypatch, tmp_path):
    subject = replace(subject_of(name), work=tmp_path)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    searches = BUDCACHE.prepare(subject)
    assert torch.equal(searches.run.latents, plain)
    with BUDCACHE.attach(subject, {"k": STEPS}, searches):
        assert torch.equal(generate(subject), plain)

    monkeypatch.setattr(searches, "_loss", lambda steps: 0.01 * (steps != (0, 1, 2, 5, 7)))
    with BUDCACHE.attach(subject, {"k": 5}, searches), counting_flops(subject.pipe) as cost:
        made = generate(subject)
    with reusing(subject, (0, 1, 2, 5, 7)):
        assert torch.equal(generate(subject), made)
    assert 5 / 8 < cost.flops / full.flops < 5.4 / 8
    assert not torch.equal(made, plain)
    assert found(subject) == before
