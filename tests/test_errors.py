"""One table of exit codes, and advice that fits what the operating system complained of."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from admodels.foundation import errors
from admodels.foundation.errors import EXIT_CODES, AdmodelsError, StorageError, meaning

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["README.md", "deploy/RUNBOOK.md"])
def test_readme_and_runbook_hold_the_table_that_the_command_prints(name: str) -> None:
    words = [sys.executable, "-m", "admodels.cli.app", "codes"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count(printed) == 1
    assert text.count("| code |") == 1


def test_every_error_ends_with_a_code_of_the_table() -> None:
    classes = [kind for kind in AdmodelsError.__subclasses__() if kind is not errors.Interrupted]
    codes = {kind.exit_code for kind in classes}
    assert len(codes) == len(classes) == 6
    assert {0, errors.BUG, errors.ALARM} | codes == set(EXIT_CODES)
    assert meaning(errors.Interrupted(15, "here").exit_code) == (
        "stopped by signal 15",
        "run it again: it goes on where it stopped",
    )
    assert "memory" in meaning(137)[1]
    assert meaning(99) == EXIT_CODES[1]


def test_a_cluster_tries_again_only_where_that_can_help() -> None:
    text = (ROOT / "deploy/kubernetes/admodels-nightly.yaml").read_text(encoding="utf-8")
    policy = YAML(typ="safe").load(text)["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]
    final = policy["rules"][0]["onExitCodes"]["values"]
    assert set(final) == set(EXIT_CODES) - {0, errors.BUG, 69, 74, 75}


def complaint(work) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011  its number is the point
        work()
    return str(StorageError.of(caught.value))


def test_a_missing_program_is_not_a_lack_of_room() -> None:
    for program in ("no-such-program", "/nowhere/program"):
        text = complaint(lambda program=program: subprocess.run([program], check=False))
        assert f"where:    {program}\n" in text
        assert "install it or correct PATH" in text
        assert "make room" not in text


def too_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        os.open("/dev/null", os.O_RDONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


FULL = Path("/dev/full")


@pytest.mark.parametrize(
    ("work", "step"),
    [
        (lambda place: (place / "gone").read_bytes(), "create or restore it"),
        (lambda place: place.read_bytes(), "move away what stands there"),
        (lambda place: place.mkdir(), "move away what stands there"),
        (lambda place: (place / ("x" * 300)).touch(), "shorten the name"),
        (lambda _: FULL.write_bytes(b"x"), "make room"),
        (lambda _: too_many_open_files(), "ulimit -n"),
    ],
)
def test_each_complaint_of_the_system_has_its_own_next_step(tmp_path: Path, work, step) -> None:
    text = complaint(lambda: work(tmp_path))
    assert step in text
    assert text.count("next: ") == 1


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.EACCES, "permissions"),
        (errno.EROFS, "mount it writable"),
        (errno.EDQUOT, "make room"),
        (errno.EIO, "check the disk"),
        (errno.EXDEV, "correct what is named"),
    ],
)
def test_complaints_that_a_test_cannot_provoke_have_theirs(number: int, step: str) -> None:
    error = OSError(number, os.strerror(number), "place")
    assert step in str(StorageError.of(error))
    assert "where:    place\n" in str(StorageError.of(error))
