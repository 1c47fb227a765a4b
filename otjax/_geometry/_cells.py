"""Cells of points that are near each other, for a solve that begins with few of them."""

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._ground_cost import SqEuclidean
from .._reduction import nearest_columns, Pairs


# Coordinates that a Morton code interleaves, and bits of each.
CURVED_DIMENSIONS, _BITS = 3, 10
_ROUNDS = 3


def cells_of(
    points: Float[Array, "n d"], masses: Float[Array, " n"], number: int
) -> Int[Array, " n"]:
    """The cell, of `number`, that each point is in.

    Up to three dimensions cells are pieces of equal mass of a Morton curve; beyond, these are
    where a few rounds of Lloyd's algorithm begin.
    """
    order = jnp.argsort(_morton(points, masses))
    along = masses[order] / jnp.sum(masses)
    # The middle of a point's mass: what is heavier than a cell has one of its own.
    middle = jnp.cumsum(along) - 0.5 * along
    pieces = jnp.clip(jnp.floor(middle * number), 0, number - 1).astype(jnp.int32)
    cells = jnp.zeros_like(pieces).at[order].set(pieces)
    if points.shape[1] > CURVED_DIMENSIONS:
        for _ in range(_ROUNDS):
            cells = _nearest(points, *centres(points, masses, cells, number))
    return cells


def centres(
    points: Float[Array, "n d"], masses: Float[Array, " n"], cells: Int[Array, " n"], number: int
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """The mean points of all cells, and their masses."""
    totals = jax.ops.segment_sum(masses, cells, number)
    sums = jax.ops.segment_sum(masses[:, None] * points, cells, number)
    return sums / jnp.where(totals > 0, totals, 1)[:, None], totals


def _morton(points: Float[Array, "n d"], masses: Float[Array, " n"]) -> Int[Array, " n"]:
    """Codes whose order keeps near points near, by the coordinates that differ most."""
    low, high = jnp.min(points, axis=0), jnp.max(points, axis=0)
    number = min(points.shape[1], CURVED_DIMENSIONS)
    _, chosen = lax.top_k(high - low, number)
    span = jnp.where(high > low, high - low, 1)
    scaled = (((points - low[None, :]) / span[None, :]) * (2**_BITS - 1)).astype(jnp.int32)
    code = jnp.zeros(points.shape[0], jnp.int32)
    for k in range(number):
        coordinate = scaled[:, chosen[k]]
        for bit in range(_BITS):
            code |= ((coordinate >> bit) & 1) << (bit * number + k)
    return jnp.where(masses > 0, code, jnp.iinfo(jnp.int32).max)


def _nearest(
    points: Float[Array, "n d"], middles: Float[Array, "k d"], totals: Float[Array, " k"]
) -> Int[Array, " n"]:
    g = jnp.where(totals > 0, 0, jnp.asarray(-jnp.inf, points.dtype))
    return nearest_columns(Pairs(points, middles, SqEuclidean()), g)
