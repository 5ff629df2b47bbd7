"""Words that folders use for normal images, and words that leave it open."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from admodels.datasets._files import Files
from admodels.datasets._layout import nearest
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import DatasetImage

NORMAL = ("good", "normal")
# casefolded, without blanks, `_` and `-`
LIKELY_NORMAL = re.compile(
    r"ok(ay)?|io|i\.o\.|pass(ed)?|true|yes|y|accept(ed)?|valid|correct|fine|clean|perfect|golden"
    r"|ref(erence)?|regular|standard|healthy|intact|undamaged|flawless|template|master"
    r"|(no|non|without)defect(s|ive)?|defectfree|(no|non)anomal(y|ies|ous)|normals|good(s|parts?)"
    r"|gut(e|teile?)?|inordnung|intakt|fehlerfrei|einwandfrei"  # German
    r"|bon(ne)?s?|conformes?|sansd[eé]fauts?"  # French
    r"|buon[aeio]|conform[ei]|senzadifetti|normal[ei]"  # Italian
    r"|buen[ao]s?|bien|sindefectos?|normales"  # Spanish
)
UNCLEAR = re.compile(  # a defect class may be a number; some datasets call defects positive
    r"\d+|(class|label|cat|category)\d+|nok|ng|nio|n\.i\.o\.|fail(ed)?|false|no|n"
    r"|pos(itive)?|neg(ative)?|reject(ed)?|invalid|incorrect"
)


def is_normal(name: str, normal_folders: Sequence[str]) -> bool:
    """Whether a folder of this name holds normal images; case does not matter."""
    return name.casefold() in {*NORMAL, *(folder.casefold() for folder in normal_folders)}


def refuse_unclear(
    images: Iterable[DatasetImage], files: Files, normal_folders: Sequence[str]
) -> None:
    """Refuse folders whose images a reader would have to guess the label of.

    Raises:
        ConfigurationError: names the folders and the answer, or a folder of `normal_folders` that
            is not there; a guess would train on defects, or count normal images as defects.
    """
    if normal_folders:
        _refuse_missing(files, normal_folders)
        return
    kinds = Counter(image.defect_type for image in images if image.label == "anomalous")
    unclear = {kind: count for kind, count in kinds.items() if _is_unclear(kind)}
    if unclear:
        word = next((k for k in sorted(unclear) if LIKELY_NORMAL.fullmatch(_bare(k))), "NAME")
        raise ConfigurationError(
            "folders whose images could be normal or defects: "
            + names_text(f"`{name}` ({count} images)" for name, count in unclear.items()),
            where=files.root / files.base,
            expected="`good` or `normal` for normal images, or your word for them",
            next_step=f"say which folders are normal: `--normal {shlex.quote(word)}`, which writes "
            f"`normal_folders: [{word}]` to the task; if all of these are defects: `--normal good`",
        )


def _refuse_missing(files: Files, normal_folders: Sequence[str]) -> None:
    folders = {name for _, parts in files.images() for name in parts[:-1]}
    known = {*NORMAL, *(name.casefold() for name in folders)}
    missing = [name for name in normal_folders if name.casefold() not in known]
    if missing:
        raise ConfigurationError(
            f"no folder `{missing[0]}` holds images{nearest(missing[0], folders)}",
            where=files.root / files.base,
            expected=f"one of {names_text(folders)}",
            next_step="correct `normal_folders` of the task (`--normal`)",
        )


def _bare(name: str) -> str:
    return re.sub("[ _-]", "", name.casefold())


def _is_unclear(name: str) -> bool:
    return any(words.fullmatch(_bare(name)) for words in (LIKELY_NORMAL, UNCLEAR))
