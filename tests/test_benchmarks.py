import ast
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from benchmarks import official
from tests import tiny

ROOT = Path(__file__).parents[1]
OURS = ("admodels", "benchmarks", "stages", "tests")
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def is_ours(name: str) -> bool:
    return name.split(".")[0] in OURS


def programs(tree: ast.Module) -> Iterator[ast.Module]:
    """The code that stands in strings, for processes of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and "import " in str(node.value):
            try:
                yield ast.parse(str(node.value))
            except SyntaxError:
                continue  # a sentence


def lost_imports(tree: ast.Module) -> list[str]:
    """The names that an import anywhere in `tree` asks our code for and that are not there."""
    lost = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module):
            module = import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name) and not is_module(f"{node.module}.{alias.name}"):
                    lost.append(f"{node.module}.{alias.name}")
    return lost


def is_module(name: str) -> bool:
    try:
        return bool(import_module(name))
    except ModuleNotFoundError:
        return False


def lost_attributes(tree: ast.Module, module: ModuleType) -> list[str]:
    """The `module.name` of our modules that are not there."""
    return [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        for known in [getattr(module, node.value.id, None)]
        if isinstance(known, ModuleType) and is_ours(known.__name__)
        if not hasattr(known, node.attr)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_starts_and_names_nothing_that_has_moved(name: str) -> None:
    module = import_module(f"benchmarks.{name}")
    tree = ast.parse((ROOT / f"benchmarks/{name}.py").read_text(encoding="utf-8"))
    assert [lost for code in (tree, *programs(tree)) for lost in lost_imports(code)] == []
    assert lost_attributes(tree, module) == []


def test_a_name_that_has_moved_is_seen() -> None:
    text = 'from admodels.images import decode\nP = """\nfrom admodels.cli import nothing\n"""\n'
    tree = ast.parse(text + "def f():\n    from stages import gone\n    decode.lost()\n")
    module = ModuleType("benchmarks.made_up")
    module.__dict__["decode"] = import_module("admodels.images.decode")
    assert [lost_imports(code) for code in programs(tree)] == [["admodels.cli.nothing"]]
    assert lost_imports(tree) == ["stages.gone"]
    assert lost_attributes(tree, module) == ["decode.lost"]


@pytest.mark.slow
def test_the_official_sizes_are_trained_for_the_time_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/good", "test/good", "test/hole"):
        (tmp_path / "256" / name).mkdir(parents=True)
        for index, image in enumerate(tiny.stripes(3, seed=4, shape=(256, 256))):
            path = tmp_path / "256" / name / f"{index}.webp"
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    monkeypatch.setattr(official, "EVERY_ON_CPU", 1)
    out = tmp_path / "out.json"
    words = ["official", "run", str(tmp_path), "--methods", "draem", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    official.main()
    (result,) = json.loads(out.read_text(encoding="utf-8"))
    assert (result["steps"], result["is_official_size"]) == (official.PROBE_STEPS, False)
    assert 0 < result["loss_last"] < 10
    assert result["steps_per_second"] > 0
    assert 0 <= result["image_auroc"] <= 1
