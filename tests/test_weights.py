"""The stage `weights`: what a method starts from, fetched and pinned."""

import json

import pytest

from admodels.foundation.errors import DataError, SourceError
from admodels.foundation.files import sha256_of
from stages import weights as weights_stage
from tests import tiny


def fetch(method, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps({"methods": {method: block}}))
    weights_stage.main(method)
    return json.loads((tmp_path / "data/weights" / method / "weights.json").read_text())


def test_a_method_without_needs_gets_a_listing_all_the_same(tmp_path, monkeypatch):
    assert fetch("draem", tiny.PARAMS["draem"], tmp_path, monkeypatch) == {"method": "draem"}


def test_the_packaged_backbone_is_brought_and_listed_with_its_hash(tmp_path, monkeypatch):
    block = tiny.PARAMS["cpr"] | {"backbone": "efficientnet_lite2", "backbone_weights": "packaged"}
    found = fetch("cpr", block, tmp_path, monkeypatch)
    weights = tmp_path / "data/weights/cpr/backbone.pth"
    assert found["backbone_sha256"] == sha256_of(weights)
    assert found["backbone_sha256"].startswith("9656183eaeaf")


def test_random_weights_are_nothing_to_bring_and_are_said(tmp_path, monkeypatch):
    found = fetch("cpr", tiny.PARAMS["cpr"], tmp_path, monkeypatch)
    assert (found["backbone"], found["heads"]) == ("random", "random")
    assert [p.name for p in (tmp_path / "data/weights/cpr").iterdir()] == ["weights.json"]


def test_no_heads_are_nothing_to_bring_and_are_said(tmp_path, monkeypatch):
    block = tiny.PARAMS["cpr"] | {"head_weights": "none", "steps": {"object": 0, "texture": 0}}
    assert fetch("cpr", block, tmp_path, monkeypatch)["heads"] == "none"
    assert [p.name for p in (tmp_path / "data/weights/cpr").iterdir()] == ["weights.json"]


def test_a_backbone_file_that_differs_from_its_pin_is_refused(tmp_path, monkeypatch):
    (tmp_path / "net.pth").write_bytes(b"other weights")
    weights = {"backbone_weights": str(tmp_path / "net.pth"), "backbone_sha256": "c1103571"}
    with pytest.raises(DataError, match=r"sha256 is 5[\s\S]*c1103571[\s\S]*backbone_sha256"):
        fetch("cpr", tiny.PARAMS["cpr"] | weights, tmp_path, monkeypatch)
    assert not (tmp_path / "data/weights/cpr").exists()


def test_a_backbone_file_that_is_gone_says_so(tmp_path, monkeypatch):
    weights = {"backbone_weights": str(tmp_path / "gone.pth"), "backbone_sha256": "c1103571"}
    with pytest.raises(SourceError, match=r"gone\.pth"):
        fetch("cpr", tiny.PARAMS["cpr"] | weights, tmp_path, monkeypatch)
