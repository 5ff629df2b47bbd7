"""What stderr shows: plain lines, or for a log collector one record of JSON for each message."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

THREADS = """
import logging, sys, threading
from admodels.foundation.logs import log_as

log_as("json")
log = logging.getLogger("admodels.scoring")
sys.setswitchinterval(1e-6)
start = threading.Barrier(4)

def write(word):
    start.wait()
    for count in range(200):
        log.info("%s\\n%s %d", word, word, count)

threads = [threading.Thread(target=write, args=(word,)) for word in "abcd"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
EVERYTHING = """
import logging, warnings
from admodels.foundation import logs, progress
from admodels.foundation.errors import BusyError, run

def work():
    logs.log_as("json")
    logging.getLogger("mlflow").info("not for people")
    logging.getLogger("mlflow").warning("from a library: \u00fc")
    warnings.warn("old")
    progress.SHORT_SECONDS = 0
    list(progress.progress("ab", 2, "press"))
    raise BusyError("it is locked", where="here", expected="no lock", next_step="wait")

try:
    run(work)
except SystemExit as end:
    assert end.code == 75
1 / 0
"""


def stderr(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.stderr


def test_messages_of_several_threads_stay_apart() -> None:
    messages = [json.loads(line)["message"] for line in stderr(THREADS).splitlines()]
    expected = [f"{word}\n{word} {count}" for word in "abcd" for count in range(200)]
    assert sorted(messages) == sorted(expected)


def test_errors_progress_warnings_libraries_and_crashes_are_records_of_json() -> None:
    records = [json.loads(line) for line in stderr(EVERYTHING).splitlines()]
    library, warning, half, whole, error, crash = records
    assert library["message"] == "from a library: \u00fc"
    assert "UserWarning: old" in warning["message"]
    assert [half["message"][:10], whole["message"][:10]] == ["press: 1/2", "press: 2/2"]
    assert error["message"].startswith("BusyError: it is locked\n  where:    here\n")
    assert crash["message"].endswith("\nZeroDivisionError: division by zero")
    levels = [record["level"] for record in records]
    assert levels == ["WARNING", "WARNING", "INFO", "INFO", "ERROR", "CRITICAL"]
    ages = [datetime.now(UTC) - datetime.fromisoformat(record["time"]) for record in records]
    assert all(timedelta(0) <= age < timedelta(minutes=5) for age in ages)


@pytest.mark.parametrize("style", ["plain", "json"])
def test_a_message_of_a_crash_is_on_stderr_in_either_style(style: str) -> None:
    code = f"from admodels.foundation.logs import log_as; log_as('{style}'); 1 / 0"
    assert "ZeroDivisionError" in stderr(code)
    assert stderr(code).startswith("Traceback" if style == "plain" else '{"time"')
