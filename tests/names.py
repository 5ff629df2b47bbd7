"""Sources that have the names of images and no pixels: a layout reads nothing else."""

from pathlib import Path


def put(folder: Path, **counts: int) -> Path:
    """Files with the names of images, `folder/NAME/000.png` and so on; `__` of a name is `/`."""
    for name, count in counts.items():
        inside = folder / name.replace("__", "/")
        inside.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (inside / f"{number:03}.png").write_bytes(f"{name} {number}".encode())
    return folder


def mvtec(folder: Path, normal: int = 12) -> Path:
    put(folder, train__good=normal, test__good=2, test__hole=3, test__crack=1)
    put(folder, ground_truth__hole=0)
    for number in range(3):
        (folder / f"ground_truth/hole/{number:03}_mask.png").write_bytes(b"mask")
    return folder
