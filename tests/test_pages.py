"""What all pages share: the policy, escaped text, words and charts."""

import base64
import hashlib
import json
import re
import tomllib
from html import unescape
from pathlib import Path

import jinja2
import pytest

from admodels.pages.charts import Chart, line_chart, ticks, trend
from admodels.pages.render import render_page
from admodels.pages.words import number, utc, visible

HOUSE = Path(__file__).parents[1]
HOSTILE = "</script><script>alert('\u2028')</script>&"
PAGE = """{% extends "page.html" %}
{% from "macros.html" import json_block %}
{% block title %}{{ name }}{% endblock %}
{% block body %}<p>{{ name }}</p>{{ json_block([name], id="data") }}{% endblock %}
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    (tmp_path / "own.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "own.css").write_text("p { color: red; }", encoding="utf-8")
    (tmp_path / "own.js").write_text("const less = 1 < 2 && '\u00fc';", encoding="utf-8")
    return tmp_path


def contents(page: str, tag: str) -> list[str]:
    return re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)


def directives(page: str) -> dict[str, str]:
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', page)
    parts = (directive.partition(" ") for directive in unescape(policy).split("; "))
    return {name: sources for name, _, sources in parts}


def source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def test_the_policy_allows_this_style_and_this_script_and_no_other(templates: Path) -> None:
    page = render_page("own.html", templates, styles=["own.css"], script="own.js", name="a")
    (style,), (_, script) = contents(page, "style"), contents(page, "script")
    assert style.endswith("p { color: red; }")
    assert script == "const less = 1 < 2 && '\u00fc';"
    assert directives(page) == {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": source(style),
        "script-src": source(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_a_page_without_a_script_runs_none(templates: Path) -> None:
    page = render_page("own.html", templates, name="a")
    assert directives(page)["script-src"] == "'none'"
    assert directives(page)["style-src"] == source(contents(page, "style")[0])
    assert contents(page, "script") == ['["a"]']


def test_text_from_data_is_neither_markup_nor_the_end_of_a_script(templates: Path) -> None:
    page = render_page("own.html", templates, name=HOSTILE)
    assert [unescape(text) for text in contents(page, "p")] == [HOSTILE]
    assert contents(page, "title") == contents(page, "p")
    (block,) = contents(page, "script")
    assert not set("<>&'") & set(block)
    assert json.loads(block) == [HOSTILE]


def test_content_that_is_missing_is_an_error(templates: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        render_page("own.html", templates)


def test_every_template_is_part_of_the_package() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["admodels"]
    package = HOUSE / "admodels"
    packaged = {path for pattern in patterns for path in package.glob(f"{pattern}/*")}
    files = {path for ending in ("html", "css", "js") for path in package.rglob(f"*.{ending}")}
    assert len(files) > 7
    assert files <= packaged | {path for pattern in patterns for path in package.glob(pattern)}


def test_a_name_shows_what_cannot_be_seen() -> None:
    assert visible("a\u202egnp.exe\n") == "a\\u202egnp.exe\\n"
    assert visible("\u00fc b.png") == "\u00fc b.png"


def test_a_time_of_any_offset_is_shown_as_utc() -> None:
    assert utc("2026-11-26T02:14:00+00:00") == "Thu 26 Nov 2026, 02:14 UTC"
    assert utc("2026-11-26T00:14:00+02:00") == "Wed 25 Nov 2026, 22:14 UTC"


def test_a_number_that_is_not_known_is_not_0() -> None:
    assert (number(None, "d"), number(0), number(1234.5678), number(7, "+d")) == (
        *("n/a", "0", "1235", "+7"),
    )


@pytest.mark.parametrize(
    ("top", "labels"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (2.41, [0, 0.5, 1.0, 1.5, 2.0]),
        (14990.0, [0, 5000, 10000]),
        (1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
    ],
)
def test_ticks_are_round_and_inside_the_axis(top: float, labels: list[float]) -> None:
    assert ticks(top) == labels


def test_a_chart_of_no_points_has_axes_and_no_lines() -> None:
    assert line_chart("t", "x", "y", {"a": []}).series == [("a", "")]


def test_a_chart_spans_its_plot_area() -> None:
    drawing = line_chart("t", "x", "y", {"a": [(0, 0), (2, 4)], "b": [(1, 1)]})
    assert drawing == Chart(
        *("t", "x", "y"),
        x_ticks=[(46.0, "0"), (112.0, "0.5"), (178.0, "1"), (244.0, "1.5"), (310.0, "2")],
        y_ticks=[(190.0, "0"), (145.0, "1"), (100.0, "2"), (55.0, "3"), (10.0, "4")],
        series=[("a", "46.0,190.0 310.0,10.0"), ("b", "178.0,145.0")],
    )


def test_a_trend_has_gaps_where_nothing_is_known_and_says_so() -> None:
    line = trend("flagged", [0.5, None, 1.0, 0.25], ".0%")
    assert line.points == "3.0,16.0 79.0,3.0 117.0,22.5"
    assert (line.last, line.now) == ((117.0, 22.5), "25%")
    assert line.words == ("flagged in 3 nights: from 25% to 100%, the night before 100%, now 25%")
    assert trend("flagged", [0.5, None], ".0%").now == "not known"
    assert trend("flagged", [None], ".0%").words == "flagged: not known"
