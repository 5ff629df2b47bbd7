"""The loop through real nights: scored, audited, marked by a person, calibrated, judged anew."""

import csv
import shutil
from pathlib import Path

import pytest

from admodels.cli import app
from admodels.nights import audit, marks
from admodels.nights.run import Options, nightly
from admodels.scoring.candidates import picture_path
from admodels.scoring.ledger import read_ledger
from tests.plants import Clock, line, write_plant
from tests.test_nightly import draw, plant

__all__ = ["plant"]
LEDGER = Path("ledger")
LINES = {"press": line("press")}


def look(when: str) -> dict[str, object]:
    write_plant(Path(), LINES)
    return nightly(Path(), Options(0.0, clock=Clock(when)))


def day(number: int) -> str:
    """Twelve parts by day, gone by evening, and the look that closes the night; its name."""
    draw(Path("press/today"), 12, seed=100 + number)
    look(f"2026-05-{number:02d} 12:00")
    shutil.rmtree("press/today")
    closing = look(f"2026-05-{number + 1:02d} 06:05")
    assert closing["closes"]
    return str(closing["night"])


def drawn(night: str) -> list[audit.AuditImage]:
    with read_ledger(LEDGER) as ledger:
        nights = {each.night: each.drawn for each in audit.audit_nights(ledger).get("press", [])}
    return list(nights[night])


def admodels(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["admodels", *words, "--plant", "."])
    with pytest.raises(SystemExit) as end:
        raise SystemExit(app.main())
    assert not end.value.code


def mark(monkeypatch, night: str, verdicts: list[str]) -> None:
    with Path("verdicts.csv").open("w", newline="") as file:
        rows = zip(drawn(night), verdicts, strict=True)
        table = [["press", image.image_sha256, verdict, "audit", night] for image, verdict in rows]
        header = ["line", "image_sha256", "verdict", "section", "night"]
        csv.writer(file, delimiter=";").writerows([header, *table])
    admodels(monkeypatch, "feedback", "verdicts.csv")


@pytest.mark.slow
def test_audits_of_real_nights_are_marked_counted_and_calibrated_with(
    plant: Path, monkeypatch, capsys
) -> None:
    look("2026-05-04 06:05")
    first, second = day(4), day(5)
    assert (first, second) == ("2026-05-05", "2026-05-06")
    for night in (first, second):
        assert len(drawn(night)) == 5
        for image in drawn(night):
            assert picture_path(LEDGER, "press", night, image.image_sha256).is_file()
        assert len(list((LEDGER / "audit/press" / night).iterdir())) == 5
    assert 'id="audit"' in (LEDGER / "pages/000005.html").read_text(encoding="utf-8")
    mark(monkeypatch, first, ["fine", "fine", "unsure", "defect", "fine"])
    mark(monkeypatch, second, ["fine"] * 5)
    capsys.readouterr()
    admodels(monkeypatch, "promise", "press")
    out = capsys.readouterr().out
    assert "Complete audits: 2, 1 without a mark." in out  # that of the night before
    assert "of 8 fine audit images" in out
    admodels(monkeypatch, "calibrate", "press")
    assert capsys.readouterr().out == "press: 8 images, the smallest alpha is 0.111\n"
    third = day(6)
    images = drawn(third)
    assert {image.basis.calibration_images for image in images} == {8}
    mark(monkeypatch, third, ["fine"] * 5)
    with read_ledger(LEDGER) as ledger:
        before, after = marks.figures_of(ledger, ["press"])["press"]
    assert (before.nights, before.audit.images) == (2, 10)
    assert (after.nights, after.audit.images, after.basis.alpha) == (1, 5, 0.2)
