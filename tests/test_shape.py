import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from tests.imports import CODE, ROOT

# A name says what the thing is; these say only that something was there.
EMPTY_NAMES = {"found", "told", "one", "at", "part"}
# A name that ends in a participle hides whether the function acts: `padded` of what, or in place?
PARTICIPLE = re.compile(r"(?!\w*(_|^)(is|are|not|refuse|load|read)_)\w*[a-z]ed(_(out|up))?")
NOT_PARTICIPLES = {"images_needed", "speed", "seed", "need", "feed"}


@cache
def trees(*folders: str) -> dict[Path, ast.Module]:
    files = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    return {f.relative_to(ROOT): ast.parse(f.read_text(encoding="utf-8")) for f in files}


def wing(file: Path) -> str:
    return file.parts[1] if file.parts[0] == "admodels" else file.parts[0]


def names_bound(tree: ast.AST) -> Iterator[str]:
    """Every variable and parameter; an attribute or a field of a class is none."""
    fields = {
        id(statement.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) if id(node) not in fields:
                yield name
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_participle(name: str) -> bool:
    return name not in NOT_PARTICIPLES and bool(PARTICIPLE.fullmatch(name))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line, docstring included; decorators are not counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


@pytest.mark.slow
def test_no_variable_has_a_name_that_says_nothing() -> None:
    counts = Counter(
        wing(file)
        for file, tree in trees(*CODE).items()
        for name in names_bound(tree)
        if name in EMPTY_NAMES
    )
    assert counts == {}


@pytest.mark.parametrize(
    "text",
    [
        "found = 1",
        "for at in (): pass",
        "def f(one): pass",
        "def f(*, part): pass",
        "[told for told in ()]",
        "with a as found: pass",
        "a, (found, b) = c",
        "lambda one: 1",
        "(part := 1)",
        "match a:\n    case {'k': found}: pass",
        "match a:\n    case [*found]: pass",
        "try: pass\nexcept E as found: pass",
    ],
)
def test_every_way_to_bind_a_name_is_seen(text: str) -> None:
    assert len(EMPTY_NAMES & set(names_bound(ast.parse(text)))) == 1


def test_a_field_an_attribute_and_a_word_that_is_read_are_no_variables() -> None:
    text = "class A:\n    part: int\na.found = b.at\nf(found=one)"
    assert not EMPTY_NAMES & set(names_bound(ast.parse(text)))


def test_a_function_that_acts_is_a_verb() -> None:
    counts = Counter(
        wing(file)
        for file, tree in trees(*CODE).items()
        for function in functions(tree)
        if is_participle(function.name)
    )
    assert counts == {}


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        *[("_padded", True), ("maps_resized", True), ("_shared_out", True), ("_looked_up", True)],
        *[("is_settled", False), ("_refuse_shared", False), ("images_needed", False)],
        *[("load_fetched", False), ("_not_as_listed", False), ("_scales_are_ordered", False)],
        *[("expected_images", False), ("read", False), ("pad", False)],
    ],
)
def test_a_participle_is_told_from_a_verb(name: str, hides: bool) -> None:
    assert is_participle(name) is hides


def test_functions_are_short_and_files_can_be_read() -> None:
    sizes = {
        f"{file}: {function.name}": lines_of(function)
        for file, tree in trees(*CODE).items()
        for function in functions(tree)
    }
    assert len(sizes) > 500
    assert median(sizes.values()) <= 9
    assert {name: size for name, size in sizes.items() if size > 45} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("folders", "most"), [(CODE, 400), (("tests",), 500)])
def test_no_file_is_longer_than_one_sitting(folders: tuple[str, ...], most: int) -> None:
    lengths = {f: len((ROOT / f).read_text(encoding="utf-8").splitlines()) for f in trees(*folders)}
    assert len(lengths) > 5
    assert {file.as_posix(): length for file, length in lengths.items() if length > most} == {}
