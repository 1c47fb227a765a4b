"""Accelerations of a fixed-point iteration $g = T(g)$: where to evaluate T next."""

import abc

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from .._arrays import known_number, positive_number
from ._absorbed import Absorbed, Point


class AbstractAcceleration(eqx.Module):
    """Chooses the next point from what the last ones told; each brings its own safeguard."""

    @abc.abstractmethod
    def init(self, g: Float[Array, " m"], tolerance: Float[Array, ""]) -> PyTree:
        """The empty history of an iteration from `g` towards a marginal error of `tolerance`."""

    def resume(self, history: PyTree, g: Float[Array, " m"]) -> PyTree:
        """The history when the iteration goes on from `g` with another absorbed plan."""
        return history

    @abc.abstractmethod
    def update(
        self, history: PyTree, absorbed: Absorbed, point: Point
    ) -> tuple[Float[Array, " m"], PyTree]:
        """The next place to evaluate, given the problem and its evaluation at `point`."""


class Plain(AbstractAcceleration):
    """No acceleration: Sinkhorn's own iteration."""

    def init(self, g: Float[Array, " m"], tolerance: Float[Array, ""]) -> None:
        return None

    def update(
        self, history: None, absorbed: Absorbed, point: Point
    ) -> tuple[Float[Array, " m"], None]:
        return point.image, None


class _Best(eqx.Module):
    """The safeguard of extrapolations: after an error that doubled, on from the best image."""

    image: Float[Array, " m"]
    error: Float[Array, ""]

    def updated(self, point: Point) -> "_Best":
        # No worse counts as better: on a plateau the iteration would come back to one place for
        # ever. False for NaN.
        better = point.error <= 1.001 * self.error
        image = jnp.where(better, point.image, self.image)
        return _Best(image, jnp.fmin(self.error, point.error))

    def refuses(self, point: Point) -> Array:
        return ~(point.error <= 2 * self.error)


def _nothing_yet(g: Float[Array, " m"]) -> _Best:
    return _Best(g, jnp.full((), jnp.inf, g.dtype))


class Overrelaxation(AbstractAcceleration):
    r"""$g + \omega (T(g) - g)$ (Thibault et al. 2021, arXiv:1711.01851), safeguarded."""

    omega: Float[Array, ""]

    def __init__(self, omega: ArrayLike = 1.5):
        """**Arguments:**

        - `omega`: the relaxation, between 0 and 2; 1 is the plain iteration.
        """
        self.omega = positive_number(omega, "omega")
        known = known_number(omega)
        if known is not None and not known < 2:
            raise ValueError(f"`omega` must be below 2, got {omega!r}.")

    def init(self, g: Float[Array, " m"], tolerance: Float[Array, ""]) -> _Best:
        return _nothing_yet(g)

    def update(
        self, history: _Best, absorbed: Absorbed, point: Point
    ) -> tuple[Float[Array, " m"], _Best]:
        relaxed = point.g + self.omega.astype(point.g.dtype) * (point.image - point.g)
        return jnp.where(history.refuses(point), history.image, relaxed), history.updated(point)


class _Memory(eqx.Module):
    images: Float[Array, "memory m"]
    residuals: Float[Array, "memory m"]
    count: Int[Array, ""]
    best: _Best


class Anderson(AbstractAcceleration):
    """Anderson's extrapolation from the last images (Walker and Ni 2011), safeguarded."""

    memory: int = eqx.field(static=True)

    def __init__(self, memory: int = 5):
        """**Arguments:**

        - `memory`: how many images to extrapolate from, at least 2.
        """
        if not isinstance(memory, int) or memory < 2:
            raise ValueError(f"`memory` must be an integer of at least 2, got {memory!r}.")
        self.memory = memory

    def init(self, g: Float[Array, " m"], tolerance: Float[Array, ""]) -> _Memory:
        empty = jnp.zeros((self.memory, g.shape[0]), g.dtype)
        return _Memory(empty, empty, jnp.zeros((), jnp.int32), _nothing_yet(g))

    def update(
        self, history: _Memory, absorbed: Absorbed, point: Point
    ) -> tuple[Float[Array, " m"], _Memory]:
        # An extrapolation that failed is forgotten with all that led to it.
        refused = history.best.refuses(point)
        slot = history.count % self.memory
        weights = jnp.sqrt(absorbed.problem.b)
        images = history.images.at[slot].set(point.image)
        residuals = history.residuals.at[slot].set((point.image - point.g) * weights)
        count = jnp.where(refused, 0, history.count + 1)
        extrapolated = self._combine(images, residuals, count)
        g = jnp.where(refused, history.best.image, extrapolated)
        return g, _Memory(images, residuals, count, history.best.updated(point))

    def _combine(
        self,
        images: Float[Array, "memory m"],
        residuals: Float[Array, "memory m"],
        count: Int[Array, ""],
    ) -> Float[Array, " m"]:
        """The images combined as makes their residuals least, with coefficients of sum one."""
        used = jnp.arange(self.memory, dtype=jnp.int32) < count
        residuals = jnp.where(used[:, None], residuals, 0)
        gram = jnp.matmul(residuals, residuals.T, precision=lax.Precision.HIGHEST)
        eps = jnp.finfo(gram.dtype).eps
        ridge = 8 * eps * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
        gram = gram + jnp.diag(jnp.where(used, ridge, 1))
        factor = jax.scipy.linalg.cho_factor(gram)
        solved = jax.scipy.linalg.cho_solve(factor, used.astype(gram.dtype))
        coefficients = solved / jnp.where(count > 0, jnp.sum(solved), 1)
        return jnp.matmul(coefficients, images, precision=lax.Precision.HIGHEST)
