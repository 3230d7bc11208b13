"""The page of examples/gradio_app.py, in a browser: it learns, then accelerates; the slider moves; it fits a phone."""

import importlib.util
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.presenting.conftest import chromium  # noqa: F401

EXAMPLE = Path(__file__).parents[2] / "examples/gradio_app.py"

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is an extra; make test-integrations installs it", allow_module_level=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("page"), 7893
    command = [sys.executable, str(EXAMPLE), "--port", str(port), "--learn", str(folder / "learnt")]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if "Running on" in line:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_it_learns_and_then_accelerates_and_the_slider_moves(address, chromium):  # noqa: F811
    assert urllib.request.urlopen(address, timeout=60).status == 200
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(address, wait_until="networkidle")
    page.get_by_label("learn from full generations").check()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("30 of 30 steps computed").wait_for(timeout=120_000)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("15 of 30 steps computed").wait_for(timeout=120_000)
    assert page.get_by_text("note: learnt from 1 full generation").is_visible()
    page.get_by_label("instant: takes nothing").check()
    page.get_by_role("spinbutton", name="Speed").fill("3")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("10 of 30 steps computed").wait_for(timeout=120_000)
    divider = page.get_by_test_id("slider")
    before, box = divider.bounding_box(), page.locator(".slider-wrap").bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    moved = before["x"] - divider.bounding_box()["x"]
    assert moved == pytest.approx(0.2 * box["width"], abs=5), "the slider did not follow the mouse"
    page.get_by_text("Learnt so far").click()
    assert page.get_by_text("full generations").first.is_visible()
    page.close()


def test_it_fits_a_phone_and_says_what_is_wrong(address, chromium):  # noqa: F811
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(address, wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_label("Prompt").fill(" ")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Write what to generate.").wait_for(timeout=60_000)
    page.close()
