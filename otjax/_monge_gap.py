"""How far a map is from optimal, as a regulariser of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import float_array
from ._divergence import nan_unless_valid
from ._geometry import PointCloud
from ._ground_cost import GroundCost, SqEuclidean
from ._mesh import on_any_mesh
from ._problem import EntropicProblem, Relative, valid_masses
from ._solve import solve
from ._solver import AbstractSolver


@on_any_mesh
def monge_gap(
    x: ArrayLike,
    images: ArrayLike,
    a: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    cost: GroundCost = SqEuclidean(),
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
) -> Float[Array, ""]:
    r"""What a map pays above the cheapest way to move the same points to the same images:

    $$\mathbb{E}\, c(x, T(x)) - OT_\epsilon(x, T(x))$$

    (Uscidu and Cuturi 2023, arXiv:2302.04953). Without entropy it is never negative,
    and zero only for a map that is optimal to where it maps. It says nothing of where that is: as a
    regulariser it stands beside a loss that does, such as `sinkhorn_divergence` of the images.

    $OT_\epsilon$ is the value of `solve`, whose entropy is relative to the product of the
    marginals, not debiased: an optimal map of n points has a gap from $-\epsilon \log n$ to 0.
    Differentiable to every order, by images, points, masses and the cost. Never raises for values:
    where they are invalid it is NaN, with a gradient of zero.

    **Arguments:**

    - `x`: points, shape (n, d).
    - `images`: where the map sends each of them, shape (n, d): `jax.vmap(T)(x)`.
    - `a`: the masses, shape (n,); `None` is uniform of total 1.
    - `epsilon`: the regularisation, in the unit of the cost, or `Relative(fraction)` of the mean
        cost. `None` is `Relative(0.05)`.
    - `cost`: a ground cost such as `SqEuclidean()`, or any callable (x_i, y_j) -> scalar.
    - `solver`, `tolerance`: as for `solve`.

    **Returns:** the gap, in the unit of the cost.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x, images = float_array(x, "x", "n d"), float_array(images, "images", "n d")
    if images.shape[0] != x.shape[0]:
        raise ValueError(
            f"`images` must have one point for each of `x`, {x.shape[0]}, got {images.shape}."
        )
    geometry = PointCloud(x, images, cost=cost)
    problem = EntropicProblem(geometry, a, a, epsilon=epsilon)
    solution = solve(problem, solver, tolerance=tolerance, throw=False)
    masses = valid_masses(problem.a)[0]
    # Where they are no numbers, or have no mass, neither cost nor derivative is taken of them.
    finite = lambda points: jnp.all(jnp.isfinite(points), axis=1, keepdims=True)
    taken = finite(geometry.x) & finite(geometry.y) & (masses > 0)[:, None]
    paid = jax.vmap(cost)(jnp.where(taken, geometry.x, 0), jnp.where(taken, geometry.y, 0))
    gap = jnp.sum(masses * paid) - solution.value
    return nan_unless_valid(gap, solution.result)
