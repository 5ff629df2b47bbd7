"""What `import admodels` offers: a bundle, and its verdict on images.

    model = admodels.load("data/models/cpr/mvtec_bottle")
    verdict = model.score("part.png", alpha=0.01)

An image takes the way that it takes in a scored folder, so it has the same score and is refused for
the same reasons. Nothing is kept; `admodels score` and `admodels nightly` keep a ledger.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from admodels import methods
from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.bundles.bundle import Bundle
from admodels.foundation.arrays import Float32
from admodels.foundation.errors import DataError
from admodels.images.decode import Image, UnreadableImage
from admodels.inference import conformal, model

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Source: TypeAlias = str | Path | bytes | Pillow.Image | Pixels
REGISTERED = "models:/"


@dataclass(frozen=True)
class Verdict:
    """What a model says of one image; of a refused image all but `refused` is None.

    `anomaly_score`: higher is more anomalous. `p_value`: how often a normal image scores as high,
    in 1/(n + 1)..1 for n calibration images. `is_anomalous`: whether it is within alpha, None where
    n images cannot promise alpha. `anomaly_map` (H, W) float32, of the image's own size. `refused`:
    the status that a scored folder would give, and why; empty where there is a score.
    """

    anomaly_score: float | None = None
    p_value: float | None = None
    is_anomalous: bool | None = None
    anomaly_map: Float32 | None = None
    refused: str = ""


class Model:
    """A bundle that was loaded by `admodels.load`."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @overload
    def score(self, image: Source, alpha: float) -> Verdict: ...
    @overload
    def score(self, image: list[Source], alpha: float) -> list[Verdict]: ...
    def score(self, image: Source | list[Source], alpha: float) -> Verdict | list[Verdict]:
        """The verdict on an image, or of a list of images a list of verdicts, in its order.

        An image is a path, the bytes of a file, a Pillow image, or an array (H, W, 3) RGB uint8 or
        (H, W) grey uint8 or uint16. What another program has decoded from a JPEG may differ by a
        grey level from what is decoded here. `alpha`: the false-alarm budget, above 0, below 1.

        Raises:
            DataError: an array or a budget that is no such thing; no verdict would mean anything.
        """
        if not 0 < alpha < 1:
            raise _refusal(f"alpha is {alpha}", "alpha", "a share above 0 and below 1")
        if isinstance(image, list):
            return list(self._verdicts(image, alpha))
        return next(self._verdicts([image], alpha))

    def _verdicts(self, images: Sequence[Source], alpha: float) -> Iterator[Verdict]:
        chunk = methods.images_at_once(self.bundle.detector)
        for start in range(0, len(images), chunk):
            read = [self._read(image) for image in images[start : start + chunk]]
            scored = iter(self._score([image for image in read if isinstance(image, Image)], alpha))
            yield from (next(scored) if isinstance(image, Image) else image for image in read)

    def _read(self, image: Source) -> Image | Verdict:
        """The decoded image, or the verdict that refuses it."""
        preparation = self.bundle.contract
        try:
            data, name = _encode(image)
            if not data:
                return Verdict(refused="empty: 0 bytes")
            refused = model.header_fault(data, preparation)
            if refused is not None:
                return Verdict(refused=": ".join(refused[1]))
            decoded = model.decode_image(data, name, preparation)
        except UnreadableImage as error:
            return Verdict(refused=f"{error.reason}: {error.detail}")
        except FileNotFoundError:
            return Verdict(refused="vanished: no such file")
        except OSError as error:
            return Verdict(refused=f"unreadable: {error.strerror or error}")
        fault = model.describe_image(decoded, preparation).fault
        return decoded if fault is None else Verdict(refused=": ".join(fault))

    def _score(self, images: Sequence[Image], alpha: float) -> list[Verdict]:
        if not images:
            return []
        calibration = self.bundle.calibration_scores
        seen = [model.prepare_views(image.rgb, self.bundle.contract) for image in images]
        planes, places = [views.planes for views in seen], [views.place for views in seen]
        scored = model.score_planes(self.bundle, planes, places)
        is_promised = conformal.threshold(calibration, alpha) is not None
        verdicts = []
        for image, views, score, own in zip(
            images, seen, scored.anomaly_score.tolist(), scored.anomaly_map, strict=True
        ):
            if not np.isfinite(score):
                verdicts.append(Verdict(refused="unscorable: the detector's score is not finite"))
                continue
            p_value = float(conformal.p_values([score], calibration)[0])
            is_anomalous = p_value <= alpha if is_promised else None
            place = image.height, image.width, views.place
            verdicts.append(Verdict(score, p_value, is_anomalous, model.map_to_image(own, *place)))
        return verdicts


def load(bundle: str | Path) -> Model:
    """The bundle in a folder, or what the registry names by models:/NAME@ALIAS.

    Every hash is checked and the golden images are scored, so that it scores here as where it was
    made.

    Raises:
        BundleError: the bundle must not be used, or there is none.
        SourceError: the registry is away.
    """
    if not str(bundle).startswith(REGISTERED):
        return Model(bundles.load(Path(bundle), runtime.device()))
    from admodels.tracking import registry

    with registry.version_files(str(bundle)) as (folder, _):
        return Model(bundles.load(folder, runtime.device()))


def _encode(image: Source) -> tuple[bytes, str]:
    """The bytes of a file, so that every source takes one way, and what to call it."""
    if isinstance(image, bytes):
        return image, "the bytes"
    if isinstance(image, str | Path):
        path = Path(image)
        if path.exists() and not path.is_file():  # a pipe would never end
            raise OSError(f"{path} is no file")
        return path.read_bytes(), str(path)
    if not isinstance(image, Pillow.Image):
        image = Pillow.fromarray(_check_pixels(image))
    target = BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue(), "the image"


def _check_pixels(pixels: Pixels) -> Pixels:
    is_image = isinstance(pixels, np.ndarray) and (
        (pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3)
        or (pixels.dtype in (np.uint8, np.uint16) and pixels.ndim == 2)
    )
    if not is_image:
        kind = type(pixels).__name__
        if isinstance(pixels, np.ndarray):
            kind = f"{pixels.dtype} of shape {pixels.shape}"
        expected = "a path, bytes, a Pillow image, or uint8 (H, W, 3) or uint8, uint16 (H, W)"
        raise _refusal(kind, "the image", expected)
    return pixels


def _refusal(fault: str, where: object, expected: str) -> DataError:
    return DataError(fault, where=str(where), expected=expected, next_step="correct the call")
