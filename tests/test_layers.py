from pathlib import Path

import pytest

from tests.imports import CODE, ROOT, Tree, copy_code

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


def packages_imported(tree: Tree, file: str) -> set[str]:
    """`a.b.c` of every import of ours in the module `a/b/c/d.py`, itself left out."""
    return {name for name in tree.facts(file).imported if name.split(".")[0] in CODE}


def imports_against_layers(root: Path) -> list[str]:
    tree, known = Tree(root), {name for layer in LAYERS for name in layer}
    wrong = []
    for file in tree.files("admodels"):
        wing = Path(file).parts[1]
        for name in packages_imported(tree, file) if wing in known else ():
            top, _, other = name.rstrip(".").partition(".")
            other = other.split(".")[0]
            if top == "stages" or (other in known and not may_import(wing, other)):
                wrong.append(f"{file} imports {name.rstrip('.')}")
    return wrong + methods_that_import_methods(tree)


def methods_that_import_methods(tree: Tree) -> list[str]:
    """Methods share `parts`, which know no method, and nothing else."""
    folders = [p.name for p in (tree.root / "admodels/methods").iterdir() if p.is_dir()]
    return [
        f"{file} imports the method {other}"
        for name in folders
        for file in tree.files(f"admodels/methods/{name}")
        for other in folders
        if other not in (name, "parts")
        and any(
            f"{i}.".startswith(f"admodels.methods.{other}.") for i in packages_imported(tree, file)
        )
    ]


@pytest.mark.slow
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
        ("methods/parts/nets.py", "from ...evaluation import metrics"),
        ("methods/parts/nets.py", "def later():\n    from admodels.evaluation import metrics"),
    ],
)
def test_an_import_against_the_layers_is_reported(
    tmp_path: Path, module: str, statement: str
) -> None:
    file = copy_code(tmp_path) / "admodels" / module
    file.write_text(file.read_text() + f"\n{statement}\n")
    assert any(c.startswith(f"admodels/{module} imports") for c in imports_against_layers(tmp_path))
