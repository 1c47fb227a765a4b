"""A geometry given by its cost matrix; also what points become whose matrix is held."""

from functools import partial
from typing import cast

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import float_array
from .._control import cond_any, launches_cost
from .._reduction import (
    by_platform,
    by_rows,
    fold_rows,
    is_allowed,
    softmin_rows,
    without_infinities,
)
from .._unit import excess_exponent, over, power_of_two
from ._base import AbstractCostGeometry, AbstractPlan, Partners, Prepared


_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


class CostMatrix(AbstractCostGeometry):
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

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        alive = (a > 0)[:, None] & (b > 0)[None, :]
        cost = lax.stop_gradient(self.matrix)
        least = jnp.min(jnp.where(alive, cost, jnp.inf))
        most = jnp.max(jnp.where(alive, cost, -jnp.inf))

        def look_at_forbidden() -> tuple[Array, Array, Array, Array]:
            allowed = alive & (cost < jnp.inf)
            rows, columns = jnp.any(allowed, axis=1), jnp.any(allowed, axis=0)
            # Where nothing is allowed at all there is no problem: all stay.
            some = jnp.any(rows)
            rows, columns = rows | ~some, columns | ~some
            share = _share_of(allowed, jnp.where(rows, a, 0), jnp.where(columns, b, 0))
            return rows, columns, share, jnp.max(jnp.where(allowed, cost, -jnp.inf))

        everybody = jnp.ones_like(a, bool), jnp.ones_like(b, bool)
        rows, columns, share, most = cond_any(
            most == jnp.inf, look_at_forbidden, lambda: (*everybody, jnp.ones_like(most), most)
        )
        size = jnp.maximum(jnp.abs(least), jnp.abs(most))
        exponent = excess_exponent(size)
        a, b = jnp.where(rows, a, 0), jnp.where(columns, b, 0)
        matrix = _without_absent(self.matrix, a, b) * power_of_two(-exponent, self.dtype)
        prepared = held(without_infinities(matrix), a, b)
        return prepared._replace(
            mean=prepared.mean / share,
            unit=power_of_two(exponent, self.dtype),
            partners=Partners(rows, columns),
        )

    @property
    def holds_costs(self) -> bool:
        return True

    @property
    def may_forbid(self) -> bool:
        return True

    def costs(
        self, rows: Int[Array, " k"], columns: Int[Array, " k"], valid: Bool[Array, ""]
    ) -> Float[Array, " k"]:
        return jnp.where(valid, self.matrix[rows, columns], 0)

    def all_costs(self) -> Float[Array, "n m"]:
        return self.matrix

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        reduce = lambda rows: softmin_rows(rows, h, epsilon)
        return by_rows(reduce, self.matrix, self.matrix.shape[1])

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "DensePlan":
        scores = over(f[:, None] + g[None, :] - self.matrix, epsilon)
        return DensePlan(jnp.exp(scores.astype(dtype or scores.dtype)), transposed=False)


def matrix_of(prepared: Prepared) -> Float[Array, "n m"]:
    """The matrix of what `CostMatrix.prepare`, `held` or `held_finite` prepared."""
    return cast(CostMatrix, prepared.geometry).matrix


def _without_absent(
    cost: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, "n m"]:
    """The same costs, where points of mass zero are copies of those of the largest mass."""
    rows, columns = a > 0, b > 0
    # Of masses that are equal by construction XLA would find the largest as it compiles, slowly.
    a, b = lax.optimization_barrier(lax.stop_gradient((a, b)))
    row, column, fixed = jnp.argmax(a), jnp.argmax(b), lax.stop_gradient(cost)
    of_row = jnp.where(columns, fixed[row], fixed[row, column])
    instead = jnp.where(rows[:, None], fixed[:, column][:, None], of_row[None, :])
    return jnp.where(rows[:, None] & columns[None, :], cost, instead)


def _share_of(
    allowed: Bool[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    """The share of the product of two measures on pairs that are allowed; 1 if none is."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))
    share = _product(_product(a, allowed.astype(a.dtype)), b)
    return jnp.where(share > 0, share, 1)


def held(cost: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
    """The prepared geometry of a matrix of costs that are finite, where they are not NaN; `mean` is
    over the masses of all pairs, forbidden ones too."""
    finite = jnp.isfinite(cost)
    return held_finite(jnp.where(finite, cost, 0), a, b)._replace(finite=jnp.all(finite))


def held_finite(
    cost: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> Prepared:
    """The prepared geometry of a matrix of finite costs."""

    # By columns, for their sums and minima are those of whole rows.
    def of_columns(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        cost, a = rows
        allowed = is_allowed(cost)
        kept = jnp.where(allowed, cost, 0)
        # As a sum it is computed beside the minimum, in one pass that holds nothing.
        sums = jnp.sum(a[:, None] * kept, axis=0) if launches_cost() else _product(a, kept)
        return sums, jnp.min(jnp.where(allowed, cost, jnp.inf), axis=0)

    def of_blocks(block: int, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        sums, least = fold_rows(of_columns, rows, block)
        return jnp.sum(sums, axis=0), jnp.min(least)

    fixed = lax.stop_gradient((cost, a / jnp.sum(a)))
    sums, least = by_platform(of_blocks, cost.shape, fixed)
    mean = jnp.sum(lax.stop_gradient(b / jnp.sum(b)) * sums)
    return Prepared(CostMatrix(cost), jnp.array(True), mean, least)


class TransposedCostMatrix(AbstractCostGeometry):
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

    def prepare(self, a: Float[Array, " m"], b: Float[Array, " n"]) -> Prepared:
        prepared = self.original.prepare(b, a)
        partners = prepared.partners
        if partners is not None:
            partners = Partners(partners.columns, partners.rows)
        return prepared._replace(geometry=prepared.geometry.T, partners=partners)

    @property
    def holds_costs(self) -> bool:
        return True

    @property
    def may_forbid(self) -> bool:
        return True

    def costs(
        self, rows: Int[Array, " k"], columns: Int[Array, " k"], valid: Bool[Array, ""]
    ) -> Float[Array, " k"]:
        return self.original.costs(columns, rows, valid)

    def all_costs(self) -> Float[Array, "m n"]:
        return self.original.matrix.T

    def softmin(self, h: Float[Array, " n"], epsilon: Float[Array, ""]) -> Float[Array, " m"]:
        # A log-sum-exp over each block of rows, then one over the blocks.
        def of_columns(rows: tuple[Array, Array]) -> Array:
            cost, h = rows
            return -softmin_rows(cost.T, h, epsilon) / epsilon

        def of_blocks(block: int, rows: tuple[Array, Array]) -> Array:
            if block >= cost.shape[0]:
                return of_columns(rows)
            return jax.nn.logsumexp(fold_rows(of_columns, rows, block), axis=0)

        cost = self.original.matrix
        return -epsilon * by_platform(of_blocks, cost.shape, (cost, h))

    def plan(
        self,
        f: Float[Array, " m"],
        g: Float[Array, " n"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "DensePlan":
        return self.original.plan(g, f, epsilon, dtype).T


class DensePlan(AbstractPlan):
    """A plan held as a matrix, applied from either side without a transposed copy."""

    matrix: Float[Array, "rows columns"]
    transposed: bool = eqx.field(static=True)

    def mv(self, vectors: Float[Array, " columns *k"]) -> Float[Array, " rows *k"]:
        if not self.transposed:
            return _product(self.matrix, vectors)
        return _product(vectors.T, self.matrix).T

    def squared_mv(self, vector: Float[Array, " columns"]) -> Float[Array, " rows"]:
        if not self.transposed:
            reduce = lambda rows: _product(jnp.square(rows), vector)
            return by_rows(reduce, self.matrix, self.matrix.shape[1])

        def of_columns(rows: tuple[Array, Array]) -> Array:
            entries, vector = rows
            return _product(vector, jnp.square(entries))

        return by_platform(
            lambda block, rows: jnp.sum(fold_rows(of_columns, rows, block), axis=0),
            self.matrix.shape,
            (self.matrix, vector),
        )

    def as_matrix(self) -> Float[Array, "rows columns"]:
        return self.matrix.T if self.transposed else self.matrix

    @property
    def T(self) -> "DensePlan":
        return DensePlan(self.matrix, not self.transposed)
