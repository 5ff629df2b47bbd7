"""Parameters of any content are read as plain values or refused, by line or key, and soon."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels.cli.check import check
from admodels.foundation import plain_yaml
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import load
from admodels.nights.plant import read_plant

ROOT = Path(__file__).parents[1]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
SEED_LINE = 1 + SHIPPED.splitlines().index("seed: 7")


def with_seed(text: str) -> str:
    return SHIPPED.replace("seed: 7", text, 1)


HEAD = "schema: 1\ntimezone: UTC\n"


def plant_at(path: Path) -> object:
    return read_plant(path.parent)


def bomb(levels: int) -> str:
    """`lines` of 9 ** levels values."""
    first = "x0: &x0 [x, x, x, x, x, x, x, x, x]"
    others = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels)]
    return f"lines: {{{', '.join([first, *others])}}}"


HOSTILE = {
    "seed: 2026-11-30": f"line {SEED_LINE}: `2026-11-30` is read as a timestamp",
    "seed: 2026-13-45": f"line {SEED_LINE}: `2026-13-45` is read as a timestamp",
    "seed: " + "9" * 5000: f"line {SEED_LINE}: a value of 5000 characters without quotes",
    "seed: " + "9" * 500: "seed: an integer of more than 64 bits",
    "seed: " + "[" * 5000: f"line {SEED_LINE}: more than 32 blocks inside each other",
    "seed: &a [*a]": f"line {SEED_LINE}: alias `*a` stands for nothing",
    "seed: {a: [.nan]}": "seed.a.0: nan is not a finite number",
    "seed: -.inf": "seed: -inf is not a finite number",
    "seed: 1e999": "seed: inf is not a finite number",
    "seed: 7\nseed: 8": f'line {SEED_LINE + 1}: found duplicate key "seed"',
    "seed: 7\0": f"line {SEED_LINE}: character 0 is not allowed",
    'seed: "7\\0"': "seed: '7\\x00' holds a character that no file name can have",
    'seed: "\\ud800"': "seed: '\\ud800' holds a character that no file name can have",
    "seed: !!python/object/apply:os.system [ls]": f"line {SEED_LINE}: tags",
    'seed: !!int "7"': f"line {SEED_LINE}: tags",
    "seed: {1: 2}": "seed: key `1` is no text",
    "seed: {[a, b]: 2}": "seed: key `('a', 'b')` is no text",
    "seed: {{a: b}: 2}": f"line {SEED_LINE}: found unhashable key",
    "seed: ._": "could not convert string to float",
    "seed: 7\n...\n---\nseed: 8": f"line {SEED_LINE + 2}: ",
    bomb(6): f"line {SEED_LINE}: more than 50000 values, with aliases expanded",
    "seed: 7" + "\n#" * (130 << 10): "it is larger than 256 KiB",
}


@pytest.mark.parametrize(("text", "fault"), HOSTILE.items(), ids=[text[:20] for text in HOSTILE])
@pytest.mark.parametrize("read", [check, plant_at])
def test_what_no_parameter_can_be_is_refused_by_line_or_key_and_file(
    tmp_path: Path, text: str, fault: str, read
) -> None:
    path = tmp_path / ("params.yaml" if read is check else "plant.yaml")
    path.write_text(with_seed(text), encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigurationError) as refusal:
        read(path)
    assert time.process_time() - start < 2
    assert f"{path.name} cannot be read: {fault}" in str(refusal.value)
    then = "`admodels check`" if read is check else "run this again"
    assert str(refusal.value).endswith(f"next:     correct {path}, then {then}")
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_that_is_not_utf_8_is_refused_by_its_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "plant.yaml"
    path.write_bytes("lines:\n  # Pr\u00fcfung\n".encode(encoding))
    line, byte = (2, "fc") if encoding == "latin-1" else (1, "ff")
    with pytest.raises(ConfigurationError, match=f"line {line}: byte 0x{byte} is not UTF-8"):
        plant_at(path)


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "folder", tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match="it is not a plain file"):
            load(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "gone")


def test_a_fault_in_a_lines_file_names_that_file(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    block = "{folder: in, alpha: 0.1}"
    path.write_text(f"{HEAD}lines:\n  press: {block}\n  weld: {{folder: 1}}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as refusal:
        read_plant(tmp_path)
    assert "lines.weld.folder: Input should be a valid string" in str(refusal.value)
    assert "params.yaml" not in str(refusal.value)
    path.write_text(f"{HEAD}lines:\n  press: {block}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no line named `weld`"):
        read_plant(tmp_path).line("weld")
    path.write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"timezone: Field required.*\n.*{path}"):
        read_plant(tmp_path)


@pytest.mark.slow
def test_the_lines_of_a_large_plant_are_read_soon(tmp_path: Path) -> None:
    block = "{folder: /plant/inbox/camera, alpha: 0.01}"
    rows = [f"  line_{number}: {block}" for number in range(1000)]
    (tmp_path / "plant.yaml").write_text(HEAD + "\n".join(["lines:", *rows]), encoding="utf-8")
    start = time.process_time()
    assert len(read_plant(tmp_path).lines) == 1000
    assert time.process_time() - start < 5


def test_aliases_and_merged_blocks_of_a_moderate_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(
        f"{HEAD}lines:\n  press: &base {{folder: a, alpha: 0.1}}\n"
        "  weld: {<<: *base, folder: b}\n",
        encoding="utf-8",
    )
    lines = read_plant(tmp_path).lines.values()
    assert [(line.folder, line.alpha) for line in lines] == [("a", 0.1), ("b", 0.1)]


PIECES = st.sampled_from(
    [
        *"\n \t:-?,[]{}#&*!|>'\"%@`0179.eE_~<\0\ufeff\u2028\ud7ffa",
        *("\n  ", ": ", "- ", "? ", "&a ", "*a", "<<: *a", "---\n", "...\n", "%YAML 1.1\n"),
        *("!!set ", "!!binary ", "null", "yes", ".inf", "0x", "0o", "2026-01-01", "lines: "),
        *("bb: 1\n", "[[[[", "'''"),
    ]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)
EDITS = st.tuples(st.integers(0, len(SHIPPED)), st.integers(0, 20), TEXTS).map(
    lambda edit: SHIPPED[: edit[0]] + edit[2] + SHIPPED[edit[0] + edit[1] :]
)
CONTENTS = st.one_of(
    st.binary(max_size=300), TEXTS.map(str.encode), st.text(max_size=300).map(str.encode)
)


def assert_plain_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    start = time.process_time()
    with suppress(ConfigurationError):
        values = load(path)
        assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert time.process_time() - start < 2


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(content=CONTENTS)
def test_any_bytes_are_a_mapping_of_plain_values_or_refused(tmp_path_factory, content) -> None:
    assert_plain_or_refused(tmp_path_factory.getbasetemp() / "any.yaml", content)


@settings(max_examples=10, deadline=None, database=None, derandomize=True)
@given(text=EDITS)
def test_an_edit_anywhere_in_params_is_read_or_refused(tmp_path_factory, text) -> None:
    assert_plain_or_refused(tmp_path_factory.getbasetemp() / "edit.yaml", text.encode())


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(
    content=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
        max_size=5,
    )
)
def test_plain_values_come_back_as_they_are(tmp_path_factory, content) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.yaml"
    path.write_text(
        json.dumps(content, ensure_ascii=False).replace("Infinity", "1e999"), encoding="utf-8"
    )
    if any(isinstance(v, float) and not math.isfinite(v) for v in content.values()):
        with pytest.raises(plain_yaml.UnfitYAML, match="not a finite number"):
            plain_yaml.read(path)
    else:
        assert plain_yaml.read(path) == content
