"""The costs between two sets of points, which need not exist as a matrix."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._ground_cost import (
    AbstractFactoredCost,
    Euclidean,
    flip,
    GroundCost,
    pairwise,
    SqEuclidean,
)


class Pairs(eqx.Module):
    """All pairs of a point of `x` and a point of `y`, and what each costs."""

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: GroundCost

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers n and m of points."""
        return self.x.shape[0], self.y.shape[0]

    @property
    def T(self) -> "Pairs":
        """The same pairs with the two sides exchanged."""
        return Pairs(self.y, self.x, flip(self.cost))

    @property
    def are_finite(self) -> bool:
        """Whether costs cannot but be finite where squared distances are."""
        return type(self.cost) in (Euclidean, SqEuclidean)

    def matrix(self) -> Float[Array, "n m"]:
        """The matrix of costs, finite where the cost is not NaN."""
        cost = pairwise(self.cost, self.x, self.y)
        return cost if self.are_finite else without_infinities(cost)

    def factors(self) -> tuple[Float[Array, "n r"], Float[Array, "m r"]] | None:
        """Two factors whose product is the matrix, where the cost has them."""
        if isinstance(self.cost, AbstractFactoredCost):
            return self.cost.factors(self.x, self.y)
        return None


def without_infinities(cost: Float[Array, "..."]) -> Float[Array, "..."]:
    """A forbidden pair costs infinity: a cost so large that nothing moves, yet whose products
    with other numbers of the problem, and so all derivatives, stay finite."""
    return jnp.where(cost == jnp.inf, _forbidden(cost), cost)


def is_allowed(cost: Float[Array, "..."]) -> Array:
    """Where a cost is not that of a forbidden pair, whatever the rounding of its root."""
    return cost < 0.5 * _forbidden(cost)


def _forbidden(cost: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.asarray(jnp.finfo(cost.dtype).max, cost.dtype))
