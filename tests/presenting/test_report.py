"""The page about an evaluation: in its order, with a verdict, and with what is worst first."""

import re

import pytest
import torch

from ertacache.presenting.differences import MOST, visible_gain
from ertacache.presenting.evaluation_report import Comparison, report_comparison
from ertacache.presenting.page import Case
from ertacache.presenting.policy_report import report_policy
from ertacache.presenting.ways import Way

LEVELS = {"full": 0.5, "2x": 0.51, "4 plain steps": 0.54, "4x": 0.56, "2 plain steps": 0.6}
MANY = 4


def way(name, computed, psnr, *beside, speedup=None):
    return Way(
        name, computed, 8 / computed, [psnr + k for k in range(MANY)], [0.9] * MANY, speedup or [2.0] * MANY, *beside
    )


def comparison(make_policy, **given):
    ways = [
        way("2x", 4, 50),
        way("4 plain steps", 4, 40, "2x", True),
        way("4x", 2, 40, speedup=[4.0] * MANY),
        way("2 plain steps", 2, 30, "4x", True, speedup=given.pop("speedup", [4.0] * MANY)),
    ]
    pictures = {name: torch.full((3, 16, 16), level) for name, level in LEVELS.items()}
    ranks = ("the worst", "2nd worst", "the median", "the best")
    figures = {each.name: f"{each.mean_psnr:.1f} dB" for each in ways}
    cases = [
        Case(f"prompt {k}", f"prompt {k + 1}, {rank} of {MANY}", pictures, figures) for k, rank in enumerate(ranks)
    ]
    policies = {"2x": make_policy(8, (1, 3, 5, 6)), "4x": make_policy(8, (1, 2, 3, 4, 5, 6))}
    return Comparison("A title", "A lead.", ways, policies, cases, {}, **given)


@pytest.fixture
def written(make_policy, tmp_path):
    def write(**given):
        report_comparison(comparison(make_policy, **given), tmp_path / "page.html")
        return tmp_path / "page.html"

    return write


def test_what_came_out_stands_first_then_pictures_then_figures(written):
    text = written().read_text(encoding="utf-8")
    verdict = (
        "2x: 2x fewer denoiser calls; on all 4 prompts nearer to the full run than 4 plain steps (51.5 against 41.5"
    )
    titles = ["Figures", "Where 4x is worst", "Quality and cost", "2x: 4 of 8 steps"]
    found = [text.index(place) for place in [verdict, 'class="sheet"', *(f"<h2>{title}</h2>" for title in titles)]]
    assert found == sorted(found)


def test_the_row_of_pictures_is_of_the_median_prompt_and_the_slider_shows_plain_steps_beside_the_policy(
    written, opened
):
    page = opened(written())
    assert "the median of 4" in page.locator(".sheet .note").inner_text()
    names = [name.strip() for name in page.locator(".sheet b").all_inner_texts()]
    assert names == ["full", "2x", "4x", "4 plain steps", "2 plain steps"]
    assert page.locator("select.left").input_value() == "2 plain steps"
    assert page.locator("select.right").input_value() == "4x"
    first = page.locator(".case").first
    assert [name.strip() for name in first.locator(".cells b").all_inner_texts()] == ["full", "4x", "2 plain steps"]
    assert not first.locator(".figures").is_visible()
    assert [case.is_visible() for case in page.locator(".case").all()] == [True, True, True, False]


def test_a_warning_stands_below_the_table_if_the_timings_scatter(written):
    assert 'class="warning"' not in written().read_text(encoding="utf-8")
    text = written(speedup=[5.8, 6.0, 6.2, 6.0]).read_text(encoding="utf-8")
    assert re.search(r'class="warning">[^<]*2 plain steps: 5\.95x to 6\.05x, by steps 4\.00x', text)


def test_a_page_explains_only_what_its_plot_shows(make_policy, tmp_path):
    report_policy(make_policy(8, (1, 3, 5, 6)), "policy", tmp_path / "policy.html")
    text = (tmp_path / "policy.html").read_text(encoding="utf-8")
    assert "<h1>policy: 4 of 8 steps</h1>" in text
    assert "Vertical lines are computed steps." in text
    assert not re.search("median|quartile|Errors are", text)


@pytest.mark.parametrize(("apart", "gain"), [(0.6, 1), (0.4, 2), (0.06, 16), (0.001, MOST), (0.0, MOST)])
def test_differences_are_brightened_as_far_as_a_typical_one_allows(apart, gain):
    reference = torch.zeros(3, 8, 8)
    pictures = {"full": reference, "a": reference + apart, "b": reference + apart / 1.1, "c": reference + apart * 1.1}
    assert visible_gain([pictures, pictures], "full") == gain
    assert visible_gain([{"full": reference}], "full") == 1
