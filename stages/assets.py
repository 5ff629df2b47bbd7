"""Bring what one method needs beside images and textures to data/assets/<method>/."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from admodels.foundation import params
from admodels.foundation.files import write_json
from admodels.sources import fetch
from stages import run


def main(method: str) -> None:
    """A method with needs has `assets.fetch_weights(block, folder)`; all methods get a listing."""
    block = params.read(
        f"methods.{method}", import_module(f"admodels.methods.{method}.params").Params
    )
    module = f"admodels.methods.{method}.assets"
    # From `fetching`, which some methods' assets need: dvc.yaml has one list for all methods.
    with fetch.whole_folder(Path("data/assets", method)) as content:
        if find_spec(module):
            import_module(module).fetch_weights(block, content)
        else:
            write_json(content / "assets.json", {"method": method})


if __name__ == "__main__":
    run(main)
