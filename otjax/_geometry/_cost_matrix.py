"""A geometry given by its cost matrix; also what a small point cloud becomes when it is solved."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array
from .._rows import block_rows, map_rows
from ._base import AbstractGeometry


def softmin_rows(
    cost: Float[Array, "k m"], h: Float[Array, " m"], epsilon: Float[Array, ""]
) -> Float[Array, " k"]:
    """The soft minimum of each row of a block of the cost matrix."""
    return -epsilon * jax.nn.logsumexp((h[None, :] - cost) / epsilon, axis=1)


def without_infinities(cost: Float[Array, "..."]) -> Float[Array, "..."]:
    """A forbidden pair costs infinity: a cost so large that nothing moves, yet whose products
    with other numbers of the problem, and so all derivatives, stay finite."""
    forbidden = jnp.sqrt(jnp.finfo(cost.dtype).max)
    return jnp.where(cost > forbidden, forbidden, cost)


class CostMatrix(AbstractGeometry):
    """A geometry given by its cost matrix. An entry of `inf` forbids that pair."""

    matrix: Float[Array, "n m"]

    def __init__(self, matrix: ArrayLike):
        """**Arguments:**

        - `matrix`: the costs, in the unit of `epsilon`, shape (n, m).

        **Raises:** `ValueError` if `matrix` is not a floating array with two axes.
        """
        self.matrix = float_array(matrix, "matrix", "n m")

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.matrix.dtype

    @property
    def T(self) -> "CostMatrix":
        return CostMatrix(self.matrix.T)

    def softmin(
        self, h: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        return map_rows(
            lambda cost: softmin_rows(cost, h, epsilon), self.matrix, block_rows(*self.shape)
        )

    def plan(
        self, f: Float[Array, " n"], g: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> lx.MatrixLinearOperator:
        scores = (f[:, None] + g[None, :] - self.matrix) / epsilon
        return lx.MatrixLinearOperator(jnp.exp(scores))

    def mean_cost(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        a, b = a / jnp.sum(a), b / jnp.sum(b)
        allowed = jnp.where(jnp.isinf(self.matrix), 0, self.matrix)
        return jnp.sum(a * jnp.matmul(allowed, b, precision=lax.Precision.HIGHEST))

    def prepare(
        self, a: Float[Array, " n"], b: Float[Array, " m"]
    ) -> tuple["CostMatrix", Bool[Array, ""]]:
        alive = (a > 0)[:, None] & (b > 0)[None, :]
        # The least cost keeps the plan of the points of mass zero as small as everybody's.
        least = lax.stop_gradient(jnp.min(jnp.where(alive, self.matrix, jnp.inf)))
        cost = without_infinities(jnp.where(alive, self.matrix, least))
        finite = jnp.all(jnp.isfinite(cost))
        return CostMatrix(jnp.where(finite, cost, 0)), finite
