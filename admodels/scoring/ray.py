"""Score on the workers of a Ray cluster: they read, decode and score, this process writes.

A worker holds one bundle and gets a shard of names at a time. It writes nothing: its rows come
back in the order of the names, and this process writes the ledger as it does without Ray. Where a
worker or a machine dies, Ray gives its shards to another.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import admodels
from admodels.foundation.errors import AdmodelsError, BundleError, ConfigurationError, SourceError
from admodels.scoring.discover import Status
from admodels.scoring.engine import Engine, LineImages, Model, local
from admodels.scoring.index import Index
from admodels.scoring.rows import Known, Read, rows, with_score
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import Answer

SHARD_IMAGES = 64  # that the death of a worker repeats; an image in tiles is a shard of its own
SHARDS_AT_ONCE = 1000  # Ray's bookkeeping grows faster than their number
STALLED_SECONDS = 1800  # without one shard that begins or ends


@dataclass
class _Worker:
    """One process of the cluster; `known` are the sorted digests of bytes that have a score."""

    images: LineImages
    bundle: Path
    fingerprints: tuple[str, str]
    known: NDArray[np.bytes_]
    threads: int
    device: str

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """The `Read` of each name of the shard; a text where this worker cannot score."""
        names = map(os.fsdecode, shard["names"][0].split(b"\0"))
        answer = np.empty(1, object)
        try:
            answer[0] = list(self._rows(names))
        except AdmodelsError as error:
            answer[0] = f"{os.uname().nodename}: {error.fault}"
        return {"found": answer}

    def _rows(self, names: Iterator[str]) -> Iterator[Read]:
        """The candidates are those of this worker's shards: more than the night's, never fewer."""
        images, bundle, candidates = self.images, self._model.load(), self.images.candidates
        inbox, line, tile = images.inbox, images.line, images.tile
        reads = rows(
            *(inbox, names, bundle, line, self._answer),
            tile=tile,
            candidates=candidates,
            with_exif=images.with_exif,
            pointing=images.pointing,
        )
        for read in reads:
            if candidates and read.row and read.row.status == Status.SCORED:
                candidates.add(read.row.image_sha256)
            yield read

    @cached_property
    def _model(self) -> Model:
        torch.set_num_threads(self.threads)  # as many cores; the scores are the same to the bit
        os.environ["ADMODELS_DEVICE"] = self.device
        images, model = self.images, Model.at(self.bundle)
        model = model.with_page(images.page).with_area(images.area).with_tiles(images.tile)
        if (model.model_fingerprint, model.contract_fingerprint) != self.fingerprints:
            raise _worker_error("another bundle stands there", self.bundle)
        return model

    def _answer(self, sha256: str) -> Answer | None:
        """Any number for bytes that have a score; `_reconcile` puts the ledger's in its place."""
        place = int(np.searchsorted(self.known, sha256.encode()))
        is_known = self.known[place : place + 1].tolist() == [sha256.encode()]
        return Answer(0.0, None) if is_known else None


@dataclass(frozen=True)
class _Cluster:
    """The engine on a cluster with `workers`, or with as many as fit where that is None."""

    workers: int | None
    threads: int
    has_gpus: bool

    def __call__(
        self, images: LineImages, names: list[str], model: Model, index: Index, stopped: Stop
    ) -> Iterator[Read]:
        fingerprints = (model.model_fingerprint, model.contract_fingerprint)
        assert model.folder is not None
        images = replace(images, folder=images.folder.resolve())
        digests = np.fromiter((sha.encode() for sha in index.digests(*fingerprints)), "S64")
        folder, device = model.folder.resolve(), "cuda" if self.has_gpus else "cpu"
        worker = (images, folder, fingerprints, digests, self.threads, device)
        known = partial(index.answer, model=fingerprints[0], contract=fingerprints[1])
        step = 1 if images.tile else SHARD_IMAGES
        shards = [names[start : start + step] for start in range(0, len(names), step)]
        if len(shards) == 1 and not self.has_gpus:  # done before a worker has started
            yield from local(images, names, model, index, stopped)
            return
        for start in range(0, len(shards), SHARDS_AT_ONCE):
            batch = shards[start : start + SHARDS_AT_ONCE]
            for shard, answer in zip(batch, self._results(batch, worker, stopped), strict=False):
                if isinstance(answer, str):
                    raise _worker_error(answer, folder)
                for name, read in zip(shard, answer, strict=True):
                    yield _reconcile(read, images, name, known)
            if stopped():
                return

    def _results(
        self, shards: list[list[str]], worker: tuple[Any, ...], stopped: Stop
    ) -> Iterator[list[Read] | str]:
        """The answer of a worker to each shard, in order; fewer once `stopped`."""
        import ray
        from ray.data.exceptions import ExecutionTimeoutError

        missing = len(shards)
        try:
            for row in self._dataset(shards, worker).iter_rows():
                missing -= 1
                yield row["found"]
                if stopped():
                    return
        except ray.exceptions.RayTaskError:
            raise  # a bug of ours
        except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
            if not stopped():  # the signal may have reached the workers too
                raise _cluster_error(error) from error
        if missing and not stopped():
            raise _cluster_error(RuntimeError(f"{missing} of {len(shards)} shards are missing"))

    def _dataset(self, shards: list[list[str]], worker: tuple[Any, ...]) -> Any:
        import ray

        names = [{"names": b"\0".join(map(os.fsencode, shard))} for shard in shards]
        dataset = ray.data.from_items(names, override_num_blocks=len(names))
        dataset.context.execution_options.preserve_order = True
        dataset.context.execution_no_progress_timeout_s = STALLED_SECONDS
        dataset.context.enable_progress_bars = False
        return dataset.map_batches(
            _Worker,
            fn_constructor_args=worker,
            batch_size=1,
            num_cpus=1 if self.has_gpus else self.threads,
            num_gpus=1 if self.has_gpus else 0,
            compute=ray.data.ActorPoolStrategy(
                size=min(self._fitting(), len(shards)), max_tasks_in_flight_per_actor=2
            ),
        )

    def _fitting(self) -> int:
        """How many workers to start."""
        import ray

        kind, share = ("GPU", 1) if self.has_gpus else ("CPU", self.threads)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = self.workers or sum(int(had.get(kind, 0) // share) for had in machines)
        if not fitting:
            raise ConfigurationError(
                f"no machine of the Ray cluster has {share} {kind}",
                where=f"the cluster; {kind} of each machine: {[m.get(kind, 0) for m in machines]}",
                expected=f"a machine with {share} {kind}: a worker gets as much as this process",
                next_step="set OMP_NUM_THREADS to fewer threads for a worker, or `--ray-workers`",
            )
        return fitting


def _reconcile(read: Read, images: LineImages, name: str, known: Known) -> Read:
    """`read` as this process would have read it: only the ledger knows the earlier scores.

    Raises:
        SourceError: the worker does not see what this process sees.
    """
    row = read.row
    if row is None or row.status not in (Status.SCORED, Status.UNSCORABLE, Status.VANISHED):
        return read
    if row.status == Status.VANISHED:
        if images.inbox.state(name).stamp:
            raise SourceError(
                "a worker of the Ray cluster does not find an image that stands here",
                where=images.folder / name,
                expected="the same folder at the same path on every machine",
                next_step="mount it there, then run again: what is kept is not scored again",
            )
        return read
    answer = known(row.image_sha256)
    if answer is None:
        return read
    unscored = replace(row, status=Status.SCORED, reason="", reused=True, anomaly_score=None)
    return replace(read, row=with_score(unscored, answer))


def _worker_error(reason: str, where: Path) -> BundleError:
    return BundleError(
        f"a worker of the Ray cluster cannot score: {reason}",
        where=where,
        expected="the bundle of this process, at the same path on every machine",
        next_step="mount or copy the folder of models there, then run again",
    )


def _cluster_error(error: Exception) -> SourceError:
    return SourceError(
        f"the Ray cluster stopped working: {type(error).__name__}",
        where=str(error).splitlines()[0] if str(error) else "its workers",
        expected="a shard of images finished now and then",
        next_step="see `ray status`, then run again (`--engine local` needs none): what is kept "
        "is not scored again",
    )


@contextmanager
def on_cluster(address: str | None, workers: int | None) -> Iterator[Engine]:
    """The engine of the cluster at `address`, else of one that starts here and ends with it.

    Raises:
        ConfigurationError: Ray is not installed.
        SourceError: there is no such cluster, or none can be started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigurationError(
            "Ray is not installed",
            where="--engine ray",
            expected="the extra `ray` of admodels",
            next_step="pip install 'admodels[ray]'",
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it raises what it complains of
    threads = torch.get_num_threads()
    started: dict[str, Any] = {"include_dashboard": False}
    started["num_cpus"] = (workers or max(1, (os.cpu_count() or 1) // threads)) * threads
    try:
        ray.init(
            address or "local",  # never one that happens to run here
            runtime_env={"py_modules": [admodels.__path__[0]]},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else started),
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _cluster_error(error) from error
    try:
        wanted = os.environ.get("ADMODELS_DEVICE", "auto") != "cpu"
        has_gpus = wanted and ray.cluster_resources().get("GPU", 0) >= 1
        yield _Cluster(workers, threads, has_gpus)
    finally:
        ray.shutdown()
