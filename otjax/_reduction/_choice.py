"""Which engine is used where the user names none."""

import os

import jax
import jax.numpy as jnp

from .. import _pallas
from ._engine import AbstractEngine
from ._pairs import Pairs
from ._pallas import knows, Pallas
from ._streamed import Dense, Streamed


# A solve with its gradient holds up to six matrices; they may take three quarters of the memory.
_MATRICES = 8
# On an NVIDIA GPU making an entry anew is cheaper than reading it, up to this many coordinates and
# for so many entries that they do not stay in its cache.
_CHEAP_DIMENSION, _CACHED_ENTRIES = 8, 2**22


def device_memory() -> int:
    """The memory of the device that JAX computes on, in bytes: its own, or the host's for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_engine(pairs: Pairs) -> AbstractEngine:
    """`Dense()` where the n x m matrix takes up to an eighth of the device's memory, otherwise
    `Streamed()`, also where sizes are symbols of `jax.export`.

    On an NVIDIA GPU, in single precision and for the costs that its kernels know, `Pallas()` takes
    the place of `Streamed()`, and that of `Dense()` for more than 2^22 pairs of points of up to 8
    coordinates.
    """
    n, m = pairs.shape
    # A size that is a symbol, in a program that is exported for any, fits in no memory for sure.
    known = isinstance(n, int) and isinstance(m, int)
    fits = known and n * m * pairs.x.dtype.itemsize * _MATRICES <= device_memory()
    has_kernel = _pallas.run_here() and pairs.x.dtype == jnp.float32 and knows(pairs.cost)
    cheap = known and pairs.x.shape[1] <= _CHEAP_DIMENSION and n * m > _CACHED_ENTRIES
    if has_kernel and (cheap or not fits):
        return Pallas()
    return Dense() if fits else Streamed()
