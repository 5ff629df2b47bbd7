import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from admodels.datasets import read_layout
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.manifest import DatasetImage, ManifestRow, Split
from admodels.foundation.params import parse
from admodels.images import decode
from admodels.validation import checks, inspect
from admodels.validation.checks import Finding, Needs, Severities, Validate
from admodels.validation.inspect import Facts
from admodels.validation.judge import Severity
from admodels.validation.similarity import near_pairs
from admodels.validation.splits import share_out
from admodels.validation.table import image_table

SHARED = Path(os.environ.get("ADMODELS_SHARED_DATA") or Path(__file__).parents[2] / "shared/data")
WARNINGS = {
    *(
        "test_has_both_labels",
        "no_duplicates",
        "same_size",
        "kept_ratio",
        "same_mode",
        "same_bit_depth",
    ),
    *("fits_rules", "mask_share"),
    *("no_near_duplicates", "no_near_leakage", "same_session", "no_likely_defects"),
    *("enough_for_alpha", "licence_stated", "commercial_use"),
}
SEVERITY = {n: "warning" if n in WARNINGS else "error" for n in Severities.model_fields}
BOUNDS = {
    "orientation": "stored",
    "size_tolerance": 1.25,
    "ratio_tolerance": 1.05,
    "max_stretch": 1.25,
    "min_side_px": 32,
    "min_brightness": 5.0,
    "max_brightness": 250.0,
    "min_contrast": 1.0,
    "near_duplicate_bits": 10,
    "max_session_shift": 0.6,
    "max_oddity": 3.0,
    "max_mask_share": 0.6,
    "severity": SEVERITY,
}
LEAST = 11
NEEDS = Needs(LEAST, alpha=0.25, licence="CC0-1.0")
FACTS = Facts(120.0, 30.0, 50.0, False, b"")

Planted = tuple[DatasetImage, ManifestRow, Facts]


def planted(path: str, number: int, label: str = "normal") -> Planted:
    part = "learn" if path.startswith("train") else "test"
    mask = "ground_truth/hole/m.png" if label == "anomalous" else ""
    kind = "hole" if label == "anomalous" else ""
    listed = DatasetImage(path, label, kind, mask, part)  # type: ignore[arg-type]
    sha, name = f"{number:064x}", path.rsplit(".", 1)[0]
    row = ManifestRow(name, path, sha, 64, 48, "RGB", 8, listed.label, kind, mask, "", "", "")
    share = 0.1 if mask else None
    return listed, row, replace(FACTS, mask_area_share=share, thumbnail=thumbnail(number))


def thumbnail(number: int) -> bytes:
    """Each number another picture: noise of its own on a common ramp."""
    noise = np.random.default_rng(number).normal(0, 1500, 256)
    return (np.linspace(10_000, 40_000, 256) + noise).astype(np.uint16).tobytes()


def clean() -> list[Planted]:
    return [
        *(planted(f"train/good/{i:03}.png", i) for i in range(12)),
        *(planted(f"test/good/{i:03}.png", 100 + i) for i in range(3)),
        *(planted(f"test/hole/{i:03}.png", 200 + i, "anomalous") for i in range(3)),
    ]


def judged(
    images_: list[Planted],
    unreadable: dict[str, str] | None = None,
    splits: dict[str, list[ManifestRow]] | None = None,
    needs: Needs = NEEDS,
) -> dict[str, Finding]:
    broken = unreadable or {}
    known = [(row, facts) for listed, row, facts in images_ if listed.image_path not in broken]
    table = image_table([listed for listed, _, _ in images_], known, broken, splits or {}, {})
    return {f.name: f for f in findings_of(table, needs=needs)}


def findings_of(
    table: pd.DataFrame, bounds: dict[str, object] = BOUNDS, needs: Needs = NEEDS
) -> list[Finding]:
    asked = parse(bounds, Validate, "validate")
    pairs = near_pairs(table, asked.near_duplicate_bits)
    return checks.findings(table, pairs, asked, needs)[0]


def failed(findings: dict[str, Finding]) -> dict[str, list[str]]:
    return {name: f.unexpected for name, f in findings.items() if not f.success}


@pytest.mark.slow
def test_a_clean_task_passes_every_check() -> None:
    findings = judged(clean())
    assert failed(findings) == {}
    assert set(findings) == {
        *(name for name in Severities.model_fields if name != "enough_for_alpha"),  # not split
        *("image_id_unique", "only_normal_to_learn", "no_split_leakage", "enough_normal_images"),
        "mattes_fit",
    }
    assert checks.refusal("tiny", list(findings.values())) is None
    assert findings["same_size"].expected == "Every image is, as most are, 64 x 48 px."


@pytest.mark.slow
@pytest.mark.parametrize("severity", ["error", "warning"])
def test_all_checks_may_be_of_one_severity(severity: str) -> None:
    bounds = BOUNDS | {"severity": dict.fromkeys(SEVERITY, severity)}
    made = clean()
    table = image_table([f for f, _, _ in made], [(r, x) for _, r, x in made], {}, {}, {})
    findings = findings_of(table, bounds)
    assert {f.severity for f in findings if f.name in SEVERITY} == {severity}
    assert all(f.success for f in findings)
    fixed = [f.severity for f in findings if f.name not in SEVERITY]
    assert fixed == ["error"] * 5


FIRST = "train/good/000.png"


@pytest.mark.slow
def test_a_method_that_squares_images_far_from_square_is_a_warning_that_names_it() -> None:
    made = [(listed, replace(row, width=90, height=60), facts) for listed, row, facts in clean()]
    assert failed(judged(made)) == {}
    keep = replace(NEEDS, aspects={"cpr": "keep", "draem": "keep"})
    assert failed(judged(made, needs=keep)) == {}
    both = replace(NEEDS, aspects={"cpr": "keep", "draem": "square"})
    finding = judged(made, needs=both)["kept_ratio"]
    assert (finding.severity, finding.unexpected_count) == ("warning", len(made))
    assert "made square for draem" in finding.seen
    assert "`aspect: keep`" in finding.step


@pytest.mark.slow
def test_an_image_of_another_ratio_than_the_one_in_the_middle_is_named() -> None:
    made = clean()
    listed, row, facts = made[4]
    made[4] = (listed, replace(row, width=48, height=64), facts)
    assert failed(judged(made))["kept_ratio"] == [listed.image_path]


@pytest.mark.slow
def test_each_of_many_planted_faults_is_found_and_names_its_image_alone() -> None:
    made, planted_faults = clean(), {}
    faults: list[tuple[str, dict[str, object], dict[str, object]]] = [
        ("same_size", {"width": 65}, {}),
        ("same_mode", {"mode": "L"}, {}),
        ("same_bit_depth", {"bit_depth": 16}, {}),
        ("brightness", {}, {"brightness": 4.9}),
        ("contrast", {}, {"contrast": 0.9}),
        ("mask_present", {}, {"mask_problem": "missing"}),
        ("mask_decodes", {}, {"mask_problem": "unreadable"}),
        ("mask_binary", {}, {"mask_problem": "not binary"}),
        ("mask_size", {}, {"mask_problem": "other size"}),
        ("mask_not_empty", {}, {"mask_problem": "empty"}),
        ("mattes_fit", {}, {"matte_problem": "foreground matte is 1 x 1 pixels"}),
    ]
    for index, (check, row, facts) in enumerate(faults):
        listed, old_row, old_facts = made[index]
        made[index] = (listed, replace(old_row, **row), replace(old_facts, **facts))  # type: ignore[arg-type]
        planted_faults[check] = [listed.image_path]
    assert failed(judged(made)) == planted_faults


@pytest.mark.slow
def test_mattes_are_for_all_images_to_learn_from_or_for_none() -> None:
    made = [
        (listed, replace(row, foreground_path="m.png" if listed.part == "learn" else ""), facts)
        for listed, row, facts in clean()
    ]
    assert failed(judged(made)) == {}
    made[3] = clean()[3]
    assert failed(judged(made)) == {"mattes_fit": ["train/good/003.png"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "is_large"), [(0.6, False), (0.61, True), (0.73, True), (0.96, True), (1.0, True)]
)
def test_a_mask_that_covers_most_of_an_image_is_a_warning(share: float, is_large: bool) -> None:
    made = clean()
    indices = [i for i, (listed, _, _) in enumerate(made) if listed.label == "anomalous"]
    first, row, facts = made[indices[0]]
    made[indices[0]] = (first, row, replace(facts, mask_area_share=share))
    findings = judged(made)
    assert failed(findings) == ({"mask_share": [first.image_path]} if is_large else {})
    finding = findings["mask_share"]
    assert finding.severity == "warning"
    assert ("invert" in finding.step) is is_large


@pytest.mark.slow
def test_bounds_are_inclusive_and_the_shorter_side_counts() -> None:
    made = clean()
    values = [(5.0, 1.0, 32), (250.0, 1.0, 32), (250.1, 1.0, 32), (5.0, 1.0, 31)]
    for index, (brightness, contrast, height) in enumerate(values):
        listed, row, facts = made[index]
        facts = replace(facts, brightness=brightness, contrast=contrast)
        made[index] = (listed, replace(row, height=height), facts)
    findings = failed(judged(made))
    assert findings == {
        "same_size": [f"train/good/00{i}.png" for i in range(4)],
        "kept_ratio": [f"train/good/00{i}.png" for i in range(4)],
        "side": ["train/good/003.png"],
        "brightness": ["train/good/002.png"],
    }


@pytest.mark.slow
def test_unreadable_images_are_named_and_do_not_count_as_normal_images() -> None:
    broken = {"train/good/000.png": "empty", "train/good/001.png": "truncated"}
    findings = judged(clean(), broken)
    assert failed(findings) == {"image_decodes": sorted(broken), "enough_normal_images": []}
    assert findings["enough_normal_images"].observed == 10


def test_a_task_without_one_readable_image_is_judged() -> None:
    broken = {listed.image_path: "empty" for listed, _, _ in clean()}
    findings = judged(clean(), broken)
    assert findings["image_decodes"].unexpected_count == 18
    assert not findings["enough_normal_images"].success


@pytest.mark.slow
def test_an_anomalous_image_to_learn_from_is_named() -> None:
    findings = judged([*clean(), planted("train/hole/9.png", 900, "anomalous")])
    assert failed(findings) == {"only_normal_to_learn": ["train/hole/9.png"]}


@pytest.mark.slow
def test_both_copies_of_an_image_in_train_and_test_are_named() -> None:
    findings = judged([*clean(), planted("test/good/copy.png", 0)])
    assert failed(findings) == {"no_split_leakage": ["test/good/copy.png", FIRST]}


@pytest.mark.slow
def test_both_copies_of_an_image_in_one_split_are_named() -> None:
    findings = judged([*clean(), planted("train/good/copy.png", 0)])
    assert failed(findings) == {"no_duplicates": [FIRST, "train/good/copy.png"]}


@pytest.mark.slow
def test_images_that_differ_only_in_their_extension_are_named() -> None:
    findings = judged([*clean(), planted("train/good/000.jpg", 900)])
    assert failed(findings) == {"image_id_unique": ["train/good/000.jpg", FIRST]}


@pytest.mark.slow
def test_ten_normal_images_are_too_few_and_eleven_are_not() -> None:
    assert failed(judged(clean()[1:])) == {}
    ten = judged(clean()[2:])
    assert failed(ten) == {"enough_normal_images": []}
    refusal = checks.refusal("tiny", list(ten.values()))
    assert refusal is not None
    assert "enough_normal_images: There are 10 readable normal images" in str(refusal)
    assert ten["enough_normal_images"].step == "Add at least 1 normal images."


@pytest.mark.slow
def test_a_test_split_with_one_label_or_none_is_found() -> None:
    only_normal, nothing = clean()[:15], clean()[:12]
    assert failed(judged(only_normal)) == {"test_has_both_labels": []}
    assert failed(judged(nothing)) == {"test_has_both_labels": []}


def shared_out(made: list[Planted], calibration: int) -> dict[str, list[ManifestRow]]:
    learn = [row for listed, row, _ in made if listed.part == "learn"]
    test = [row for listed, row, _ in made if listed.part == "test"]
    return {"train": learn[calibration:], "calibration": learn[:calibration], "test": test}


@pytest.mark.slow
def test_too_few_calibration_images_for_the_budget_are_said() -> None:
    made = clean()
    needs = replace(NEEDS, alpha=0.2)
    for count in (4, 3):
        splits = shared_out(made, count)
        check = judged(made, splits=splits, needs=needs)["enough_for_alpha"]
        assert (check.success, check.observed) == (count == 4, count)
        assert check.expected == (
            "At least 4 images calibrate, as a false-alarm budget of 0.2 needs."
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("licence", "failing"),
    [
        ("CC BY 4.0", []),
        ("not stated", ["licence_stated"]),
        ("CC BY-NC-SA 4.0", ["commercial_use"]),
    ],
)
def test_a_licence_that_is_silent_or_forbids_to_earn_is_said(
    licence: str, failing: list[str]
) -> None:
    checks = judged(clean(), needs=replace(NEEDS, licence=licence))
    assert list(failed(checks)) == failing
    assert all(checks[name].unexpected == [] and licence in checks[name].seen for name in failing)


def changed(made: list[Planted], at: int, **facts: object) -> None:
    listed, row, old = made[at]
    made[at] = (listed, row, replace(old, **facts))  # type: ignore[arg-type]


@pytest.mark.slow
def test_near_copies_inside_and_across_splits_are_told_apart() -> None:
    made = clean()
    changed(made, 1, thumbnail=thumbnail(0))  # both to learn from
    changed(made, 14, thumbnail=thumbnail(2))  # one to test with
    assert failed(judged(made)) == {
        "no_near_duplicates": [FIRST, "train/good/001.png"],
        "no_near_leakage": ["test/good/002.png", "train/good/002.png"],
    }


@pytest.mark.slow
def test_a_likely_defect_among_the_images_to_learn_from_is_named() -> None:
    made = clean()
    spoilt = np.frombuffer(thumbnail(5), dtype=np.uint16).copy()
    spoilt[100:106] = 60_000
    changed(made, 5, thumbnail=spoilt.tobytes())
    changed(made, 16, thumbnail=spoilt.tobytes()[::-1])  # a defect where it belongs
    assert failed(judged(made)) == {"no_likely_defects": ["train/good/005.png"]}


@pytest.mark.slow
def test_another_session_in_test_is_found_and_measured() -> None:
    made = [
        *(planted(f"train/good/{i:03}.png", i) for i in range(40)),
        *(planted(f"test/good/{i:03}.png", 100 + i) for i in range(12)),
        planted("test/hole/0.png", 200, "anomalous"),
    ]
    for at, (listed, _, _) in enumerate(made):
        step = at if listed.part == "learn" else 3 * at
        changed(made, at, brightness=100.0 + step % 40, sharpness=50.0 + step % 40)
    assert failed(judged(made)) == {}
    for at in range(40, 52):
        changed(made, at, brightness=150.0 + at % 7)
    checks = judged(made)
    assert failed(checks) == {"same_session": [f"test/good/{i:03}.png" for i in range(12)]}
    assert checks["same_session"].seen == (
        "The distributions of normal images to test with and to learn from are apart by "
        "1 in brightness, 0 in contrast, 0 in sharpness."
    )


def finding(name: str, severity: Severity, count: int, names: list[str]) -> Finding:
    return Finding(name, severity, False, "Expected.", "Seen.", "Do.", None, count, names, [])


def test_a_warning_does_not_stop_and_an_error_names_every_check_and_image() -> None:
    warning = finding("same_size", "warning", 1, ["a.png"])
    error = finding("mask_size", "error", 25, ["b.png", "c.png"])
    passed = replace(finding("contrast", "error", 0, []), success=True)
    assert checks.refusal("tiny", [warning, passed]) is None
    refusal = checks.refusal("tiny", [warning, passed, error])
    assert refusal is not None
    assert refusal.exit_code == 3
    assert refusal.fault == "task `tiny` fails mask_size"
    assert "mask_size (25): b.png, c.png and 23 more" in str(refusal)
    assert "same_size" not in str(refusal)


@pytest.mark.slow
def test_at_most_twenty_images_are_named_and_all_are_counted() -> None:
    many = [planted(f"train/good/{i:03}.png", i) for i in range(60)]
    dark = [
        (f, r, replace(x, brightness=1.0 if i % 2 else 9.0)) for i, (f, r, x) in enumerate(many)
    ]
    check = judged(dark)["brightness"]
    assert check.unexpected_count == 30
    assert check.unexpected == [f"train/good/{i:03}.png" for i in range(1, 40, 2)]


def test_the_report_counts_images_by_split_and_defect_type() -> None:
    made = clean()
    rows = [(listed, row) for listed, row, _ in made]
    split = Split(validation_share=0.25, calibration_share=0.25, min_normal_images=LEAST)
    shared_out, _ = share_out(rows, split, 0.25, 7, "tiny")
    table = image_table(
        [listed for listed, _ in rows], [(row, facts) for _, row, facts in made], {}, shared_out, {}
    )
    report = checks.report(table, [])
    assert report["splits"] == {"calibration": 3, "test": 6, "train": 6, "validation": 3}
    assert report["defect_types"] == {"hole": 3}
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"same_colour": "error"}, "validate.severity.same_colour"),
        ({"mask_size": "off"}, "validate.severity.mask_size"),
    ],
)
def test_unknown_checks_and_severities_are_refused(change: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse(BOUNDS | {"severity": SEVERITY | change}, Validate, "validate")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")
@pytest.mark.parametrize(
    ("root", "warned"),
    [
        ("mvtec_ad/bottle", []),
        (
            "magnetic_tile",
            ["same_size", "kept_ratio", "no_near_leakage"],
        ),  # one tile, exposed twice
    ],
)
def test_real_data_pass(root: str, warned: list[str]) -> None:
    raw = SHARED / root
    listed = [
        f for i, f in enumerate(read_layout("mvtec_ad", "", raw).images) if i % 8 == 0
    ]  # for speed
    inspected, unreadable = inspect.inspect_images(listed, raw, decode.STORED)
    assert unreadable == []
    table = image_table(listed, [(row, facts) for _, row, facts in inspected], {}, {}, {})
    findings = findings_of(table)
    assert [f.name for f in findings if not f.success] == warned
    assert table["mask_area_share"].dropna().between(1e-5, 0.9).all()
    assert table["mask_area_share"].notna().sum() == (table["label"] == "anomalous").sum()
