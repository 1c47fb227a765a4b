"""The reductions a block of rows at a time, and all at once."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._ground_cost import AbstractGroundCost
from .._unit import over
from ._engine import AbstractEngine
from ._pairs import Pairs
from ._rows import by_rows, map_rows


def softmin_rows(
    cost: Float[Array, "k m"], h: Float[Array, " m"], epsilon: Float[Array, ""]
) -> Float[Array, " k"]:
    """The soft minimum of each row of a block of the cost matrix."""
    return -epsilon * jax.nn.logsumexp(over(h[None, :] - cost, epsilon), axis=1)


def softmin_by_rows(
    pairs: Pairs, h: Float[Array, " m"], epsilon: Float[Array, ""], block: int | None
) -> Float[Array, " n"]:
    """`AbstractEngine.softmin` in blocks of `block` rows; `None` lets the platform choose."""

    def reduce(x: Float[Array, "k d"]) -> Float[Array, " k"]:
        return softmin_rows(Pairs(x, pairs.y, pairs.cost).matrix(), h, epsilon)

    return _in_blocks(reduce, pairs.x, pairs, block)


def apply_by_rows(
    pairs: Pairs,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    epsilon: Float[Array, ""],
    columns: Float[Array, "m k"],
    block: int | None,
) -> Float[Array, "n k"]:
    """`AbstractEngine.apply` in blocks of `block` rows, in operations that JAX differentiates."""

    def reduce(rows: tuple[Float[Array, "k d"], Float[Array, " k"]]) -> Array:
        x, f = rows
        scores = over(f[:, None] + g[None, :] - Pairs(x, pairs.y, pairs.cost).matrix(), epsilon)
        entries = jnp.exp(scores.astype(columns.dtype))
        return jnp.matmul(entries, columns, precision=lax.Precision.HIGHEST)

    return _in_blocks(reduce, (pairs.x, f), pairs, block)


def _in_blocks(reduce, rows, pairs: Pairs, block: int | None):
    n, m = pairs.shape
    # A cost without a formula for a block makes something for each coordinate of each pair.
    width = 1 if isinstance(pairs.cost, AbstractGroundCost) else pairs.x.shape[1]
    if block is not None:
        return map_rows(reduce, rows, block if isinstance(n, int) or block == n else 1)
    return by_rows(reduce, rows, m * width)


class Streamed(AbstractEngine):
    """Never holds the matrix: every reduction makes it anew, a block of rows at a time.

    Memory is O((n + m) d + block m), also of a gradient.
    """

    holds: ClassVar[bool] = False
    block: int | None = eqx.field(static=True)

    def __init__(self, block: int | None = None):
        """**Arguments:**

        - `block`: how many rows to make at a time; `None` is as many as make 2^18 entries on a
            CPU, which stay in its cache, and 2^25 on an accelerator.

        **Raises:** `ValueError` unless `block` is a positive integer.
        """
        if block is not None and (isinstance(block, bool) or not isinstance(block, int)):
            raise ValueError(f"`block` must be a number of rows or None, got {block!r}.")
        if block is not None and block < 1:
            raise ValueError(f"`block` must be at least 1 row, got {block}.")
        self.block = block

    def softmin(
        self, pairs: Pairs, h: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        return softmin_by_rows(pairs, h, epsilon, self.block)

    def apply(
        self,
        pairs: Pairs,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        columns: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        return apply_by_rows(pairs, f, g, epsilon, columns, self.block)


class Dense(AbstractEngine):
    """Holds the matrix of costs: a solve makes it once, and products read it from memory.

    A solve with its gradient holds up to about six matrices of n x m.
    """

    holds: ClassVar[bool] = True

    def softmin(
        self, pairs: Pairs, h: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        return softmin_by_rows(pairs, h, epsilon, pairs.shape[0])

    def apply(
        self,
        pairs: Pairs,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        columns: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        return apply_by_rows(pairs, f, g, epsilon, columns, pairs.shape[0])
