"""Sources and licences as params say them."""

import pytest
from pydantic import ValidationError

from admodels.foundation.licences import is_non_commercial, licence_text
from admodels.sources.source import Source


@pytest.mark.parametrize(
    ("licence", "flagged"),
    [
        ("CC BY-NC-SA 4.0", True),
        ("cc-by-nc-4.0", True),
        ("for non-commercial use", True),
        ("Noncommercial", True),
        ("research use", True),
        ("CC BY 4.0", False),
        ("CC0-1.0", False),
        ("Apache-2.0", False),
        ("ours", False),
        ("NCC Ltd", False),
    ],
)
def test_a_licence_that_forbids_to_earn_money_is_flagged(licence: str, flagged: bool) -> None:
    assert is_non_commercial(licence) is flagged
    assert ("NON-COMMERCIAL" in licence_text(licence)) is flagged


def test_mirrors_go_with_a_url_only() -> None:
    urls = {"location": "https://a/x.zip", "sha256": "0" * 64, "mirrors": ("https://b/x.zip",)}
    assert Source(kind="url", **urls).mirrors == ("https://b/x.zip",)
    with pytest.raises(ValidationError, match="mirrors go with"):
        Source(kind="path", **urls | {"location": "/data"})
