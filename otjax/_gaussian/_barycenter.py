"""The Wasserstein barycenter of Gaussians."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as sparse
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import count, float_array, optional_positive_number
from .._results import raise_unless_successful, RESULTS
from .._varying import while_loop
from ._arguments import gaussian, valid_gaussian
from ._spectral import product, riccati, square_root


class GaussianBarycenter(eqx.Module):
    """The barycenter of Gaussians, a Gaussian. Differentiable in means, covariances and weights.

    - `mean`, `cov`: shapes (d,) and (d, d).
    - `num_steps`: how many steps were taken.
    - `error`: by how much the last one moved the root of the covariance, relative to its size.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    """

    mean: Float[Array, " d"]
    cov: Float[Array, "d d"]
    num_steps: Int[Array, ""]
    error: Float[Array, ""]
    result: RESULTS


def gaussian_barycenter(
    means: ArrayLike,
    covs: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    tolerance: ArrayLike | None = None,
    max_steps: int | Int[Array, ""] = 200,
    throw: bool = True,
) -> GaussianBarycenter:
    r"""The Gaussian of least weighted sum of squared Wasserstein distances to given ones
    (Agueh and Carlier 2011, doi:10.1137/100805741), by the fixed point
    $S \leftarrow \bar T S \bar T$ with $\bar T = \sum_k w_k T_k$, the mean of the maps to them
    (Álvarez-Esteban et al. 2016, arXiv:1511.05355). At least one covariance with weight should be
    positive definite; then the barycenter is unique.

    Derivatives are those of the solution, by the implicit function theorem and conjugate gradients.

    **Arguments:**

    - `means`, `covs`: of the Gaussians, shapes (k, d) and (k, d, d).
    - `weights`: shape (k,), not negative, of any total; `None` is uniform.
    - `tolerance`: the change of the square root of the covariance, relative, at which to stop;
        `None` is 1e-5 in float32 and 1e-11 in float64.
    - `max_steps`: the largest number of steps.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `GaussianBarycenter`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the iteration does not converge or numbers are invalid, and `throw` is true.
    """
    means, covs = gaussian(means, covs, "s", batch="k")
    (k,) = means.shape[:1]
    if weights is None:
        weights = jnp.full((k,), 1 / k, means.dtype)
    weights = float_array(weights, "weights", "k").astype(means.dtype)
    if weights.shape != (k,):
        raise ValueError(
            f"`weights` must have one number for each Gaussian, shape ({k},), got {weights.shape}."
        )
    tolerance = optional_positive_number(tolerance, "tolerance")
    if tolerance is None:
        tolerance = jnp.asarray(1e-5 if means.dtype == jnp.float32 else 1e-11)
    tolerance = tolerance.astype(means.dtype)
    found = _gaussian_barycenter(means, covs, weights, tolerance, count(max_steps, "max_steps"))
    if throw:
        found = raise_unless_successful(found, found.result)
    return found


@eqx.filter_jit
def _gaussian_barycenter(means, covs, weights, tolerance, max_steps) -> GaussianBarycenter:
    total = jnp.sum(weights)
    weights_valid = jnp.all(weights >= 0) & (total > 0) & (total < jnp.inf)
    weights = jnp.where(weights_valid, jnp.where(weights > 0, weights, 0), 1)
    # A Gaussian of weight zero does not exist.
    alive = weights > 0
    means = jnp.where(alive[:, None], means, 0)
    covs = jnp.where(alive[:, None, None], covs, jnp.eye(means.shape[1], dtype=covs.dtype)[None])
    weights = weights / jnp.sum(weights)
    means, covs, finite, valid = jax.vmap(valid_gaussian)(means, covs)
    root, num_steps, error = _iterate(*lax.stop_gradient((covs, weights)), tolerance, max_steps)
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.max_steps_reached)
    result = RESULTS.where(jnp.all(finite), result, RESULTS.nonfinite_input)
    result = RESULTS.where(jnp.all(valid), result, RESULTS.invalid_covariance)
    result = RESULTS.where(weights_valid, result, RESULTS.invalid_mass)
    cov = _attach(covs, weights, product(root, root.T))
    cov = (cov + cov.T) / 2
    return GaussianBarycenter(
        jnp.sum(weights[:, None] * means, axis=0), cov, num_steps, error, result
    )


def _iterate(
    covs: Float[Array, "k d d"],
    weights: Float[Array, " k"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, "d d"], Int[Array, ""], Float[Array, ""]]:
    r"""A root $C$ of the barycenter, $S = C C^T$, steps and error.

    $\bar T C$ is the mean of the roots of the given covariances, each rotated to lie as near to C
    as it can: this needs no inverse of S.
    """
    roots = jax.vmap(square_root)(covs)

    def rotated(root: Float[Array, "d d"], c: Float[Array, "d d"]) -> Float[Array, "d d"]:
        left, _, right = jnp.linalg.svd(product(c.T, root))
        return product(root, right.T, left.T)

    def step(state):
        c, num_steps, _ = state
        new = jnp.sum(
            weights[:, None, None] * jax.vmap(rotated, in_axes=(0, None))(roots, c), axis=0
        )
        size = jnp.linalg.norm(new)
        error = jnp.linalg.norm(new - c) / jnp.where(size > 0, size, 1)
        return new, num_steps + 1, error

    start = jnp.sum(weights[:, None, None] * roots, axis=0)
    unfinished = lambda state: (state[2] > tolerance) & (state[1] < max_steps)
    far = jnp.full_like(tolerance, jnp.inf)
    return while_loop(unfinished, step, (start, jnp.zeros((), jnp.int32), far))


@jax.custom_jvp
def _attach(
    covs: Float[Array, "k d d"], weights: Float[Array, " k"], s: Float[Array, "d d"]
) -> Float[Array, "d d"]:
    """The barycenter `s`, which carries no derivative, as a function of what defines it."""
    del covs, weights
    return s


@_attach.defjvp
def _attach_jvp(primals, tangents):
    covs, weights, s = primals
    # Through the rule itself, so that second derivatives move s as well.
    s = _attach(covs, weights, s)

    def mean_map(covs, weights, s):
        maps = jax.vmap(riccati, in_axes=(None, 0, None))(s, covs, jnp.zeros((), s.dtype))
        return jnp.sum(weights[:, None, None] * maps, axis=0)

    # At the barycenter the mean map is the identity; it falls as s grows, with a symmetric
    # derivative, which is the inverse of X -> s X + X s where all Gaussians are one.
    _, moved = jax.jvp(lambda c, w: mean_map(c, w, s), (covs, weights), tangents[:2])

    def fall(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return -jax.jvp(lambda s: mean_map(covs, weights, s), (s,), (x,))[1]

    def solve(matrix, right):
        # Of the right hand sides that JAX makes up, the symmetric part alone has a meaning.
        right, fixed = (right + right.T) / 2, lax.stop_gradient(s)
        precondition = lambda x: product(fixed, x) + product(x, fixed)
        tolerance = 1e-6 if right.dtype == jnp.float32 else 1e-13
        solution, _ = sparse.cg(
            matrix, right, tol=tolerance, maxiter=4 * s.shape[0] ** 2, M=precondition
        )
        return solution

    return s, lax.custom_linear_solve(fall, moved, solve, symmetric=True)
