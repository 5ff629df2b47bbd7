"""How much two lists of scores of the same images differ in a figure, with an interval.

Images are drawn again with both of their scores (a paired bootstrap): what makes an image hard is
hard for both, and cancels out.
"""

from collections.abc import Callable

import numpy as np

from admodels.evaluation.metrics import Ranking, ranking
from admodels.evaluation.resampling import Interval, draw, image_rankings, percentile_interval
from admodels.foundation.arrays import Bool, Float64


def paired_difference(
    figure: Callable[[Ranking | None], float | None],
    first: Float64,
    second: Float64,
    anomalous: Bool,
) -> tuple[float, Interval] | None:
    """`figure` of `first` minus that of `second`, and its 95 % interval; None where undefined.

    All three (N,), of the same images. The interval is a point where no resample differs.
    """
    values = [figure(ranking(scores, anomalous)) for scores in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    counts = draw(anomalous)
    resampled = [
        np.array([figure(ranks) for ranks in image_rankings(scores, anomalous, counts)], np.float64)
        for scores in (first, second)
    ]
    difference = values[0] - values[1]
    spread = percentile_interval(resampled[0] - resampled[1])
    return difference, spread or (difference, difference)
