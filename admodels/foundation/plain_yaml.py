"""YAML of any content as plain values, or a refusal, in bounded time and memory.

People and programs write these files, so everything that YAML allows and parameters do not need
is refused: tags, dates, directives, recursion, and aliases that stand for far more than the file.
"""

import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

MOST_BYTES = 256 << 10  # a thousand lines of a plant take 150 KiB
MOST_NODES = 50_000  # with aliases expanded
MOST_DEPTH = 32
LONGEST_PLAIN = 1000  # characters of a value without quotes; longer texts can be quoted
LARGEST_INTEGER = 2**63
LONGEST_FAULT = 300  # characters; ruamel quotes the values that it complains of
TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "merge")}


class UnfitYAML(Exception):  # noqa: N818  becomes a ConfigurationError of its file
    """A file that is not plain YAML 1.2 values; the message names the line or the key."""


def read(path: Path) -> Any:
    """The content of a file: dicts with text keys, lists, text, int, finite float, bool, None.

    Raises:
        UnfitYAML: it is anything else, or larger than params can be.
        OSError: it cannot be read.
    """
    text = _text(path)
    try:
        for line, fault in _unfit_events(YAML(typ="safe", pure=True), text):
            raise UnfitYAML(f"line {line}: {fault}")
        content = YAML(typ="safe", pure=True).load(text)
    except ReaderError as error:
        fault = f"character {error.character!a} is not allowed"
        raise UnfitYAML(f"line {_line(text, error.position)}: {fault}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        fault = " ".join(str(error.problem or error.context).split())[:LONGEST_FAULT]
        raise UnfitYAML(f"line {mark.line + 1}: {fault}" if mark else fault) from error
    except (YAMLError, ValueError) as error:
        raise UnfitYAML(str(error)[:LONGEST_FAULT]) from error
    for key, fault in _unfit_values(content, ""):
        raise UnfitYAML(f"{key}: {fault}")
    return content


def _text(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnfitYAML("it is not a plain file")  # a FIFO would be waited for
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UnfitYAML(f"it is larger than {MOST_BYTES >> 10} KiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fault = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise UnfitYAML(f"line {line}: {fault}: save the file as UTF-8") from error


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _unfit_events(yaml: YAML, text: str) -> Iterator[tuple[int, str]]:
    """(line, fault) of what must not be constructed: ruamel recurses, and expands any alias."""
    shape = _Shape()
    for event in yaml.parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            yield line, "directives (%) are not used here"
        yield from ((line, fault) for fault in (*shape.add(event), *_unfit_node(yaml, event)))


class _Shape:
    """How deep the nodes stand and how many they are, aliases expanded."""

    def __init__(self) -> None:
        self._nodes = 0
        self._sizes: dict[str, int] = {}  # nodes below each anchor, itself included
        self._open: list[tuple[str, int]] = []  # anchors, and how many nodes came before

    def add(self, event: Any) -> Iterator[str]:
        """Count an event in; what is too much."""
        anchor = getattr(event, "anchor", None) or ""
        if isinstance(event, AliasEvent):
            if anchor not in self._sizes:
                yield f"alias `*{anchor}` stands for nothing, or for what it is a part of"
            self._nodes += self._sizes.get(anchor, 1)
        elif isinstance(event, NodeEvent):
            self._nodes += 1
            self._open.append((anchor, self._nodes - 1))
        if isinstance(event, ScalarEvent | CollectionEndEvent):
            anchor, before = self._open.pop()
            self._sizes[anchor] = self._nodes - before
        if len(self._open) > MOST_DEPTH:
            yield f"more than {MOST_DEPTH} blocks inside each other"
        if self._nodes > MOST_NODES:
            yield f"more than {MOST_NODES} values, with aliases expanded"


def _unfit_node(yaml: YAML, event: Any) -> Iterable[str]:
    if getattr(event, "tag", None) is not None:
        yield f"tags (`{event.tag}`) are not used here"
    elif isinstance(event, ScalarEvent) and event.implicit[0]:
        if len(event.value) > LONGEST_PLAIN:
            yield f"a value of {len(event.value)} characters without quotes"
        tag = str(yaml.resolver.resolve(ScalarNode, event.value, event.implicit))
        if tag not in TAGS:
            yield f"`{event.value}` is read as a {tag.split(':')[-1]}: write it in quotes"


def _unfit_values(value: object, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, fault) of values that no parameter can have."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                yield from ((key or "top level", f"key {fault}") for fault in _unfit_text(name))
            yield from _unfit_values(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        yield from ((key, fault) for fault in _unfit_text(value))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"{value} is not a finite number"
    elif isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
        yield key, "an integer of more than 64 bits"


def _unfit_text(value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"`{value}` is no text: write it in quotes"
    elif "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{value[:40]!a} holds a character that no file name can have"
