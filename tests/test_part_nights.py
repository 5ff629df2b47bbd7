"""Parts in real nights: two lines of one bundle, a look by day, the close, what people then ask."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from admodels.nights import run
from admodels.nights.alerts import Outcome, message
from admodels.nights.history import last
from admodels.nights.run import Options, nightly
from tests.plants import Clock, at, line, write_plant
from tests.test_nightly import draw, plant

__all__ = ["plant"]
LEDGER = Path("ledger")
PART = r"(?P<lot>[^/]+)/(?P<part_id>\d+)\.png"
PARTS = {"door": {"views": ["press", "weld"]}}


def look(when: str) -> dict[str, Any]:
    changes = {"part": PART, "captured": {"from": "file"}, "alpha": 0.5}
    lines = {name: line(name, **changes) for name in ("press", "weld")}
    write_plant(Path(), lines, parts=PARTS)
    return nightly(Path(), Options(0.0, clock=Clock(when)))


def at_noon(folder: Path) -> None:
    noon = at("2026-05-04 12:00").timestamp()
    for path in folder.rglob("*.png"):
        os.utime(path, (noon, noon))


def counts(summary: dict[str, Any]) -> tuple[int, int]:
    return summary["parts"]["door"]["parts"], summary["parts"]["door"]["incomplete"]


@pytest.mark.slow
def test_the_worst_part_of_a_lot_is_one_command_after_a_night_of_two_looks_and_a_crash(
    plant: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch
) -> None:
    draw(plant / "press/Los 7", 3, seed=5)
    draw(plant / "weld/Los 7", 2, seed=6)
    at_noon(plant)
    look("2026-05-04 06:05")
    draw(plant / "press/Los 8", 2, seed=7)
    by_day = look("2026-05-04 15:00")
    assert counts(by_day) == (0, 0)
    assert by_day["lines"]["press"]["without_part"] == 0
    draw(plant / "weld/Los 8", 1, seed=8)
    at_noon(plant)
    with monkeypatch.context() as context:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        context.setattr(run, "write_records", die)
        with pytest.raises(KeyboardInterrupt):
            look("2026-05-05 06:05")
    files = sorted(LEDGER.glob("parts/*/2026-05-05/*"))
    closing = look("2026-05-05 07:05")
    assert (closing["closes"], counts(closing)) == (True, (2, 1))
    assert sorted(LEDGER.glob("parts/*/2026-05-05/*")) == files != []

    code, printed, _ = cli("parts", "--lot", "Los 8", "--plant", ".", "--csv", "parts.csv")
    lines = printed.splitlines()
    assert (code, len(lines)) == (0, 3)
    assert lines[-1].startswith("2 parts of lot Los 8, ")
    assert any("part 0001 of lot Los 8" in text and "1 of 2 views" in text for text in lines)
    with Path("parts.csv").open(newline="") as file:
        assert {row["part_id"] for row in csv.DictReader(file)} == {"0000", "0001"}
    code, printed, _ = cli("verdicts", "weld", "--csv", "weld.csv", "--plant", ".")
    assert (code, printed) == (0, "9 rows are in weld.csv\n")
    assert cli("verdicts", "wled", "--csv", "no.csv", "--plant", ".")[0] == 2
    assert not Path("no.csv").exists()
    with Path("weld.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    row = rows["Los 8/0000.png"]
    assert (row["lot"], row["part_id"], row["night"]) == ("Los 8", "0000", "2026-05-05")
    assert row["captured_at"].startswith("2026-05-04 12:00:00")


@pytest.mark.slow
def test_images_without_a_part_and_of_the_future_are_alarms_of_their_line(plant: Path) -> None:
    draw(plant / "weld/Los 7", 1, seed=6)
    at_noon(plant)
    os.utime(plant / "press/0000.png", (4e9, 4e9))
    summary = look("2026-05-04 12:01")
    press, weld = summary["lines"]["press"], summary["lines"]["weld"]
    assert (press["without_part"], weld["without_part"], summary["exit_code"]) == (6, 6, 5)
    assert "6 of 7 images name no part, such as `0000.png`" in weld["told"][0]
    assert "1 images were captured later than now, such as `0000.png`" in press["told"][1]
    _, body = message(Outcome(5, last(LEDGER)), "host", "")
    assert "parts door: 1 judged" in body
