"""Convex conjugates: the point whose gradient is given, sought from a guess."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._varying import scan


class Refinement(eqx.Module):
    r"""A few steps towards $\arg\min_x \varphi(x) - x \cdot y$, for each y by itself: the point
    that a convex $\varphi$ has its gradient y at. Of the points on the way the one whose gradient
    is nearest to y counts, so that it is never worse than the guess."""

    max_steps: int = eqx.field(static=True)
    optimiser: optax.GradientTransformation | None

    def __init__(
        self, max_steps: int = 8, *, optimiser: optax.GradientTransformation | None = None
    ):
        """**Arguments:**

        - `max_steps`: how many steps are taken, each with one gradient; 0 leaves guesses as they
            are.
        - `optimiser`: makes them, by any optax transformation. `None` is L-BFGS without a line
            search.

        **Raises:** `ValueError` for a number of steps that is none.
        """
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 0:
            raise ValueError(
                f"`max_steps` must be a whole number, not negative, got {max_steps!r}."
            )
        self.max_steps, self.optimiser = max_steps, optimiser

    def __call__(
        self,
        potential: Callable[[Float[Array, " d"]], Float[Array, ""]],
        guess: Float[Array, " d"],
        y: Float[Array, " d"],
    ) -> Float[Array, " d"]:
        """The point for one y, without derivatives."""
        guess, y = lax.stop_gradient((guess, y))
        if self.max_steps == 0:
            return guess
        optimiser = self.optimiser
        if optimiser is None:
            optimiser = optax.lbfgs(1.0, memory_size=5, linesearch=None)
        optimiser = optax.with_extra_args_support(optimiser)
        value_fn = lambda x: potential(x) - jnp.sum(x * y)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, best, least, state = carry
            value, gradient = jax.value_and_grad(value_fn)(x)
            residual = jnp.sum(jnp.square(gradient))
            # A comparison with NaN is false.
            better = residual < least
            best, least = jnp.where(better, x, best), jnp.where(better, residual, least)
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                updates, state = optimiser.update(
                    gradient, state, x, value=value, grad=gradient, value_fn=value_fn
                )
            return (x + updates.astype(x.dtype), best, least, state), None

        infinite = jnp.full((), jnp.inf, guess.dtype)
        start = guess, guess, infinite, optimiser.init(guess)
        (x, best, least, _), _ = scan(step, start, length=self.max_steps)
        last = jnp.sum(jnp.square(jax.grad(value_fn)(x)))
        return lax.stop_gradient(jnp.where(last < least, x, best))


@eqx.filter_custom_jvp
def inverse(potential, refinement, guess, y):
    """The same with the derivatives of the point that it seeks, by `y` and by the potential."""
    return refinement(potential, guess, y)


@inverse.def_jvp
def _inverse_jvp(primals, tangents):
    potential, refinement, guess, y = primals
    t_potential, _, _, t_y = tangents
    x = inverse(potential, refinement, guess, y)
    excess = jnp.zeros_like(y) if t_y is None else t_y
    moving, still = eqx.partition(potential, eqx.is_inexact_array)
    zeros = jax.tree.map(jnp.zeros_like, moving)
    t_potential = eqx.combine(t_potential, zeros)
    gradient = lambda moving: jax.grad(eqx.combine(moving, still))(x)
    excess -= jax.jvp(gradient, (moving,), (t_potential,))[1]
    return x, jnp.linalg.solve(jax.hessian(potential)(x), excess)
