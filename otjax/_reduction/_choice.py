"""Which engine is used where the user names none."""

import os

import jax
import jax.numpy as jnp

from ._engine import AbstractEngine
from ._streamed import Dense, Streamed


# A solve with its gradient holds about six matrices; they may take half of the memory.
_MATRICES = 12


def device_memory() -> int:
    """The memory of the device that JAX computes on, in bytes: its own, or the host's for a CPU."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_engine(shape: tuple[int, int], dtype: jnp.dtype) -> AbstractEngine:
    """`Dense()` where the n x m matrix takes up to a twelfth of the device's memory, otherwise
    `Streamed()`."""
    n, m = shape
    fits = n * m * dtype.itemsize * _MATRICES <= device_memory()
    return Dense() if fits else Streamed()
