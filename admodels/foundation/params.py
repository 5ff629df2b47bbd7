"""params.yaml, typed and closed: the only place where a value that changes a result lives."""

import json
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from admodels.foundation import plain_yaml
from admodels.foundation.errors import ConfigurationError

T = TypeVar("T")
Kind = Literal["object", "texture"]
Resize = Literal["bilinear", "area"]

PARAMS_FILE = Path("params.yaml")
FAULTS_SHOWN = 20


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
        ConfigurationError: the file is missing, is not a YAML mapping, or holds what no parameter
            can be: a stage would fail on it hours later, or read another value than DVC.
    """
    try:
        content = plain_yaml.read(path)
    except (OSError, plain_yaml.UnfitYAML) as error:
        missing = isinstance(error, OSError)
        raise ConfigurationError(
            f"{path.name} cannot be read: {error}",
            where=path,
            expected="a YAML 1.2 mapping of plain values, as UTF-8",
            next_step=f"run in the folder that holds {path}" if missing else _correction(path),
        ) from error
    if not isinstance(content, dict):
        is_params = path.name == PARAMS_FILE.name
        raise ConfigurationError(
            f"{path.name} is not a mapping",
            where=path,
            expected=f"top-level keys such as `{'run' if is_params else 'lines'}:`",
            next_step="compare with presets/quick.yaml" if is_params else _correction(path),
        )
    return content


def _correction(path: Path) -> str:
    then = "`admodels check`" if path.name == PARAMS_FILE.name else "run this again"
    return f"correct {path}, then {then}"


def parse(value: object, model: type[T], key: str, path: Path = PARAMS_FILE) -> T:
    """`value`, the content of `key` in `path`, as `model`: JSON rules, so lists are sequences.

    Raises:
        ConfigurationError: names every offending key path.
    """
    try:
        return TypeAdapter(model).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        faults = [_fault(key, fault) for fault in error.errors()]
        more = len(faults) - FAULTS_SHOWN
        raise ConfigurationError(
            "; ".join(faults[:FAULTS_SHOWN]) + (f"; and {more} more" if more > 0 else ""),
            where=path,
            expected="only the documented keys, with their types and bounds",
            next_step=_correction(path),
        ) from None


def _fault(key: str, error: Any) -> str:
    path = ".".join(str(name) for name in (key, *error["loc"]) if name != "")
    return f"{path}: {error['msg']}"


def read(key: str, model: type[T], path: Path = PARAMS_FILE) -> T:
    """The block at a dotted `key` of `path` as `model`.

    Raises:
        ConfigurationError: the key is missing, or its content does not fit `model`.
    """
    value: Any = load(path)
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ConfigurationError(
                f"key `{key}` is missing (no `{name}`)",
                where=path,
                expected=f"a block `{key}`",
                next_step=f"add it to {path} (see presets/)",
            )
        value = value[name]
    return parse(value, model, key, path)
