"""Transport between Gaussian mixtures, component by component."""

from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array
from .._exact import ExactSolution, solve_exact
from .._geometry import CostMatrix
from .._results import RESULTS
from ._arguments import gaussian, same_space, valid_gaussian
from ._bures import squared_bures


@overload
def mixture_wasserstein(
    weights_a: ArrayLike,
    means_a: ArrayLike,
    covs_a: ArrayLike,
    weights_b: ArrayLike,
    means_b: ArrayLike,
    covs_b: ArrayLike,
    *,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def mixture_wasserstein(
    weights_a: ArrayLike,
    means_a: ArrayLike,
    covs_a: ArrayLike,
    weights_b: ArrayLike,
    means_b: ArrayLike,
    covs_b: ArrayLike,
    *,
    gap: ArrayLike = 1e-3,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], ExactSolution]: ...


def mixture_wasserstein(
    weights_a: ArrayLike,
    means_a: ArrayLike,
    covs_a: ArrayLike,
    weights_b: ArrayLike,
    means_b: ArrayLike,
    covs_b: ArrayLike,
    *,
    gap: ArrayLike = 1e-3,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], ExactSolution]:
    r"""The distance $MW_2$ between Gaussian mixtures: the least cost of transporting components,
    at the squared distance between Gaussians (Delon and Desolneux 2020, arXiv:1907.05254). It is
    the 2-Wasserstein distance over plans that are Gaussian mixtures themselves.

    Differentiable once, by the envelope rule of `solve_exact`; the derivative at distance 0 is 0.
    Never raises for values: `has_aux=True` tells whether the gap was reached.

    **Arguments:**

    - `weights_a`, `weights_b`: of the components, shapes (k,) and (l,), of one total.
    - `means_a`, `means_b`: their means, shapes (k, d) and (l, d).
    - `covs_a`, `covs_b`: their covariances, shapes (k, d, d) and (l, d, d).
    - `gap`: the relative distance of the bounds of $MW_2^2$ at which to stop, as for `solve_exact`.
    - `has_aux`: whether to return the solution as well: its `plan` says which component goes where.

    **Returns:** the distance, in the unit of the means; NaN, with gradient zero, for numbers that
    are not finite, covariances that are not positive semi-definite, and weights that are negative
    or not of one total. With `has_aux` the pair of it and the `ExactSolution` of $MW_2^2$.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    sides = []
    for side, (weights, means, covs) in {
        "a": (weights_a, means_a, covs_a),
        "b": (weights_b, means_b, covs_b),
    }.items():
        weights = float_array(weights, f"weights_{side}", "k")
        means, covs = gaussian(means, covs, f"s_{side}", batch="k")
        if weights.shape != means.shape[:1]:
            raise ValueError(
                f"`weights_{side}` must have one number for each component, shape "
                f"{means.shape[:1]}, got {weights.shape}."
            )
        sides.append((weights.astype(means.dtype), means, covs))
    same_space(sides[0][1], sides[1][1], "means_a", "means_b")
    costs, valid = _costs(*sides)
    solution = solve_exact(CostMatrix(costs), sides[0][0], sides[1][0], gap=gap, throw=False)
    distance = _distance(solution, valid)
    return (distance, solution) if has_aux else distance


@eqx.filter_jit
def _costs(side_a, side_b) -> tuple[Float[Array, "k l"], Array]:
    """The squared distances between all components, and whether all that have weight are valid."""
    valid, gaussians = jnp.array(True), []
    for weights, means, covs in (side_a, side_b):
        # A component of weight zero does not exist.
        alive = weights > 0
        one = jnp.eye(means.shape[1], dtype=covs.dtype)
        means = jnp.where(alive[:, None], means, 0)
        means, covs, *checks = jax.vmap(valid_gaussian)(
            means, jnp.where(alive[:, None, None], covs, one[None])
        )
        valid = valid & jnp.all(jnp.stack(checks))
        gaussians += [means, covs]

    def squared(mean_a, cov_a, mean_b, cov_b):
        return jnp.sum(jnp.square(mean_a - mean_b)) + squared_bures(cov_a, cov_b)

    rows = jax.vmap(squared, in_axes=(None, None, 0, 0))
    return jax.vmap(rows, in_axes=(0, 0, None, None))(*gaussians), valid


@eqx.filter_jit
def _distance(solution: ExactSolution, valid: Array) -> Float[Array, ""]:
    invalid = [RESULTS.nonfinite_input, RESULTS.invalid_mass, RESULTS.unequal_mass]
    for result in invalid:
        valid = valid & (solution.result != result)
    positive = solution.value > 0
    distance = jnp.where(positive, jnp.sqrt(jnp.where(positive, solution.value, 1)), 0)
    return jnp.where(valid, distance, jnp.nan)
