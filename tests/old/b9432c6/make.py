"""Make this folder again, with the code of commit b9432c6: see README.md. Do not port it."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from admodels import bundle as bundles
from admodels import images
from admodels.cli import app
from admodels.contract import Contract
from tests import cards, tiny

CPU = Path("/proc/cpuinfo")
RULES = Contract(
    reading=images.STORED,
    width_px=(64, 64),
    height_px=(64, 64),
    side_ratio=(1.0, 1.0),
    size_tolerance=1.25,
    ratio_tolerance=1.05,
    bit_depths=(8,),
    channels="both",
    brightness=(10.0, 245.0),
    min_contrast=2.0,
)
SMALL = {  # changes of tests/tiny.py
    "draem": {"reconstructive_width": 2, "discriminative_width": 2},
    "cpr": {"backbone": "efficientnet_lite2"},
    "diffusionad": {"image_px": 32, "channel_multipliers": [1], "segmentation_width": 2},
}
LINES = """\
lines:
  press: {folder: inbox, task: stripes, method: draem, alpha: 0.1, fdr: 0.2}
  weld: {folder: inbox, task: stripes, method: cpr, alpha: 0.1, pattern: "a*.png"}
  forge:
    {folder: inbox, task: stripes, method: draem, alpha: 0.1, tile: {tile_px: 32, overlap_px: 8}}
"""


def at_side(pixels, px):
    """(N, 3, H, W) resized as scoring does."""
    rgbs = [np.ascontiguousarray(p.transpose(1, 2, 0)) for p in pixels]
    return np.stack([images.resized(rgb, px, "bilinear").transpose(2, 0, 1) for rgb in rgbs])


def fit(method: str) -> None:
    detector = tiny.detector(method, **SMALL[method])
    px = detector.params.image_px
    data = tiny.training_data()
    if px != tiny.PX:
        held_out, masks = data.validation.images.numpy(), data.validation.masks.numpy()
        data = type(data)(
            normal=torch.from_numpy(at_side(data.normal.numpy(), px)),
            textures=torch.from_numpy(at_side(data.textures.numpy(), px)),
            validation=type(data.validation)(
                torch.from_numpy(at_side(held_out, px)), torch.from_numpy(masks[:, ::2, ::2].copy())
            ),
            foreground=None,
            assets={},
        )
    detector.fit(data, kind="texture", seed=5, checkpoints=Path("ck", method), log=lambda *_: None)
    normal = tiny.stripes(19, seed=6)
    bundles.save(
        detector,
        Path("models", method, "stripes"),
        origin=bundles.Origin(method, "stripes", "texture", "CC0", {}, RULES),
        calibration_scores=bundles.score(detector, at_side(normal, px)).anomaly_score.tolist(),
        golden=at_side(tiny.stripes(2, seed=8), px),
        reference=cards.appearances(normal.transpose(0, 2, 3, 1)),
    )


def write(folder: str, name: str, pixels) -> None:
    images.write_png(Path(folder, name), np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def command(*words: str) -> None:
    result = CliRunner().invoke(app, list(words))
    if result.exit_code not in (0, 5):
        raise SystemExit(f"{words}: {result.exit_code} {result.output}") from result.exception


def expect() -> dict:
    """Scores and hashes of maps of images by every bundle, to the bit."""
    expected = {}
    names = sorted(path.name for path in Path("inbox").glob("a[12]?.png"))
    for method in SMALL:
        loaded = bundles.load(Path("models", method, "stripes"), torch.device("cpu"))
        rgbs = [images.decoded((Path("inbox") / n).read_bytes(), n).rgb for n in names]
        planes = np.stack([rgb.transpose(2, 0, 1) for rgb in rgbs])
        scored = bundles.score(loaded.detector, at_side(planes, loaded.contract.image_px))
        expected[method] = {
            "model_fingerprint": loaded.model_fingerprint,
            "contract_fingerprint": loaded.contract_fingerprint,
            "scores": {n: float(s).hex() for n, s in zip(names, scored.anomaly_score, strict=True)},
            "maps": {
                n: hashlib.sha256(np.ascontiguousarray(m).tobytes()).hexdigest()
                for n, m in zip(names, scored.anomaly_map, strict=True)
            },
        }
    return expected


def main() -> None:
    """Fit, then two nights, a calibration and marks; at last what the bundles say."""
    torch.set_num_threads(1)
    for method in SMALL:
        fit(method)
    normal = tiny.stripes(41, seed=3)
    for number, pixels in enumerate(normal[:20]):
        write("inbox", f"a{number:02d}.png", pixels)
    for number, pixels in enumerate(tiny.stripes(10, seed=21)):
        write("approved", f"{number:02d}.png", pixels)
    Path("lines.yaml").write_text(LINES, encoding="utf-8")
    lines = ("--lines", "lines.yaml", "--ledger", "ledger")
    night = ("nightly", *lines, "--models", "models", "--settle-seconds", "0", "--pictures", "0")
    command(*night)
    defect = normal[20].copy()
    defect[:, 20:36, 24:44] = 250
    write("inbox", "a20.png", defect)
    for number, pixels in enumerate(normal[21:41], 21):  # the lamp has become weaker
        write("inbox", f"a{number:02d}.png", (pixels * 0.7).astype(np.uint8))
    shutil.copy("inbox/a00.png", "inbox/copy of a00.png")
    Path("inbox/empty.png").write_bytes(b"")
    Path("inbox/notes.txt").write_text("shift 3", encoding="utf-8")
    Path("inbox/truncated.png").write_bytes(Path("inbox/a01.png").read_bytes()[:200])
    cards.card(Path("inbox/small.png"), 100, side=30)
    Image.fromarray(np.full((64, 64), 30000, np.uint16)).save("inbox/deep.png")
    command(*night)
    command("calibrate", "weld", "approved", *lines, "--models", "models")
    Path("marks.csv").write_text("line,path,verdict\npress,a20.png,defect\npress,a00.png,fine\n")
    command("feedback", "marks.csv", *lines)
    pairs = (line.split(":", 1) for line in CPU.read_text().splitlines() if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in pairs}
    made_on = {name: cpu[name] for name in ("model name", "cpu family", "model", "stepping")}
    made_on |= {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    expected = {"made_on": made_on, "bundles": expect()}
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree("ledger/pages")  # derived, and large
    shutil.rmtree("ck")


if __name__ == "__main__":
    main()
