"""What the code of this repository imports, read from its text: nothing is run."""

import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CODE = ("admodels", "stages")
PACKAGED = re.compile(r'files\("admodels"\)((?: / "\w+")+)')  # data that stands in the package


def copy_code(target: Path, *others: str) -> Path:
    """A copy of the code, and of `others`, to change something in."""
    for name in CODE:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in others:
        shutil.copyfile(ROOT / name, target / name)
    return target


class Facts(NamedTuple):
    """What one file says: dotted names, (function, pattern), words, data folders."""

    imported: frozenset[str]
    built: frozenset[tuple[str, str]]
    words: frozenset[str]
    packaged: frozenset[str]


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


@cache
def facts(text: str, package: str) -> Facts:
    tree = ast.parse(text)
    paths = (path.replace(" / ", "/").replace('"', "") for path in re.findall(PACKAGED, text))
    return Facts(
        frozenset(names_imported(tree, package)),
        frozenset(names_built(tree)),
        frozenset(identifiers(tree)),
        frozenset(f"admodels{path}" for path in paths),
    )


class Tree:
    """The code below `root` as it stands when first asked for; paths are relative and POSIX."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._reached: dict[tuple[str, str | None], frozenset[str]] = {}

    @cached_property
    def paths(self) -> list[str]:
        """Every file, without what `.dvcignore` leaves out."""
        below = (path for name in CODE for path in sorted((self.root / name).rglob("*")))
        files = (p for p in below if p.is_file() and p.suffix != ".pyc" and p.name != "tiny.yaml")
        return [path.relative_to(self.root).as_posix() for path in files]

    @cached_property
    def modules(self) -> dict[str, str]:
        """The file of every module, by its dotted name."""
        return {
            p.removesuffix(".py").removesuffix("/__init__").replace("/", "."): p
            for p in self.paths
            if p.endswith(".py")
        }

    def files(self, path: str) -> list[str]:
        """The modules at or below `path`."""
        return [p for p in self.modules.values() if p == path or p.startswith(f"{path}/")]

    def covered(self, path: str) -> set[str]:
        """The modules at or below `path`, and the folders below it that hold other files."""
        data = [p for p in self.paths if p.startswith(f"{path}/") and not p.endswith(".py")]
        folders = {folder.as_posix() for p in data for folder in Path(p).parents}
        return {*self.files(path), *(f for f in folders if f.startswith(f"{path}/"))}

    def text(self, file: str) -> str:
        return (self.root / file).read_text(encoding="utf-8")

    def facts(self, file: str) -> Facts:
        return facts(self.text(file), ".".join(Path(file).parent.parts))

    def named(self, name: str) -> Iterator[str]:
        """The module `a.b.c` and the packages that it is in, as far as they are ours."""
        parts = name.rstrip(".").split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        yield from (self.modules[n] for n in above if n in self.modules)

    def matching(self, pattern: str, method: str | None) -> set[str]:
        """The modules that a name built at run time may mean; of methods, only `method`."""
        if method and pattern.startswith("admodels.methods."):
            pattern = pattern.replace("*", method, 1)
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\w+"))
        names = [n for n in self.modules if wanted.fullmatch(n)] or [pattern.replace("*", "")]
        return {file for name in names for file in self.named(name)}

    def reached(self, start: str, method: str | None) -> frozenset[str]:
        """The files and data folders of ours that a run of `start` may load, itself included.

        A module named at run time counts where the function that names it is mentioned.
        """
        key = (start, method)
        if key not in self._reached:
            self._reached[key] = frozenset(self._walk(start, method))
        return self._reached[key]

    def _walk(self, start: str, method: str | None) -> set[str]:
        seen: set[str] = set()
        built: set[tuple[str, str]] = set()
        words: set[str] = set()
        waiting = {start}
        while waiting:
            file = waiting.pop()
            seen.add(file)
            if file.endswith(".py"):
                known = self.facts(file)
                built |= known.built
                words |= known.words
                waiting |= known.packaged
                waiting |= {f for name in known.imported for f in self.named(name)}
            for function, pattern in built:
                if function in words:
                    waiting |= self.matching(pattern, method)
            waiting -= seen
        return seen
