"""Build the documentation site from docs/ (``make docs``): a warning of Sphinx's or a dead link fails the build.

The site is plain files: it can be opened from the disk, or served by any server of static files.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """What a page can be linked at, and what it links to or loads: ``ids`` and (tag, URL) pairs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element's id, and its link."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append((tag, value))


def read_pages(site: Path) -> dict[Path, Page]:
    """The pages of a built site by their files."""
    return {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}


def resolve(file: Path, url: str) -> tuple[Path, str] | None:
    """The file and the anchor that a link of the page ``file`` leads to; None where it leaves the site."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    return (file.parent / path).resolve() if path else file.resolve(), unquote(parts.fragment)


def find_dead_links(site: Path) -> Iterator[str]:
    """A line for each link within the site that leads to no file, or to no place on its page."""
    site = site.resolve()
    pages = read_pages(site)
    for file, page in pages.items():
        for _tag, url in page.links:
            target = resolve(file, url)
            if target is None:
                continue
            where, anchor = target
            if not where.is_relative_to(site) or not where.is_file():
                yield f"{file.relative_to(site)}: {url} leads to no file"
            elif anchor and where in pages and anchor not in pages[where].ids:
                yield f"{file.relative_to(site)}: {url} leads to no place on its page"


def build_site(output: Path) -> int:
    """Build the site into ``output``, whose former content goes, and return the exit status of the build."""
    from sphinx.cmd.build import build_main  # noqa: PLC0415 - only the build needs it

    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as doctrees:
        status = build_main(
            ["--builder", "html", "--fail-on-warning", "--quiet", "--fresh-env", "--jobs", "auto",
             "--doctree-dir", doctrees, str(ROOT / "docs"), str(output)]
        )  # fmt: skip
    dead = list(find_dead_links(output)) if status == 0 else []
    for line in dead:
        print(line, file=sys.stderr)
    return 1 if dead else status


def main() -> None:
    """Build it where the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "docs", help="folder of the site")
    output = parser.parse_args().output
    status = build_site(output)
    if status == 0:
        print(f"The documentation is in {output / 'index.html'}")
    sys.exit(status)


if __name__ == "__main__":
    main()
