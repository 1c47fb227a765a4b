"""Accelerations of a fixed-point iteration $g = T(g)$: where to evaluate T next."""

import abc

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._arrays import known_number, positive_number
from .._control import launches_cost
from ._absorbed import Absorbed, Point
from ._window import MOST_IMAGES, Window


class Best(eqx.Module):
    """What the iteration with one plan has come to.

    - `image`: where a plain step takes the point of least error, shape (m,).
    - `error`: that error.
    - `tolerance`: the error that is asked for.
    - `f`: what goes with that point, shape (n,), where a product is dearer than to keep it.
    """

    image: Float[Array, " m"]
    error: Float[Array, ""]
    tolerance: Float[Array, ""]
    f: Float[Array, " n"] | None

    def refuses(self, point: Point) -> Bool[Array, ""]:
        """The safeguard of extrapolations: after an error that doubled, or is not a number, it goes
        on from the best image."""
        return ~(point.error <= 2 * self.error)


class AbstractAcceleration(eqx.Module):
    """Chooses the next point from what the last ones told; each brings its own safeguard."""

    @abc.abstractmethod
    def init(self, g: Float[Array, " m"]) -> PyTree:
        """The empty history of an iteration from `g`."""

    @abc.abstractmethod
    def resume(self, history: PyTree, anew: Bool[Array, ""]) -> PyTree:
        """The history when the iteration goes on with another absorbed plan; or an empty one."""

    @abc.abstractmethod
    def update(
        self, history: PyTree, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], PyTree]:
        """The next place to evaluate, given the problem and its evaluation at `point`."""

    @abc.abstractmethod
    def rest(self, history: PyTree, best: Best) -> Float[Array, " m"]:
        """Where to go on from with another plan, where this one does not carry on."""


class Plain(AbstractAcceleration):
    """No acceleration: Sinkhorn's own iteration."""

    def init(self, g: Float[Array, " m"]) -> None:
        return None

    def resume(self, history: None, anew: Bool[Array, ""]) -> None:
        return None

    def update(
        self, history: None, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], None]:
        return point.image, None

    def rest(self, history: None, best: Best) -> Float[Array, " m"]:
        return best.image


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

    def init(self, g: Float[Array, " m"]) -> None:
        return None

    def resume(self, history: None, anew: Bool[Array, ""]) -> None:
        return None

    def update(
        self, history: None, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], None]:
        relaxed = point.g + self.omega.astype(point.g.dtype) * (point.image - point.g)
        return jnp.where(best.refuses(point), best.image, relaxed), None

    def rest(self, history: None, best: Best) -> Float[Array, " m"]:
        return best.image


class _Memory(eqx.Module):
    images: Float[Array, "memory m"]
    residuals: Float[Array, "memory m"]
    count: Int[Array, ""]


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

    def init(self, g: Float[Array, " m"]) -> _Memory | Window:
        if launches_cost() and self.memory <= MOST_IMAGES:
            return Window.empty(self.memory, g)
        empty = jnp.zeros((self.memory, g.shape[0]), g.dtype)
        return _Memory(empty, empty, jnp.zeros((), jnp.int32))

    def resume(self, history: _Memory | Window, anew: Bool[Array, ""]) -> _Memory | Window:
        if isinstance(history, Window):
            return history.begun_anew(anew)
        count = jnp.where(anew, 0, history.count)
        return _Memory(history.images, history.residuals, count)

    def rest(self, history: _Memory | Window, best: Best) -> Float[Array, " m"]:
        return best.image

    def update(
        self, history: _Memory | Window, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], _Memory | Window]:
        # An extrapolation that failed is forgotten with all that led to it.
        refused = best.refuses(point)
        weights = jnp.sqrt(absorbed.problem.b) / absorbed.problem.epsilon
        if isinstance(history, Window):
            residual = (point.image - point.g) * weights
            history = history.extended(point.image, residual, refused)
            return jnp.where(refused, best.image, history.combination()), history
        slot = history.count % self.memory
        images = history.images.at[slot].set(point.image)
        residuals = history.residuals.at[slot].set((point.image - point.g) * weights)
        count = jnp.where(refused, 0, history.count + 1)
        g = jnp.where(refused, best.image, self.combine(images, residuals, count))
        return g, _Memory(images, residuals, count)

    def combine(
        self,
        images: Float[Array, "memory m"],
        residuals: Float[Array, "memory m"],
        count: Int[Array, ""],
    ) -> Float[Array, " m"]:
        """The images combined as makes their residuals least, with coefficients of sum one."""
        slots = jnp.arange(self.memory, dtype=jnp.int32)
        used = (slots < count).astype(images.dtype)
        gram = jnp.matmul(residuals, residuals.T, precision=lax.Precision.HIGHEST)
        gram *= used[:, None] * used[None, :]
        diagonal = slots[:, None] == slots[None, :]
        trace = jnp.sum(jnp.where(diagonal, gram, 0))
        ridge = 8 * jnp.finfo(gram.dtype).eps * trace + jnp.finfo(gram.dtype).tiny
        gram += jnp.where(diagonal, ridge + (1 - used), 0)
        # By elimination: a library's solve is a call of its own in each step, and to be loaded.
        both = jnp.append(gram, used[:, None], axis=1)
        for pivot in range(self.memory):
            size = both[pivot, pivot]
            row = both[pivot] / jnp.where(size > 0, size, jnp.nan)
            column = both[:, pivot] - (slots == pivot).astype(both.dtype)
            both -= column[:, None] * row[None, :]
        solved = both[:, -1]
        coefficients = solved / jnp.where(count > 0, jnp.sum(solved), 1)
        return jnp.matmul(coefficients, images, precision=lax.Precision.HIGHEST)
