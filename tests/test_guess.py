"""Which layout a folder has that nobody named."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from admodels.datasets import guess_layout
from admodels.foundation.errors import AdmodelsError
from tests.names import mvtec, put

BUILDERS: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "flat": (lambda root: put(root, **{"": 12}), "folder", 12),
    "good folder": (lambda root: put(root, Good=12, scratch=2), "folder", 12),
    "nested": (lambda root: put(root, normal=3, normal__monday=9), "folder", 12),
    "mvtec": (mvtec, "mvtec_ad", 12),
    "mvtec in a folder": (lambda root: mvtec(root / "bottles"), "mvtec_ad", 12),
    "mvtec in other case": (
        lambda root: (mvtec(root / "CAP"), mvtec(root / "Cup")),
        "mvtec_ad",
        12,
    ),
    "one of several": (lambda root: (mvtec(root / "cap", 13), mvtec(root / "cup")), "mvtec_ad", 13),
    "a stray image beside categories": (
        lambda root: (two(root, "cap", "cup"), put(root, **{"": 1})),
        *("mvtec_ad", 13),
    ),
    "a defect of the task's name": (lambda root: put(root, **{"": 12, "cap": 3}), "folder", 12),
    "a stray image": (lambda root: (mvtec(root), put(root, **{"": 1})), "mvtec_ad", 12),
    "visa": (lambda root: visa(root), "visa", 12),
    "visa converted": (lambda root: visa_converted(root), "visa", 12),
    "dagm": (lambda root: dagm(root), "dagm", 12),
    "table": (lambda root: table(root), "folder", 11),
}


def two(root: Path, first: str, second: str) -> None:
    mvtec(root / first, normal=13)
    mvtec(root / second)


def visa(root: Path) -> None:
    put(root, cap__Data__Images__Normal=12, cap__Data__Images__Anomaly=2)
    names = [f"cap,train,normal,cap/Data/Images/Normal/{i:03}.png," for i in range(12)]
    names += [f"cap,test,anomaly,cap/Data/Images/Anomaly/{i:03}.png," for i in range(2)]
    (root / "split_csv").mkdir()
    lines = ["object,split,label,image,mask", *names]
    (root / "split_csv/1cls.csv").write_text("\n".join(lines), encoding="utf-8")


def visa_converted(root: Path) -> None:
    put(root, train__good=12, test__good=2, test__bad=2, ground_truth__bad=2)


def dagm(root: Path) -> None:
    put(root, Train=12, Test=3, Test__Label=0)
    (root / "Test/Label/001_label.PNG").write_bytes(b"mask")


def table(root: Path) -> None:
    mvtec(root)
    rows = [f"train/good/{i:03}.png,normal" for i in range(11)] + ["test/hole/000.png,anomalous"]
    (root / "manifest.csv").write_text("\n".join(["image_path,label", *rows]), encoding="utf-8")


@pytest.mark.parametrize("name", BUILDERS)
def test_the_layout_of_a_folder_is_guessed(tmp_path: Path, name: str) -> None:
    build, dataset, learnable = BUILDERS[name]
    build(tmp_path)
    layout = guess_layout(tmp_path, "cap")
    assert (layout.dataset, layout.learnable) == (dataset, learnable)
    if dataset == "visa":
        assert len(layout.masks) == 2 * ("converted" in name)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"OK": 12, "NG": 3}, "`--normal OK`"),
        ({"train__pass": 12, "test__fail": 3}, "`pass` (12 images)"),
        ({"cap__Data__Images__Normal": 12}, "table of splits is missing"),
    ],
)
def test_the_refusal_of_a_layout_that_might_learn_is_passed_on(
    tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    put(tmp_path, **counts)
    with pytest.raises(AdmodelsError, match=re.escape(message)):
        guess_layout(tmp_path, "cap")
