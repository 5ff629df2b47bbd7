"""Metal Parts Defect Detection (Jezek et al., ICUMT 2021): MVTec AD's layout, mask names included.

Six categories: bracket_black, bracket_brown, bracket_white, connector, metal_plate, tubes.
"""

from admodels.datasets import Official, mvtec_ad

images_of = mvtec_ad.images_of
EXPECTED = mvtec_ad.EXPECTED
OFFICIAL = Official(
    page="https://github.com/stepanje/MPDD",  # its README states no licence, and links to a share
    licence="CC BY-NC-SA 4.0",
)
