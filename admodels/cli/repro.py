"""`admodels repro`: the stages of `dvc repro`, independent ones side by side.

`dvc repro` runs one stage at a time. This walks DVC's own graph and gives each stage that can run a
`dvc repro --single-item` of its own, then lets one plain `dvc repro` look over everything. The
results and dvc.lock are those of a plain `dvc repro`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import psutil
import typer

from admodels.foundation import cores, params
from admodels.foundation.errors import BUG, AdmodelsError, BusyError, Interrupted
from admodels.methods import Train
from admodels.scoring.stopping import Stop, on_signals

GPUS = ("nvidia[0-9]*", "dxg")  # device files
STAGE_BYTES = 2 << 30  # of memory; see `peak_mib` in reports/cost.json
DVC_SAYS_AT_THE_END = (
    *("Updating lock file", "Generating lock file", "To track the changes", "git add"),
    *("To enable auto staging", "dvc config core.autostage", "Use `dvc push`"),
)
LAST_LINES = 50  # that the exit code of a stage is looked for in
SECONDS_TO_END = 20.0  # of a stage that was asked to
Needs = Mapping[str, set[str]]


def repro(jobs: int | None) -> None:
    """Bring everything up to date, with at most `jobs` stages at a time.

    Raises:
        AdmodelsError: a stage failed; its exit code is that of the stage.
        BusyError: another DVC process is at work.
        Interrupted: a signal asked for the end.
    """
    jobs = jobs or free_slots()
    if jobs > 1:
        before, needs = _plan()
        if len(needs) > 1:
            typer.echo(f"{len(needs)} stages to look at, at most {jobs} at a time")
            with on_signals() as stop:
                _Stages(needs, stop).run(jobs)
            _order_lock(before, list(needs))
    code = subprocess.run(["dvc", "repro"], check=False).returncode
    if code:
        sys.exit(code)


def free_slots() -> int:
    """How many trainings this machine has room for: one on a GPU, whose memory is not shared."""
    on_cpu = os.environ.get("ADMODELS_DEVICE") == "cpu"
    if not on_cpu and any(any(Path("/dev").glob(name)) for name in GPUS):
        return 1
    threads = params.read("train", Train).threads
    memory = int(psutil.virtual_memory().available // STAGE_BYTES)
    return max(1, min(cores.free() // threads, memory))


def _plan() -> tuple[list[str], Needs]:
    """The stages in dvc.lock, and those that may have to run, each with those it waits for.

    In the order of `dvc repro`: a stage that changed, and all that follow from one.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.utils.serialize import load_yaml

    try:
        with Repo() as repo:
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, ["dvc.yaml"]))
            changed = repo.status()
            lock = Path(repo.root_dir, "dvc.lock")
            locked = list(load_yaml(lock).get("stages", ())) if lock.is_file() else []
    except LockError as error:
        raise BusyError(
            "another DVC process is at work in this repository",
            where=".dvc/tmp/lock",
            expected="no other `dvc` command",
            next_step="wait for its end, then run again",
        ) from error
    needs: dict[str, set[str]] = {}
    for stage in order:
        waits_for = {above.addressing for above in graph.successors(stage)} & needs.keys()
        if waits_for or stage.addressing in changed:
            needs[stage.addressing] = waits_for
    return locked, needs


def _order_lock(before: list[str], order: list[str]) -> None:
    """Put the new stages of dvc.lock into the order in which `dvc repro` would have added them."""
    from dvc.repo import Repo
    from dvc.utils.serialize import modify_yaml

    with Repo() as repo, repo.lock, modify_yaml(Path(repo.root_dir, "dvc.lock")) as content:
        stages = content["stages"]
        for name in order:
            if name in stages and name not in before:
                stages[name] = stages.pop(name)


class _Stages:
    """Stages on their way, each in a process of its own."""

    def __init__(self, needs: Needs, stop: Stop) -> None:
        self._waiting, self._stop = {name: set(above) for name, above in needs.items()}, stop
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._failed: dict[str, int] = {}
        self._skipped: list[str] = []

    def run(self, jobs: int) -> None:
        """Run every stage once those that it needs are done; those of a failed one are left."""
        running: dict[Future[int], str] = {}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                while running or (self._waiting and not self._stop()):
                    for name in self._next(jobs - len(running)):
                        running[pool.submit(self._run, name)] = name
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._settle(running.pop(future), future.result())
                    if self._stop():
                        self._end()
            finally:
                self._signal(signal.SIGKILL)
        if self._stop():
            raise Interrupted(self._stop.signal, "`admodels repro`")
        if self._failed:
            raise _failure(self._failed, self._skipped)

    def _next(self, free: int) -> list[str]:
        """Take the stages to start from those that wait."""
        ready = [name for name, above in self._waiting.items() if not above]
        names = [] if self._stop() else ready[:free]
        for name in names:
            del self._waiting[name]
        return names

    def _settle(self, name: str, code: int) -> None:
        for above in self._waiting.values():
            if not code:
                above.discard(name)
        if code and not self._stop():
            self._failed[name] = code
            lost = {name}
            for other, above in list(self._waiting.items()):
                if above & lost:
                    lost.add(other)
                    self._skipped.append(other)
                    del self._waiting[other]

    def _run(self, name: str) -> int:
        """Run one stage and show what it says; 0, or why it failed as an exit code."""
        start, words = time.monotonic(), ["dvc", "--wait-for-lock", "repro", "--single-item", name]
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        last: deque[str] = deque(maxlen=LAST_LINES)
        with process:
            self._processes[name] = process
            for line in process.stdout or ():
                last.append(line)
                said = line.strip()
                if said and not said.startswith(DVC_SAYS_AT_THE_END) and not self._stop():
                    typer.echo(f"{name}: {line.rstrip()}", err=True)
        if process.returncode:
            return _exit_code("".join(last))
        typer.echo(f"{name}: done after {time.monotonic() - start:.0f} s", err=True)
        return 0

    def _end(self) -> None:
        """Ask every stage to end, and DVC to clean up after it; later make them end."""
        self._signal(signal.SIGINT)
        deadline = time.monotonic() + SECONDS_TO_END
        for process in list(self._processes.values()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Send a signal to the processes of every stage that has not ended."""
        for process in list(self._processes.values()):
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


def _exit_code(text: str) -> int:
    """Why a stage failed, by what DVC says of it."""
    code = re.search(r"exited with (\d+)", text)
    if code:
        return int(code[1])
    return BusyError.exit_code if "it is being blocked by" in text else BUG


def _failure(failed: Mapping[str, int], skipped: list[str]) -> AdmodelsError:
    without = f"; not run without it: {', '.join(skipped)}" if skipped else ""
    error = AdmodelsError(
        f"{len(failed)} stage{'s' * (len(failed) > 1)} failed; the others are done",
        where=", ".join(failed) + without,
        expected="every stage to end with 0",
        next_step="correct what its lines above name, then run again: what is done stays done",
    )
    error.exit_code = next(iter(failed.values()))
    return error
