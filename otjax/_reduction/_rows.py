"""Reductions over the rows of an n x m matrix, a block of rows at a time.

Rows may be spread over several devices, as many to each, of which nothing is known while tracing.
A block is made of as many rows of each device's, so that none is sent to another.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._varying import scan


Out = TypeVar("Out", bound=PyTree[Array])
Sums = TypeVar("Sums", bound=PyTree[Array])

# Entries of a block. On a CPU a block should stay in the cache between the passes over it; an
# accelerator wants few, large kernels.
_CPU_BLOCK = 2**18
_ACCELERATOR_BLOCK = 2**25
# What a block may grow to for the sake of rows that share something: the cache of all cores.
_LARGEST_CPU_BLOCK = 2**22


def block_rows(num_rows: int, num_columns: int, entries: int, least: int = 1) -> int:
    """How many rows to take at a time, so that a block has about `entries` entries, or up to
    `least` rows, a power of two that divides many sizes, as long as these are not very long.

    One, where a size is a symbol in a program that is exported for any size.
    """
    if not _are_known(num_rows, num_columns):
        return 1
    least = max(1, min(least, _LARGEST_CPU_BLOCK // num_columns))
    least = 1 << (least.bit_length() - 1)
    return max(1, min(num_rows, max(entries // num_columns, least)))


def working_memory(shape: tuple[int, int], dtype: jnp.dtype, least_rows: int = 1) -> int:
    """About the bytes of what a reduction of a matrix of `shape` makes on the way, on the platform
    that JAX computes on by default: a block of exponents, of entries, and their derivatives."""
    entries = _CPU_BLOCK if jax.default_backend() == "cpu" else _ACCELERATOR_BLOCK
    rows = block_rows(*shape, entries, least_rows)
    return 4 * rows * shape[1] * jnp.dtype(dtype).itemsize


def by_platform(
    compute: Callable[[int, Any], Out],
    shape: tuple[int, ...],
    rows: PyTree[Array],
    least_rows: int = 1,
) -> Out:
    """`compute(block, rows)` for a matrix of `shape` with the block size of the platform that it
    runs on: that of a CPU has `least_rows` at least, where each block costs something by itself."""
    cpu = block_rows(shape[0], shape[1], _CPU_BLOCK, least_rows)
    accelerator = block_rows(shape[0], shape[1], _ACCELERATOR_BLOCK)
    if cpu == accelerator:
        return compute(cpu, rows)
    return lax.platform_dependent(
        rows, cpu=lambda rows: compute(cpu, rows), default=lambda rows: compute(accelerator, rows)
    )


def by_rows(
    reduce: Callable[[PyTree[Array]], Out],
    rows: PyTree[Array],
    num_columns: int,
    least_rows: int = 1,
) -> Out:
    """What `reduce`, which treats each row on its own, makes of the rows of a matrix of so many
    columns, of as many rows at a time as suit the platform."""
    shape = jax.tree.leaves(rows)[0].shape[0], num_columns
    return by_platform(lambda block, rows: map_rows(reduce, rows, block), shape, rows, least_rows)


def by_rows_with_sums(
    reduce: Callable[[PyTree[Array]], tuple[Out, Sums]],
    rows: PyTree[Array],
    num_columns: int,
    sums: Sums,
    least_rows: int = 1,
) -> tuple[Out, Sums]:
    """The same where `reduce` returns sums over its rows beside what it makes of each: these are
    added to `sums`."""
    shape = jax.tree.leaves(rows)[0].shape[0], num_columns
    compute = lambda block, rows: _map_and_add(reduce, rows, block, sums)
    return by_platform(compute, shape, rows, least_rows)


def map_rows(reduce: Callable[[PyTree[Array]], Out], rows: PyTree[Array], block: int) -> Out:
    """Applies `reduce`, which treats each row on its own, to `block` rows at a time.

    Equal to `reduce(rows)`, but what `reduce` makes on the way exists for one block only, in
    derivatives too: each block is recomputed instead of stored.
    """
    return _map_and_add(lambda rows: (reduce(rows), ()), rows, block, ())[0]


def _map_and_add(
    reduce: Callable[[PyTree[Array]], tuple[Out, Sums]],
    rows: PyTree[Array],
    block: int,
    sums: Sums,
) -> tuple[Out, Sums]:
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if num_rows == block or (_are_known(num_rows) and block > num_rows):
        each, more = reduce(rows)
        return each, jax.tree.map(jnp.add, sums, more)
    recomputed, join = _recomputed(reduce), lambda leaf: leaf.reshape(-1, *leaf.shape[2:])

    def add(sums: Sums, rows: PyTree[Array]) -> tuple[Sums, Out]:
        shares = jax.tree.leaves(rows)[0].shape[0]
        each, more = recomputed(jax.tree.map(join, rows))
        each = jax.tree.map(lambda leaf: leaf.reshape(shares, -1, *leaf.shape[1:]), each)
        return jax.tree.map(jnp.add, sums, more), each

    whole, rest = _split(rows, block)
    sums, blocks = scan(add, sums, whole)
    blocks = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), blocks)
    shares = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1, *leaf.shape[3:]), blocks)
    if rest is not None:
        sums, last = add(sums, rest)
        together = lambda *leaves: jnp.concatenate(leaves, axis=1)
        shares = jax.tree.map(together, shares, last)
    return jax.tree.map(lambda leaf: leaf.reshape(num_rows, *leaf.shape[2:]), shares), sums


def fold_rows(reduce: Callable[[PyTree[Array]], Out], rows: PyTree[Array], block: int) -> Out:
    """The results of `reduce` on about `block` rows at a time, stacked along a new first axis."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if not _are_known(num_rows):
        return jax.tree.map(lambda leaf: leaf[None], reduce(rows))
    of_shares = jax.vmap(_recomputed(reduce))
    whole, rest = _split(rows, block)
    results = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), lax.map(of_shares, whole))
    if rest is not None:
        together = lambda leaf, last: jnp.concatenate([leaf, last[:, None]], axis=1)
        results = jax.tree.map(together, results, of_shares(rest))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)


def _recomputed(reduce: Callable[[PyTree[Array]], Out]) -> Callable[[PyTree[Array]], Out]:
    return jax.checkpoint(reduce, prevent_cse=False)


def _are_known(*sizes: int) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _split(rows: PyTree[Array], block: int) -> tuple[PyTree[Array], PyTree[Array] | None]:
    """The rows by block, share and place in it, and what is left over of each share."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    # What a number of devices may have of the rows, if they have as many each.
    shares = math.gcd(num_rows, jax.device_count()) if _are_known(num_rows) else 1
    each = num_rows // shares
    block = max(1, block // shares)
    whole = each // block * block
    rows = jax.tree.map(lambda leaf: leaf.reshape(shares, each, *leaf.shape[1:]), rows)

    def blocks(leaf: Array) -> Array:
        leaf = leaf[:, :whole].reshape(shares, whole // block, block, *leaf.shape[2:])
        return jnp.moveaxis(leaf, 1, 0)

    rest = None if whole == each else jax.tree.map(lambda leaf: leaf[:, whole:], rows)
    return jax.tree.map(blocks, rows), rest
