"""What the ledger holds is known without its history: the end of the journal, the night's files."""

import random
import sqlite3
from pathlib import Path

import pytest

from admodels.foundation.errors import StorageError
from admodels.scoring import tables
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.index import Index
from admodels.scoring.integrity import check
from admodels.scoring.journal import Journal
from admodels.scoring.ledger import open_ledger, read_ledger
from admodels.scoring.stopping import Stop
from tests.cards import card, judge, make_bundle

FOLDERS = ("runs", "scores/press", "verdicts/press", "lists")


def judgements(path: Path, runs: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write(path, tables.JUDGEMENTS, [tables.JUDGEMENTS.empty_table()], runs)


@pytest.mark.parametrize("seed", range(5))
def test_the_catalogue_says_what_the_whole_journal_says_wherever_it_was_folded(
    tmp_path: Path, seed: int
) -> None:
    rng, journal = random.Random(seed), Journal(tmp_path)
    (tmp_path / "scores").mkdir()
    index = Index(tmp_path / "index.sqlite", journal)
    runs_of: dict[str, set[str]] = {}
    for _ in range(60):
        run = f"{rng.randrange(1, 30):06d}"
        name = rng.choice(
            [f"runs/{run}.json", f"appearance/press/{run}/0001.parquet", f"lists/{run}/press.csv"]
        )
        if rng.random() < 0.4:
            name = f"verdicts/press/2026-01-0{rng.randrange(1, 9)}/0001.parquet"
            runs_of[name] = {f"{rng.randrange(1, 30):06d}" for _ in range(3)}
            judgements(tmp_path / name, sorted(runs_of[name]))
        journal.append("write", {name: None if rng.random() < 0.3 else "0" * 64})
        if rng.random() < 0.2:
            index.close()
            index = Index(tmp_path / "index.sqlite", journal)
        hashes = journal.hashes()
        for folder in FOLDERS:
            own = sorted(known for known in hashes if known.startswith(f"{folder}/"))
            assert index.catalogue.names(folder) == own
            assert index.catalogue.knows(folder) == bool(own)
        held = {name: runs for name, runs in runs_of.items() if name in hashes}
        for run in ("000001", "000007", "000020"):
            own = sorted(name for name, runs in held.items() if run in runs)
            assert index.catalogue.judgements("press", [run]) == own
        nights = {name.split("/")[2]: runs for name, runs in held.items()}
        assert index.catalogue.runs_by_night("press") == nights
    index.close()


def test_an_index_that_another_journal_was_folded_into_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    journal = Journal(tmp_path)
    journal.append("write", {"runs/000009.json": "0" * 64})
    Index(tmp_path / "index.sqlite", journal).close()
    journal.path.unlink()
    journal.append("write", {"runs/000003.json": "0" * 64, "runs/000002.json": "1" * 64})
    index = Index(tmp_path / "index.sqlite", journal)
    assert index.catalogue.names("runs") == ["runs/000002.json", "runs/000003.json"]
    assert index.catalogue.last_run == 3
    index.close()
    journal.path.write_bytes(journal.path.read_bytes().replace(b"000003", b"000004"))
    with pytest.raises(StorageError, match=r"journal\.jsonl is not as it was written"):
        Journal(tmp_path).hashes()


def test_a_look_goes_on_after_its_check_made_the_index_anew(tmp_path: Path) -> None:
    card(tmp_path / "in/1.png", 60)
    with open_ledger(tmp_path / "ledger") as ledger:
        model = Model.of(make_bundle())
        score_line(ledger, LineImages("press", tmp_path / "in"), model, Stop())
        judge(ledger, "press", model)
    with open_ledger(tmp_path / "ledger"):
        pass  # which folds what the look has written into the index
    with sqlite3.connect(tmp_path / "ledger/index.sqlite") as base:
        base.execute("DELETE FROM judged")
    base.close()
    with open_ledger(tmp_path / "ledger") as ledger:
        assert ledger.catalogue.runs_by_night("press") == {}
        assert len(check(ledger).notes) == 1
        assert ledger.catalogue.runs_by_night("press") == {"2026-11-30": {"000001"}}
        card(tmp_path / "in/2.png", 90)
        score_line(ledger, LineImages("press", tmp_path / "in"), model, Stop())
        assert judge(ledger, "press", model).scores_count == 2


def test_a_look_opens_no_file_of_another_night_and_reads_the_end_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, opened, places = Model.of(make_bundle()), list[str](), list[int]()
    parquet_file, since = tables.parquet_file, Journal.since

    def look(number: int) -> None:
        card(tmp_path / "in" / f"{number}.png", 60 + number)
        with open_ledger(tmp_path / "ledger") as ledger:
            score_line(ledger, LineImages("press", tmp_path / "in"), model, Stop())
            ledger.compact("press")
            judge(ledger, "press", model)
            ledger.finish({"whole": True, "lines": {"press": {"exit_code": 0}}})

    for number in range(4):
        look(number)

    def noted(path: Path) -> object:
        opened.append(path.relative_to(tmp_path / "ledger").as_posix())
        return parquet_file(path)

    def noted_since(self: Journal, place: int, chain: str) -> object:
        places.append(place)
        return since(self, place, chain)

    size = (tmp_path / "ledger/journal.jsonl").stat().st_size
    with read_ledger(tmp_path / "ledger") as ledger:
        entries = list(ledger.journal.since(0, ""))
    of_last_run = [end for end, entry in entries if "runs/000003.json" in entry["files"]]
    for module in ("index", "tables"):
        monkeypatch.setattr(f"admodels.scoring.{module}.parquet_file", noted)
    monkeypatch.setattr(Journal, "since", noted_since)
    look(4)
    assert {name.split("/")[0] for name in opened} == {"scores", "verdicts"}
    names = [name for name in opened if name.startswith("scores/")]
    assert set(names) == {"scores/press/000005/0001.parquet"}
    verdicts = {name for name in opened if name.startswith("verdicts/")}
    assert verdicts <= {f"verdicts/press/2026-11-30/000{number}.parquet" for number in (4, 5)}
    assert of_last_run[0] <= min(places) <= size
