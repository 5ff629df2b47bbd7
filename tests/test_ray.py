"""The workers of a Ray cluster: the same rows, whatever becomes of them."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from admodels.foundation.errors import SourceError
from admodels.images import decode
from admodels.scoring import ray
from admodels.scoring.candidates import Candidates, rank
from admodels.scoring.discover import Status
from admodels.scoring.engine import Counts, Engine, LineImages, Model, local, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.rows import Read
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import Answer
from tests import cards, tiny

pytestmark = pytest.mark.slow  # a cluster of processes, about a minute

ROOT = Path(__file__).parents[1]
IMAGES = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Engine]:
    """A local one; two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # else Ray keeps one in the home folder
        patch.setattr(ray, "SHARD_IMAGES", 4)
        with ray.on_cluster(None, 2) as found:
            yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a folder of everything that has been seen, the ledger of an undisturbed run."""
    found = tmp_path_factory.mktemp("plant")
    cards.save_draem(found / "bundle")
    folder = cards.inbox(found)
    for at, pixels in enumerate(tiny.stripes(IMAGES, seed=3)):
        decode.write_png(folder / f"{at:02d}.png", pixels.transpose(1, 2, 0))
    for at in range(0, IMAGES, 5):
        shutil.copy(folder / f"{at:02d}.png", folder / f"copy {at}.png")
    (folder / os.fsdecode(b"no utf-8 \xff.png")).write_bytes((folder / "01.png").read_bytes())
    score(found, "local", local)
    return found


def score(place: Path, ledger: str, engine: Engine, stop: Stop | None = None) -> Counts:
    with open_ledger(place / ledger) as held:
        source = LineImages("press", place / "inbox")
        return score_line(held, source, Model.at(place / "bundle"), stop or Stop(), engine)


def table(place: Path, ledger: str) -> pd.DataFrame:
    return pd.read_parquet(place / ledger / "scores").sort_values("path").reset_index(drop=True)


def then(engine: Engine, act) -> Engine:
    """The engine; `act` is called once, when its first row is there."""

    def found(*asked) -> Iterator[Read]:
        for at, read in enumerate(engine(*asked)):
            if at == 0:
                act()
            yield read

    return found


def is_worker(process: psutil.Process) -> bool:
    try:
        return "ray::MapWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return False


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if is_worker(p)]


def test_a_worker_gives_the_rows_of_this_process(place: Path, cluster) -> None:
    counts = score(place, "one", then(replace(cluster, workers=1), workers))
    found = table(place, "one")
    assert found.equals(table(place, "local"))
    assert found["reused"].sum() == counts.reused > IMAGES // 5
    again = score(place, "one", cluster)
    assert (again.old, again.statuses.total()) == (len(found), 0)


def test_workers_make_the_pictures_of_the_audit(place: Path, cluster) -> None:
    night = "2026-11-30"
    candidates = Candidates("press", night, 5)
    with open_ledger(place / "audited") as ledger:
        source = LineImages("press", place / "inbox", candidates=candidates)
        score_line(ledger, source, Model.at(place / "bundle"), Stop(), cluster)
    scored = set(table(place, "local").query("status == 'scored'")["image_sha256"])
    drawn = sorted(scored, key=lambda sha256: rank("press", night, sha256))[:5]
    kept = {path.stem for path in (place / "audited/audit/press" / night).glob("*.webp")}
    assert set(drawn) <= kept <= scored


def test_the_rows_are_the_same_after_a_stop_and_the_death_of_a_worker(place, cluster) -> None:
    stop = Stop()
    score(place, "two", then(cluster, lambda: setattr(stop, "signal", signal.SIGTERM)), stop)
    assert 0 < len(table(place, "two")) < IMAGES
    killed = []

    def kill() -> None:
        killed.extend(workers()[:1])
        killed[0].kill()

    score(place, "two", then(cluster, kill))
    assert not killed[0].is_running()
    assert table(place, "two").equals(table(place, "local"))


def worker(place: Path, **changes: object) -> ray._Worker:
    model = Model.at(place / "bundle")
    asked = {
        "images": LineImages("press", place / "inbox"),
        "bundle": place / "bundle",
        "fingerprints": (model.model_fingerprint, model.contract_fingerprint),
        "known": np.empty(0, "S64"),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    return ray._Worker(**asked | changes)


def test_a_worker_does_not_score_what_the_ledger_knows(place: Path) -> None:
    sha256 = hashlib.sha256((place / "inbox/01.png").read_bytes()).hexdigest()
    known = np.array(sorted([sha256, "0" * 64, "f" * 64]), "S64")
    shard = {"names": [b"01.png\0" + b"02.png"]}
    (old, new), *_ = worker(place, known=known)(shard)["found"]
    assert (old.row.reused, old.row.anomaly_score, new.row.reused) == (True, 0.0, False)
    images = LineImages("press", place / "inbox")
    assert (
        ray._reconcile(old, images, "01.png", {sha256: Answer(7.0, None)}.get).row.anomaly_score
        == 7.0
    )
    unscorable = ray._reconcile(old, images, "01.png", {sha256: Answer(np.nan, None)}.get).row
    assert (unscorable.status, unscorable.anomaly_score) == (Status.UNSCORABLE, None)


def test_a_worker_with_another_bundle_is_refused(place: Path) -> None:
    (told,) = worker(place, fingerprints=("other", "bundle"))({"names": [b"01.png"]})["found"]
    assert "another bundle" in told
    (told,) = worker(place, bundle=place / "nowhere")({"names": [b"01.png"]})["found"]
    assert "no readable bundle" in told


def test_a_worker_that_does_not_see_the_images_is_refused(place: Path, tmp_path: Path) -> None:
    blind = worker(place, images=LineImages("press", tmp_path))
    ((read,),) = blind({"names": [b"01.png"]})["found"]
    assert read.row.status == Status.VANISHED
    images = LineImages("press", place / "inbox")
    with pytest.raises(SourceError, match="does not find an image"):
        ray._reconcile(read, images, "01.png", {}.get)
    assert ray._reconcile(read, images, "gone.png", {}.get) == read


def test_without_ray_the_engine_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from admodels.cli.app import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", program, "nightly", "--plant", ".", "--engine", "ray"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "pip install 'admodels[ray]'" in found.stderr
