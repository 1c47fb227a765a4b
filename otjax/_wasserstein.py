"""The Wasserstein distance of two point clouds, as a loss."""

from typing import Literal, overload

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import known_number
from ._divergence import nan_unless_valid
from ._exact import ExactSolution, solve_exact
from ._geometry import PointCloud
from ._ground_cost import Euclidean, PNorm, SqEuclidean
from ._mesh import on_any_mesh


@overload
def wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], ExactSolution]: ...


@on_any_mesh
def wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    gap: ArrayLike = 1e-3,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], ExactSolution]:
    r"""The Wasserstein distance
    $W_p = (\min_P \sum_{ij} P_{ij} \|x_i - y_j\|^p)^{1/p}$ between weighted point clouds.

    No regularisation remains: the cost under the root is proven to within `gap`. Differentiable
    once, by the envelope rule; the derivative at $W_p = 0$ is 0. Never raises for values:
    `has_aux=True` tells whether the gap was reached.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a number of at least 1.
    - `gap`: the relative distance of the bounds of $W_p^p$ at which to stop.
    - `has_aux`: whether to return the solution as well.

    **Returns:** the distance, in the unit of the points; with `has_aux` the pair of it and the
    `ExactSolution` of $W_p^p$.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    order = known_number(p)
    if order is None or not order >= 1:
        raise ValueError(f"`p` must be a number of at least 1, got {p!r}.")
    cost = {1.0: Euclidean(), 2.0: SqEuclidean()}.get(order, PNorm(2, power=order))
    solution = solve_exact(PointCloud(x, y, cost=cost), a, b, gap=gap, throw=False)
    positive = solution.value > 0
    root = jnp.power(jnp.where(positive, solution.value, 1), 1 / order)
    distance = jnp.where(positive, root, 0)
    return (distance, solution) if has_aux else nan_unless_valid(distance, solution.result)
