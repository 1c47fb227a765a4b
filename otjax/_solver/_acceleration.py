"""Accelerations of a fixed-point iteration $g = T(g)$: where to evaluate T next."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import positive_number


class AbstractAcceleration(eqx.Module):
    """Chooses the next point from the images seen so far.

    Each comes with its safeguard: the caller reports the error at each point, and after an error
    that grew the history is forgotten and the best image so far is returned to.
    """

    @abc.abstractmethod
    def init(self, g: Float[Array, " m"]) -> Any:
        """The empty history."""

    @abc.abstractmethod
    def update(
        self,
        history: Any,
        g: Float[Array, " m"],
        image: Float[Array, " m"],
        weights: Float[Array, " m"],
    ) -> tuple[Float[Array, " m"], Any]:
        """The next point, given that T maps `g` to `image`; `weights` are the points' masses."""


class Plain(AbstractAcceleration):
    """No acceleration: Sinkhorn's own iteration."""

    def init(self, g: Float[Array, " m"]) -> None:
        return None

    def update(self, history: None, g, image, weights):
        return image, None


class Overrelaxation(AbstractAcceleration):
    r"""$g + \omega (T(g) - g)$ (Thibault et al. 2021, arXiv:1711.01851), safeguarded."""

    omega: Float[Array, ""]

    def __init__(self, omega: ArrayLike = 1.5):
        """**Arguments:**

        - `omega`: the relaxation, between 0 and 2; 1 is the plain iteration.
        """
        self.omega = positive_number(omega, "omega")

    def init(self, g: Float[Array, " m"]) -> None:
        return None

    def update(self, history: None, g, image, weights):
        return g + self.omega.astype(g.dtype) * (image - g), None


class _History(eqx.Module):
    images: Float[Array, "memory m"]
    residuals: Float[Array, "memory m"]
    count: Int[Array, ""]


class Anderson(AbstractAcceleration):
    """Anderson's extrapolation from the last few images (Walker and Ni 2011), safeguarded."""

    memory: int = eqx.field(static=True)

    def __init__(self, memory: int = 5):
        """**Arguments:**

        - `memory`: how many images to extrapolate from, at least 2.
        """
        if memory < 2:
            raise ValueError(f"`memory` must be at least 2, got {memory}.")
        self.memory = memory

    def init(self, g: Float[Array, " m"]) -> _History:
        empty = jnp.zeros((self.memory, g.shape[0]), g.dtype)
        return _History(empty, empty, jnp.array(0))

    def update(self, history: _History, g, image, weights):
        slot = history.count % self.memory
        images = history.images.at[slot].set(image)
        residuals = history.residuals.at[slot].set((image - g) * jnp.sqrt(weights))
        count = history.count + 1
        # The combination of residuals, with coefficients of sum one, of the least norm.
        used = jnp.arange(self.memory) < count
        gram = jnp.matmul(residuals, residuals.T, precision=jax.lax.Precision.HIGHEST)
        ridge = 8 * jnp.finfo(g.dtype).eps * jnp.trace(gram) + jnp.finfo(g.dtype).tiny
        gram = gram + jnp.diag(jnp.where(used, ridge, 1))
        solved = jnp.linalg.solve(gram, used.astype(g.dtype))
        coefficients = solved / jnp.sum(solved)
        return coefficients @ images, _History(images, residuals, count)
