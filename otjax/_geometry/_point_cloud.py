"""A geometry given by points and a ground cost."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import constant, float_array
from .._control import cond_any
from .._ground_cost import (
    AbstractGroundCost,
    checked_cost,
    degree,
    GroundCost,
    pairwise,
    SqEuclidean,
)
from .._reduction import (
    AbstractEngine,
    default_engine,
    Pairs,
    softmin,
    Streamed,
)
from .._unit import excess_exponent, power_of_two
from ._base import (
    AbstractCloud,
    AbstractCostGeometry,
    AbstractSpatialGeometry,
    Coarse,
    Partners,
    Prepared,
)
from ._cells import cells_of, centres
from ._cost_matrix import CostMatrix, held, held_finite, matrix_of
from ._held_cloud import HeldCloud
from ._look import extent, look_at_all, look_at_rows, share_of_allowed, unit_of
from ._recomputed_plan import RecomputedPlan


class PointCloud(AbstractCloud, AbstractCostGeometry, AbstractSpatialGeometry):
    """Points `x` and `y` with a ground cost between them.

    An engine carries out the reductions over the n x m pairs. `Dense()` makes the matrix of costs
    once per solve and holds it, `Streamed()` never holds it, in memory O((n + m) d) forward and
    backward.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: GroundCost
    engine: AbstractEngine | None

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        cost: GroundCost = SqEuclidean(),
        engine: AbstractEngine | None = None,
    ):
        """**Arguments:**

        - `x`: the points of the first measure, shape (n, d).
        - `y`: the points of the second measure, shape (m, d).
        - `cost`: a ground cost such as `SqEuclidean()`, or any callable that takes a point of
            `x` and a point of `y` to a scalar.
        - `engine`: `Dense()`, `Streamed(...)`, `Pallas()` or one of your own. `None` holds the
            matrix where it takes up to an eighth of the memory of JAX's default device, and streams
            otherwise; on an NVIDIA GPU it streams by kernels, also where that is faster.

        **Raises:** `ValueError` for shapes, dtypes, a cost or an engine that do not fit.
        """
        self.x = float_array(x, "x", "n d")
        self.y = float_array(y, "y", "m d")
        self.engine = engine
        if engine is not None and not isinstance(engine, AbstractEngine):
            raise ValueError(
                f"`engine` must be `Dense()`, `Streamed(...)` or another engine, got {engine!r}."
            )
        if self.x.shape[1] != self.y.shape[1]:
            raise ValueError(
                "`x` and `y` must be points of the same space, got dimensions "
                f"{self.x.shape[1]} (`x`) and {self.y.shape[1]} (`y`)."
            )
        if self.x.dtype != self.y.dtype:
            raise ValueError(
                f"`x` and `y` must have one dtype, got {self.x.dtype} (`x`) and "
                f"{self.y.dtype} (`y`); cast one of them."
            )
        self.cost = checked_cost(cost, self.x[0], self.y[0])

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self.x.dtype

    @property
    def T(self) -> "PointCloud":
        pairs = self._pairs.T
        return PointCloud(pairs.x, pairs.y, cost=pairs.cost, engine=self.engine)

    @property
    def _pairs(self) -> Pairs:
        return Pairs(self.x, self.y, self.cost)

    @property
    def _engine(self) -> AbstractEngine:
        return default_engine(self._pairs) if self.engine is None else self.engine

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        power = degree(self.cost)
        if power is None:
            return self._prepare_any_cost(a, b)
        # Costs that grow with the points are brought into range by these, before they are made.
        exponent = excess_exponent(extent(((self.x, a), (self.y, b))), power=2)
        factor = power_of_two(-exponent, self.dtype)
        x, x_finite = _usable(self.x, a, factor)
        y, y_finite = _usable(self.y, b, factor)
        finite = x_finite & y_finite
        if self._engine.holds:
            pairs = Pairs(x, y, self.cost)
            hold = held_finite if pairs.are_finite else held
            prepared = hold(pairs.matrix(), a, b)
            prepared = prepared._replace(
                geometry=_with_cells(x, y, self.cost, matrix_of(prepared)),
                finite=finite & prepared.finite,
            )
        else:
            mean, least = look_at_all(constant(Pairs(x, y, self.cost)), a, b)
            geometry = PointCloud(x, y, cost=self.cost, engine=self._engine)
            mean, least = jnp.where(finite, mean, 0), jnp.where(finite, least, 0)
            prepared = Prepared(geometry, finite, mean, least)
        return prepared._replace(unit=unit_of(exponent, power, self.dtype))

    def _prepare_any_cost(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        """Of a cost of which nothing is known: it may forbid pairs, and be NaN."""
        one = jnp.ones((), self.dtype)
        x, x_finite = _usable(self.x, a, one)
        y, y_finite = _usable(self.y, b, one)
        finite = x_finite & y_finite
        cost = _closed(self.cost, x, y)
        if self._engine.holds:
            prepared = CostMatrix(pairwise(cost, x, y)).prepare(a, b)
            costs = _Costs(1 / jnp.asarray(prepared.unit, self.dtype), cost)
            return prepared._replace(
                geometry=_with_cells(x, y, costs, matrix_of(prepared)),
                finite=finite & prepared.finite,
            )
        pairs = constant(Pairs(x, y, cost))
        mean, least, most = look_at_rows(pairs, a, b)
        everybody = jnp.ones_like(a, bool), jnp.ones_like(b, bool)

        def look_at_forbidden() -> tuple[Array, Array, Array]:
            _, least_of_columns, _ = look_at_rows(pairs.T, b, a)
            rows, columns = least < jnp.inf, least_of_columns < jnp.inf
            some = jnp.any(rows & (a > 0))
            return rows | ~some, columns | ~some, share_of_allowed(pairs, a, b)

        rows, columns, share = cond_any(
            most == jnp.inf, look_at_forbidden, lambda: (*everybody, jnp.ones_like(mean))
        )
        a, b = jnp.where(rows, a, 0), jnp.where(columns, b, 0)
        x, _ = _usable(x, a, one)
        y, _ = _usable(y, b, one)
        mean /= share
        has_costs = jnp.isfinite(mean)
        finite &= has_costs
        exponent = excess_exponent(jnp.maximum(jnp.abs(jnp.min(least)), jnp.abs(mean)))
        factor = power_of_two(-exponent, self.dtype)
        cost = _Costs(jnp.where(has_costs, factor, 0), cost)
        geometry = PointCloud(x, y, cost=cost, engine=self._engine)
        return Prepared(
            geometry,
            finite,
            jnp.where(finite, factor * mean, 0),
            jnp.where(finite, factor * jnp.min(least), 0),
            power_of_two(exponent, self.dtype),
            Partners(rows, columns),
        )

    @property
    def holds_costs(self) -> bool:
        return False

    @property
    def may_forbid(self) -> bool:
        return not isinstance(self.cost, AbstractGroundCost)

    def costs(
        self, rows: Int[Array, " k"], columns: Int[Array, " k"], valid: Bool[Array, ""]
    ) -> Float[Array, " k"]:
        x, y = (jnp.where(valid, points, 0) for points in (self.x[rows], self.y[columns]))
        return jax.vmap(self.cost)(x, y)

    def all_costs(self) -> Float[Array, "n m"]:
        return self._pairs.matrix()

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return softmin(self._engine, self._pairs, h, epsilon)

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "RecomputedPlan":
        return RecomputedPlan(self._engine, self._pairs, f, g, epsilon, dtype or f.dtype)

    def coarsened(self, a: Float[Array, " n"], b: Float[Array, " m"], cells: int) -> Coarse:
        k, l = (min(cells, masses.shape[0]) for masses in (a, b))
        u, a = centres(self.x, a, cells_of(self.x, a, k), k)
        v, b = centres(self.y, b, cells_of(self.y, b, l), l)
        between = lambda x, y, engine: PointCloud(x, y, cost=self.cost, engine=engine)
        # Cells are held where points are; one soft minimum is asked of what leads back.
        once = Streamed()
        return Coarse(
            between(u, v, self.engine), a, b, between(self.x, v, once), between(u, self.y, once)
        )

    def seen_from(
        self, x: Float[Array, "k d"], b: Float[Array, " m"], unit: Float[Array, ""]
    ) -> "PointCloud":
        power = degree(self.cost)
        if power is None:
            y, _ = _usable(self.y, b, jnp.ones_like(unit))
            cost = _Costs(lax.stop_gradient(1 / unit), _closed(self.cost, x, y))
            return PointCloud(x, y, cost=cost, engine=self.engine)
        order = jnp.asarray(power, self.dtype)
        order = lax.stop_gradient(jnp.where(order == 0, 1, order))
        exponent = jnp.round(jnp.log2(lax.stop_gradient(unit)) / order)
        factor = power_of_two(-exponent.astype(jnp.int32), self.dtype)
        y, _ = _usable(self.y, b, factor)
        return PointCloud(factor * x, y, cost=self.cost, engine=self.engine)


def _with_cells(
    x: Float[Array, "n d"], y: Float[Array, "m d"], cost: GroundCost, matrix: Float[Array, "n m"]
) -> HeldCloud:
    x, y, cost = constant((x, y, cost))
    return HeldCloud(matrix, PointCloud(x, y, cost=cost))


def _usable(
    points: Float[Array, "n d"], masses: Float[Array, " n"], factor: Float[Array, ""]
) -> tuple[Float[Array, "n d"], Bool[Array, ""]]:
    """`factor` times points whose squared distances are finite, and whether those with a mass had
    such.

    A point of mass zero is put on the point of largest mass, wherever it was.
    """
    alive = masses > 0
    squares = jnp.sum(jnp.square(points), axis=1)
    finite = jnp.all((squares < jnp.finfo(points.dtype).max / 8) | ~alive)
    # Of masses that are equal by construction XLA would find the largest as it compiles, slowly.
    masses = lax.optimization_barrier(lax.stop_gradient(masses))
    heaviest = lax.stop_gradient(points[jnp.argmax(masses)])
    moved = jnp.where(finite, jnp.where(alive[:, None], points, heaviest[None, :]), 0)
    # Apart from what follows: XLA would choose between the points anew for each entry of a matrix.
    return lax.optimization_barrier(factor * moved), finite


def _closed(cost: GroundCost, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> GroundCost:
    """The cost with all traced values that a callable closes over as leaves, where they can be
    differentiated."""
    if isinstance(cost, AbstractGroundCost):
        return cost
    return eqx.filter_closure_convert(cost, x[0], y[0])


class _Costs(eqx.Module):
    """A ground cost times a factor, which is 0 where the cost is NaN somewhere."""

    factor: Float[Array, ""]
    cost: GroundCost

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Array:
        cost = self.cost(x, y)
        return jnp.where(self.factor > 0, self.factor * cost, jnp.zeros_like(cost))
