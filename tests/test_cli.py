import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from admodels.datasets import sample
from admodels.foundation.params import load

ROOT = Path(__file__).parents[1]
Told = tuple[int, str, str]
Command = Callable[..., Told]


def task_words(source: Path, *more: str) -> list[str]:
    words = "task add line_brick --dataset mvtec_ad --category brick --kind texture"
    return [*words.split(), "--source", str(source), *more]


def drawn(folder: Path) -> Path:
    folder.mkdir()
    sample.draw("brick", folder)
    return folder


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['admodels', '--help']\n"
        "from admodels.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'torchvision', 'numpy', 'pandas', 'mlflow', 'great_expectations',"
        " 'pydantic', 'cv2', 'scipy', 'pyarrow', 'dvc', 'ray', 'matplotlib'}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_folder_is_added(command: Command) -> None:
    words = "folder add press_3 --folder presets --task sample_gravel --method draem --alpha 0.1"
    assert command(*words.split()) == (0, "folders.press_3 is in params.yaml\n", "")
    assert load()["folders"]["press_3"] == {
        "folder": "presets",
        "task": "sample_gravel",
        "method": "draem",
        "alpha": 0.1,
    }


def test_a_preset_is_written(command: Command) -> None:
    assert command("preset", "official")[:2] == (
        0,
        "params.yaml has the values of presets/official.yaml\n",
    )
    assert load()["methods"]["draem"]["reconstructive_width"] == 128
    assert command("check") == (0, "params.yaml is valid\n", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("preset fast", 2, "no preset named `fast`"),
        ("task refresh bottle", 2, "key `tasks.bottle` is missing"),
        (
            "folder add a-b --folder . --task sample_brick --method draem --alpha 0.1",
            2,
            "folders.a-b",
        ),
        ("folder add a --folder gone --task sample_brick --method draem --alpha 0.1", 2, "missing"),
        (
            "folder add a --folder . --task sample_brick --method draem --alpha 0",
            2,
            "greater than 0",
        ),
        ("task add m --dataset mpdd --category tubes --kind object --source official", 2, "MPDD"),
        ("task add m --dataset folder --category t --kind object --source official", 2, "folder"),
        ("textures /nowhere", 69, "source is missing"),
        ("score . --bundle nowhere --out out", 4, "no readable bundle"),
        ("score . --bundle nowhere", 2, "Missing option '--out'"),
        ("fly", 2, "No such command 'fly'"),
    ],
)
def test_an_error_is_told_without_a_traceback_and_ends_with_its_code(
    command: Command, words: str, code: int, told: str
) -> None:
    before = Path("params.yaml").read_bytes()
    ended, _, stderr = command(*words.split())
    assert ended == code
    assert told in stderr
    assert "Traceback" not in stderr
    assert Path("params.yaml").read_bytes() == before


def test_a_plant_file_of_any_content_ends_with_2_and_its_own_name(command: Command) -> None:
    Path("plant.yaml").write_text("lines: &a [*a]", encoding="utf-8")
    code, _, stderr = command("nightly", "--plant", ".")
    assert code == 2
    assert "plant.yaml cannot be read: line 1: alias `*a` stands for nothing" in stderr
    assert "Traceback" not in stderr
    assert "params.yaml" not in stderr


def test_scoring_away_from_the_repository_asks_for_the_budget(command: Command) -> None:
    Path("params.yaml").unlink()
    words = ("score", ".", "--bundle", "nowhere", "--out", "out")
    ended, _, stderr = command(*words)
    assert ended == 2
    assert "`--alpha 0.01`" in stderr
    ended, _, stderr = command(*words, "--alpha", "0.01")
    assert (ended, "no readable bundle" in stderr) == (4, True)


def test_what_the_disk_refuses_ends_with_the_code_of_storage(command: Command) -> None:
    Path("reports").write_text("a file where a folder must stand", encoding="utf-8")
    ended, _, stderr = command("report")
    assert ended == 74
    assert stderr.startswith("StorageError: ")
    assert "where:    reports" in stderr


def test_the_doctor_names_what_is_missing_with_its_command(command: Command) -> None:
    Path("data/raw/sample_brick").mkdir(parents=True)
    code, out, stderr = command("doctor")
    assert (code, stderr) == (0, "")
    assert "- data/raw/sample_gravel is missing: `dvc repro fetch@sample_gravel`\n" in out
    assert "- data/textures is missing: `dvc repro textures`\n" in out
    assert "data/raw/sample_brick is missing" not in out
    assert "cores " in out
    assert "great-expectations     1." in out


@pytest.mark.slow
def test_the_doctor_says_when_a_source_went_away(command: Command, tmp_path: Path) -> None:
    photos = drawn(tmp_path / "photos")
    command(*task_words(photos))
    shutil.rmtree(photos)
    assert f"- tasks.line_brick: {photos} is missing: restore or mount it\n" in command("doctor")[1]


def test_the_doctor_survives_params_that_are_bad(command: Command) -> None:
    Path("params.yaml").write_text("seed: 1\n", encoding="utf-8")
    code, out, _ = command("doctor")
    assert code == 0
    assert "run: this root key is missing" in out
