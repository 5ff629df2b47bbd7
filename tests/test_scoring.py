"""Batch scoring: a row for every file, independent of its neighbours, and a verdict on it."""

import csv
import hashlib
import json
import os
import shutil
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from admodels.bundles import bundle as bundles
from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.images import decode
from admodels.inference.conformal import p_values
from admodels.scoring import tables
from admodels.scoring.discover import Status
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.folders import FixedFolder
from admodels.scoring.inbox import Folder
from admodels.scoring.ledger import open_ledger
from admodels.scoring.rows import rows
from admodels.scoring.single import FolderSummary, score_folder
from admodels.scoring.stopping import Stop
from stages import score as stage
from tests import cards, tiny
from tests.cards import ALPHA, CHUNK, EXPECTED, card, make_bundle, run, table

KEY = ["line", "path", "image_sha256", "model_fingerprint", "contract_fingerprint"]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return cards.inbox(tmp_path)


def test_every_file_gets_exactly_one_row_in_the_order_of_its_path(
    inbox: Path, tmp_path: Path
) -> None:
    summary = run(inbox, tmp_path / "out")
    found = table(tmp_path / "out")
    assert dict(zip(found["path"], found["status"], strict=True)) == EXPECTED
    assert list(found["path"]) == sorted(EXPECTED)
    assert list(table(tmp_path / "out", "verdicts")["path"]) == sorted(EXPECTED)
    assert summary.found == len(EXPECTED)
    assert {k: v for k, v in summary.statuses.items() if v} == Counter(EXPECTED.values())
    assert set(summary.statuses) == set(Status)


def test_a_row_says_why_its_file_was_not_scored(inbox: Path, tmp_path: Path) -> None:
    run(inbox, tmp_path / "out")
    found = table(tmp_path / "out")
    unscored = found[found["status"] != "scored"]
    assert (unscored["reason"] != "").all()
    assert (found.loc[found["status"] == "scored", "reason"] == "").all()
    assert unscored["anomaly_score"].isna().all()
    assert not unscored["reused"].any()
    read = unscored[unscored["image_sha256"] != ""]
    assert set(read["path"]) == {"corrupt.png", "empty.png", "truncated.png", "white.png"}
    assert found.loc["empty.png", "image_sha256"] == hashlib.sha256(b"").hexdigest()


def test_a_row_describes_its_image(inbox: Path, tmp_path: Path) -> None:
    run(inbox, tmp_path / "out")
    found = table(tmp_path / "out")
    b = found.loc["b.png"]
    assert b["image_sha256"] == hashlib.sha256((inbox / "b.png").read_bytes()).hexdigest()
    assert (b["width"], b["height"], b["bit_depth"]) == (42, 40, 8)
    assert (b["brightness"], b["contrast"], b["sharpness"]) == (100.0, 0.0, 0.0)
    assert (b["line"], b["method"], b["task"]) == ("press", "brightness", "grey_cards")
    assert (b["model_fingerprint"], b["contract_fingerprint"]) == ("m" * 16, "c" * 16)
    assert found.loc["deep.png", "bit_depth"] == 16
    scores = found["anomaly_score"]
    levels = {"b.png": 100, "deep.png": 200, "grey.png": 110, "alpha.png": 120, "=cmd.png": 125}
    assert {name: scores[name] for name in levels} == levels


def test_the_columns_are_those_of_the_architecture(inbox: Path, tmp_path: Path) -> None:
    run(inbox, tmp_path / "out")
    scores = pq.read_schema(tmp_path / "out" / "scores.parquet")
    verdicts = pq.read_schema(tmp_path / "out" / "verdicts.parquet")
    columns = (
        "method task status reason anomaly_score reused width height bit_depth brightness contrast"
        " sharpness part_id lot station captured_at map_max"
    )
    assert scores.names == KEY + columns.split()
    columns = "alpha threshold p_value is_anomalous trusted overlay_path"
    assert verdicts.names == KEY + columns.split()
    assert scores.equals(tables.SCORES)
    assert verdicts.equals(tables.VERDICTS)
    assert not any(schema.field(name).nullable for schema in (scores, verdicts) for name in KEY)


def test_the_same_bytes_are_scored_once(inbox: Path, tmp_path: Path) -> None:
    bundle = make_bundle()
    summary = run(inbox, tmp_path / "out", bundle)
    found = table(tmp_path / "out")
    assert list(found.index[found["reused"]]) == ["cam1/copy of b.png", "link_in.png"]
    assert found.loc["cam1/copy of b.png", "anomaly_score"] == 100
    assert found.loc["cam1/copy of b.png", "brightness"] == 100
    assert summary.reused == 2
    distinct = {
        hashlib.sha256(c.numpy().tobytes()).digest() for b in bundle.detector.chunks for c in b
    }
    assert len(distinct) == 11  # scored twelve names and a white card, less two copies
    assert len(bundle.detector.chunks) == 3


def test_bytes_known_from_an_earlier_run_are_not_scored_again(inbox: Path) -> None:
    bundle = make_bundle()
    known = {hashlib.sha256((inbox / "b.png").read_bytes()).hexdigest(): tables.Answer(0.125, 0.5)}
    found = list(rows(Folder(inbox), ["b.png", "cam1/a.png"], bundle, "press", known.get))
    seen = [(r.row.anomaly_score, r.row.map_max, r.row.reused) for r in found]
    assert seen == [(0.125, 0.5, True), (60.0, 60.0, False)]


def test_a_copy_that_comes_in_a_later_chunk_is_reused(tmp_path: Path) -> None:
    for at in range(CHUNK + 1):
        card(tmp_path / "in" / f"{at}.png", 40 + at)
    shutil.copy(tmp_path / "in" / "0.png", tmp_path / "in" / "9.png")
    run(tmp_path / "in", tmp_path / "out")
    found = table(tmp_path / "out")
    assert list(found["reused"]) == [False] * (CHUNK + 1) + [True]
    assert found["anomaly_score"].iloc[-1] == 40


def test_bad_files_and_neighbours_do_not_change_a_score(inbox: Path, tmp_path: Path) -> None:
    good = [name for name, status in EXPECTED.items() if status == "scored"]
    for name in good:
        (tmp_path / "good" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(inbox / name, tmp_path / "good" / name)
    run(inbox, tmp_path / "mixed_out")
    run(tmp_path / "good", tmp_path / "good_out")
    mixed = table(tmp_path / "mixed_out").loc[sorted(good)]
    pd.testing.assert_frame_equal(mixed, table(tmp_path / "good_out"), check_dtype=False)
    for name in good:
        (alone,) = rows(Folder(inbox), [name], make_bundle(), "press", {}.get)
        assert alone.row.anomaly_score == mixed.loc[name, "anomaly_score"]


def test_many_unscorable_files_do_not_wait_for_a_chunk_to_fill(tmp_path: Path) -> None:
    first = card(tmp_path / "0.png", 50)
    names = iter([first.name] + ["gone.png"] * 3000)
    found = rows(Folder(tmp_path), names, make_bundle(), "press", {}.get)
    assert next(found).row.anomaly_score == 50
    assert len(list(names)) > 1500  # not all were read before the first row came
    assert {r.row.status for r in found} == {"vanished"}


def test_a_rerun_gives_the_same_bytes(inbox: Path, tmp_path: Path) -> None:
    run(inbox, tmp_path / "one")
    shutil.move(inbox, tmp_path / "moved")
    run(tmp_path / "moved", tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    kinds = ("csv", "parquet")
    tables_of = [f"{name}.{kind}" for name in ("regions", "scores", "verdicts") for kind in kinds]
    assert names == sorted([*tables_of, "summary.json"])
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_p_values_and_verdicts_are_those_of_the_calibration_scores(
    inbox: Path, tmp_path: Path
) -> None:
    bundle = make_bundle()
    summary = run(inbox, tmp_path / "out", bundle)
    scores, verdicts = table(tmp_path / "out"), table(tmp_path / "out", "verdicts")
    assert scores[KEY].equals(verdicts[KEY])
    calibration = bundle.calibration_scores.tolist()
    flagged = 0
    for path, score in scores["anomaly_score"].items():
        verdict = verdicts.loc[path]
        assert verdict["alpha"] == ALPHA
        assert verdict["overlay_path"] == ""
        assert verdict["trusted"] == (EXPECTED[path] == "scored")
        if np.isnan(score):
            assert pd.isna(verdict["p_value"])
            assert verdict["is_anomalous"] is None
            continue
        p_value = (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)
        assert verdict["p_value"] == p_value
        assert verdict["is_anomalous"] == (p_value <= ALPHA) == (score > verdict["threshold"])
        flagged += p_value <= ALPHA
    assert summary.flagged == flagged == 2  # deep.png and =cmd.png; alpha.png has p = 0.3
    assert summary.threshold == 120
    assert summary.images_missing == 0


def test_a_budget_that_cannot_be_held_gives_p_values_and_no_verdict(
    inbox: Path, tmp_path: Path
) -> None:
    summary = run(inbox, tmp_path / "out", alpha=0.01)
    verdicts = table(tmp_path / "out", "verdicts")
    assert verdicts["is_anomalous"].isna().all()
    assert verdicts["threshold"].isna().all()
    assert verdicts.loc["deep.png", "p_value"] == 0.1
    assert (summary.flagged, summary.threshold) == (None, None)
    assert (summary.smallest_alpha, summary.calibration_images) == (0.1, 9)
    assert summary.images_missing == 90
    assert "90 more normal images" in str(summary)


def test_the_summary_on_disk_is_what_is_returned(inbox: Path, tmp_path: Path) -> None:
    summary = run(inbox, tmp_path / "out")
    on_disk = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert FolderSummary(**on_disk) == summary
    assert str(summary).startswith("press: 23 files (12 scored, 1 empty,")


def test_csv_holds_the_same_rows_with_every_name_unaltered(inbox: Path, tmp_path: Path) -> None:
    run(inbox, tmp_path / "out")
    raw = (tmp_path / "out" / "scores.csv").read_bytes()
    assert b'\n"press","=cmd.png","' in raw
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    parquet = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert [row["path"] for row in read] == sorted(EXPECTED)
    for text, row in zip(read, parquet, strict=True):
        assert text["image_sha256"] == row["image_sha256"]
        for name in ("anomaly_score", "brightness", "width"):
            assert (float(text[name]) if text[name] else None) == row[name]


def test_an_empty_folder_is_no_error_and_gives_tables_without_rows(tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    summary = run(tmp_path / "in", tmp_path / "out")
    assert (summary.found, summary.flagged) == (0, 0)
    assert pq.read_table(tmp_path / "out" / "scores.parquet").schema.equals(tables.SCORES)
    assert pq.read_table(tmp_path / "out" / "verdicts.parquet").num_rows == 0
    assert len((tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_that_is_none_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "no_such").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no_such"):
        run(tmp_path / "no_such", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8_get_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    card(folder / "x.png", 70).rename(folder / os.fsdecode(b"\xff\xe9.png"))
    run(folder, tmp_path / "out")
    found = table(tmp_path / "out")
    assert list(found["path"]) == ["\\xff\\xe9.png"]
    assert found["anomaly_score"].tolist() == [70.0]


@pytest.mark.parametrize("letter", ["x", "\u65e5"])
def test_names_as_long_as_a_file_system_takes_get_a_row(tmp_path: Path, letter: str) -> None:
    name = letter * (251 // len(letter.encode())) + ".png"
    deep = Path(*["folder" * 30] * 8)
    card(tmp_path / "in" / name, 70)
    card(tmp_path / "in" / deep / name, 80)
    run(tmp_path / "in", tmp_path / "out")
    found = table(tmp_path / "out")["anomaly_score"].to_dict()
    assert found == {name: 70.0, (deep / name).as_posix(): 80.0}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    card(folder / "a.png", 70)
    (folder / "again").symlink_to(".")
    (folder / "self.png").symlink_to("self.png")
    run(folder, tmp_path / "out")
    statuses = table(tmp_path / "out")["status"].to_dict()
    assert statuses == {"a.png": "scored", "again": "not_an_image", "self.png": "unreadable"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_gets_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    card(folder / "closed" / "a.png", 70)
    card(folder / "b.png", 70).chmod(0)
    (folder / "closed").chmod(0)
    try:
        run(folder, tmp_path / "out")
    finally:
        (folder / "closed").chmod(stat.S_IRWXU)
    statuses = table(tmp_path / "out")["status"].to_dict()
    assert statuses == {"b.png": "unreadable", "closed": "unreadable"}


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    side = int(decode.LARGEST_PIXELS**0.5) + 1
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("1", (side, side)).save(folder / "bomb.png")
    run(folder, tmp_path / "out")
    assert table(tmp_path / "out")["status"].tolist() == ["too_large"]


def test_a_file_with_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with (folder / "huge.tif").open("wb") as stream:
        stream.truncate(8 * decode.LARGEST_PIXELS + 1)  # sparse: no bytes on the disk
    run(folder, tmp_path / "out")
    (row,) = table(tmp_path / "out").to_dict("records")
    assert (row["status"], row["image_sha256"]) == ("too_large", "")


@pytest.mark.parametrize("out", ["inbox/out", "inbox", "notes", "busy"])
def test_an_output_folder_that_is_not_ours_is_refused(tmp_path: Path, out: str) -> None:
    card(tmp_path / "inbox" / "a.png", 70)
    card(tmp_path / "busy" / "holiday.png", 70)
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match="another output folder"):
        run(tmp_path / "inbox", tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_results_replace_those_of_an_earlier_scoring_whole(tmp_path: Path) -> None:
    card(tmp_path / "in" / "a.png", 70)
    run(tmp_path / "in", tmp_path / "out")
    source = LineImages("press", tmp_path / "in")
    score_folder(source, Model.of(make_bundle()), tmp_path / "out", alpha=ALPHA)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables_of = ("scores", "verdicts", "regions")
    assert names == {*(f"{name}.parquet" for name in tables_of), "summary.json"}


def test_a_run_that_fails_leaves_the_earlier_results(tmp_path: Path) -> None:
    card(tmp_path / "in" / "a.png", 70)
    run(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "scores.parquet").read_bytes()
    card(tmp_path / "in" / "b.png", 80)
    broken = make_bundle()
    broken.detector.score = None
    with pytest.raises(TypeError):
        run(tmp_path / "in", tmp_path / "out", broken)
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == before
    killed = tmp_path / ".out.partial"
    killed.mkdir()
    (killed / "half_written").write_text("", encoding="utf-8")
    run(tmp_path / "in", tmp_path / "out")
    assert len(table(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "half_written").exists()


def test_a_run_goes_on_where_a_killed_one_stopped_with_the_files_of_now(tmp_path: Path) -> None:
    source = LineImages("press", tmp_path / "in")
    for at in range(6):
        card(tmp_path / "in" / f"{at}.png", 70 + at)
    with open_ledger(tmp_path / ".out.ledger") as ledger:
        score_line(ledger, source, Model.of(make_bundle()), Stop())
    (tmp_path / "in" / "0.png").unlink()
    card(tmp_path / "in" / "1.png", 90)
    card(tmp_path / "in" / "00.png", 91)
    bundle = make_bundle()
    run(tmp_path / "in", tmp_path / "out", bundle)
    assert len(bundle.detector.chunks) == 1
    found = table(tmp_path / "out")["anomaly_score"].to_dict()
    late = {f"{at}.png": 70 + at for at in range(2, 6)}
    assert found == {"00.png": 91, "1.png": 90} | late
    assert list(found) == sorted(found)
    assert not (tmp_path / ".out.ledger").exists()


def test_an_output_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    card(tmp_path / "in" / "a.png", 70)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="file") as caught:
        run(tmp_path / "in", tmp_path / "file" / "out")
    told = StorageError.of(caught.value)  # as the command and the stage tell it
    assert f"{tmp_path}/file/.out.ledger" in str(told)


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_an_alpha_that_is_no_rate_is_refused(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="alpha is"):
        run(tmp_path, tmp_path / "out", alpha=alpha)


def test_a_table_of_several_groups_is_one_table(tmp_path: Path, monkeypatch) -> None:
    for at in range(5):
        card(tmp_path / "in" / f"{at}.png", 100 + 10 * at)
    run(tmp_path / "in", tmp_path / "one")
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 2)
    summary = run(tmp_path / "in", tmp_path / "many")
    assert pq.ParquetFile(tmp_path / "many" / "scores.parquet").num_row_groups == 3
    for name in ("scores.csv", "verdicts.csv", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert (summary.found, summary.flagged) == (5, 2)


@pytest.fixture(scope="module")
def draem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "draem" / "stripes"
    cards.save_draem(folder)
    return folder


@pytest.mark.slow
def test_the_stage_and_the_command_write_the_same_tables(
    draem: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(draem, tmp_path / "data/models/draem/stripes")
    for at, pixels in enumerate(tiny.stripes(6, seed=3)):
        decode.write_png(tmp_path / "inbox" / f"{at}.png", pixels.transpose(1, 2, 0))
    (tmp_path / "inbox" / "bad.png").write_bytes(b"bad")
    (tmp_path / "params.yaml").write_text(
        "folders:\n  press: {folder: inbox, task: stripes, method: draem, alpha: 0.2}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    stage.main("press")
    score_folder(LineImages("press", Path("inbox")), Model.at(draem), Path("out"), alpha=0.2)
    for name in ("scores.parquet", "verdicts.parquet", "summary.json"):
        written = (tmp_path / "data/scores/press" / name).read_bytes()
        assert written == (tmp_path / "out" / name).read_bytes()

    bundle = bundles.load(draem, torch.device("cpu"))
    expected = bundles.score(bundle.detector, tiny.stripes(6, seed=3)).anomaly_score
    found = table(tmp_path / "out")
    assert found["anomaly_score"].iloc[:6].tolist() == expected.tolist()
    assert found["status"].tolist() == ["scored"] * 6 + ["undecodable"]
    p = table(tmp_path / "out", "verdicts")["p_value"].iloc[:6].to_numpy(float)
    np.testing.assert_array_equal(p, p_values(expected, bundle.calibration_scores))


@pytest.mark.parametrize("alpha", [0, 1, 1.5])
def test_a_folder_with_an_impossible_budget_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        FixedFolder(folder="a", task="b", method="c", alpha=alpha)
