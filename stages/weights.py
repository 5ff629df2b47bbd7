"""Fetch the pretrained weights that one method starts from into data/weights/<method>/."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from admodels.foundation import params
from admodels.foundation.files import write_json
from admodels.sources import fetch
from stages import run


def main(method: str) -> None:
    """Call `weights.fetch_weights(block, folder)` of the method; without one write a listing."""
    block = params.read(
        f"methods.{method}", import_module(f"admodels.methods.{method}.params").Params
    )
    module = f"admodels.methods.{method}.weights"
    # Out of `fetch`, so that this stage imports `sources` for every method: dvc.yaml has one list,
    # and tests/test_graph.py refuses a package in it that a stage does not import.
    with fetch.whole_folder(Path("data/weights", method)) as content:
        if find_spec(module):
            import_module(module).fetch_weights(block, content)
        else:
            write_json(content / "weights.json", {"method": method})


if __name__ == "__main__":
    run(main)
