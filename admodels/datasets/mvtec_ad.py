"""The layout of MVTec AD (Bergmann et al., CVPR 2019), which many other datasets share.

train/good/*                            normal, to learn from
calibration/good/*                      normal, to calibrate with (our extension, optional)
test/good/*                             normal
test/<defect>/<name>.*                  anomalous
ground_truth/<defect>/<name>_mask.*     its mask; the whole folder may be absent
"""

from pathlib import Path

from admodels.datasets import Official, anomalous, base_of, folders_in, normal
from admodels.foundation.manifest import DatasetImage, Part

PARTS: dict[str, Part] = {"train": "learn", "calibration": "calibration", "test": "test"}
OFFICIAL = Official(
    page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    licence="CC BY-NC-SA 4.0",  # license.txt of the release
    urls=(  # 5,264,982,680 bytes; the hash is that of anomalib and of others who downloaded it
        "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f282"
        "/download/420938113-1629952094/mvtec_anomaly_detection.tar.xz",
        "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27"
        "/download/420938113-1629960298/mvtec_anomaly_detection.tar.xz",
    ),
    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
)


def find_images(
    root: Path, category: str, endings: tuple[str, ...] = ("_mask",)
) -> list[DatasetImage]:
    """The images below `root`/`category`, or below `root` where it is the category itself.

    A mask is called like its image plus one of `endings`. Anomalous images outside test stay as
    they are, and validation refuses them by name.
    """
    base = base_of(root, category)
    images = []
    for name, use in PARTS.items():
        masks = base / ("ground_truth" if use == "test" else "no masks here")
        for folder in folders_in(base / name):
            if folder.name == "good":
                images += normal(root, folder, use)
            else:
                images += anomalous(root, folder, masks, endings, use)
    return images
