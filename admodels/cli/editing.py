"""YAML edited in place: comments, order and flow style stay; a bad edit is not written."""

import shutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from admodels.cli.check import check
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import durable_file
from admodels.foundation.params import PARAMS_FILE, load

PRESETS = Path("presets")
Document = MutableMapping[str, Any]
Check = Callable[[Path, Path], object]  # of a file, and the name of it in an error


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def edit_params(
    path: Path = PARAMS_FILE, *, without: Sequence[tuple[str, str]] = ()
) -> AbstractContextManager[Document]:
    """`edit` of a params file, which must pass `admodels check`."""
    return edit(path, check, without)


@contextmanager
def edit(path: Path, check: Check, without: Sequence[tuple[str, str]] = ()) -> Iterator[Document]:
    """The document of `path` to change; written back, whole, only if it then passes `check`.

    Each (root, name) of `without` is a block that the document no longer has.

    Raises:
        ConfigurationError: unreadable, or what the edit would make of it is refused.
    """
    check(path, path)
    text = path.read_text(encoding="utf-8")
    for root, name in without:
        text = _text_without(text, root, name)
    document = _yaml().load(text)
    yield document
    with durable_file(path) as partial:
        partial.write_text(_text(document), encoding="utf-8", newline="\n")
        shutil.copymode(path, partial)
        check(partial, path)


def _text_without(text: str, root: str, name: str) -> str:
    """The text without the block `root.name`; every comment and blank line behind it stays.

    A line is cut and not a key deleted, because ruamel hangs the comments that stand before the
    next root on the last entry, and they would go with it.
    """
    document = _yaml().load(text)
    lines = text.splitlines(keepends=True)
    blocks = document[root]
    if blocks.fa.flow_style():
        del blocks[name]
        return _text(document)
    start = blocks.lc.key(name)[0]
    keys = [m.lc.key(key)[0] for m in (document, blocks) for key in m]
    end = min((line for line in keys if line > start), default=len(lines))
    while lines[end - 1].strip() == "" or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    if len(blocks) == 1:
        above = document.lc.key(root)[0]
        lines[above] = lines[above].replace(":", ": {}", 1)
    return "".join([*lines[:start], *lines[end:]])


def _text(document: Document) -> str:
    stream = StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def add(document: Document, root: str, name: str, block: Mapping[str, Any]) -> None:
    """Put `block` first under `root`; blocks inside it are written on one line.

    First, because ruamel hangs the comments that stand before the next root on the last entry.

    Raises:
        ConfigurationError: the name is taken.
    """
    if name in document[root]:
        raise ConfigurationError(
            f"{root}.{name} exists already",
            where=root,
            expected="a new name",
            next_step="choose another, or edit the block by hand",
        )
    if not document[root]:
        document[root].fa.set_block_style()
    lines = CommentedMap({key: _on_one_line(value) for key, value in block.items()})
    document[root].insert(0, name, lines)


def insert(document: Document, key: str, block: Mapping[str, Any]) -> None:
    """Put a block on one line first in `document`, for the reason that `add` gives."""
    document.insert(0, key, _on_one_line(block))  # type: ignore[attr-defined]


def _on_one_line(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    flow = CommentedMap(value)
    flow.fa.set_flow_style()
    return flow


def merge(document: Document, values: Mapping[str, Any]) -> None:
    """Set every leaf of `values` in `document`, in place: the comment of a key stays with it."""
    for key, value in values.items():
        old = document.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            old[:] = value
        else:
            document[key] = value


def preset(name: str, path: Path = PARAMS_FILE, folder: Path = PRESETS) -> None:
    """Write the blocks of `folder/name.yaml` into `path`.

    Raises:
        ConfigurationError: there is no such preset.
    """
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigurationError(
            f"no preset named `{name}`",
            where=folder,
            expected=f"one of {', '.join(known) or 'none here'}",
            next_step="run in the repository root with one of these names",
        )
    with edit_params(path) as document:
        merge(document, load(folder / f"{name}.yaml"))
