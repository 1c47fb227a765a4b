"""A geometry given by points and a ground cost: dense when it fits, streamed when it does not."""

import math

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array
from .._control import cond_any
from .._ground_cost import AbstractGroundCost, flip, GroundCost, pairwise, SqEuclidean
from .._operators import register
from .._rows import block_rows, map_rows
from ._base import AbstractGeometry
from ._cost_matrix import finite_costs, softmin_rows, where_allowed, without_infinities


DEFAULT_BUDGET = 2**30


class PointCloud(AbstractGeometry):
    """Points `x` and `y` with a ground cost between them.

    Where the n x m matrix of costs takes up to `budget` bytes it is computed once per solve.
    Where it would take more it never exists: each reduction recomputes it by blocks of rows, in
    memory O((n + m) d), and O((n + m) d + block x d) for a gradient. A dense solve with its
    gradient holds up to about six such matrices.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: GroundCost
    budget: float = eqx.field(static=True)

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        cost: GroundCost = SqEuclidean(),
        budget: int | float = DEFAULT_BUDGET,
    ):
        """**Arguments:**

        - `x`: the points of the first measure, shape (n, d).
        - `y`: the points of the second measure, shape (m, d).
        - `cost`: a ground cost such as `SqEuclidean()`, or any callable that takes a point of
            `x` and a point of `y` to a scalar.
        - `budget`: how many bytes the matrix of costs may take (default 1 GiB); 0 streams
            always, `math.inf` never.

        **Raises:** `ValueError` for shapes, dtypes or a cost that do not fit.
        """
        self.x = float_array(x, "x", "n d")
        self.y = float_array(y, "y", "m d")
        self.cost = cost
        if not isinstance(budget, (int, float)) or not budget >= 0:
            raise ValueError(f"`budget` must be a number of bytes, got {budget!r}.")
        self.budget = float(budget)
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
        return PointCloud(self.y, self.x, cost=flip(self.cost), budget=self.budget)

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return self._map_rows(lambda x: softmin_rows(self._costs(x), h, epsilon), self.x)

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> lx.AbstractLinearOperator:
        return StreamedPlan(self, f, g, epsilon, dtype or f.dtype)

    def mean_cost(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        a, b = a / jnp.sum(a), b / jnp.sum(b)

        def row_means(x: Float[Array, "k d"]) -> Float[Array, " k"]:
            costs = pairwise(self.cost, x, self.y)
            return jnp.sum(where_allowed(costs) * b[None, :], axis=1)

        return jnp.sum(a * self._map_rows(row_means, self.x))

    def prepare(
        self, a: Float[Array, " n"], b: Float[Array, " m"]
    ) -> tuple[AbstractGeometry, Bool[Array, ""]]:
        x, x_finite = _usable(self.x, a)
        y, y_finite = _usable(self.y, b)
        finite = x_finite & y_finite
        cloud = PointCloud(x, y, cost=self.cost, budget=self.budget)
        if math.prod(self.shape) * self.dtype.itemsize <= self.budget:
            dense, has_costs = finite_costs(pairwise(self.cost, x, y))
            return dense, finite & has_costs
        if isinstance(self.cost, AbstractGroundCost):
            return cloud, finite
        # A callable may close over traced values; as leaves they can be differentiated.
        cost = eqx.filter_closure_convert(self.cost, x[0], y[0])
        has_costs = jnp.isfinite(lax.stop_gradient(cloud.mean_cost(a, b)))
        replaced = _ZeroUnless(has_costs, cost)
        return PointCloud(x, y, cost=replaced, budget=self.budget), finite & has_costs

    def seen_from(self, x: Float[Array, "k d"], b: Float[Array, " m"]) -> "PointCloud":
        """The geometry between any points `x` and the second support, of masses `b`."""
        y, _ = _usable(self.y, b)
        return PointCloud(x, y, cost=self.cost, budget=self.budget)

    def _costs(self, x: Float[Array, "k d"]) -> Float[Array, "k m"]:
        return without_infinities(pairwise(self.cost, x, self.y))

    def _map_rows(self, reduce, rows):
        n, m = self.shape
        width = 1 if isinstance(self.cost, AbstractGroundCost) else self.x.shape[1]
        return map_rows(reduce, rows, block_rows(n, m * width, self._max_entries()))

    def _max_entries(self) -> int | None:
        budget = self.budget / self.dtype.itemsize
        return None if budget < 1 or math.isinf(budget) else int(budget)


def _usable(
    points: Float[Array, "n d"], masses: Float[Array, " n"]
) -> tuple[Float[Array, "n d"], Bool[Array, ""]]:
    """Points whose squared distances are finite, and whether those with a mass had such.

    A point of mass zero is put on the point of largest mass, wherever it was.
    """
    alive = (masses > 0)[:, None]
    limit = jnp.sqrt(jnp.finfo(points.dtype).max / (8 * points.shape[1]))
    finite = jnp.all((jnp.abs(points) < limit) | ~alive)

    def replaced() -> Float[Array, "n d"]:
        heaviest = points[jnp.argmax(lax.stop_gradient(masses))]
        moved = jnp.where(alive, points, lax.stop_gradient(heaviest)[None, :])
        return jnp.where(finite, moved, 0)

    # A branch, for XLA would choose between the points anew for each entry of the matrix.
    return cond_any(~finite | ~jnp.all(alive), replaced, lambda: points), finite


class _ZeroUnless(eqx.Module):
    """A ground cost, or zero where it returns NaN somewhere."""

    condition: Bool[Array, ""]
    cost: GroundCost

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Array:
        cost = self.cost(x, y)
        return jnp.where(self.condition, cost, jnp.zeros_like(cost))


@register
class StreamedPlan(lx.AbstractLinearOperator):
    """The plan of a point cloud, recomputed by blocks of rows whenever it is applied."""

    cloud: PointCloud
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    dtype: jnp.dtype = eqx.field(static=True)

    def mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        def rows(points_and_f: tuple[Array, Array]) -> Array:
            return jnp.matmul(self._entries(*points_and_f), vector, precision=lax.Precision.HIGHEST)

        return self.cloud._map_rows(rows, (self.cloud.x, self.f))

    def as_matrix(self) -> Float[Array, "n m"]:
        return self._entries(self.cloud.x, self.f)

    def transpose(self) -> "StreamedPlan":
        return StreamedPlan(self.cloud.T, self.g, self.f, self.epsilon, self.dtype)

    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        """The product with the matrix of squared entries."""
        return StreamedPlan(self.cloud, self.f, self.g, 0.5 * self.epsilon, self.dtype).mv(vector)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.g.shape, self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.f.shape, self.dtype)

    def _entries(self, x: Float[Array, "k d"], f: Float[Array, " k"]) -> Float[Array, "k m"]:
        scores = (f[:, None] + self.g[None, :] - self.cloud._costs(x)) / self.epsilon
        return jnp.exp(scores.astype(self.dtype))
