"""How every page is made: one HTML file of escaped text, with one style and a strict policy.

A page is a template that extends `page.html`, in a folder `templates` beside the code that fills
it. Names of files are data: they reach a page as escaped text, or as JSON that no `<` can leave
(`json_block` in `macros.html`). The policy runs no script but the page's own, and fetches nothing
but pictures beside the page.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from admodels.pages.words import local, number, utc, visible

SHARED = Path(__file__).parent / "templates"


def render_page(
    name: str, templates: Path, /, *, styles: Sequence[str] = (), script: str = "", **content: Any
) -> str:
    """The text of a page from the template `name`; what the template lacks is an error.

    `styles` and `script` are names of files in `templates`; the style of all pages comes first.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {"visible": visible, "utc": utc, "local": local, "number": number}
    environment.globals["lang"] = "en"  # unless the content names another
    sheets = [SHARED / "page.css", *(templates / sheet for sheet in styles)]
    style = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    code = (templates / script).read_text(encoding="utf-8") if script else ""
    policy = content_policy(style, code)
    return environment.get_template(name).render(
        content, style=Markup(style), script=Markup(code), policy=policy
    )


def content_policy(style: str, script: str) -> str:
    """A Content-Security-Policy for exactly these texts, and for pictures beside the page."""
    sources = {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": f"'{_digest(style)}'",
        "script-src": f"'{_digest(script)}'" if script else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{directive} {source}" for directive, source in sources.items())


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
