"""A geometry given by its cost matrix; also what a small point cloud becomes when it is solved."""

from functools import partial

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array
from .._operators import register
from .._rows import block_rows, fold_rows, map_rows
from ._base import AbstractGeometry


def softmin_rows(
    cost: Float[Array, "k m"], h: Float[Array, " m"], epsilon: Float[Array, ""]
) -> Float[Array, " k"]:
    """The soft minimum of each row of a block of the cost matrix."""
    return -epsilon * jax.nn.logsumexp((h[None, :] - cost) / epsilon, axis=1)


def without_infinities(cost: Float[Array, "..."]) -> Float[Array, "..."]:
    """A forbidden pair costs infinity: a cost so large that nothing moves, yet whose products
    with other numbers of the problem, and so all derivatives, stay finite."""
    return jnp.where(cost == jnp.inf, _forbidden(cost), cost)


def where_allowed(cost: Float[Array, "..."]) -> Float[Array, "..."]:
    """The costs, and 0 for forbidden pairs."""
    return jnp.where((cost == jnp.inf) | (cost == _forbidden(cost)), 0, cost)


def _forbidden(cost: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.asarray(jnp.finfo(cost.dtype).max, cost.dtype))


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
        n, m = self.matrix.shape
        return n, m

    @property
    def dtype(self) -> jnp.dtype:
        return self.matrix.dtype

    @property
    def T(self) -> "TransposedCostMatrix":
        return TransposedCostMatrix(self)

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return map_rows(
            lambda cost: softmin_rows(cost, h, epsilon), self.matrix, block_rows(*self.shape)
        )

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "DensePlan":
        scores = (f[:, None] + g[None, :] - self.matrix) / epsilon
        return DensePlan(jnp.exp(scores.astype(dtype or scores.dtype)), transposed=False)

    def mean_cost(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        a, b = a / jnp.sum(a), b / jnp.sum(b)
        rows = map_rows(
            lambda cost: jnp.matmul(where_allowed(cost), b, precision=lax.Precision.HIGHEST),
            self.matrix,
            block_rows(*self.shape),
        )
        return jnp.sum(a * rows)

    def prepare(
        self, a: Float[Array, " n"], b: Float[Array, " m"]
    ) -> tuple["CostMatrix", Bool[Array, ""]]:
        alive = (a > 0)[:, None] & (b > 0)[None, :]
        # The least cost keeps the plan of the points of mass zero as small as everybody's.
        least = lax.stop_gradient(jnp.min(jnp.where(alive, self.matrix, jnp.inf)))
        return finite_costs(jnp.where(alive, self.matrix, least))


def finite_costs(cost: Float[Array, "n m"]) -> tuple[CostMatrix, Bool[Array, ""]]:
    """The costs with numbers in place of infinities and NaN, and whether there was no NaN."""
    cost = without_infinities(cost)
    finite = jnp.isfinite(cost)
    return CostMatrix(jnp.where(finite, cost, 0)), jnp.all(finite)


class TransposedCostMatrix(AbstractGeometry):
    """A cost matrix seen from its columns, without a transposed copy in memory."""

    original: CostMatrix

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.original.shape
        return m, n

    @property
    def dtype(self) -> jnp.dtype:
        return self.original.dtype

    @property
    def T(self) -> CostMatrix:
        return self.original

    def softmin(self, h: Float[Array, " n"], epsilon: Float[Array, ""]) -> Float[Array, " m"]:
        # A log-sum-exp over each block of rows, then one over the blocks.
        cost = self.original.matrix
        blocks = fold_rows(
            lambda rows: -softmin_rows(rows[0].T, rows[1], epsilon) / epsilon,
            (cost, h),
            block_rows(*cost.shape),
        )
        return -epsilon * jax.nn.logsumexp(blocks, axis=0)

    def plan(
        self,
        f: Float[Array, " m"],
        g: Float[Array, " n"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "DensePlan":
        return self.original.plan(g, f, epsilon, dtype).transpose()

    def mean_cost(self, a: Float[Array, " m"], b: Float[Array, " n"]) -> Float[Array, ""]:
        return self.original.mean_cost(b, a)

    def prepare(
        self, a: Float[Array, " m"], b: Float[Array, " n"]
    ) -> tuple["TransposedCostMatrix", Bool[Array, ""]]:
        prepared, finite = self.original.prepare(b, a)
        return TransposedCostMatrix(prepared), finite


@register
class DensePlan(lx.AbstractLinearOperator):
    """A plan held as a matrix, applied from either side without a transposed copy."""

    matrix: Float[Array, "rows columns"]
    transposed: bool = eqx.field(static=True)

    def mv(self, vector: Float[Array, " columns"]) -> Float[Array, " rows"]:
        pair = (vector, self.matrix) if self.transposed else (self.matrix, vector)
        return jnp.matmul(*pair, precision=lax.Precision.HIGHEST)

    def as_matrix(self) -> Float[Array, "rows columns"]:
        return self.matrix.T if self.transposed else self.matrix

    def transpose(self) -> "DensePlan":
        return DensePlan(self.matrix, not self.transposed)

    def squared_mv(self, vector: Float[Array, " columns"]) -> Float[Array, " rows"]:
        """The product with the matrix of squared entries, which is not formed."""
        product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
        block = block_rows(*self.matrix.shape)
        if not self.transposed:
            return map_rows(lambda rows: product(jnp.square(rows), vector), self.matrix, block)
        parts = fold_rows(
            lambda rows: product(rows[1], jnp.square(rows[0])), (self.matrix, vector), block
        )
        return jnp.sum(parts, axis=0)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.matrix.shape[not self.transposed],), self.matrix.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.matrix.shape[self.transposed],), self.matrix.dtype)
