import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, FLAGS

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that are slow as a whole.

    An idle worker takes over the end of the other's queue. If half of such a module stood there,
    both workers would build what its tests share.
    """

    def is_slow(item: pytest.Item) -> bool:
        module = item.getparent(pytest.Module)
        return bool(module and module.get_closest_marker("slow"))

    items.sort(key=lambda item: not is_slow(item))


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, for the tests of pages."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`admodels WORDS` in this process: code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    from admodels.cli import app

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["admodels", *words])
        with pytest.raises(SystemExit) as ended:
            sys.exit(app.main())
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def command(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli` in a folder with the shipped params and presets."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return cli
