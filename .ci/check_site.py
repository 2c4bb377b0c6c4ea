"""Is a built site whole: is every public name in the API, and is nothing fetched? usage: check_site.py DIR"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

STUBS = {
    "vitcircuits.models": "models",
    "vitcircuits.circuits": "circuits",
    "vitcircuits.circuits.compare": "circuits/compare",
    "vitcircuits.circuits.draw": "circuits/draw",
    "vitcircuits.algorithms": "algorithms",
}
LOADED = {"src", "srcset", "poster", "data"}
"""Attributes of any tag whose address a browser fetches; of a link it is href."""


class Page(HTMLParser):
    """The ids of a page, and what it fetches from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.remote: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if (name in LOADED or (tag, name) == ("link", "href")) and re.match(r"(https?:)?//", value or ""):
                self.remote.append(f"{tag} {value}")


site = Path(sys.argv[1])
pages = {path: Page(path) for path in site.rglob("*.html")}
described = set().union(*(page.ids for page in pages.values()))
public = {
    f"{package}.{name}"
    for package, folder in STUBS.items()
    for name in re.findall(r"import \w+ as (\w+)", Path(folder, "__init__.pyi").read_text(encoding="utf-8"))
}
missing = sorted(public - described)
remote = [f"{path.relative_to(site)}: {what}" for path, page in pages.items() for what in page.remote]
remote += [
    f"{path.relative_to(site)}: {what}"
    for path in site.rglob("*.css")
    for what in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
]
if missing or remote or not public:
    sys.exit(f"not in the API's pages: {missing}; fetched from elsewhere: {remote}")
size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
print(f"{len(pages)} pages, {size:.1f} MB, {len(public)} public names, nothing fetched from elsewhere")
