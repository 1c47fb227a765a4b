"""Accelerations of a fixed-point iteration $g = T(g)$: where to evaluate T next."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from .._arrays import known_number, positive_number
from ._absorbed import Absorbed, Point
from ._history import AbstractHistory, empty_history


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

    def init(self, g: Float[Array, " m"]) -> AbstractHistory:
        return empty_history(self.memory, g)

    def resume(self, history: AbstractHistory, anew: Bool[Array, ""]) -> AbstractHistory:
        return history.begun_anew(anew)

    def update(
        self, history: AbstractHistory, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], AbstractHistory]:
        # An extrapolation that failed is forgotten with all that led to it.
        refused = best.refuses(point)
        weights = jnp.sqrt(absorbed.problem.b) / absorbed.problem.epsilon
        history = history.extended(point.image, (point.image - point.g) * weights, refused)
        return jnp.where(refused, best.image, history.combination()), history

    def rest(self, history: AbstractHistory, best: Best) -> Float[Array, " m"]:
        return best.image
