"""The layouts of datasets: one module each, which is looked up by its name.

A layout is `images_of(files, normal_folders) -> list[DatasetImage]`; it names files and pairs
masks by their paths alone, and opens tables, but no image. Every file of a source is then an image,
its mask or matte, a companion (licence, readme, table), or left out with a reason.
"""

from dataclasses import dataclass

from admodels.datasets._files import LEFT_OUT_OF_COPY as LEFT_OUT_OF_COPY
from admodels.datasets._files import SPLIT_TABLES as SPLIT_TABLES
from admodels.datasets._files import Files as Files
from admodels.datasets._files import LeftOut as LeftOut
from admodels.datasets._files import Reason as Reason
from admodels.datasets._files import list_files as list_files
from admodels.datasets._files import list_parts as list_parts
from admodels.datasets._files import narrow as narrow
from admodels.datasets._files import read_left_out as read_left_out
from admodels.datasets._files import write_left_out as write_left_out
from admodels.datasets._guess import guess_layout as guess_layout
from admodels.datasets._layout import Layout as Layout
from admodels.datasets._layout import layout_module as layout_module
from admodels.datasets._layout import layouts as layouts
from admodels.datasets._layout import nearest as nearest
from admodels.datasets._layout import read_layout as read_layout
from admodels.datasets._masks import masks_of as masks_of
from admodels.datasets._names import is_normal as is_normal
from admodels.datasets._names import refuse_unclear as refuse_unclear
from admodels.datasets._tables import TableRow as TableRow
from admodels.datasets._tables import read_table as read_table
from admodels.datasets._trainable import categories as categories
from admodels.datasets._trainable import check_trainable as check_trainable
from admodels.foundation.errors import ConfigurationError


@dataclass(frozen=True)
class Official:
    """A dataset's own release: its page, its licence, and where known its archive.

    Without a `sha256` nobody has verified the archive: the first one downloaded is pinned.
    """

    page: str
    licence: str
    urls: tuple[str, ...] = ()
    sha256: str = ""


def official(dataset: str) -> Official:
    """The release that gave the layout `dataset` its name.

    Raises:
        ConfigurationError: there is no such layout, or no URL of a release is known.
    """
    known: Official | None = getattr(layout_module(dataset), "OFFICIAL", None)
    if known is None or not known.urls:
        raise ConfigurationError(
            f"no download of `{dataset}` is known",
            where="admodels/datasets/",
            expected="a dataset whose authors offer a plain URL",
            next_step=f"get it from {known.page if known else 'its authors'}, then --source PATH",
        )
    return known
