"""Bundles and ledgers of older versions: they load, score to the bit and are only added to."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from admodels.bundles import bundle as bundles
from admodels.bundles.card import read_card
from admodels.foundation.params import load
from admodels.images import decode
from admodels.inference import model
from admodels.nights.judgements import rows_of_runs
from admodels.nights.page import render
from admodels.nights.run import Options, nightly
from admodels.scoring.ledger import read_ledger
from tests import plants, tiny

OLD = Path(__file__).parent / "old"
VERSIONS = sorted(path.name for path in OLD.iterdir() if path.is_dir())
BUNDLES = sorted(path.relative_to(OLD).as_posix() for path in OLD.glob("*/models/*/*"))
WRITTEN_ONCE = ("scores", "appearance", "calibration", "runs", "drift", "lists", "verdicts")
MEASURED = ["status", "image_sha256", "width", "height", "bit_depth", "brightness", "contrast"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as when the files were made: the number may change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def expected(version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OLD / version / "expected.json").read_bytes())
    return content


def is_same_machine(version: str) -> bool:
    """Whether this CPU, torch and numpy are of the kind that the files were made with."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    here = {name.strip(): value.strip() for name, value in pairs} | {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    made_on = expected(version)["made_on"]
    return made_on == {name: here.get(name) for name in made_on}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_of_an_older_version_scores_as_it_did(name: str) -> None:
    version, _, method, _ = name.split("/")
    bundle = bundles.load(OLD / name, torch.device("cpu"))
    then = expected(version)["bundles"][method]
    assert bundle.model_fingerprint == then["model_fingerprint"]
    assert bundle.contract_fingerprint == then["contract_fingerprint"]
    images = [
        model.decode_image((OLD / version / "inbox" / path).read_bytes(), path, bundle.contract)
        for path in then["scores"]
    ]
    planes = [model.prepare_image(image.rgb, bundle.contract) for image in images]
    scored = model.score_planes(bundle, planes)
    scores = [float.fromhex(score) for score in then["scores"].values()]
    tolerance = read_card(OLD / name).golden_tolerance
    np.testing.assert_allclose(scored.anomaly_score, scores, rtol=0, atol=tolerance)
    if is_same_machine(version):
        assert scored.anomaly_score.tolist() == scores
        maps = [hashlib.sha256(np.ascontiguousarray(m).tobytes()) for m in scored.anomaly_map]
        assert [digest.hexdigest() for digest in maps] == list(then["maps"].values())


@pytest.fixture(params=VERSIONS)
def plant(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that an older version left, as the working directory."""
    copy = Path(shutil.copytree(OLD / request.param, tmp_path / request.param))
    monkeypatch.chdir(copy)
    return copy


def night(folder: Path = Path()) -> dict[str, Any]:
    lines = {
        name: {key: block[key] for key in block.keys() - {"task", "method"}}
        | {"bundle": f"{block['method']}/{block['task']}", "folder": str(Path("inbox").resolve())}
        for name, block in load(Path("lines.yaml"))["lines"].items()
    }
    plants.write_plant(folder, lines, Path("models"))
    return nightly(folder, Options(0.0, pictures=0))


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    paths = (path for name in names for path in sorted((folder / name).rglob("*")))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.is_file()}


def rows(folder: Path) -> pd.DataFrame:
    table = pd.concat(map(pd.read_parquet, sorted(folder.rglob("*.parquet"))))
    return table.set_index(["line", "path"]).sort_index()


def assert_same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Equal, whatever kind of null either has."""
    plain = [table.astype(object).where(table.notna(), None) for table in (ours, theirs)]
    pd.testing.assert_frame_equal(*plain)


@pytest.mark.slow
@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_night_on_an_older_ledger_adds_what_is_new_and_rewrites_nothing(
    plant: Path, index: str
) -> None:
    if index == "lost":
        (plant / "ledger/index.sqlite").unlink()
    before, verdicts = contents(plant / "ledger", *WRITTEN_ONCE), rows(plant / "ledger/verdicts")
    known = rows(plant / "ledger/scores")
    decode.write_png(plant / "inbox/a99.png", tiny.stripes(1, seed=77)[0].transpose(1, 2, 0))
    summary = night()
    assert summary["ledger"] == []  # all is in the journal
    after = contents(plant / "ledger", *WRITTEN_ONCE)
    assert {name: after[name] for name in before} == before
    added = rows(plant / "ledger/scores").drop(known.index)
    assert set(added.index.get_level_values("path")) == {"a99.png"}
    assert set(added["status"]) == {"scored"}
    assert len(added) == len(summary["lines"])
    for name, line in summary["lines"].items():
        assert (line["old"], line["images"]) == (len(known.loc[name]), 1), line["told"]
    judged = pd.concat(map(pd.read_parquet, (plant / "ledger/verdicts").glob("*/*/*.parquet")))
    assert set(judged["path"]) == {"a99.png"}
    assert len(judged) == len(added)
    with read_ledger(plant / "ledger") as ledger:
        for name in summary["lines"]:
            said = rows_of_runs(ledger, name, ["000001", "000002"]).to_pandas()
            said = said.set_index(["line", "path"]).sort_index()
            own = verdicts.loc[[name]]
            columns = ["alpha", "threshold", "p_value", "is_anomalous", "trusted"]
            assert_same(said[columns], own[columns])


@pytest.mark.slow
def test_the_images_of_an_older_ledger_score_the_same_into_a_new_one(plant: Path) -> None:
    night(plant / "again")
    now, then = rows(plant / "again/ledger/scores"), rows(plant / "ledger/scores")
    pd.testing.assert_frame_equal(now[MEASURED], then[MEASURED], check_exact=True)
    if is_same_machine(plant.name):
        pd.testing.assert_series_equal(now["anomaly_score"], then["anomaly_score"])
    np.testing.assert_allclose(now["anomaly_score"], then["anomaly_score"], rtol=1e-3)


@pytest.mark.slow
def test_drift_that_is_judged_again_from_an_older_ledger_is_the_same(plant: Path) -> None:
    drift = plant / "ledger/drift"
    drift.rename(plant / "then")
    shutil.rmtree(plant / "ledger/appearance/weld")  # it was calibrated after both nights
    night()
    paths = [path.relative_to(plant / "then") for path in sorted(plant.glob("then/[!w]*/*.json"))]
    assert len(paths) == 4
    for path in paths:
        now, then = (json.loads((folder / path).read_bytes()) for folder in (drift, plant / "then"))
        assert now["trusted"] == then["trusted"]
        assert now["images"] == then["images"]
        if now["compared"] < now["images"]:  # refused images are left out since
            assert set(then["statistics"]) - set(now["statistics"]) <= {"spot"}
            continue
        assert set(now["statistics"]) == {*then["statistics"], "resolution"}  # compared since
        for name, finding in then["statistics"].items():
            for key, value in finding.items():
                same = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                assert now["statistics"][name][key] == same, (name, key)


@pytest.mark.slow
def test_the_page_of_a_night_of_an_older_ledger_shows_what_was_said_then(plant: Path) -> None:
    then = pd.read_parquet(plant / "ledger/verdicts/press.parquet")
    with read_ledger(plant / "ledger") as ledger:
        for run in ("000001", "000002"):
            page = render.write(ledger, run)
            paths = {p for _, g in ledger.groups("press", run) for p in g["path"].to_pylist()}
            rows = rows_of_runs(ledger, "press", [run]).to_pandas()
            expected = then[then["path"].isin(paths)]["is_anomalous"].eq(True).sum()
            assert rows["is_anomalous"].eq(True).sum() == expected
            assert f"ledger/runs/{run}.json" in page.read_text(encoding="utf-8")
    assert not list((plant / "ledger/verdicts").glob("*/*"))
