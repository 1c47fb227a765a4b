"""A geometry of points on a regular grid: images, volumes, histograms."""

import math

import jax
import jax.core
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array
from .._ground_cost import AbstractGroundCost, checked_cost, flip, GroundCost, SqEuclidean
from .._reduction import Pairs
from ._base import AbstractPointGeometry, Prepared
from ._point_cloud import PointCloud
from ._separable import presence, Separable, SeparablePlan


Axes = tuple[Float[Array, " _"], ...]


class Grid(AbstractPointGeometry):
    r"""The points of a regular grid, $(t^1_{i_1}, \dots, t^d_{i_d})$ in row-major order, with a
    cost that is a sum over its axes, $\sum_k c(t^k_{i_k}, t^k_{j_k})$.

    A product with a plan is made one axis at a time: in n^(1 + 1/d) operations, not n^2, and in
    memory O(n). So it is for images, `image.ravel()` being masses, and for volumes. Spacings need
    not be equal.
    """

    axes: Axes
    other_axes: Axes
    cost: GroundCost

    def __init__(
        self,
        axes: tuple[ArrayLike, ...],
        other_axes: tuple[ArrayLike, ...] | None = None,
        *,
        cost: GroundCost = SqEuclidean(),
    ):
        """**Arguments:**

        - `axes`: the coordinates along each axis, increasing, a tuple of d arrays of shapes (n_1,)
            to (n_d,). The geometry has n = n_1 ... n_d points.
        - `other_axes`: those of the second measure's grid, likewise; `None` is the same grid.
        - `cost`: a ground cost, as for `PointCloud`, of points with one coordinate. Squared
            distances add up to the squared distance, `Euclidean()` to the sum of absolute
            differences.

        **Raises:** `ValueError` for types, shapes and dtypes that do not fit, for an axis of less
        than two coordinates, and for coordinates which do not increase or are not finite, as far
        as they are known while tracing.
        """
        self.axes = _checked_axes(axes, "axes")
        self.other_axes = self.axes
        if other_axes is not None:
            self.other_axes = _checked_axes(other_axes, "other_axes")
        if len(self.axes) != len(self.other_axes):
            raise ValueError(
                "`axes` and `other_axes` must be of grids of the same dimension, got "
                f"{len(self.axes)} (`axes`) and {len(self.other_axes)} (`other_axes`)."
            )
        dtypes = sorted({str(axis.dtype) for axis in self.axes + self.other_axes})
        if len(dtypes) > 1:
            raise ValueError(
                f"`axes` and `other_axes` must have one dtype, got {dtypes}; cast some of them."
            )
        self.cost = checked_cost(cost, self.axes[0][:1], self.other_axes[0][:1])

    @property
    def shape(self) -> tuple[int, int]:
        sizes = ([axis.shape[0] for axis in axes] for axes in (self.axes, self.other_axes))
        n, m = (math.prod(size) for size in sizes)
        return n, m

    @property
    def dtype(self) -> jnp.dtype:
        return self.axes[0].dtype

    @property
    def T(self) -> "Grid":
        return Grid(self.other_axes, self.axes, cost=flip(self.cost))

    @property
    def y(self) -> Float[Array, "m d"]:
        return _points(self.other_axes)

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        axes, finite = _usable(self.axes, a)
        other_axes, other_finite = _usable(self.other_axes, b)
        prepared = _separable(axes, other_axes, self.cost).prepare(a, b)
        return prepared._replace(finite=finite & other_finite & prepared.finite)

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return self._held.softmin(h, epsilon)

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> SeparablePlan:
        return self._held.plan(f, g, epsilon, dtype)

    def seen_from(
        self, x: Float[Array, "k d"], b: Float[Array, " m"], unit: Float[Array, ""]
    ) -> PointCloud:
        other_axes, _ = _usable(self.other_axes, b)
        cloud = PointCloud(x, _points(other_axes), cost=OverAxes(self.cost))
        return cloud.seen_from(x, b, unit)

    @property
    def _held(self) -> Separable:
        return _separable(self.axes, self.other_axes, self.cost)


class OverAxes(AbstractGroundCost):
    """The sum over all coordinates of a ground cost of one."""

    cost: GroundCost

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return self.pairwise(x[None, :], y[None, :])[0, 0]

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        if isinstance(self.cost, SqEuclidean):
            return self.cost.pairwise(x, y)
        matrices = [Pairs(x[:, k, None], y[:, k, None], self.cost) for k in range(x.shape[1])]
        return sum((pairs.matrix() for pairs in matrices[1:]), start=matrices[0].matrix())


def _separable(axes: Axes, other_axes: Axes, cost: GroundCost) -> Separable:
    sides = zip(axes, other_axes, strict=True)
    costs = tuple(Pairs(t[:, None], s[:, None], cost).matrix() for t, s in sides)
    n, m = (math.prod(matrix.shape[side] for matrix in costs) for side in range(2))
    return Separable(costs, presence(jnp.ones(n)), presence(jnp.ones(m)))


def _points(axes: Axes) -> Float[Array, "n d"]:
    return jnp.stack([grid.reshape(-1) for grid in jnp.meshgrid(*axes, indexing="ij")], axis=1)


def _usable(axes: Axes, masses: Float[Array, " n"]) -> tuple[Axes, Bool[Array, ""]]:
    """Axes whose squared distances are finite, and whether those with a mass had such.

    A coordinate without any mass is put where the heaviest one is, wherever it was.
    """
    grid = lax.stop_gradient(masses).reshape([axis.shape[0] for axis in axes])
    usable, finite = [], jnp.array(True)
    for k, axis in enumerate(axes):
        slabs = jnp.sum(grid, axis=tuple(other for other in range(len(axes)) if other != k))
        limit = jnp.sqrt(jnp.finfo(axis.dtype).max / (8 * len(axes)))
        known = jnp.all((jnp.abs(axis) < limit) | ~(slabs > 0))
        heaviest = lax.stop_gradient(axis[jnp.argmax(slabs)])
        usable.append(jnp.where(slabs > 0, axis, heaviest))
        finite &= known
    return tuple(jnp.where(finite, axis, 0) for axis in usable), finite


def _checked_axes(axes: tuple[ArrayLike, ...], name: str) -> Axes:
    if not isinstance(axes, (tuple, list)) or len(axes) == 0:
        raise ValueError(
            f"`{name}` must be a tuple of one array of coordinates for each axis, got "
            f"{type(axes).__name__}; a line is `({name},)`."
        )
    return tuple(_checked_axis(axis, f"{name}[{k}]") for k, axis in enumerate(axes))


def _checked_axis(axis: ArrayLike, name: str) -> Float[Array, " _"]:
    array = float_array(axis, name, "coordinates")
    if array.shape[0] < 2:
        raise ValueError(
            f"`{name}` must have at least two coordinates, got shape {array.shape}; leave an axis "
            "of one coordinate out."
        )
    if not isinstance(array, jax.core.Tracer):
        # On the host, as even constants are traced when JAX computes with them under `jit`.
        known = jax.device_get(array)
        spacings = known[1:] - known[:-1]
        if not ((spacings > 0).all() and spacings.max() < math.inf):
            raise ValueError(
                f"`{name}` must be finite and increase, so that each spacing is positive, got "
                f"spacings from {spacings.min()} to {spacings.max()}."
            )
    return array
