"""Fetch the textures that anomalies are painted with into data/textures/."""

from pathlib import Path

from admodels.foundation import params
from admodels.sources import textures
from admodels.sources.source import Source
from stages import run


def main() -> None:
    """Fetch, and refuse a source that differs from its pin."""
    textures.fetch_textures(params.read("textures", Source), Path("data/textures"))


if __name__ == "__main__":
    run(main)
