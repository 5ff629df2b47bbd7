"""Bring what one method needs beside images and textures to data/assets/<method>/."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from admodels import fetching, params
from stages import run


def main(method: str) -> None:
    """A method with needs has a module `assets` with `bring(block, folder)`; all get a listing."""
    block = params.read(
        f"methods.{method}", import_module(f"admodels.methods.{method}.params").Params
    )
    module = f"admodels.methods.{method}.assets"
    with fetching.replacing(Path("data/assets", method)) as content:
        if find_spec(module):
            import_module(module).bring(block, content)
        else:
            text = json.dumps({"method": method})
            (content / "assets.json").write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
