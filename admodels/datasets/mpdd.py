"""Metal Parts Defect Detection (Jezek et al., ICUMT 2021): MVTec AD's layout, mask names included.

Six categories: bracket_black, bracket_brown, bracket_white, connector, metal_plate, tubes.
"""

from admodels.datasets import mvtec_ad

found = mvtec_ad.found
