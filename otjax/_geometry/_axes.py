"""What a look at the costs along the axes of two grids tells of all pairs of their points."""

from collections.abc import Iterable

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._control import cond_any
from .._reduction import is_allowed
from ._base import Partners
from ._contraction import Costs


def _product(matrices: Costs, vector: Float[Array, " m"]) -> Float[Array, " n"]:
    """The product of a vector with the Kronecker product of a matrix for each axis."""
    for matrix in matrices:
        vector = vector.reshape(matrix.shape[1], -1)
        axes = ((0,), (1,)), ((), ())
        vector = lax.dot_general(vector, matrix, axes, precision=lax.Precision.HIGHEST)
    return vector.reshape(-1)


def mean_and_partners(
    costs: Costs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, ""], Partners]:
    """The mean cost of allowed pairs, and which points have an allowed partner."""
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    allowed = tuple(is_allowed(cost) for cost in costs)
    ones = tuple(axis.astype(a.dtype) for axis in allowed)
    inside = tuple(jnp.where(axis, cost, 0) for axis, cost in zip(allowed, costs, strict=True))

    def of_marginals() -> tuple[Float[Array, ""], Partners]:
        sides = zip(_marginals(a, 0, costs), _marginals(b, 1, costs), inside, strict=True)
        mean = _total(jnp.sum(u * _product((cost,), v)) for u, v, cost in sides)
        return mean, Partners(jnp.ones_like(a, bool), jnp.ones_like(b, bool))

    def of_allowed() -> tuple[Float[Array, ""], Partners]:
        with_cost = lambda k: (*ones[:k], inside[k], *ones[k + 1 :])
        total = _total(jnp.sum(a * _product(with_cost(k), b)) for k in range(len(costs)))
        from_rows = _product(ones, b)
        columns = _product(tuple(axis.T for axis in ones), a) > 0
        share = jnp.sum(a * from_rows)
        # Where nothing is allowed at all there is no problem: all stay.
        none = ~(share > 0)
        return total / jnp.where(none, 1, share), Partners((from_rows > 0) | none, columns | none)

    every = jnp.all(jnp.stack([jnp.all(axis) for axis in allowed]))
    return cond_any(~every, of_allowed, of_marginals)


def _marginals(masses: Float[Array, " n"], side: int, costs) -> list[Float[Array, " n_k"]]:
    """The sums of masses on the grid over all axes but one, for each."""
    grid = masses.reshape([cost.shape[side] for cost in costs])
    axes = range(grid.ndim)
    return [jnp.sum(grid, axis=tuple(other for other in axes if other != k)) for k in axes]


def least_cost(costs: Costs, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
    """The least cost between a point of mass and another."""
    sides = zip(costs, _marginals(a, 0, costs), _marginals(b, 1, costs), strict=True)
    alive = [jnp.where((u > 0)[:, None] & (v > 0)[None, :], cost, jnp.inf) for cost, u, v in sides]
    least = [jnp.min(cost) for cost in alive]
    # Nearly always some pair has the least cost of every axis at once.
    cheapest = tuple((cost <= low).astype(a.dtype) for cost, low in zip(alive, least, strict=True))
    weight = jnp.sum(jnp.where(a > 0, _product(cheapest, (b > 0).astype(a.dtype)), 0))

    def over_all_pairs() -> Float[Array, ""]:
        nearest = jnp.where(b > 0, jnp.zeros_like(b), jnp.inf)
        for cost in costs:
            nearest = nearest.reshape(cost.shape[1], -1)
            of_row = lambda row, nearest=nearest: jnp.min(row[:, None] + nearest, axis=0)
            nearest = lax.map(of_row, cost).T
        return jnp.min(jnp.where(a > 0, nearest.reshape(-1), jnp.inf))

    return cond_any(~(weight > 0.5), over_all_pairs, lambda: _total(least))


def _total(numbers: Iterable[Float[Array, ""]]) -> Float[Array, ""]:
    return jnp.sum(jnp.stack(list(numbers)))
