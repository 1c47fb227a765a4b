"""Columns as kernels read them, and results as kernels write them.

A few columns are a vector each. Many are a few matrices whose widths are powers of two, each as its
three bfloat16 parts, in chunks: a program sums one chunk.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import Blocks, VECTORS_UP_TO, widths
from ._primitives import split


Values = tuple[tuple[Array, ...], ...]  # for each vector its array, for each matrix its parts


def chunks(k: int) -> int:
    """The number of programs that share the sums of a row of `k` columns."""
    return 1 if k <= VECTORS_UP_TO else widths(k)[1]


def cut(columns: Float32[Array, "m k"]) -> tuple[Values, tuple[pl.BlockSpec, ...]]:
    """What kernels read of the columns, and which part of it a program sees."""
    m, k = columns.shape
    if k <= VECTORS_UP_TO:
        vectors = tuple((vector,) for vector in columns.T)
        return vectors, tuple(pl.BlockSpec((m,), lambda i, c: (0,)) for _ in vectors)
    sizes, count = widths(k)
    columns = jnp.pad(columns, ((0, 0), (0, count * sum(sizes) - k)))
    columns = columns.reshape(m, count, sum(sizes))
    values, specs, at = [], [], 0
    for size in sizes:
        matrix = columns[:, :, at : at + size].reshape(m, count * size)
        values.append(split(matrix))
        specs.append(pl.BlockSpec((m, size), lambda i, c: (0, c)))
        at += size
    return tuple(values), tuple(specs)


def outputs(
    n: int, k: int, blocks: Blocks
) -> tuple[list[jax.ShapeDtypeStruct], list[pl.BlockSpec]]:
    """One output for each vector or matrix: its shape, and which part of it a program writes."""
    if k <= VECTORS_UP_TO:
        shape, spec = (n,), pl.BlockSpec((blocks.rows,), lambda i, c: (i,))
        return [jax.ShapeDtypeStruct(shape, jnp.float32)] * k, [spec] * k
    sizes, count = widths(k)
    shapes = [jax.ShapeDtypeStruct((n, count * size), jnp.float32) for size in sizes]
    return shapes, [pl.BlockSpec((blocks.rows, size), lambda i, c: (i, c)) for size in sizes]


def join(outs: Sequence[Array], k: int) -> Float32[Array, "n k"]:
    """The columns of the result, in order."""
    if k <= VECTORS_UP_TO:
        return jnp.stack(outs, axis=1)
    n, count = outs[0].shape[0], widths(k)[1]
    joined = jnp.concatenate([out.reshape(n, count, -1) for out in outs], axis=2)
    return joined.reshape(n, -1)[:, :k]
