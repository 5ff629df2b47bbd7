"""Bring what synthesis and the methods need beside images: `textures`, or one method's assets."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from admodels import params, textures
from admodels.errors import ConfigurationError
from admodels.methods import available
from admodels.sources import Source
from admodels.writing import whole_folder, write_json
from stages import run

TEXTURES = "textures"


def main(name: str) -> None:
    """Write data/assets/<name>/, always with an assets.json."""
    target = Path("data/assets", name)
    if name == TEXTURES:
        textures.bring(params.read(f"assets.{TEXTURES}", Source), target)
    elif name in available():
        _bring_for_method(name, target)
    else:
        raise ConfigurationError(
            f"no assets named `{name}`",
            where="python -m stages.assets",
            expected=f"`{TEXTURES}` or one of {', '.join(available())}",
            next_step="mend `run.methods` in params.yaml",
        )


def _bring_for_method(method: str, target: Path) -> None:
    """A method with needs has a module `assets` with `bring(params, folder)`."""
    module = f"admodels.methods.{method}.assets"
    with whole_folder(target) as content:
        if find_spec(module):
            import_module(module).bring(params.read(f"methods.{method}", dict), content)
        else:
            write_json(content / "assets.json", {"method": method})


if __name__ == "__main__":
    run(main)
