"""The layout of MVTec AD (Bergmann et al., CVPR 2019), which many other datasets share.

train/good/**                           normal, to learn from
calibration/good/**                     normal, to calibrate with (our extension, optional)
test/good/**                            normal
test/<defect>/**/<name>.*               anomalous
ground_truth/<defect>/**/<name>_mask.*  its mask; the whole folder may be absent

Upper and lower case of these folders do not matter, and `normal` means `good`.
"""

from collections.abc import Sequence

from admodels.datasets import Files, Official, is_normal, masks_of, refuse_unclear
from admodels.foundation.manifest import DatasetImage, Part

PARTS: dict[str, Part] = {"train": "learn", "calibration": "calibration", "test": "test"}
MASKS = "ground_truth"
EXPECTED = "train/good/*.png, test/good/*.png, test/DEFECT/*.png, ground_truth/DEFECT/*_mask.png"
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


def images_of(
    files: Files, normal_folders: Sequence[str], endings: tuple[str, ...] = ("_mask",)
) -> list[DatasetImage]:
    """The images of the category; a mask is called like its image plus one of `endings`.

    Anomalous images outside test stay as they are, and validation refuses them by name.

    Raises:
        ConfigurationError: a folder could be normal or a defect.
    """
    masks = masks_of(files, MASKS, endings)
    images = []
    for path, (top, *below) in files.images():
        use = PARTS.get(top.casefold())
        if use is None or len(below) < 2:
            continue
        if is_normal(below[0], normal_folders):
            images.append(DatasetImage(path, "normal", "", "", use))
        else:
            mask = masks.of(below) if use == "test" else ""
            images.append(DatasetImage(path, "anomalous", below[0], mask, use))
    refuse_unclear(images, files, normal_folders)
    return images
