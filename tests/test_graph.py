import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from admodels.foundation.params import load

ROOT = Path(__file__).parents[1]
CODE = ("admodels", "stages")
PRESETS = ("quick", "cpu", "official")
SILENTLY_STALE = {"size", "nfiles"}  # DVC's run-cache ignores both: treeverse/dvc#10296


def module_file(root: Path, name: str) -> str | None:
    path = Path(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / file).is_file():
            return file.as_posix()
    return None


def names_imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Every dotted name that an import statement anywhere in the module may bind."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")
                base = [*above[: len(above) + 1 - level], *([module] if module else [])]
                base = base if level else [str(module)]
                yield from (".".join([*base, name]) for name in ("", *(a.name for a in names)))


def names_built(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(function, dotted name with `*`) of the modules that a function names at run time."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                match node:
                    case ast.JoinedStr(values=[ast.Constant(value=str(head)), _, *tail]):
                        if head.startswith(tuple(f"{root}." for root in CODE)):
                            yield function.name, head + "*" + "".join(map(constant, tail))


def constant(node: ast.AST) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "*"


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name


PACKAGED = re.compile(r'files\("admodels"\)((?: / "\w+")+)')  # data that stands in the package


@cache
def facts(text: str, package: str) -> tuple[set[str], set[tuple[str, str]], set[str], set[str]]:
    tree = ast.parse(text)
    data = {f"admodels/{path}" for path in re.findall(PACKAGED, text)}
    packaged = {path.replace(" / ", "/").replace('"', "").replace("//", "/") for path in data}
    words = set(identifiers(tree))
    return set(names_imported(tree, package)), set(names_built(tree)), words, packaged


def modules_imported(root: Path, start: str, method: str | None) -> set[str]:
    """The files and data folders of ours that a run of `start` may load, itself included.

    A module named at run time counts where the function that names it is mentioned.
    """
    found: set[str] = set()
    built: set[tuple[str, str]] = set()
    mentioned: set[str] = set()
    waiting = {start}
    while waiting:
        file = waiting.pop()
        found.add(file)
        if file.endswith(".py"):
            text = (root / file).read_text(encoding="utf-8")
            names, names_to_build, words, packaged = facts(text, ".".join(Path(file).parent.parts))
            built |= names_to_build
            mentioned |= words
            waiting |= packaged | {f for name in names for f in files_of(root, name)}
        for _, pattern in (b for b in built if b[0] in mentioned):
            waiting |= files_matching(root, pattern, method)
        waiting -= found
    return found


def files_of(root: Path, name: str) -> Iterator[str]:
    """The module and the packages it is in, as far as they are ours."""
    parts = name.rstrip(".").split(".")
    if parts[0] in CODE:
        above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        yield from (file for file in (module_file(root, n) for n in above) if file)


def files_matching(root: Path, pattern: str, method: str | None) -> set[str]:
    if method and pattern.startswith("admodels.methods."):
        pattern = pattern.replace("*", method, 1)
    modules = (f.removesuffix("/__init__.py").removesuffix(".py") for f in every_file(root))
    named = [m.replace("/", ".") for m in modules]
    wanted = re.compile(re.escape(pattern).replace(r"\*", r"\w+"))
    chosen = [n for n in named if wanted.fullmatch(n)] or [pattern.replace("*", "")]
    return {file for name in chosen for file in files_of(root, name)}


def every_file(root: Path) -> list[str]:
    return [file for name in CODE for file in python_files(root, Path(name))]


def every_file_below(root: Path, path: Path) -> list[str]:
    """Like `python_files`, with what else stands in the folder: templates and what is vendored."""
    inside = [p for p in (root / path).rglob("*") if p.suffix != ".pyc" and p.is_file()]
    data = [p for p in inside if p.suffix != ".py"]
    folders = {folder for p in data for folder in p.parents if (root / path) in folder.parents}
    return [*python_files(root, path), *(f.relative_to(root).as_posix() for f in folders)]


def python_files(root: Path, path: Path) -> list[str]:
    folder = root / path
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    return [file.relative_to(root).as_posix() for file in files]


def method_of(words: list[str], params: dict[str, Any]) -> str | None:
    for word in words:
        if word in params["methods"]:
            return word
        if word in params["lines"]:
            return str(params["lines"][word]["method"])
    return None


def resolved(root: Path) -> list[Any]:
    with Repo(root) as repo:
        return list(repo.index.stages)


def code_deps(stage: Any) -> list[str]:
    return [d.def_path for d in stage.deps if d.def_path.split("/")[0] in CODE]


def modules_needed(root: Path, start: str, method: str | None, all_methods: list[str]) -> set[str]:
    """A cell's own method, and whatever any method imports beside itself: one list serves all."""
    found: set[str] = set()
    for other in all_methods if method else [None]:
        own = f"admodels/methods/{other}/"
        imported = modules_imported(root, start, other)
        found |= {file for file in imported if other == method or not file.startswith(own)}
    return found


def cell_complaints(root: Path, stage: Any, methods: list[str], method: str | None) -> list[str]:
    """What one cell imports and does not list, and the entries that it lists for nothing."""
    module = stage.cmd.removeprefix("python -m ").split()[0]
    needed = modules_needed(root, module.replace(".", "/") + ".py", method, methods)
    unclaimed, wrong = set(needed), []
    for dep in code_deps(stage):
        covered = set(every_file_below(root, Path(dep)))
        if not covered & unclaimed:
            wrong.append(f"{stage.name} lists {dep} for nothing")
        unclaimed -= covered
    return wrong + [f"{stage.name} misses {file}" for file in sorted(unclaimed)]


def idle_files(root: Path, stages: list[Any], params: dict[str, Any]) -> list[str]:
    """What `train` lists and no training imports; a method's `assets` are for another stage."""
    trains = [stage for stage in stages if stage.name.startswith("train@")]
    listed = {f for s in trains for d in code_deps(s) for f in every_file_below(root, Path(d))}
    imported = {
        file
        for method in params["methods"]
        for file in modules_imported(root, "stages/train.py", method)
    }
    idle = {file for file in listed - imported if not file.endswith("/assets.py")}
    return [f"train lists {file}, which no training imports" for file in sorted(idle)]


def complaints(root: Path) -> list[str]:
    """How the code dependencies of dvc.yaml differ from what the stages import."""
    params = load(root / "params.yaml")
    stages = resolved(root)
    wrong = []
    for stage in stages:
        method = method_of(stage.cmd.split()[3:], params)
        wrong += cell_complaints(root, stage, params["methods"], method)
    return wrong + idle_files(root, stages, params)


LAYERS = (
    {"foundation"},
    {"images"},
    {"datasets", "sources", "synthesis"},
    {"methods"},
    {"bundles"},
    {"inference"},
    {"evaluation", "scoring", "pages"},
    {"nights", "report", "tracking", "validation"},
    {"cli"},
)
BESIDE = {("sources", "datasets"), ("nights", "tracking")}  # within a layer


def may_import(wing: str, other: str) -> bool:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    return wing == other or level[other] < level[wing] or (wing, other) in BESIDE


def packages_imported(root: Path, module: str) -> set[str]:
    """`a.b.c` of every import of ours in the module `a/b/c/d.py`, itself left out."""
    text = (root / module).read_text(encoding="utf-8")
    names, *_ = facts(text, ".".join(Path(module).parent.parts))
    return {name for name in names if name.split(".")[0] in CODE}


def imports_against_layers(root: Path) -> list[str]:
    known = {name for layer in LAYERS for name in layer}
    wrong = []
    for file in python_files(root, Path("admodels")):
        wing = Path(file).parts[1]
        for name in packages_imported(root, file) if wing in known else ():
            top, _, other = name.rstrip(".").partition(".")
            other = other.split(".")[0]
            if top == "stages" or (other in known and not may_import(wing, other)):
                wrong.append(f"{file} imports {name.rstrip('.')}")
    return wrong + methods_that_import_methods(root)


def methods_that_import_methods(root: Path) -> list[str]:
    """Methods share `parts`, which know no method, and nothing else."""
    folders = [p.name for p in (root / "admodels/methods").iterdir() if p.is_dir()]
    return [
        f"{file} imports the method {other}"
        for name in folders
        for file in python_files(root, Path("admodels/methods", name))
        for other in folders
        if other not in (name, "parts")
        and any(
            f"{i}.".startswith(f"admodels.methods.{other}.") for i in packages_imported(root, file)
        )
    ]


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    for name in CODE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return tmp_path


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
    assert any(
        "nets.py imports admodels.evaluation" in c for c in imports_against_layers(copied_tree)
    )


def test_every_import_goes_down_the_layers() -> None:
    wings = {
        path.name for path in (ROOT / "admodels").iterdir() if (path / "__init__.py").is_file()
    }
    assert wings == {name for layer in LAYERS for name in layer}
    assert imports_against_layers(ROOT) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("images/rules.py", "from admodels.datasets import available"),
        ("report/page.py", "from admodels.tracking import sync"),
        ("datasets/folder.py", "from admodels.sources.source import Task"),
        ("methods/draem/networks.py", "from admodels.methods.cpr import heads"),
        ("methods/parts/nets.py", "import admodels.methods.draem.losses"),
        ("nights/run.py", "import stages.train"),
    ],
)
def test_an_import_against_the_layers_is_reported(
    copied_tree: Path, module: str, statement: str
) -> None:
    file = copied_tree / "admodels" / module
    file.write_text(file.read_text() + f"\n{statement}\n")
    assert any(
        c.startswith(f"admodels/{module} imports") for c in imports_against_layers(copied_tree)
    )


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
