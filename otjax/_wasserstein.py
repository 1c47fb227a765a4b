"""The Wasserstein distance, as a loss."""

from typing import cast, Literal, overload

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import constant, float_scalar, known_number
from ._divergence import nan_unless_valid
from ._exact import ExactSolution, solve_exact
from ._geometry import AbstractGeometry, CostMatrix, PointCloud
from ._ground_cost import Euclidean, GroundCost, PNorm, SqEuclidean
from ._mesh import on_any_mesh
from ._problem import EntropicProblem
from ._vertex import power_of_two_below


@overload
def wasserstein(
    x: ArrayLike | CostMatrix,
    y: ArrayLike | None = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def wasserstein(
    x: ArrayLike | CostMatrix,
    y: ArrayLike | None = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], ExactSolution]: ...


@on_any_mesh
def wasserstein(
    x: ArrayLike | CostMatrix,
    y: ArrayLike | None = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    gap: ArrayLike = 1e-3,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], ExactSolution]:
    r"""The Wasserstein distance
    $W_p = (\min_P \sum_{ij} P_{ij} \, d(x_i, y_j)^p)^{1/p}$ between weighted point clouds, or
    between histograms whose places have the distances of a matrix.

    No regularisation remains: the cost under the root is proven to within `gap`. Differentiable
    once, by the envelope rule; the derivative at $W_p = 0$ is 0. Never raises for values: the
    distance is NaN, with derivatives 0, where the input is invalid or no plan exists, and
    `has_aux=True` tells whether the gap was reached. A change of the unit of the points changes
    nothing but the unit of the distance.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d), at Euclidean distances. Or `x` is
        `CostMatrix(distances)`, of shape (n, m) with `inf` for pairs that are not allowed, and `y`
        is left out.
    - `a`, `b`: the masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a number of at least 1; may be traced and differentiated.
    - `gap`: as in `solve_exact`, of $W_p^p$.
    - `has_aux`: whether to return the solution as well.

    **Returns:** the distance, in the unit of the points; with `has_aux` the pair of it and the
    `ExactSolution` of $W_p^p$. For `p=1` its `potential` is the Kantorovich-Rubinstein potential,
    1-Lipschitz, at any points.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    known = known_number(p)
    if known is not None and not known >= 1:
        raise ValueError(f"`p` must be a number of at least 1, got {p!r}.")
    distance, solution = _wasserstein(x, y, a, b, p, gap)
    return (distance, solution) if has_aux else nan_unless_valid(distance, solution.result)


@eqx.filter_jit
def _wasserstein(
    x: ArrayLike | CostMatrix,
    y: ArrayLike | None,
    a: ArrayLike | None,
    b: ArrayLike | None,
    p: ArrayLike,
    gap: ArrayLike,
) -> tuple[Float[Array, ""], ExactSolution]:
    geometry, unit, order = _in_units(x, y, a, b, p)
    solution = solve_exact(geometry, a, b, gap=gap, throw=False)
    positive = (solution.value > 0) & (order >= 1)
    root = jnp.power(jnp.where(positive, solution.value, 1), 1 / order)
    distance = unit * jnp.where(positive, root, 0)
    distance = jnp.where(order >= 1, distance, jnp.nan)
    power = jnp.power(unit, order)
    if isinstance(geometry, CostMatrix):
        own = CostMatrix(power * geometry.matrix)
    else:
        own = _geometry(cast(ArrayLike, x), y, p)
    return distance, eqx.tree_at(
        lambda s: (s.value, s.lower, s.upper, s.potentials, s.geometry),
        solution,
        (
            power * solution.value,
            power * solution.lower,
            power * solution.upper,
            tuple(power * potential for potential in solution.potentials),
            own,
        ),
    )


def _geometry(x: ArrayLike, y: ArrayLike | None, p: ArrayLike) -> PointCloud:
    """The costs of points, the powers of their distances."""
    special: dict[float | None, GroundCost] = {1.0: Euclidean(), 2.0: SqEuclidean()}
    known = known_number(p)
    cost = special[known] if known in special else PNorm(2, power=p)
    if y is None:
        raise ValueError(
            "`y` must be given with points `x`; for histograms pass `CostMatrix(distances)` as `x`."
        )
    return PointCloud(x, y, cost=cost)


def _in_units(
    x: ArrayLike | CostMatrix,
    y: ArrayLike | None,
    a: ArrayLike | None,
    b: ArrayLike | None,
    p: ArrayLike,
) -> tuple[AbstractGeometry, Float[Array, ""], Float[Array, ""]]:
    """The geometry in a unit in which distances are about one, so that their powers neither over-
    nor underflow; that unit, a power of two; and `p`."""
    if isinstance(x, CostMatrix):
        if y is not None:
            raise ValueError("`y` must be left out where `x` is a `CostMatrix` of distances.")
        distances = x.matrix
        fixed = constant(distances)
        unit = _unit(jnp.max(jnp.where(fixed < jnp.inf, fixed, 0)))
        order = float_scalar(p, "p", distances.dtype)
        usable = (distances < jnp.inf) & (distances != 0)
        # What is negative is not a distance, and becomes NaN.
        relative = jnp.where(usable, distances / unit, 1)
        powers = jnp.where(
            relative > 0, jnp.power(jnp.where(relative > 0, relative, 1), order), jnp.nan
        )
        costs = jnp.where(usable, powers, distances)
        return CostMatrix(costs), unit, order
    cloud = _geometry(x, y, p)
    problem = EntropicProblem(cloud, a, b, epsilon=1.0)
    low, high = jnp.inf, -jnp.inf
    for points, masses in ((cloud.x, problem.a), (cloud.y, problem.b)):
        alive = (masses > 0)[:, None]
        low = jnp.minimum(low, jnp.min(jnp.where(alive, points, jnp.inf), axis=0))
        high = jnp.maximum(high, jnp.max(jnp.where(alive, points, -jnp.inf), axis=0))
    unit = _unit(lax.stop_gradient(jnp.max(high - low)))
    return (
        PointCloud(cloud.x / unit, cloud.y / unit, cost=cloud.cost),
        unit,
        float_scalar(p, "p", cloud.dtype),
    )


def _unit(size: Float[Array, ""]) -> Float[Array, ""]:
    positive = (size > 0) & (size < jnp.inf)
    return jnp.where(positive, power_of_two_below(jnp.where(positive, size, 1)), 1)
