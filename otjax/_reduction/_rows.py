"""Reductions over the rows of an n x m matrix, a block of rows at a time."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


Out = TypeVar("Out", bound=PyTree[Array])

# Entries of a block. On a CPU a block should stay in the cache between the passes over it; an
# accelerator wants few, large kernels.
_CPU_BLOCK = 2**18
_ACCELERATOR_BLOCK = 2**25


def block_rows(num_rows: int, num_columns: int, entries: int) -> int:
    """How many rows to take at a time, so that a block has about `entries` entries."""
    return max(1, min(num_rows, entries // num_columns))


def working_memory(shape: tuple[int, int], dtype: jnp.dtype) -> int:
    """About the bytes of what a reduction of a matrix of `shape` makes on the way, on the platform
    that JAX computes on by default: a block of exponents, of entries, and their derivatives."""
    largest = _CPU_BLOCK if jax.default_backend() == "cpu" else _ACCELERATOR_BLOCK
    return 4 * min(shape[0] * shape[1], largest) * jnp.dtype(dtype).itemsize


def by_platform(
    compute: Callable[[int, Any], Out], shape: tuple[int, ...], rows: PyTree[Array]
) -> Out:
    """`compute(block, rows)` for a matrix of `shape` with the block size of the platform that it
    runs on."""
    cpu, accelerator = (
        block_rows(shape[0], shape[1], size) for size in (_CPU_BLOCK, _ACCELERATOR_BLOCK)
    )
    if cpu == accelerator:
        return compute(cpu, rows)
    return lax.platform_dependent(
        rows, cpu=lambda rows: compute(cpu, rows), default=lambda rows: compute(accelerator, rows)
    )


def map_rows(reduce: Callable[[PyTree[Array]], Out], rows: PyTree[Array], block: int) -> Out:
    """Applies `reduce`, which treats each row on its own, to `block` rows at a time.

    Equal to `reduce(rows)`, but what `reduce` makes on the way exists for one block only, in
    derivatives too: each block is recomputed instead of stored.
    """
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if block >= num_rows:
        return reduce(rows)
    whole = num_rows // block * block
    results = lax.map(_recomputed(reduce), _split(rows, whole, block))
    results = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), results)
    if whole == num_rows:
        return results
    rest = _recomputed(reduce)(jax.tree.map(lambda leaf: leaf[whole:], rows))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), results, rest)


def fold_rows(reduce: Callable[[PyTree[Array]], Out], rows: PyTree[Array], block: int) -> Out:
    """The results of `reduce` on `block` rows at a time, stacked along a new first axis."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    whole = num_rows // block * block
    results = lax.map(_recomputed(reduce), _split(rows, whole, block))
    if whole == num_rows:
        return results
    rest = _recomputed(reduce)(jax.tree.map(lambda leaf: leaf[whole:], rows))
    return jax.tree.map(lambda leaf, last: jnp.concatenate([leaf, last[None]]), results, rest)


def _recomputed(reduce: Callable[[PyTree[Array]], Out]) -> Callable[[PyTree[Array]], Out]:
    return jax.checkpoint(reduce, prevent_cse=False)


def _split(rows: PyTree[Array], whole: int, block: int) -> PyTree[Array]:
    return jax.tree.map(
        lambda leaf: leaf[:whole].reshape(whole // block, block, *leaf.shape[1:]), rows
    )
