"""Which files of a folder are nobody's images: what NAS, desktops and sync tools leave behind.

`exclude:` of a task or a line adds patterns to `USUAL`. A pattern without `/` matches the name of
a file or of a folder anywhere; one with `/` matches the whole path, and `*` crosses `/`. Case does
not matter. What stands below an excluded folder is excluded.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from pathlib import PurePosixPath

USUAL = (
    *("@eaDir", "#recycle", "#snapshot", "@tmp"),  # Synology
    *("@Recycle", "@Recently-Snapshot", ".@__thumb"),  # QNAP
    *(".snapshot", "~snapshot", ".snapshots", ".zfs", "lost+found", ".nfs*"),  # NetApp, Btrfs, ZFS
    *("$RECYCLE.BIN", "RECYCLER", "System Volume Information"),  # Windows
    *("Thumbs.db", "ehthumbs.db", "desktop.ini", "~$*"),
    *(".DS_Store", "._*", ".AppleDouble", "__MACOSX", ".Spotlight-V100", ".fseventsd"),  # macOS
    *(".Trash*", ".TemporaryItems", "Network Trash Folder", "Temporary Items"),
    *(".stversions", ".stfolder", ".sync", ".dropbox*"),  # Syncthing, Resilio, Dropbox
)


def is_excluded(path: str, patterns: Sequence[str] = ()) -> bool:
    """Whether the POSIX path, or a folder above it, matches one of `USUAL` or of `patterns`."""
    names, paths = _expressions((*USUAL, *patterns))
    parts = PurePosixPath(path).parts
    above = ("/".join(parts[:end]) for end in range(1, len(parts) + 1)) if paths else ()
    return any(map(names.fullmatch, parts)) or any(paths and paths.fullmatch(p) for p in above)


@lru_cache
def _expressions(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """The expressions of all patterns of a name, and of all patterns of a path, if any."""
    names = [p.rstrip("/") for p in patterns if "/" not in p.rstrip("/")]
    paths = [p.strip("/") for p in patterns if "/" in p.rstrip("/")]
    return _any_of(names), _any_of(paths) if paths else None


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)), re.IGNORECASE)
