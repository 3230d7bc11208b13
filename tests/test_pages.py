"""The pages of docs: the site's navigation names each, every link leads somewhere, and none is too long to read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN_BY_COMMANDS = {DOCS / "reference/support.md", DOCS / "reference/errors.md"}
TO_READ = [page for page in PAGES if page not in WRITTEN_BY_COMMANDS and DOCS / "records" not in page.parents]
LINKING = [*PAGES, *ROOT.glob("*.md"), ROOT / "training/README.md"]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks and snippets of code, in which brackets are no links and hashes no headings."""
    text = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1 *$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", lambda code: re.sub(r"[^\w\s-]", "", code[0]), text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower()))
    return found


def links(page: Path) -> Iterator[str]:
    """The targets of links and pictures that lead to files."""
    text = prose(page)
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|href)="([^"]+)"', text)]:
        if not re.match(r"\w+:", target):
            yield target


def in_nav(entry: object) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    for part in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
        yield from in_nav(part)


def test_the_navigation_names_every_page_once():
    nav = list(in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", TO_READ, ids=name)
def test_a_page_to_read_has_under_900_words(page):
    assert len(page.read_text(encoding="utf-8").split()) < 900


def test_all_pages_to_read_have_at_most_18000_words():
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in TO_READ) <= 18_000


def test_links_and_headings_are_found(tmp_path):
    """So the checks above can fail."""
    page = tmp_path / "page.md"
    page.write_text(
        "# What `it` is: one\n\n[a](b.md#c) and ![d](e.png)\n`x[0](f.md)`\n```text\n[g](h.md)\n# no heading\n```\n"
        '<img src="i.png">\n[out](https://semver.org)\n'
    )
    assert list(links(page)) == ["b.md#c", "e.png", "i.png"]
    assert anchors(page) == {"what-it-is-one"}
    assert list(in_nav([{"A": "a.md"}, {"B": [{"C": "c.md"}]}])) == ["a.md", "c.md"]


def test_the_readme_is_short_and_each_of_its_numbers_has_a_command():
    readme, listed = (ROOT / "README.md").read_text("utf-8"), (DOCS / "records/numbers.md").read_text("utf-8")
    assert len(readme.split()) <= 700
    text = re.sub(r"`[^`\n]+`|\]\([^)]*\)|^#+ .*$|Apache-2.0", "", prose(ROOT / "README.md"), flags=re.MULTILINE)
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    assert 0 < len(numbers) <= 20
    of_readme = "\n".join(line for line in listed.splitlines() if line.startswith("| README"))
    assert not [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", of_readme)]
