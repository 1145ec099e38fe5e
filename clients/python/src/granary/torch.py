"""Epochs for PyTorch's DataLoader. Works without torch as a plain iterable (tests, other frameworks)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .client import Client
from .types import GranaryError, Sample

try:
    from torch.utils.data import IterableDataset as _Base
    from torch.utils.data import get_worker_info as _worker_info
except ImportError:  # torch is optional
    _Base = object  # type: ignore[assignment,misc]

    def _worker_info() -> Any:  # type: ignore[misc]
        return None


class EpochDataset(_Base):  # type: ignore[misc,valid-type]
    """Batches of samples of a frozen dataset, each sample once per epoch over all ranks and workers.

    Give it to a DataLoader with `batch_size=None`: it yields whole batches (what `collate` makes of the list of samples).
    Workers of a rank take its batches in turn, so batch `b` is the same however many workers there are. `start` resumes
    within an epoch; `set_epoch` before each epoch, as for DistributedSampler.
    """

    def __init__(self, bucket: str, prefix: str, *, batch_size: int, seed: int = 0, epoch: int = 0, rank: int = 0,
                 world_size: int = 1, start: int = 0, client: Client | None = None,
                 collate: Callable[[list[Sample]], Any] | None = None) -> None:  # fmt: skip
        self.bucket, self.prefix = bucket, prefix
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch
        self.rank, self.world_size, self.start = rank, world_size, start
        self.client = client or Client()
        self.collate = collate

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next epoch to read, and the batch to begin with."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[Any]:
        info = _worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        index = self.start + worker
        batches = None
        while batches is None or index < batches:
            try:
                got = self.client.epoch_batch(
                    self.bucket, self.prefix, epoch=self.epoch, batch=index, batch_size=self.batch_size,
                    seed=self.seed, rank=self.rank, world_size=self.world_size,
                )  # fmt: skip
            except GranaryError as error:
                if error.code == "NoSuchBatch":
                    return
                raise
            batches = got.batches
            yield self.collate(got.samples) if self.collate else got.samples
            index += workers
