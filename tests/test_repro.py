"""`admodels repro` in small repositories: real DVC, stages of a line of shell."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow  # every stage starts DVC

ROOT = Path(__file__).parents[1]
STAGES = """
stages:
  data:
    matrix: {task: [a, b]}
    cmd: echo ${item.task} > ${item.task}.data
    outs: ["${item.task}.data"]
  train:
    matrix: {method: [x, y], task: [a, b]}
    cmd: %s
    deps: ["${item.task}.data"]
    outs: ["${item.method}-${item.task}.model"]
  report:
    cmd: cat x-a.model x-b.model y-a.model y-b.model > report
    deps: [x-a.model, x-b.model, y-a.model, y-b.model]
    outs: [report]
"""
TRAIN = "cat ${item.task}.data > ${item.method}-${item.task}.model"
FAIL = "test ${item.method}-${item.task} != x-b || test -e corrected || exit 4; " + TRAIN


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    quiet = {"DVC_NO_ANALYTICS": "1", "ADMODELS_DEVICE": "cpu"}
    return os.environ | {"PATH": path, "PYTHONPATH": python} | quiet


def repository(folder: Path, train: str = TRAIN) -> Path:
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STAGES % train, encoding="utf-8")
    (folder / "params.yaml").write_text("train: {threads: 1}\n", encoding="utf-8")
    for words in (("git", "init", "-q"), ("dvc", "init", "-q")):
        subprocess.run(words, cwd=folder, env=environment(), check=True)
    return folder


def start(tree: Path, *words: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, cwd=tree, env=environment(), stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def run(tree: Path, *words: str) -> tuple[int, str]:
    process = start(tree, *words)
    output = process.communicate()[0]
    return process.returncode, output


def repro(tree: Path, jobs: int = 3) -> tuple[int, str]:
    return run(tree, sys.executable, "-m", "admodels.cli.app", "repro", "--jobs", str(jobs))


def test_the_lock_is_that_of_a_sequential_run_and_nothing_runs_twice(tmp_path: Path) -> None:
    alone, beside = repository(tmp_path / "alone"), repository(tmp_path / "beside")
    assert run(alone, "dvc", "repro")[0] == 0
    code, output = repro(beside)
    assert code == 0, output
    assert (beside / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    assert output.count("Running stage") == 7
    assert (beside / "report").read_text(encoding="utf-8") == "a\nb\na\nb\n"
    code, output = repro(beside)
    assert (code, "Running stage" in output, "up to date" in output) == (0, False, True)


def test_a_stage_that_fails_ends_with_its_own_code_and_the_others_stay_done(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree", FAIL)
    code, output = repro(tree)
    assert code == 4, output
    assert "where:    train@x-b; not run without it: report" in output
    assert sorted(path.name for path in tree.glob("*.model")) == [
        "x-a.model",
        "y-a.model",
        "y-b.model",
    ]
    (tree / "corrected").touch()
    code, output = repro(tree)
    assert code == 0, output
    assert set(re.findall("Running stage '(.*)'", output)) == {"train@x-b", "report"}


def test_an_interrupt_ends_every_stage_and_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree", f"touch begun; sleep 1000; {TRAIN}")
    process = start(tree, sys.executable, "-m", "admodels.cli.app", "repro", "--jobs", "2")
    while not (tree / "begun").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tree)]
    (tree / "dvc.yaml").write_text(STAGES % TRAIN, encoding="utf-8")
    assert repro(tree)[0] == 0


def test_a_repository_in_use_is_said_to_be_busy(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    hold = "from dvc.repo import Repo\nwith Repo().lock: print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        cwd=tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    code, output = repro(tree)
    holder.communicate("\n")
    assert code == 75
    assert "another DVC process is at work" in output


def test_one_core_runs_what_dvc_runs(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    code, output = repro(tree, jobs=1)
    assert code == 0
    assert "at a time" not in output
    assert (tree / "report").exists()
