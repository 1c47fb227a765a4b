r"""Coordinates in which two measures have the same mean and covariance.

For a matrix $R$ the points $R x$ and $R^{-T} y$ have the same products $x \cdot y$: convex
conjugates, and with them optimal maps, stay what they are. With the root of the optimal map between
the Gaussians of both measures as $R$ the two covariances become one, and that map the identity.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._gaussian._spectral import product, riccati, square_root
from .._varying import scan


# The share of its mean variance that a measure is widened by, lest the map be singular.
_RIDGE = 1e-4


class Frame(eqx.Module):
    r"""$\tilde x = c R (x - m)$ and $\tilde y = c R^{-1} (y - n)$, with $R$ symmetric."""

    root: Float[Array, "d d"]
    inverse: Float[Array, "d d"]
    scale: Float[Array, ""]
    source: Float[Array, " d"]
    target: Float[Array, " d"]

    def x_in(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """A point of the first measure, in the frame."""
        return self.scale * self._times(self.root, x - self.source)

    def x_out(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """And back."""
        return self.source + self._times(self.inverse, x) / self.scale

    def y_in(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """A point of the second measure, in the frame."""
        return self.scale * self._times(self.inverse, y - self.target)

    def y_out(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """And back."""
        return self.target + self._times(self.root, y) / self.scale

    def potential(self, x: Float[Array, " d"], value: Float[Array, ""]) -> Float[Array, ""]:
        """The convex function at x, by its value in the frame."""
        return value / self.scale**2 + jnp.sum(self.target * x)

    def conjugate(self, y: Float[Array, " d"], value: Float[Array, ""]) -> Float[Array, ""]:
        """Its conjugate at y."""
        return value / self.scale**2 + jnp.sum(self.source * (y - self.target))

    def x_cost(self, x: Float[Array, " d"], value: Float[Array, ""]) -> Float[Array, ""]:
        r"""What x adds to the squared distance, $|x|^2 - 2 \varphi(x)$ but for a constant: nothing
        cancels where both measures are far from the origin."""
        u = x - self.source
        return jnp.sum(u * (u + 2 * (self.source - self.target))) - 2 * value / self.scale**2

    def y_cost(self, y: Float[Array, " d"], value: Float[Array, ""]) -> Float[Array, ""]:
        r"""What y adds to it, $|y|^2 - 2 \varphi^*(y)$, likewise."""
        v = y - self.target
        return jnp.sum(v * (v - 2 * (self.source - self.target))) - 2 * value / self.scale**2

    @property
    def means_cost(self) -> Float[Array, ""]:
        """And that constant, the squared distance of the means."""
        return jnp.sum(jnp.square(self.source - self.target))

    def _times(self, matrix: Float[Array, "d d"], point: Float[Array, " d"]) -> Float[Array, " d"]:
        return product(point[None, :], matrix)[0]


def frame_of(
    source: Callable[[PRNGKeyArray], Array],
    target: Callable[[PRNGKeyArray], Array],
    key: PRNGKeyArray,
    num_batches: int,
) -> tuple[Frame, Bool[Array, ""]]:
    """The frame of two measures, by the moments of some batches, and whether these are numbers."""
    mean_a, cov_a, valid_a = _moments(source, jr.fold_in(key, 0), num_batches)
    mean_b, cov_b, valid_b = _moments(target, jr.fold_in(key, 1), num_batches)
    one = jnp.eye(len(mean_a), dtype=mean_a.dtype)
    valid = valid_a & valid_b
    cov_a, cov_b = (jnp.where(valid, _widened(cov), one) for cov in (cov_a, cov_b))
    # Both in one unit, which is where matrix functions are accurate.
    size_a, size_b = (jnp.trace(cov) / len(cov) for cov in (cov_a, cov_b))
    linear = riccati(cov_a / size_a, cov_b / size_b, jnp.zeros_like(size_a))
    root = square_root(linear)
    inverse = jnp.linalg.inv(root)
    common = jnp.trace(product(root, cov_a / size_a, root)) / len(cov_a)
    ratio = jnp.sqrt(jnp.sqrt(size_b / size_a))
    scale = 1 / jnp.sqrt(common * jnp.sqrt(size_a * size_b))
    zero = lambda mean: jnp.where(valid, mean, 0)
    return Frame(ratio * root, inverse / ratio, scale, zero(mean_a), zero(mean_b)), valid


def _widened(cov: Float[Array, "d d"]) -> Float[Array, "d d"]:
    variance = jnp.trace(cov) / len(cov)
    least = jnp.where(variance > 0, _RIDGE * variance, 1)
    return cov + least * jnp.eye(len(cov), dtype=cov.dtype)


def _moments(
    draw: Callable[[PRNGKeyArray], Array], key: PRNGKeyArray, num_batches: int
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Bool[Array, ""]]:
    first = draw(jr.fold_in(key, num_batches))
    centre = jnp.mean(first, axis=0)

    def add(sums, number):
        x = draw(jr.fold_in(key, number)) - centre[None, :]
        return (sums[0] + jnp.mean(x, axis=0), sums[1] + product(x.T, x) / len(x)), None

    zeros = jnp.zeros_like(centre), jnp.zeros((len(centre),) * 2, centre.dtype)
    (mean, square), _ = scan(add, zeros, jnp.arange(num_batches, dtype=jnp.int32))
    mean, square = mean / num_batches, square / num_batches
    cov = square - mean[:, None] * mean[None, :]
    return centre + mean, cov, jnp.all(jnp.isfinite(cov)) & jnp.all(jnp.isfinite(mean + centre))
