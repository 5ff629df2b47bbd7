"""The names of a source before anything is copied: what a layout needs to say what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from admodels.foundation.errors import AdmodelsError
from admodels.sources.archive import extract
from admodels.sources.download import DOWNLOADS, URL_SCHEMES
from admodels.sources.fetch import LIST_SUFFIX, SAMPLE_PREFIX, local_path

NEXT_STEP = "give a folder, or pack the archive anew, then run this again"


@contextmanager
def source_outline(location: str, sha256: str = "") -> Iterator[Path | None]:
    """A folder that holds every name of a source: itself, or an archive's names and its tables.

    None where nothing can be known before the fetch: a sample, a list of files, a URL that is not
    in the cache of downloads under `sha256`. An error of the block names `location`.

    Raises:
        SourceError: nothing is there.
        DataError: a file that is no archive, or one that cannot be trusted.
    """
    path = _content_path(location, sha256)
    if path is None or path.is_dir():
        yield path
        return
    with TemporaryDirectory(prefix="admodels-") as folder:
        extract(path, Path(folder), location, NEXT_STEP, outline=True)
        try:
            yield Path(folder)
        except AdmodelsError as error:
            error.args = (str(error).replace(folder, location),)
            raise


def _content_path(location: str, sha256: str) -> Path | None:
    is_sample = location.startswith(SAMPLE_PREFIX) and not Path(location).exists()
    if is_sample or location.endswith(LIST_SUFFIX):
        return None
    if not location.startswith(URL_SCHEMES):
        return local_path(location)
    download = DOWNLOADS / f"{sha256}.whole"
    return download if download.exists() else None
