"""Batch reads, shard members, epochs and checkpoints of a Granary object store."""

from .client import Client
from .types import Batch, Checkpoint, Entry, GranaryError, Incomplete, Item, Member, Missing, Sample, Warmed

__all__ = [
    "Batch", "Checkpoint", "Client", "Entry", "GranaryError", "Incomplete", "Item", "Member", "Missing", "Sample",
    "Warmed",
]  # fmt: skip
