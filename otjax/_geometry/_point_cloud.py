"""A geometry given by points and a ground cost."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import constant, float_array
from .._ground_cost import AbstractGroundCost, GroundCost, SqEuclidean
from .._reduction import (
    AbstractEngine,
    apply,
    by_platform,
    default_engine,
    is_allowed,
    map_rows,
    Pairs,
    softmin,
)  # fmt: skip
from ._base import AbstractPlan, AbstractPointGeometry, Prepared
from ._cost_matrix import held, held_finite


class PointCloud(AbstractPointGeometry):
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
        self.cost = cost
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
        if not callable(cost):
            raise ValueError(f"`cost` must be a callable (x_i, y_j) -> scalar, got {cost!r}.")
        if isinstance(cost, type):
            raise ValueError(f"`cost` must be an instance: pass `{cost.__name__}()`.")
        if not isinstance(cost, AbstractGroundCost):
            one = jax.eval_shape(cost, self.x[0], self.y[0])
            if getattr(one, "shape", None) != () or one.dtype != self.x.dtype:
                raise ValueError(
                    "`cost` must return a scalar of the dtype of the points for one `x_i` of "
                    f"shape {self.x[0].shape} and one `y_j`, got {one}."
                )

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
        x, x_finite = _usable(self.x, a)
        y, y_finite = _usable(self.y, b)
        finite = x_finite & y_finite
        if self._engine.holds:
            pairs = Pairs(x, y, self.cost)
            hold = held_finite if pairs.are_finite else held
            prepared = hold(pairs.matrix(), a, b)
            return prepared._replace(finite=finite & prepared.finite)
        cost = _closed(self.cost, x, y)
        mean, least = _mean_and_least(constant(Pairs(x, y, cost)), a, b)
        if not isinstance(cost, AbstractGroundCost):
            has_costs = jnp.isfinite(mean)
            finite &= has_costs
            cost = _ZeroUnless(has_costs, cost)
        geometry = PointCloud(x, y, cost=cost, engine=self._engine)
        return Prepared(geometry, finite, jnp.where(finite, mean, 0), jnp.where(finite, least, 0))

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

    def seen_from(self, x: Float[Array, "k d"], b: Float[Array, " m"]) -> "PointCloud":
        y, _ = _usable(self.y, b)
        return PointCloud(x, y, cost=_closed(self.cost, x, y), engine=self.engine)


class RecomputedPlan(AbstractPlan):
    """The plan of a point cloud, made anew by its engine whenever it is applied."""

    engine: AbstractEngine
    pairs: Pairs
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    dtype: jnp.dtype = eqx.field(static=True)

    def mv(self, vectors: Float[Array, " m *k"]) -> Float[Array, " n *k"]:
        columns = vectors.astype(self.dtype).reshape(vectors.shape[0], -1)
        product = apply(self.engine, self.pairs, self.f, self.g, self.epsilon, columns)
        return product.reshape(-1, *vectors.shape[1:])

    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        halved = eqx.tree_at(lambda plan: plan.epsilon, self, 0.5 * self.epsilon)
        return halved.mv(vector)

    def as_matrix(self) -> Float[Array, "n m"]:
        scores = (self.f[:, None] + self.g[None, :] - self.pairs.matrix()) / self.epsilon
        return jnp.exp(scores.astype(self.dtype))

    @property
    def T(self) -> "RecomputedPlan":
        return RecomputedPlan(self.engine, self.pairs.T, self.g, self.f, self.epsilon, self.dtype)


def _mean_and_least(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean and the least cost of allowed pairs, in one pass."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))

    def of_rows(x: Float[Array, "k d"]) -> tuple[Array, Array]:
        cost = Pairs(x, pairs.y, pairs.cost).matrix()
        # A NaN stays one.
        allowed = is_allowed(cost) | jnp.isnan(cost)
        mean = jnp.sum(jnp.where(allowed, cost, 0) * b[None, :], axis=1)
        return mean, jnp.min(jnp.where(allowed, cost, jnp.inf), axis=1)

    means, least = by_platform(lambda block, x: map_rows(of_rows, x, block), pairs.shape, pairs.x)
    return jnp.sum(a * means), jnp.min(least)


def _usable(
    points: Float[Array, "n d"], masses: Float[Array, " n"]
) -> tuple[Float[Array, "n d"], Bool[Array, ""]]:
    """Points whose squared distances are finite, and whether those with a mass had such.

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
    return lax.optimization_barrier(moved), finite


def _closed(cost: GroundCost, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> GroundCost:
    """The cost with all traced values that a callable closes over as leaves, where they can be
    differentiated."""
    if isinstance(cost, AbstractGroundCost):
        return cost
    return eqx.filter_closure_convert(cost, x[0], y[0])


class _ZeroUnless(eqx.Module):
    """A ground cost, or zero where it returns NaN somewhere."""

    condition: Bool[Array, ""]
    cost: GroundCost

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Array:
        cost = self.cost(x, y)
        return jnp.where(self.condition, cost, jnp.zeros_like(cost))
