"""What the assets stage has brought: the params block `assets` and the texture images."""

from admodels.foundation.params import Strict
from admodels.sources import Source


class Assets(Strict):
    """Where the textures that anomalies are painted with come from."""

    textures: Source
