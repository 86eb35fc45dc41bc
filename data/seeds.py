"""Randomness that derives from the seed of a run, shares of processes, and what all data loaders have in common."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def derived_seed(*parts: int) -> int:
    """A seed that changes completely when any part changes by one; the same on every machine."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state % 2**62


def seeded_generator(seed: int) -> torch.Generator:
    """A stream of random numbers of its own, on the CPU so that it is the same on every device."""
    return torch.Generator().manual_seed(seed)


def share_of_process(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """Every `world_size`-th item from `rank` on; processes get equally many, the last turn is filled from the front."""
    return [items[(rank + turn * world_size) % len(items)] for turn in range(-(-len(items) // world_size))]


def evenly_spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, spread over the whole list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def loader_settings(accelerator: object, num_workers: int) -> dict[str, Any]:
    """What all loaders have in common: worker processes that stay, page-locked batches for a GPU."""
    return {
        "num_workers": num_workers,
        "pin_memory": accelerator.__class__.__name__ == "CUDAAccelerator",
        "persistent_workers": num_workers > 0,
    }
