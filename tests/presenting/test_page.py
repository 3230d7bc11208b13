"""Reports in a real browser: they load without error, plots are drawn, sliders move, clips play in step."""

import io
import re
from itertools import product

import pytest
import torch
from PIL import Image

from ertacache.presenting.page import Case, Cases, Folded, Grid, Page, Plot, Section, Sheet, write
from ertacache.presenting.quality_plots import prompt_by_prompt, quality_against_cost
from ertacache.presenting.tables import evaluation_table
from ertacache.presenting.ways import Way
from ertacache.presenting.worst_cases import worst_first

SIZE, FRAMES, GAIN = 48, 8, 2
GREYS = {"full": 0.2, "aligned": 0.6, "fewer steps": 0.9}


ROWS = [
    Way("aligned", 15, 2.0, [40.0, 45.0, 30.0], [0.9] * 3, [2.0, 2.1, 1.9]),
    Way("fewer steps", 15, 2.0, [35.0, 41.0, 33.0], [0.9] * 3, [2.0, 2.0, 2.2], "aligned", is_plain=True),
]


def grey(level):
    return torch.full((3, SIZE, SIZE), level)


def clip(offset):
    """Frame k is of one grey, 0.1 (k + 1) + offset."""
    return torch.stack([grey(0.1 * (k + 1) + offset) for k in range(FRAMES)])


@pytest.fixture(scope="module")
def page_of_pictures(tmp_path_factory):
    pictures = {name: grey(level) for name, level in GREYS.items()}
    cases = [Case(f"prompt <{k}> & more", f"number {k}", pictures, {"aligned": "40.0 dB"}) for k in range(3)]
    plots = [
        Plot(quality_against_cost(ROWS), "quality", "how to read it"),
        Plot(prompt_by_prompt(*ROWS), "prompt by prompt"),
    ]
    table = Grid.of(evaluation_table(ROWS), stacked=True)
    factors = Grid(["step", "factors"], [[str(k), "+1.234, " * 12] for k in range(9)])
    sections = [
        Section("At a glance", [Sheet(cases[1], list(GREYS), GAIN, {"aligned": "15 steps, 40.0 dB"})]),
        Section("Plots", ["A sentence.", table, *plots, Folded("Factors", factors)]),
        Section("Pictures", [Cases(cases, "full", "aligned", ["full", "aligned"], GAIN, opened=2)]),
    ]
    path = tmp_path_factory.mktemp("report") / "page.html"
    write(Page("A report", "What it is.", sections, ["2x fewer denoiser calls."]), path)
    return path


@pytest.fixture(scope="module")
def page_of_clips(tmp_path_factory):
    clips = {"full": clip(0.0), "aligned": clip(0.05)}
    path = tmp_path_factory.mktemp("report") / "clips.html"
    cases = [Case("a clip", "one", clips, {}, fps=8), Case("another", "two", clips, {}, fps=8)]
    sheet = Section("At a glance", [Sheet(cases[1], ["full", "aligned"], 8, {})])
    write(Page("Clips", "", [sheet, Section("Clips", [Cases(cases, "full", "aligned")])]), path)
    return path


def greys(page, selector="canvas"):
    """The grey in the middle of each canvas, 0 .. 255, all read in one turn of the page's own clock."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll("{selector}")].map((canvas) => {{
            const {{ width, height }} = canvas;
            return canvas.getContext("2d").getImageData(width / 2, height / 2, 1, 1).data[0];
        }})"""
    )


def test_everything_is_in_the_file_and_ids_are_unique(page_of_pictures):
    text = page_of_pictures.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text.replace('xmlns:xlink="http', ""))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 20
    assert "prompt &lt;1&gt; &amp; more" in text


def test_plots_are_drawn_and_follow_the_colour_scheme(page_of_pictures, opened):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened(page_of_pictures, color_scheme=scheme)
        for plot in page.locator(".plot svg").all():
            box = plot.bounding_box()
            assert box["width"] > 250
            assert box["height"] > 150
            assert plot.locator("path").count() > 10
        inked = page.locator(".plot svg text").first
        colours[scheme] = [
            inked.evaluate("node => getComputedStyle(node).fill"),
            page.evaluate("getComputedStyle(document.body).backgroundColor"),
        ]
    assert colours["light"] == ["rgb(28, 36, 48)", "rgb(255, 255, 255)"]
    assert colours["dark"] == ["rgb(228, 232, 237)", "rgb(20, 24, 29)"]


def edge(page):
    """Where the right picture of the first case begins, as a share of its width."""
    clipped = page.locator(".stack img.over").first.evaluate("node => getComputedStyle(node).clipPath")
    return float(re.search(r"([\d.]+)%\)$", clipped).group(1))


def test_the_slider_moves_by_mouse_and_by_keys(page_of_pictures, opened):
    page = opened(page_of_pictures)
    assert edge(page) == 50
    slider = page.locator(".slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    assert edge(page) == pytest.approx(25, abs=2)
    before = edge(page)
    page.keyboard.press("ArrowRight")
    assert edge(page) > before
    page.keyboard.press("End")
    assert edge(page) == 100


def test_any_two_ways_can_be_chosen_and_their_difference_is_shown(page_of_pictures, opened):
    page = opened(page_of_pictures)
    named = page.locator(".stack").nth(1).locator
    assert [named(".under").get_attribute("data-name"), named(".over").get_attribute("data-name")] == [
        "full",
        "aligned",
    ]
    page.locator("select.left").select_option("fewer steps")
    assert named(".under").get_attribute("data-name") == "fewer steps"
    page.locator("input.difference").check()
    assert named(".over").evaluate("node => getComputedStyle(node).mixBlendMode") == "difference"


@pytest.mark.parametrize(("left", "right"), list(product(GREYS, GREYS)))
def test_what_is_chosen_is_seen_wherever_it_stands_in_the_menu(page_of_pictures, opened, left, right):
    page = opened(page_of_pictures)
    page.locator("select.left").select_option(left)
    page.locator("select.right").select_option(right)

    def seen():
        shot = Image.open(io.BytesIO(page.locator(".stack").first.screenshot())).convert("L")
        return [shot.getpixel((shot.width * k // 4, shot.height // 4)) for k in (1, 3)]

    assert seen() == pytest.approx([255 * GREYS[left], 255 * GREYS[right]], abs=2)
    page.locator("input.difference").check()
    apart = min(255, 255 * GAIN * abs(GREYS[left] - GREYS[right]))
    assert seen() == pytest.approx([apart] * 2, abs=2 * GAIN)


def shown_grey(canvas):
    """The grey in the middle of a canvas as it is seen, 0 .. 255."""
    shot = Image.open(io.BytesIO(canvas.screenshot())).convert("L")
    return shot.getpixel((shot.width // 2, shot.height // 2))


def test_a_row_of_pictures_shows_each_with_its_difference_from_the_first(page_of_pictures, opened):
    page = opened(page_of_pictures)
    for place in (".sheet", ".cases > .case:first-of-type"):
        cells = page.locator(f"{place} .cell")
        cells.first.scroll_into_view_if_needed()
        names = [name.strip() for name in cells.locator("b").all_inner_texts()]
        assert names == list(GREYS)[: len(names)]
        assert len(names) >= 2
        assert cells.first.locator(".apart").count() == 0
        for cell, name in zip(cells.all(), names, strict=True):
            assert shown_grey(cell.locator(".drawn")) == pytest.approx(255 * GREYS[name], abs=2)
            if name != "full":
                apart = min(255, 255 * GAIN * abs(GREYS[name] - GREYS["full"]))
                assert shown_grey(cell.locator(".apart")) == pytest.approx(apart, abs=2 * GAIN)


def test_the_row_of_clips_follows_the_film_and_can_play_it(page_of_clips, opened):
    page = opened(page_of_clips)
    page.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 3)")
    page.locator(".frame").nth(1).fill("5")
    page.wait_for_function(
        "(() => {const v = document.querySelectorAll('video')[1]; return v.currentTime > 0.6 && !v.seeking})()"
    )
    page.wait_for_timeout(200)
    full, aligned, apart = greys(page, ".sheet canvas")
    assert [full, aligned] == pytest.approx([255 * 0.6, 255 * 0.65], abs=4)
    assert apart == pytest.approx(255 * 0.05, abs=5)
    page.locator(".sheet .play").click()
    page.wait_for_function("!document.querySelectorAll('video')[1].paused")
    assert page.locator(".sheet .play").inner_text() == "Pause"
    assert page.locator("video").first.evaluate("video => video.paused")


def test_the_row_plays_a_clip_whose_case_is_folded(tmp_path, opened):
    clips = {"full": clip(0.0), "aligned": clip(0.05)}
    cases = [Case(f"clip {k}", f"number {k}", clips, {}, fps=8) for k in range(2)]
    sheet = Section("At a glance", [Sheet(cases[1], list(clips), 8, {})])
    write(Page("", "", [sheet, Section("Clips", [Cases(cases, *clips, opened=1)])]), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    page.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 3)")
    page.locator(".sheet .play").click()
    seen = set()
    for _ in range(20):
        page.wait_for_timeout(60)
        seen.add(round(greys(page, ".sheet canvas")[0] / 25.5))
    assert len(seen) >= 4


def test_what_is_folded_can_be_unfolded(page_of_pictures, opened):
    page = opened(page_of_pictures)
    assert [case.is_visible() for case in page.locator(".case").all()] == [True, True, False]
    assert not page.get_by_text("+1.234").first.is_visible()
    page.get_by_text("1 more, to the best").click()
    page.get_by_text("Factors", exact=True).click()
    assert page.locator(".case").nth(2).is_visible()
    assert page.get_by_text("+1.234").first.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_of_the_table_is_on_the_screen(page_of_pictures, opened, width):
    page = opened(page_of_pictures, viewport={"width": width, "height": 800})
    cells = page.locator(".stacking td").all()
    assert len(cells) == 2 * 6
    for cell in cells:
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_plots_stand_side_by_side_where_there_is_room(page_of_pictures, opened):
    for width, side_by_side in ((1280, True), (390, False)):
        page = opened(page_of_pictures, viewport={"width": width, "height": 800})
        first, second = (plot.bounding_box() for plot in page.locator(".plot").all())
        assert (second["x"] >= first["x"] + first["width"]) == side_by_side
        assert (second["y"] >= first["y"] + first["height"]) != side_by_side


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_screen(page_of_pictures, page_of_clips, opened, width):
    for path in (page_of_pictures, page_of_clips):
        page = opened(path, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_clips_play_in_step_and_frame_by_frame(page_of_clips, opened):
    page = opened(page_of_clips)
    page.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 3)")
    page.locator(".frame").first.fill("5")
    there = "(video) => video.currentTime > 0.6 && !video.seeking"
    page.wait_for_function(f"({there})(document.querySelector('video'))")
    page.wait_for_timeout(200)
    under, over = greys(page, ".case:first-of-type canvas")
    assert under == pytest.approx(255 * 0.6, abs=4)
    assert over == pytest.approx(255 * 0.65, abs=4)

    page.get_by_role("button", name="Play all").click()
    seen = set()
    for _ in range(30):
        page.wait_for_timeout(60)
        under, over, *_ = greys(page)
        assert over - under == pytest.approx(255 * 0.05, abs=5)
        seen.add(round(under / 25.5))
    assert len(seen) >= 4  # it moves
    page.locator(".slider").first.press(" ")
    assert page.locator("video").first.evaluate("video => video.paused")


def test_worst_come_first():
    psnr = [30.0, 10.0, 20.0, 40.0, 50.0]
    assert [k for k, _ in worst_first(psnr, 8)] == [1, 2, 0, 3, 4]
    assert worst_first(psnr, 3) == [(1, "the worst of 5"), (0, "the median of 5"), (4, "the best of 5")]
    assert worst_first(psnr, 2) == [(1, "the worst of 5"), (2, "2nd worst of 5")]
    assert worst_first(psnr, 0) == []
