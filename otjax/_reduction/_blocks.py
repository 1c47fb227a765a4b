"""Reductions over the rows of all pairs, as many at a time as suit the cost and the platform."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._ground_cost import AbstractGroundCost
from ._pairs import Pairs
from ._rows import by_rows, by_rows_with_sums, map_rows


Out = TypeVar("Out", bound=PyTree[Array])
Sums = TypeVar("Sums", bound=PyTree[Array])

# Every block reads all of y anew. With this many rows for each coordinate there is more to be done
# with a number of y than to read it; with more of them than that nothing is gained.
_ROWS_PER_COORDINATE, _ENOUGH_ROWS = 2, 128

# Columns of which the least is found first, and then the least of the group it is in.
_GROUP = 64


def least_rows(pairs: Pairs) -> int:
    """How many rows are worth a pass over `pairs.y`."""
    if not _has_formula(pairs):
        return 1
    return min(_ROWS_PER_COORDINATE * pairs.x.shape[1], _ENOUGH_ROWS)


def map_pairs(
    reduce: Callable[..., Out], pairs: Pairs, *along: Array | None, block: int | None = None
) -> Out:
    """`reduce(pairs, *along)`, which treats each row on its own, from some rows at a time: `along`
    has something for each. `block` of them, or as many as suit the platform."""
    n, _ = pairs.shape
    of_rows, rows = _rowwise(reduce, pairs), (pairs.x, *along)
    if block is not None:
        return map_rows(of_rows, rows, block if isinstance(n, int) or block == n else 1)
    return by_rows(of_rows, rows, _width(pairs), least_rows(pairs))


def map_pairs_with_sums(
    reduce: Callable[..., tuple[Out, Sums]], pairs: Pairs, *along: Array | None, sums: Sums
) -> tuple[Out, Sums]:
    """The same where `reduce` returns sums over its rows beside what it makes of each: these are
    added to `sums`."""
    of_rows, rows = _rowwise(reduce, pairs), (pairs.x, *along)
    return by_rows_with_sums(of_rows, rows, _width(pairs), sums, least_rows(pairs))


def nearest_columns(pairs: Pairs, g: Float[Array, " m"]) -> Int[Array, " n"]:
    r"""For each row $i$, $\arg\min_j C_{ij} - g_j$. It carries no derivative."""
    m, d = pairs.y.shape
    # What is looked at twice is a small part of all.
    group = min(_GROUP, m // (8 * d)) if isinstance(m, int) else 1
    if group < 2:
        scores = lambda pairs: pairs.matrix() - g[None, :]
        return map_pairs(lambda pairs: jnp.argmin(scores(pairs), axis=1).astype(jnp.int32), pairs)
    more = -m % group
    places = jnp.arange(group, dtype=jnp.int32)

    def of_rows(pairs: Pairs) -> Int[Array, " k"]:
        # Columns along the first axis: minima over it are taken of many rows at once.
        scores = jnp.pad(
            pairs.T.matrix() - g[:, None], ((0, more), (0, 0)), constant_values=jnp.inf
        )
        least = jnp.min(scores.reshape(-1, group, scores.shape[1]), axis=1)
        first = group * jnp.argmin(least, axis=0).astype(jnp.int32)
        # The last group begins sooner, where it would not be whole.
        columns = jnp.minimum(first, m - group)[:, None] + places[None, :]
        again = jax.vmap(lambda x, y: Pairs(x[None, :], y, pairs.cost).matrix()[0])
        inside = again(pairs.x, pairs.y[columns]) - g[columns]
        return jnp.take_along_axis(columns, jnp.argmin(inside, axis=1)[:, None], axis=1)[:, 0]

    return map_pairs(of_rows, pairs)


def _rowwise(reduce: Callable[..., Out], pairs: Pairs) -> Callable[[tuple[Array, ...]], Out]:
    return lambda rows: reduce(Pairs(rows[0], pairs.y, pairs.cost), *rows[1:])


def _width(pairs: Pairs) -> int:
    """How many numbers are made for a row."""
    # A cost without a formula for a block makes something for each coordinate of each pair.
    return pairs.shape[1] * (1 if _has_formula(pairs) else pairs.x.shape[1])


def _has_formula(pairs: Pairs) -> bool:
    return isinstance(pairs.cost, AbstractGroundCost)
