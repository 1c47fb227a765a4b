"""How convex conjugates are had while a potential is trained: by a second network, trained beside
it, whose guesses may be refined."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import positive_number
from ..nn._shapes import whole
from ._refinement import Refinement


# Of one point.
Potential: TypeAlias = Callable[[Float[Array, " d"]], Float[Array, ""]]
Map: TypeAlias = Callable[[Float[Array, " d"]], Float[Array, " d"]]


class AbstractConjugation(eqx.Module):
    r"""How $\varphi^*(y) = \max_x x \cdot y - \varphi(x)$ is had for a batch of y, in the dual

    $$\min_\varphi \mathbb{E}\, \varphi(x) + \mathbb{E}\, \varphi^*(y).$$

    A second network, the predictor, maps y to a guess of the best x, which is where $\nabla
    \varphi$ is y. The methods differ by what the predictor is trained on, and by what the potential
    is then given (Amos 2023, arXiv:2210.12153, has them side by side).
    """

    num_inner: eqx.AbstractVar[int]
    convex_predictor: eqx.AbstractVar[bool]

    @abstractmethod
    def conjugate(self, potential: Potential, predictor: Map, y: Array) -> Float[Array, "n d"]:
        """The points x for a batch of y, without derivatives."""

    @abstractmethod
    def predictor_loss(
        self, potential: Potential, predictor: Map, y: Array, x: Array
    ) -> Float[Array, ""]:
        """What the predictor is trained on, with the points `x` that `conjugate` found."""

    @abstractmethod
    def potential_loss(self, potential: Potential, y: Array, x: Array) -> Float[Array, ""]:
        r"""What stands for $\mathbb{E}\, \varphi^*(y)$ where the potential is trained: its
        derivative counts."""


def _by_envelope(potential: Potential, x: Float[Array, "n d"]) -> Float[Array, ""]:
    # The derivative of a maximum is that at the best point, held fixed.
    return -jnp.mean(jax.vmap(potential)(x))


def _residual(potential: Potential, x: Array, y: Array) -> Float[Array, ""]:
    """The mean squared distance of gradients from what they should be."""
    return jnp.mean(jnp.sum(jnp.square(jax.vmap(jax.grad(potential))(x) - y), axis=1))


class MinMax(AbstractConjugation):
    """A game: the predictor maximises what the potential minimises, and makes several steps for
    each of the other's (Makkuva et al. 2020, arXiv:1908.10962). The predictor is the gradient of a
    second convex network."""

    num_inner: int = eqx.field(static=True)
    convex_predictor: bool = eqx.field(static=True, default=True, init=False)

    def __init__(self, *, num_inner: int = 5):
        """**Arguments:**

        - `num_inner`: the predictor's steps for each step of the potential.

        **Raises:** `ValueError` for a number that is not positive.
        """
        self.num_inner = whole(num_inner, "num_inner")

    def conjugate(self, potential, predictor, y):
        return lax.stop_gradient(jax.vmap(predictor)(y))

    def predictor_loss(self, potential, predictor, y, x):
        x = jax.vmap(predictor)(y)
        return jnp.mean(jax.vmap(potential)(x) - jnp.sum(x * y, axis=1))

    def potential_loss(self, potential, y, x):
        return _by_envelope(potential, x)


class Cycle(AbstractConjugation):
    r"""No game: both networks are trained so that $\nabla\varphi$ brings a guess back to y, the
    cycle of W2GN (Korotin et al. 2021, arXiv:1909.13082). The predictor is the
    gradient of a second convex network."""

    weight: Float[Array, ""]
    num_inner: int = eqx.field(static=True, default=1, init=False)
    convex_predictor: bool = eqx.field(static=True, default=True, init=False)

    def __init__(self, weight: ArrayLike = 3.0):
        """**Arguments:**

        - `weight`: that of the mean squared distance between y and where it is brought back to,
            beside the dual, both in the frame's unit.

        **Raises:** `ValueError` for a weight that is not positive.
        """
        self.weight = positive_number(weight, "weight")

    def conjugate(self, potential, predictor, y):
        return lax.stop_gradient(jax.vmap(predictor)(y))

    def predictor_loss(self, potential, predictor, y, x):
        return self.weight.astype(y.dtype) * _residual(potential, jax.vmap(predictor)(y), y)

    def potential_loss(self, potential, y, x):
        weight = self.weight.astype(y.dtype)
        return _by_envelope(potential, x) + weight * _residual(potential, x, y)


class Amortised(AbstractConjugation):
    """Guesses are refined by a few steps of an optimiser, so that the potential is trained on
    conjugates that are right, and the predictor learns to guess what came out (Amos 2023,
    arXiv:2210.12153). The predictor may be any map."""

    refinement: Refinement
    num_inner: int = eqx.field(static=True, default=1, init=False)
    convex_predictor: bool = eqx.field(static=True, default=False, init=False)

    def __init__(self, refinement: Refinement = Refinement()):
        """**Arguments:**

        - `refinement`: the steps.

        **Raises:** `ValueError` for what is no `Refinement`.
        """
        if not isinstance(refinement, Refinement):
            raise ValueError(f"`refinement` must be a `Refinement(...)`, got {refinement!r}.")
        self.refinement = refinement

    def conjugate(self, potential, predictor, y):
        guess = jax.vmap(predictor)(y)
        return jax.vmap(lambda guess, y: self.refinement(potential, guess, y))(guess, y)

    def predictor_loss(self, potential, predictor, y, x):
        return jnp.mean(jnp.sum(jnp.square(jax.vmap(predictor)(y) - x), axis=1))

    def potential_loss(self, potential, y, x):
        return _by_envelope(potential, x)
