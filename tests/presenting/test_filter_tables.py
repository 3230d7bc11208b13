"""The box that filters the tables of docs/reference/support.md, in a real browser."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs/reference"
PAGE = """<!doctype html><table><tbody><tr><td>above</td></tr></tbody></table>
<div class="filter-tables"></div>
<table><thead><tr><th>pipeline</th></tr></thead><tbody>
<tr><td>FluxPipeline</td><td>all</td></tr><tr><td>FluxImg2ImgPipeline</td><td>all</td></tr></tbody></table>
<table><tbody><tr><td>WanPipeline</td><td>UniPC</td></tr></tbody></table><script>{script}</script>"""


def test_rows_are_filtered_as_one_types(opened, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE.format(script=(DOCS / "filter-tables.js").read_text()))
    page = opened(path)

    def shown():
        return [row.inner_text().split()[0] for row in page.locator("tr:visible").all()]

    everything = ["above", "pipeline", "FluxPipeline", "FluxImg2ImgPipeline", "WanPipeline"]
    assert shown() == everything
    page.get_by_role("searchbox").fill("FLUX img")
    assert shown() == ["above", "pipeline", "FluxImg2ImgPipeline"]
    assert page.get_by_text("1 of 3 rows").is_visible()
    page.get_by_role("searchbox").fill("")
    assert shown() == everything


def test_the_page_has_its_place_and_shows_nothing_there_without_scripts():
    assert '\n<div class="filter-tables"></div>\n' in (DOCS / "support.md").read_text(encoding="utf-8")
