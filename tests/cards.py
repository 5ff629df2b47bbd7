"""What the tests of scoring share: a folder of cards and mischief, a detector of brightness."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from admodels.bundles import bundle as bundles
from admodels.bundles.bundle import Bundle
from admodels.foundation.arrays import Records, UInt8
from admodels.images.decode import Reading
from admodels.images.describe import appearance, statistics
from admodels.methods import Detector, MethodParams, Prediction
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.judgements import JudgedRows, judge_look
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.ledger import Ledger
from admodels.scoring.single import FolderSummary, score_folder
from tests import tiny

ALPHA = 0.2
CHUNK = 4


class Brightness(Detector):
    """Scores an image by its mean; refuses another chunk than the one promised, counts images."""

    Params: ClassVar[type[MethodParams]] = MethodParams

    def __init__(self, params, *, device, precision) -> None:
        self.params, self.device, self.precision, self.chunks = params, device, precision, []

    def fit(self, data, *, kind, seed, checkpoints, log) -> None:
        """Nothing to learn."""

    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        assert images.shape == (CHUNK, 3, *self.params.shape)
        assert images.dtype == torch.uint8
        self.chunks.append(images)
        if inspected is not None:
            images = images * inspected[:, None]
        means = images.double().mean(dim=(1, 2, 3)).float()
        means[means == 255] = torch.nan  # a detector that breaks down on pure white
        return Prediction(images.float().mean(dim=1), means)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


def make_bundle(calibration: list[float] | None = None) -> Bundle:
    params = MethodParams(
        image_px=32, resize="bilinear", score_chunk_images=CHUNK, precision="fp32"
    )
    return Bundle(
        detector=Brightness(params, device=torch.device("cpu"), precision=torch.float32),
        method="brightness",
        task="grey_cards",
        kind="object",
        params=params,
        contract=bundles.contract_of(params, tiny.CONTRACT),
        calibration_scores=np.array(
            [50.0, 60, 70, 80, 90, 100, 110, 120, 130] if calibration is None else calibration
        ),
        model_fingerprint="m" * 16,
        contract_fingerprint="c" * 16,
        licence="CC0",
    )


def windowed(window: tuple[int, int]) -> Bundle:
    """A bundle of a camera of more than 8 bits."""
    bundle = make_bundle()
    reading = Reading(window=window, orientation="stored")
    learnt = bundle.contract.learnt.model_copy(update={"reading": reading})
    return replace(bundle, contract=bundle.contract.model_copy(update={"learnt": learnt}))


def deep_card(path: Path, value: int) -> Path:
    """A grey PNG of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((50, 60), value, np.uint16)).save(path)
    return path


def card(path: Path, level: int, side: int = 40, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side + 2, 3), level, np.uint8)).convert(mode).save(path)
    return path


def inbox(tmp_path: Path) -> Path:
    """A folder with every kind of file that a factory has been seen to deliver."""
    folder = tmp_path / "inbox"
    card(folder / "b.png", 100)
    card(folder / "cam1" / "a.png", 60)
    card(folder / "cam2" / "a.png", 90)
    card(folder / "Gr\u00fc\u00dfe \u65e5\u672c.jpg", 75)
    card(folder / "=cmd.png", 125)  # p = 0.2, at the budget itself
    card(folder / '+"x",\ny.png', 85)
    card(folder / "UPPER.PNG", 45)
    card(folder / "grey.png", 110, mode="L")
    card(folder / "alpha.png", 120, mode="RGBA")
    card(folder / "white.png", 255)
    Image.fromarray(np.full((8, 8), 200 * 256 + 7, np.uint16)).save(folder / "deep.png")
    shutil.copy(folder / "b.png", folder / "cam1" / "copy of b.png")
    whole = card(folder / "truncated.png", 10, side=300).read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt.png").write_bytes(b"\x00\x01 not an image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("shift 3", encoding="utf-8")
    (folder / "Thumbs.db").write_bytes(b"x")
    card(folder / "._b.png", 1)
    card(folder / ".cache" / "seen.png", 1)
    card(tmp_path / "secret" / "plan.png", 30)
    (folder / "link_out.png").symlink_to(tmp_path / "secret" / "plan.png")
    (folder / "link_dir").symlink_to(tmp_path / "secret")
    (folder / "link_in.png").symlink_to("b.png")
    (folder / "link_in_dir").symlink_to("cam1")
    (folder / "link_to_nothing.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe.png")
    return folder


EXPECTED = {
    '+"x",\ny.png': "scored",
    ".cache/seen.png": "not_an_image",
    "=cmd.png": "scored",
    "Gr\u00fc\u00dfe \u65e5\u672c.jpg": "scored",
    "UPPER.PNG": "scored",
    "alpha.png": "scored",
    "b.png": "scored",
    "cam1/a.png": "scored",
    "cam1/copy of b.png": "scored",
    "cam2/a.png": "scored",
    "corrupt.png": "undecodable",
    "deep.png": "scored",
    "empty.png": "empty",
    "grey.png": "scored",
    "link_dir": "outside_folder",
    "link_in.png": "scored",
    "link_in_dir": "not_an_image",
    "link_out.png": "outside_folder",
    "link_to_nothing.png": "vanished",
    "notes.txt": "not_an_image",
    "pipe.png": "not_an_image",
    "truncated.png": "truncated",
    "white.png": "unscorable",
}


def save_draem(
    folder: Path, calibration: int = 9, reference: bool = False, **changes: object
) -> None:
    """A bundle of a tiny DRAEM, untrained: it is the way of the numbers that is tested."""
    torch.manual_seed(2)
    save_bundle(tiny.detector("draem", **changes), folder, calibration, reference)


def save_bundle(
    detector: Detector, folder: Path, calibration: int = 9, reference: bool = False
) -> None:
    """The bundle of a DRAEM whose calibration images are stripes."""
    pixels = tiny.stripes(calibration, seed=6)
    bundles.save(
        detector,
        folder,
        origin=bundles.Origin("draem", "stripes", "texture", "CC0", {}, tiny.CONTRACT),
        calibration_scores=bundles.score(detector, pixels).anomaly_score.tolist(),
        golden=tiny.stripes(2, seed=8),
        reference=appearances(pixels.transpose(0, 2, 3, 1)) if reference else None,
    )


def appearances(rgbs: UInt8) -> Records:
    """Of (N, H, W, 3) images."""
    whole = [np.ascontiguousarray(rgb) for rgb in rgbs]
    return np.array([appearance(rgb, statistics(rgb)) for rgb in whole])


def run(
    folder: Path, out: Path, bundle: Bundle | None = None, alpha: float = ALPHA
) -> FolderSummary:
    model = Model.of(bundle or make_bundle())
    return score_folder(LineImages("press", folder), model, out, alpha=alpha, csv=True)


def table(out: Path, name: str = "scores") -> pd.DataFrame:
    return pq.read_table(out / f"{name}.parquet").to_pandas().set_index("path", drop=False)


def judge(ledger: Ledger, line: str, model: Model, alpha: float = ALPHA) -> JudgedRows:
    """What a look does after it has scored, for a line that does not drift."""
    calibration = ensure_calibration(ledger, line, model)
    return judge_look(ledger, line, "2026-11-30", alpha, calibration, drifted=())


def judged(ledger: Path) -> pd.DataFrame:
    """The first judgement on each row, by path."""
    paths = sorted(ledger.glob("verdicts/*/*/*.parquet"))
    tables = [pq.read_table(path).to_pandas() for path in paths]
    rows = pd.concat(tables) if tables else pd.DataFrame(columns=["path", "judgement"])
    return rows[rows["judgement"] == 1].set_index("path").sort_index()
