"""When a camera says that it took an image."""

import warnings
from io import BytesIO

from PIL import Image as Pillow

from admodels.images.decode import FORMATS, OPENING

EXIF_IFD = 0x8769  # Exif 2.32, section 4.6.3
# Time, fraction and offset of the capture, of the digital image, of the file (section 4.6.5).
EXIF_TIMES = ((0x9003, 0x9291, 0x9011), (0x9004, 0x9292, 0x9012), (0x0132, 0x9290, 0x9010))


def exif_time(data: bytes) -> str:
    """When the camera says that it took the image: `2026:12:01 06:30:15`, or empty.

    A fraction of a second and the offset from UTC follow where they are known. An image of a format
    that only an isolated process may decode gives none.
    """
    with OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Pillow.open(BytesIO(data), formats=FORMATS)
            exif = Pillow.Image.getexif(image)  # `image.getexif` of a PNG decodes all pixels
            tags = {**exif, **exif.get_ifd(EXIF_IFD)}
        except Exception:  # whatever stands there, it is no time
            return ""
    for time, fraction, offset in EXIF_TIMES:
        if time in tags:
            digits = str(tags.get(fraction, "")).strip(" \0")
            words = [str(tags[time]).strip(" \0"), f".{digits}" * digits.isdecimal()]
            return "".join([*words, str(tags.get(offset, "")).strip(" \0")])
    return ""
