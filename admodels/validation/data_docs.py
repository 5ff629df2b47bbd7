"""Great Expectations' Data Docs: without a network, and the same bytes on every run.

As built, each page links a dozen files of content delivery networks (without them it is unstyled
text), loads a logo with the time in its address, and carries random ids and load times.
"""

import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

# What a linked address contains -> our copy; every other address is dropped: charts and filters
# that these pages do not have, a second icon font, a dark theme.
VENDORED = {
    "bootstrap-table.min.css": "bootstrap-table.min.css",
    "bootstrap-table.min.js": "bootstrap-table.min.js",
    "/css/bootstrap.min.css": "bootstrap.min.css",
    "/js/bootstrap.min.js": "bootstrap.min.js",
    "jquery-3": "jquery.min.js",
    "font-awesome": "data_docs.css",
}
LOADED = re.compile(
    r"<script[^>]*\bsrc=[\"'](?P<script>https?:[^\"']*)[\"'][^>]*></script>"
    r"|<link[^>]*\bhref=[\"'](?P<link>https?:[^\"']*)[\"'][^>]*>"
    r"|<img[^>]*\bsrc=[\"']https?:[^>]*>"
)
LOADED_BY_STYLE = re.compile(r"url\(\s*[\"']?https?:[^)]*\)")
RANDOM_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
EPOCH = "19700101T000000.000000Z"
# The epoch as the pages show it: in the time zone of the machine.
SHOWN_TIME = re.compile(r"19(?:70-01-01|69-12-31)[T ]\d\d:\d\d:\d\d(?:Z| [A-Z0-9+-]+)")


def make_offline(site: Path) -> None:
    """Rewrite the pages below `site` in place, and put what they load into `site`/vendor."""
    shutil.rmtree(site / "static", ignore_errors=True)  # fonts and animations no page shows
    with as_file(files("admodels") / "validation" / "vendor" / "data_docs") as ours:
        shutil.copytree(ours, site / "vendor")
    for page in sorted(site.rglob("*.html")):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = _offline(page.read_text(encoding="utf-8"), f"{up}vendor/")
        page.write_text(_reproducible(text), encoding="utf-8", newline="\n")


def _offline(text: str, vendor: str) -> str:
    def local(match: re.Match[str]) -> str:
        address = match["script"] or match["link"] or ""
        copy = next((copy for text, copy in VENDORED.items() if text in address), None)
        if copy is None:
            return ""
        if match["script"]:
            return f'<script src="{vendor}{copy}"></script>'
        return f'<link rel="stylesheet" href="{vendor}{copy}">'

    text = re.sub(r"<link[^>]*shortcut icon[^>]*>", "", text)  # stood in static/
    # The dark theme is not vendored; half of it stands in the page itself.
    text = text.replace("(prefers-color-scheme: dark)", "not all")
    return LOADED_BY_STYLE.sub("none", LOADED.sub(local, text))


def _reproducible(text: str) -> str:
    number: dict[str, str] = {}
    text = RANDOM_ID.sub(lambda m: number.setdefault(m[0], f"id-{len(number)}"), text)
    return SHOWN_TIME.sub("no time kept", TIME.sub(EPOCH, text))
