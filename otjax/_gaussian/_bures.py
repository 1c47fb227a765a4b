"""The Wasserstein distance between Gaussians, its map and its geodesics."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_scalar, points_like
from ._arguments import two_gaussians, valid_gaussian
from ._spectral import inner, product, riccati, square_root


def bures_wasserstein(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> Float[Array, ""]:
    r"""The 2-Wasserstein distance between Gaussians: the root of `squared_bures_wasserstein`.

    Differentiable to every order in all four arguments, where derivatives exist; the derivative
    at distance 0 is 0, and second derivatives there are those of the squared distance only.

    **Arguments:**

    - `mean_a`, `mean_b`: the means, shape (d,).
    - `cov_a`, `cov_b`: the covariances, shape (d, d), symmetric and positive semi-definite;
        singular ones are allowed.

    **Returns:** the distance, in the unit of the means; NaN, with gradient zero, for numbers that
    are not finite and for covariances that are not symmetric or have a negative eigenvalue beyond
    rounding (1e-4 in float32, 1e-8 in float64, of the largest entry).

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    squared = squared_bures_wasserstein(mean_a, cov_a, mean_b, cov_b)
    positive = ~(squared <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def squared_bures_wasserstein(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> Float[Array, ""]:
    r"""The squared 2-Wasserstein distance between Gaussians,
    $|m_a - m_b|^2 + \mathrm{tr}(A) + \mathrm{tr}(B) - 2\,\mathrm{tr}(A^{1/2} B A^{1/2})^{1/2}$
    (Gelbrich 1990, doi:10.1002/mana.19901470121). Of features it is the Fréchet distance (FID).

    Computed without that difference, as the squared distance of two square roots, so that near
    Gaussians have a small one. The derivative by `cov_a` is $1 - T$ with the map $T$ of
    `gaussian_map`; derivatives of every order are right for coincident eigenvalues and for
    $A = B$. By a singular covariance the derivative into its kernel is infinite, and left out.

    **Arguments:** as those of `bures_wasserstein`.

    **Returns:** the squared distance; NaN, with gradient zero, where `bures_wasserstein` is.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    return _squared_bures_wasserstein(*two_gaussians(mean_a, cov_a, mean_b, cov_b))


@eqx.filter_jit
def _squared_bures_wasserstein(
    mean_a: Float[Array, " d"],
    cov_a: Float[Array, "d d"],
    mean_b: Float[Array, " d"],
    cov_b: Float[Array, "d d"],
) -> Float[Array, ""]:
    mean_a, cov_a, *valid_a = valid_gaussian(mean_a, cov_a)
    mean_b, cov_b, *valid_b = valid_gaussian(mean_b, cov_b)
    value = jnp.sum(jnp.square(mean_a - mean_b)) + squared_bures(cov_a, cov_b)
    valid = jnp.all(jnp.stack([*valid_a, *valid_b])) & jnp.isfinite(value)
    return jnp.where(valid, value, jnp.nan)


@eqx.filter_custom_jvp
def squared_bures(a, b):
    """The squared distance of two centred Gaussians, by their covariances."""
    return aligned_roots(a, b)[0]


@squared_bures.def_jvp
def _squared_bures_jvp(primals, tangents):
    (a, b), (t_a, t_b) = primals, tangents
    value = squared_bures(a, b)
    zero, one = jnp.zeros_like(value), jnp.eye(a.shape[0], dtype=a.dtype)
    by_a = zero if t_a is None else inner(one - riccati(a, b, zero), t_a)
    by_b = zero if t_b is None else inner(one - riccati(b, a, zero), t_b)
    return value, by_a + by_b


def aligned_roots(
    a: Float[Array, "d d"], b: Float[Array, "d d"]
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    r"""$\min_O \|a^{1/2} - b^{1/2} O\|^2$ over rotations $O$, which is the squared Bures distance,
    and the singular values of $a^{1/2} b^{1/2}$. Not to be differentiated."""
    root_a, root_b = square_root(a), square_root(b)
    left, r, right = jnp.linalg.svd(product(root_a, root_b))
    return jnp.sum(jnp.square(root_a - product(root_b, right.T, left.T))), r


class AffineMap(eqx.Module):
    """The map $x -> target + matrix (x - source)$.

    - `matrix`: shape (d, d).
    - `source`, `target`: the means that it sends to each other, shape (d,).
    """

    matrix: Float[Array, "d d"]
    source: Float[Array, " d"]
    target: Float[Array, " d"]

    def __call__(self, x: ArrayLike) -> Float[Array, "k d"]:
        """The images of points, shape (k, d)."""
        points = points_like(x, "x", len(self.matrix), self.matrix.dtype)
        return self.target[None, :] + product(points - self.source[None, :], self.matrix.T)


def gaussian_map(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> AffineMap:
    r"""The optimal map from one Gaussian to another, $x \mapsto m_b + T (x - m_a)$ with
    $T A T = B$, $T$ positive semi-definite.

    **Arguments:** as those of `bures_wasserstein`. Where `cov_a` is singular there may be no such
    map; this one then sends to 0 what it cannot know of.

    **Returns:** an `AffineMap`, callable on points of shape (k, d); of NaN where
    `bures_wasserstein` is.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    return _gaussian_map(*two_gaussians(mean_a, cov_a, mean_b, cov_b))


@eqx.filter_jit
def _gaussian_map(mean_a, cov_a, mean_b, cov_b) -> AffineMap:
    mean_a, cov_a, *valid_a = valid_gaussian(mean_a, cov_a)
    mean_b, cov_b, *valid_b = valid_gaussian(mean_b, cov_b)
    valid = jnp.all(jnp.stack([*valid_a, *valid_b]))
    matrix = riccati(cov_a, cov_b, jnp.zeros((), cov_a.dtype))
    return AffineMap(*(jnp.where(valid, part, jnp.nan) for part in (matrix, mean_a, mean_b)))


def gaussian_geodesic(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike, t: ArrayLike
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """The Gaussian at time `t` of the way from the first (0) to the second (1): the law of
    $(1 - t) x + t y$ under the optimal plan (McCann 1997, doi:10.1006/aima.1997.1634).

    **Arguments:** as those of `bures_wasserstein`, and

    - `t`: the time, a number that may be traced.

    **Returns:** mean and covariance, shapes (d,) and (d, d); of NaN where `bures_wasserstein` is.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    arrays = two_gaussians(mean_a, cov_a, mean_b, cov_b)
    return _gaussian_geodesic(*arrays, float_scalar(t, "t", arrays[0].dtype))


@eqx.filter_jit
def _gaussian_geodesic(mean_a, cov_a, mean_b, cov_b, t):
    mean_a, cov_a, *valid_a = valid_gaussian(mean_a, cov_a)
    mean_b, cov_b, *valid_b = valid_gaussian(mean_b, cov_b)
    valid = jnp.all(jnp.stack([*valid_a, *valid_b]))
    cross = product(cov_a, riccati(cov_a, cov_b, jnp.zeros((), cov_a.dtype)))
    mean = (1 - t) * mean_a + t * mean_b
    cov = (1 - t) ** 2 * cov_a + t**2 * cov_b + (1 - t) * t * (cross + cross.T)
    return jnp.where(valid, mean, jnp.nan), jnp.where(valid, cov, jnp.nan)
