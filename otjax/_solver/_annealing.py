"""Schedules of epsilon: from a large one, where any start will do, down to the problem's."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import known_number, positive_number


class AbstractAnnealing(eqx.Module):
    """A decreasing sequence of epsilons that ends at the problem's own."""

    @abc.abstractmethod
    def first(self, epsilon: Float[Array, ""], spread: Float[Array, ""]) -> Float[Array, ""]:
        """The epsilon to start from."""

    @abc.abstractmethod
    def next(self, current: Float[Array, ""], epsilon: Float[Array, ""]) -> Float[Array, ""]:
        """The epsilon after `current`."""

    @abc.abstractmethod
    def tolerance(
        self, current: Float[Array, ""], epsilon: Float[Array, ""], tolerance: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The marginal error at which to leave `current`."""


def annealing_or_default(annealing: AbstractAnnealing | None) -> AbstractAnnealing:
    """A solver's schedule; `None` is `GeometricAnnealing()`."""
    if annealing is None:
        return GeometricAnnealing()
    if not isinstance(annealing, AbstractAnnealing):
        raise ValueError(
            f"`annealing` must be `GeometricAnnealing(...)` or `NoAnnealing()`, got {annealing!r}."
        )
    return annealing


class NoAnnealing(AbstractAnnealing):
    """Starts at the problem's epsilon."""

    def first(self, epsilon: Float[Array, ""], spread: Float[Array, ""]) -> Float[Array, ""]:
        return epsilon

    def next(self, current: Float[Array, ""], epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return epsilon

    def tolerance(
        self, current: Float[Array, ""], epsilon: Float[Array, ""], tolerance: Float[Array, ""]
    ) -> Float[Array, ""]:
        return tolerance


class GeometricAnnealing(AbstractAnnealing):
    """Divides epsilon by a constant, from a fraction of the mean cost above the least."""

    start: Float[Array, ""]
    factor: Float[Array, ""]
    stage_tolerance: Float[Array, ""]

    def __init__(
        self, *, start: ArrayLike = 0.05, factor: ArrayLike = 0.2, stage_tolerance: ArrayLike = 0.02
    ):
        """**Arguments:**

        - `start`: the first epsilon, as a fraction of the mean cost above the least.
        - `factor`: what epsilon is multiplied by, between 0 and 1.
        - `stage_tolerance`: the marginal error at which an intermediate epsilon is left: less than
            the mass of a cluster of points. What clusters have too much or too little moves at a
            constant pace, the slower the smaller epsilon.
        """
        self.start = positive_number(start, "start")
        self.factor = positive_number(factor, "factor")
        known = known_number(factor)
        if known is not None and not known < 1:
            raise ValueError(f"`factor` must be below 1, got {factor!r}.")
        self.stage_tolerance = positive_number(stage_tolerance, "stage_tolerance")

    def first(self, epsilon: Float[Array, ""], spread: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.maximum(epsilon, self.start.astype(epsilon.dtype) * spread)

    def next(self, current: Float[Array, ""], epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.maximum(epsilon, self.factor.astype(epsilon.dtype) * current)

    def tolerance(
        self, current: Float[Array, ""], epsilon: Float[Array, ""], tolerance: Float[Array, ""]
    ) -> Float[Array, ""]:
        stage = jnp.maximum(self.stage_tolerance.astype(tolerance.dtype), tolerance)
        return jnp.where(current > epsilon, stage, tolerance)
