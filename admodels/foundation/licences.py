"""Licences of images, in words: whether one is stated, and whether it forbids commercial use."""

import re

NOT_STATED = "not stated"
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research|academic", re.IGNORECASE)


def is_stated(licence: str) -> bool:
    """Whether the words of a licence say anything."""
    return licence.strip().lower() not in ("", NOT_STATED, "unknown", "none", "n/a", "?")


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids, or seems to forbid, that a model earns money."""
    return bool(NON_COMMERCIAL.search(licence))


def licence_text(licence: str) -> str:
    """The licence with what follows from it, for people."""
    return f"{licence} (NON-COMMERCIAL use only)" if is_non_commercial(licence) else licence
