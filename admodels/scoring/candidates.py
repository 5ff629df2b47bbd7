"""The images of a night that may come into its audit set: chosen by hash, whatever their score."""

import hashlib


def rank(line: str, night: str, image_sha256: str) -> bytes:
    """Where an image stands in the audit of a night (ISO date): SHA-256 of the three, a line each.

    Nobody can choose it, and neither score nor time of day moves it.
    """
    return hashlib.sha256(f"{line}\n{night}\n{image_sha256}".encode()).digest()
