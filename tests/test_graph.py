import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from dvc.repo import Repo

from admodels.foundation.params import load
from tests.imports import CODE, ROOT, Tree, copy_code

PIPELINE = ("dvc.yaml", "params.yaml")
PRESETS = ("quick", "cpu", "official")
SILENTLY_STALE = {"size", "nfiles"}  # DVC's run-cache ignores both: treeverse/dvc#10296


def method_of(words: list[str], params: dict[str, Any]) -> str | None:
    for word in words:
        if word in params["methods"]:
            return word
        if word in params["folders"]:
            return str(params["folders"][word]["method"])
    return None


def resolved(root: Path) -> list[Any]:
    """The stages as DVC resolves them; two texts alone decide what they are."""
    return stages_of(*((root / name).read_text(encoding="utf-8") for name in PIPELINE))


@cache
def stages_of(*texts: str) -> list[Any]:
    with TemporaryDirectory() as folder:
        for name, text in zip(PIPELINE, texts, strict=True):
            Path(folder, name).write_text(text, encoding="utf-8")
        Path(folder, ".dvc").mkdir()
        Path(folder, ".dvc/config").write_text(
            "[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8"
        )
        with Repo(folder) as repo:
            return list(repo.index.stages)


def code_deps(stage: Any) -> list[str]:
    return [d.def_path for d in stage.deps if d.def_path.split("/")[0] in CODE]


def modules_needed(tree: Tree, start: str, method: str | None, methods: list[str]) -> set[str]:
    """A cell's own method, and whatever any method imports beside itself: one list serves all."""
    needed: set[str] = set()
    for other in methods if method else [None]:
        own = f"admodels/methods/{other}/"
        reached = tree.reached(start, other)
        needed |= {file for file in reached if other == method or not file.startswith(own)}
    return needed


def cell_complaints(tree: Tree, stage: Any, methods: list[str], method: str | None) -> list[str]:
    """What one cell imports and does not list, and the entries that it lists for nothing."""
    module = stage.cmd.removeprefix("python -m ").split()[0]
    unclaimed = modules_needed(tree, module.replace(".", "/") + ".py", method, methods)
    wrong = []
    for dep in code_deps(stage):
        covered = tree.covered(dep)
        if not covered & unclaimed:
            wrong.append(f"{stage.name} lists {dep} for nothing")
        unclaimed -= covered
    return wrong + [f"{stage.name} misses {file}" for file in sorted(unclaimed)]


def idle_files(tree: Tree, stages: list[Any], methods: list[str]) -> list[str]:
    """What `train` lists and no training imports; a method's `weights` are for another stage."""
    trains = [stage for stage in stages if stage.name.startswith("train@")]
    listed = {file for stage in trains for dep in code_deps(stage) for file in tree.covered(dep)}
    imported = {file for m in methods for file in tree.reached("stages/train.py", m)}
    idle = {file for file in listed - imported if not file.endswith("/weights.py")}
    return [f"train lists {file}, which no training imports" for file in sorted(idle)]


def complaints(root: Path) -> list[str]:
    """How the code dependencies of dvc.yaml differ from what the stages import."""
    params, stages, tree = load(root / "params.yaml"), resolved(root), Tree(root)
    methods = list(params["methods"])
    wrong = []
    for stage in stages:
        method = method_of(stage.cmd.split()[3:], params)
        wrong += cell_complaints(tree, stage, methods, method)
    return wrong + idle_files(tree, stages, methods)


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    return copy_code(tmp_path, *PIPELINE)


@pytest.mark.slow
def test_every_stage_lists_what_it_imports_and_train_nothing_else(copied_tree: Path) -> None:
    assert complaints(copied_tree) == []


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_dropped_dependency_is_reported(copied_tree: Path) -> None:
    text = copied_tree.joinpath("dvc.yaml").read_text()
    train = text.index("stages/train.py")
    cut = text[:train] + text[train:].replace("      - admodels/methods/parts\n", "", 1)
    copied_tree.joinpath("dvc.yaml").write_text(cut)
    missing = "train@draem-sample_brick misses admodels/methods/parts/nets.py"
    assert missing in complaints(copied_tree)


@pytest.mark.parametrize("idle", ["admodels/tracking", "admodels/evaluation/metrics.py"])
def test_a_dependency_that_no_import_needs_is_reported(copied_tree: Path, idle: str) -> None:
    line = "      - stages/train.py\n"
    replaced(copied_tree / "dvc.yaml", line, line + f"      - {idle}\n")
    assert f"train@draem-sample_brick lists {idle} for nothing" in complaints(copied_tree)


def test_a_dependency_that_another_entry_covers_is_reported(copied_tree: Path) -> None:
    line = "      - admodels/foundation\n"
    replaced(copied_tree / "dvc.yaml", line, line + "      - admodels/foundation/files.py\n")
    twice = "fetch@sample_brick lists admodels/foundation/files.py for nothing"
    assert twice in complaints(copied_tree)


def test_a_file_that_no_training_imports_is_reported(copied_tree: Path) -> None:
    (copied_tree / "admodels/images/idle.py").write_text('"""Idle."""\n')
    assert complaints(copied_tree) == [
        "train lists admodels/images/idle.py, which no training imports"
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "import admodels.evaluation.metrics",
        "from admodels.evaluation import metrics",
        "from ...evaluation import metrics",
        "def later():\n    from admodels.evaluation.metrics import auroc",
    ],
)
def test_a_new_import_anywhere_is_reported(copied_tree: Path, statement: str) -> None:
    nets = copied_tree / "admodels/methods/parts/nets.py"
    nets.write_text(nets.read_text() + "\n" + statement + "\n")
    missing = "train@draem-sample_brick misses admodels/evaluation/metrics.py"
    assert missing in complaints(copied_tree)


def test_a_module_found_by_name_is_a_dependency_of_its_own_cells_only(copied_tree: Path) -> None:
    shutil.copytree(copied_tree / "admodels/methods/draem", copied_tree / "admodels/methods/other")
    assert not [c for c in complaints(copied_tree) if c.startswith(("train", "evaluate", "score"))]


def keys_read(file: Path) -> Iterator[str]:
    """A pattern per key that `params.read` asks for in `file`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="params"), attr="read"), args=args):
                key = args[0]
                parts = key.values if isinstance(key, ast.JoinedStr) else [key]
                yield "".join(
                    re.escape(p.value) if isinstance(p, ast.Constant) else r"\w+" for p in parts
                )


def test_every_stage_declares_exactly_the_params_it_reads(copied_tree: Path) -> None:
    declared: dict[str, set[str]] = {}
    for stage in resolved(copied_tree):
        module = stage.cmd.split()[2].replace(".", "/") + ".py"
        keys = {key for dep in stage.deps for key in getattr(dep, "params", [])}
        declared[module] = declared.get(module, set()) | keys
    for module, keys in declared.items():
        read = set(keys_read(copied_tree / module))
        assert [k for k in keys if not any(covers(k, r) for r in read)] == [], module
        assert [r for r in read if not any(covers(k, r) for k in keys)] == [], module


def covers(declared: str, read: str) -> bool:
    """Whether the params dependency holds what the pattern `read` asks for."""
    parts = read.split(r"\.")
    above = (r"\.".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(re.fullmatch(pattern, declared) for pattern in above)


def test_the_cells_are_methods_times_tasks(copied_tree: Path) -> None:
    params = load(ROOT / "params.yaml")
    cells = {f"{m}-{t}" for m in params["run"]["methods"] for t in params["run"]["tasks"]}
    names = [s.name for s in resolved(copied_tree)]
    for stage in ("train", "evaluate"):
        assert {n.removeprefix(f"{stage}@") for n in names if n.startswith(stage)} == cells


def test_training_sees_no_raw_folder_and_no_test_split(copied_tree: Path) -> None:
    trains = [s for s in resolved(copied_tree) if s.name.startswith("train@")]
    for stage in trains:
        for dep in stage.deps:
            assert not dep.def_path.startswith(("data/raw", "data/evaluation"))
            assert "test.csv" not in dep.def_path
    assert trains


def test_what_dvc_caches_is_under_data_and_what_git_tracks_under_reports(copied_tree: Path) -> None:
    for stage in resolved(copied_tree):
        assert not stage.always_changed
        assert not stage.frozen
        for out in stage.outs:
            assert not out.persist
            kept_by_git = bool(out.metric or out.plot)
            assert out.use_cache is not kept_by_git
            assert out.def_path.startswith("reports/" if kept_by_git else "data/")


def test_bytecode_is_invisible_to_dvc() -> None:
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


def test_the_params_that_tests_train_with_are_invisible_to_dvc() -> None:
    with Repo(ROOT) as repo:
        folders = [path.parent for path in (ROOT / "admodels/methods").glob("*/params.py")]
        seen = [f for f in folders if not repo.dvcignore.is_ignored_file(str(f / "tiny.yaml"))]
    assert folders
    assert seen == []


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.mark.parametrize("file", ["params.yaml", *(f"presets/{p}.yaml" for p in PRESETS)])
def test_no_parameter_has_a_name_that_dvc_forgets(file: str) -> None:
    assert not SILENTLY_STALE & set(keys(load(ROOT / file)))
