"""Which images belong together, and so into one split: images of a group, and near copies."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import DatasetImage
from admodels.validation import similarity
from admodels.validation.inspect import Inspected

SECONDS = 20  # for the paths of a task; a usual expression takes some millionths for each
SEARCH = """
import json, re, sys
expression, paths = json.load(sys.stdin)
pattern = re.compile(expression)
matches = map(pattern.search, paths)
json.dump([(m[min(1, pattern.groups)] or "") if m else "" for m in matches], sys.stdout)
"""
LARGEST_SHARE = 0.05  # of the images to learn from: more near copies are a camera that never moves


@dataclass(frozen=True)
class NearCopies:
    """Clusters of near copies by path: those that stand in one split, and `chains` too large."""

    clusters: list[list[str]]
    chains: list[list[str]]


def name_groups(
    images: Sequence[DatasetImage], pattern: re.Pattern[str] | None, task: str
) -> list[DatasetImage]:
    """The images with the group that `pattern` finds in their path, unless they have one.

    Raises:
        ConfigurationError: a normal image has no group, so that it could stand in any split; or
            the search does not end in time.
    """
    if pattern is None:
        return list(images)
    searched = _search([image.image_path for image in images], pattern, task)
    named = [i if i.group else replace(i, group=g) for i, g in zip(images, searched, strict=True)]
    without = [i.image_path for i in named if i.label == "normal" and not i.group]
    if without:
        raise ConfigurationError(
            f"`{pattern.pattern}` finds no group in the path of {len(without)} normal images",
            where=f"tasks.{task}.group; {names_text(without)}",
            expected="a regular expression that matches in every path, with a capture group",
            next_step="correct the expression, then `dvc repro`",
        )
    return named


def _search(paths: list[str], pattern: re.Pattern[str], task: str) -> list[str]:
    """The group in each path, in a process that can be stopped: `(a+)+$` tries 2^n ways of n a."""
    command = [sys.executable, "-I", "-c", SEARCH]
    question = json.dumps([pattern.pattern, paths]).encode()
    try:
        answer = subprocess.run(
            command, input=question, stdout=subprocess.PIPE, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"`{pattern.pattern}` does not end within {SECONDS} s on {len(paths)} paths",
            where=f"tasks.{task}.group",
            expected="a regular expression without a repetition inside a repetition",
            next_step="simplify the expression, then `dvc repro`",
        ) from None
    groups: list[str] = json.loads(answer.stdout)
    return groups


def near_copies(inspected: Sequence[Inspected], bits: int) -> NearCopies:
    """The near copies among the images to learn from; none where the images have groups.

    A cluster of two, or of at most LARGEST_SHARE of the images, stands in one split.
    """
    learnt = [index for index, (image, _, _) in enumerate(inspected) if image.part == "learn"]
    if not learnt or any(image.group for image, _, _ in inspected):
        return NearCopies([], [])
    data = b"".join(facts.thumbnail for _, _, facts in inspected)
    thumbnails = np.frombuffer(data, dtype=np.uint16).reshape(-1, similarity.CELLS)
    hashes = similarity.perceptual_hashes(thumbnails)[learnt]
    limit = similarity.usual_limit(bits, len(inspected))
    most = max(2, int(len(learnt) * LARGEST_SHARE))
    near: dict[bool, list[list[str]]] = {True: [], False: []}
    for rows in similarity.near_clusters(hashes, limit):
        paths = [inspected[learnt[row]][0].image_path for row in rows]
        near[len(paths) <= most].append(paths)
    return NearCopies(near[True], near[False])


def chain_sentence(chain: Sequence[str], task: str) -> str:
    """The warning about near copies that are too many to stand in one split."""
    return (
        f"{len(chain)} images are near copies of each other, {chain[0]} for one: too many to stand "
        "in one split, so the promise may not hold for new pieces. Where several images show one "
        f"piece, say how their paths name it: tasks.{task}.group"
    )
