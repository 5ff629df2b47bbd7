"""The texts of the morning page: one catalogue a language, and none of them anywhere else."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from admodels.nights.page.facts import facts
from admodels.pages import catalogue as catalogues
from admodels.pages.catalogue import Catalogue, english, name_markup

PACKAGE = Path(catalogues.__file__).parents[1]
FORM = {**english().form, "group": ".", "decimal": ","}


def test_a_number_is_written_with_the_separators_of_the_language() -> None:
    words = Catalogue("toy", {"unknown": "?"}, FORM)
    assert words.number(1234567) == "1.234.567"
    assert words.number(-1234.5, ",.2f") == "\N{MINUS SIGN}1.234,50"
    assert words.number(None) == "?"
    assert english().number(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.00123, "0.0012"),
        (0.0999, "0.10"),
        (2.14, "2.1"),
        (21.4, "21"),
        (2140, "2,100"),
    ],
)
def test_a_measured_value_has_two_digits_and_no_exponent(value: float, written: str) -> None:
    assert english().significant(value) == written


def test_a_plural_is_chosen_by_its_number() -> None:
    assert english().text("index.earlier", n=1) == "1 earlier look"
    assert english().text("index.earlier", n=0) == "0 earlier looks"
    assert english().text("index.earlier", n=2000) == "2,000 earlier looks"


def test_a_day_and_an_instant_are_those_of_the_language_and_the_zone() -> None:
    words = english()
    assert words.date(date(2026, 11, 26)) == "Thursday, 26 November 2026"
    assert words.date(date(2026, 11, 6), "date_row") == "Fri 6 Nov 2026"
    at = "2026-11-26T00:14:00+02:00"
    assert words.moment(at, None) == "25 November 2026, 22:14 (UTC)"
    assert words.moment(at, "Asia/Tokyo") == "26 November 2026, 07:14 (Asia/Tokyo)"


def test_a_value_in_a_text_is_never_markup_unless_it_is_made_so() -> None:
    words = replace(english(), texts={"a": "<i> {line}"})
    assert words.markup("a", line="<b>") == "&lt;i&gt; &lt;b&gt;"
    assert words.markup("a", line=name_markup("<b>\n")) == "&lt;i&gt; <bdi>&lt;b&gt;\\n</bdi>"


def test_every_message_is_used_and_every_message_used_is_there() -> None:
    files = [
        *PACKAGE.glob("nights/page/**/*.*"),
        PACKAGE / "nights/promise.py",
        *PACKAGE.glob("pages/*.py"),
    ]
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".html", ".js")
    )
    known = english().texts
    named = set(re.findall(r"""["']([a-z_]+\.[a-z_]+)["']""", code))
    sections = {name.partition(".")[0] for name in known}
    endings = ("html", "css", "js", "py")
    used = {n for n in named if n.partition(".")[0] in sections and n.split(".")[1] not in endings}
    assert used - set(known) == set()
    composed = set(re.findall(r"""["']([a-z_]+)\.(?:["'] ~|\{)""", code))  # "outcome." ~ name
    for name in set(known) - used:
        section, _, rest = name.partition(".")
        is_of_script = section == "script" and (rest in code or rest.partition("_")[0] in code)
        assert section in composed or is_of_script or name == "unknown", name


ROW = {"width": 900, "height": 600, "is_anomalous": True, "today": True, "anomaly_score": 2.5}
ROW |= {"p_value": 1 / 71, "normal_images": 70, "ratio": None, "has_level": True}
PLACE = {"x": 850.0, "y": 20.0, "width": 40, "height": 16, "share": 0.0012, "zone": ""}
PLACE |= {"width_mm": None, "height_mm": None, "area_mm2": None}


def answers(**changes: object) -> dict[str, str]:
    row = ROW | {"regions": [PLACE]} | changes
    return vars(facts(row, is_trusted=True, catalogue=english()))


def test_a_card_says_where_how_big_and_why_with_units() -> None:
    said = answers()
    assert said["where"] == "at the top right"
    assert said["size"] == "40 x 16 pixels, 0.12 % of the image"
    assert said["why"] == "more unusual than all 70 normal images that it is compared with"
    mm = PLACE | {"width_mm": 2.14, "height_mm": 0.8, "area_mm2": 1.3, "zone": "rim"}
    said = answers(regions=[mm, PLACE], p_value=3 / 71, ratio=4.21)
    assert said["where"] == "rim, at the top right, and 1 more place"
    assert said["size"] == "2.1 x 0.80 mm (1.3 mm²)"
    assert said["why"] == (
        "Differs from normal 4.2 times as much as usual; only 2 of 70 normal images are as unusual"
    )


@pytest.mark.parametrize("share", [0.0, 0.34, 0.999])
def test_a_place_is_the_ninth_of_the_image_that_holds_its_middle(share: float) -> None:
    across = answers(regions=[PLACE | {"x": share * 900, "y": 300.0}])["where"]
    down = answers(regions=[PLACE | {"x": 450.0, "y": share * 600}])["where"]
    number = int(3 * share)
    assert across == ("at the left", "in the middle", "at the right")[number]
    assert down == ("at the top", "in the middle", "at the bottom")[number]


def test_a_card_says_why_it_has_no_place_and_why_it_is_shown() -> None:
    assert answers(regions=[])["where"] == "not known: no regions were kept of this image"
    assert answers(has_level=False)["where"].startswith("at the top right; only the worst place, b")
    calm = answers(regions=[], is_anomalous=False, today=False, p_value=36 / 71)
    assert calm["where"] == "not known: an image that is not flagged has no regions"
    assert calm["why"] == "35 of 70 normal images are as unusual"
    assert "one of the 5 highest scores" in calm["now"]
    none = answers(is_anomalous=None, today=None, normal_images=None)
    assert "its score is 2.50" in none["why"]
    assert none["now"].startswith("No verdict is possible yet")
