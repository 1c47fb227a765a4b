"""Reductions over the rows of an n x m matrix, a block of rows at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


Out = TypeVar("Out", bound=PyTree[Array])

# Entries of a block. On a CPU a block should stay in the cache between the passes over it; an
# accelerator wants few, large kernels.
_CPU_BLOCK = 2**18
_ACCELERATOR_BLOCK = 2**25


def block_rows(num_rows: int, num_columns: int, max_entries: int | None = None) -> int:
    """How many rows to take at a time, so that a block has about `max_entries` entries."""
    default = _CPU_BLOCK if jax.default_backend() == "cpu" else _ACCELERATOR_BLOCK
    entries = default if max_entries is None else min(default, max_entries)
    return max(1, min(num_rows, entries // num_columns))


def map_rows(reduce: Callable[[PyTree[Array]], Out], rows: PyTree[Array], block: int) -> Out:
    """Applies `reduce`, which treats each row on its own, to `block` rows at a time.

    Equal to `reduce(rows)`, but what `reduce` makes on the way exists for one block only, in
    derivatives too: each block is recomputed instead of stored.
    """
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if block >= num_rows:
        return reduce(rows)
    num_blocks = -(-num_rows // block)
    extra = num_blocks * block - num_rows

    def split(leaf: Array) -> Array:
        # Repeating the last row keeps the numbers of the padding as tame as the others.
        padding = ((0, extra),) + ((0, 0),) * (leaf.ndim - 1)
        padded = jnp.pad(leaf, padding, mode="edge") if extra else leaf
        return padded.reshape(num_blocks, block, *leaf.shape[1:])

    def join(leaf: Array) -> Array:
        return leaf.reshape(num_blocks * block, *leaf.shape[2:])[:num_rows]

    body = jax.checkpoint(reduce, prevent_cse=False)
    return jax.tree.map(join, lax.map(body, jax.tree.map(split, rows)))
