"""params.yaml, typed and closed: the only place where a value that changes a result lives."""

import json
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from admodels.foundation.errors import ConfigurationError

T = TypeVar("T")
Kind = Literal["object", "texture"]
Resize = Literal["bilinear", "area"]

PARAMS_FILE = Path("params.yaml")


class Strict(BaseModel):
    """A block of params.yaml: unknown keys, wrong types and later changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PerKind(Strict, Generic[T]):
    """A value that objects and textures do not share."""

    object: T
    texture: T

    def of(self, kind: Kind) -> T:
        """The value of one kind."""
        return self.object if kind == "object" else self.texture


class Run(Strict):
    """Which cells exist: every method is trained on every task."""

    methods: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)


def load(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The whole file as plain values, read as YAML 1.2 (what DVC reads).

    Raises:
        ConfigurationError: the file is missing or not a YAML mapping.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ConfigurationError(
            f"params cannot be read: {error}",
            where=path,
            expected="a YAML 1.2 mapping",
            next_step="run in the repository root, or `git checkout params.yaml`",
        ) from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            "params are not a mapping",
            where=path,
            expected="top-level keys such as `run:`",
            next_step="compare with presets/quick.yaml",
        )
    return content


def parse(value: object, model: type[T], where: str) -> T:
    """`value` (plain YAML) as `model`, strictly: JSON rules, so lists are sequences and no more.

    Raises:
        ConfigurationError: names every offending key path.
    """
    try:
        return TypeAdapter(model).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(_complaint(where, e) for e in error.errors()),
            where=where,
            expected="only the documented keys, with their types and bounds",
            next_step="mend params.yaml, then `admodels check`",
        ) from None


def _complaint(where: str, error: Any) -> str:
    path = ".".join(str(part) for part in (where, *error["loc"]) if part != "")
    return f"{path}: {error['msg']}"


def read(key: str, model: type[T], path: Path = PARAMS_FILE) -> T:
    """The block at a dotted `key` of params.yaml as `model`.

    Raises:
        ConfigurationError: the key is missing, or its content does not fit `model`.
    """
    value: Any = load(path)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ConfigurationError(
                f"params key `{key}` is missing (no `{part}`)",
                where=path,
                expected=f"a block `{key}`",
                next_step="add it (see presets/), then `admodels check`",
            )
        value = value[part]
    return parse(value, model, key)
