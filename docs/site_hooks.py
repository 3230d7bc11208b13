"""What MkDocs does beside its plugins: pages made from the program, and links to files of the repository.

- `reference/cli.md` gets the commands from typer, `reference/changelog.md` the changelog. Neither is a copy by hand.
- A page may link to any file of the repository, as on a code host. The site has such a file as a page of its own, so
  that it needs no other host. A link to what is not there is a warning, which ``mkdocs build --strict`` makes an error.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

log = logging.getLogger("mkdocs.hooks.site")

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".md": "markdown", ".json": "json", ".toml": "toml"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file of the repository that some page links to."""
    for page in list(files.documentation_pages()):
        for link in LINK.finditer(page.content_string):
            path = _outside(link[2], page)
            if path is not None and path.exists() and files.get_file_from_path(_page_of(path)) is None:
                files.append(
                    File.generated(config, _page_of(path), content=_shown(path), inclusion=InclusionLevel.NOT_IN_NAV)
                )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in the commands and the changelog, and point links out of docs/ to their pages on the site."""
    if page.parent is None:  # a page that is a tab of its own has nothing to list beside it
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri.startswith("records/"):  # long tables name everything; what is to be read is found first
        page.meta["search"] = {"boost": 0.2}
    if page.file.src_uri == "reference/cli.md":
        markdown = re.sub("<!-- commands.*-->", lambda _: _commands(), markdown)
    if page.file.src_uri == "reference/changelog.md":
        markdown = re.sub("<!-- changelog.*-->", lambda _: _changes(), markdown)
    if page.file.generated_by:
        return markdown
    return LINK.sub(lambda link: _on_site(link, page.file), markdown)


def _on_site(link: re.Match[str], page: File) -> str:
    path = _outside(link[2], page)
    if path is None:
        return link[0]
    if not path.exists():
        log.warning("%s links to %s, which is not in the repository", page.src_uri, link[2])
        return link[0]
    return f"{link[1]}{os.path.relpath(_page_of(path), Path(page.src_uri).parent)})"


def _outside(target: str, page: File) -> Path | None:
    """The file of the repository outside of docs/ that a link is to, if it is one."""
    if "://" in target or page.generated_by:
        return None
    path = Path(os.path.normpath(REPOSITORY / "docs" / Path(page.src_uri).parent / target))
    return None if path.is_relative_to(REPOSITORY / "docs") else path


def _page_of(path: Path) -> str:
    return f"repository/{path.relative_to(REPOSITORY)}.md"


def _shown(path: Path) -> str:
    """A file as a page; of a folder, its README or the names in it."""
    head = "---\nsearch:\n  exclude: true\n---\n"
    title = f"{head}# {path.relative_to(REPOSITORY)}\n\n"
    if path.is_dir():
        readme = path / "README.md"
        names = "\n".join(f"- `{item.name}`" for item in sorted(path.iterdir()) if item.name[0] not in "._")
        return title + (_fenced(readme) if readme.exists() else names)
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = (("".join(cell["source"]), cell["cell_type"]) for cell in cells)
        return head + "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts)
    return title + _fenced(path)


def _fenced(path: Path) -> str:
    return f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8')}\n````\n"


def _commands() -> str:
    """All commands and their options, by typer's own writer."""
    import typer.main
    from typer.cli import get_docs_for_click

    from ertacache.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="ertacache")
    return text[text.index("\n## ") :]  # before it stands a list of what follows


def _changes() -> str:
    return (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]
