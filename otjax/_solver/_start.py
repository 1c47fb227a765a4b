"""Where a solve starts."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._dual import centre
from .._problem import PreparedProblem
from ._annealing import AbstractAnnealing
from ._base import Potentials


def start(
    problem: PreparedProblem,
    annealing: AbstractAnnealing,
    init: Potentials | None,
    limit: Int[Array, ""],
) -> tuple[Potentials, Float[Array, ""]]:
    """Potentials to start from, with the best constant, and the first epsilon: the problem's own
    for a warm start, and where there is but one step to make."""
    if init is not None:
        return centre(problem, *init), problem.epsilon
    # As good as zeros, and at a large epsilon their plan neither over- nor underflows.
    half = jnp.where(limit > 0, 0.5 * problem.mean, 0)
    epsilon = annealing.first(problem.epsilon, problem.spread)
    epsilon = jnp.where(limit <= 1, problem.epsilon, epsilon)
    f, g = jnp.full_like(problem.a, half), jnp.full_like(problem.b, half)
    return centre(problem, f, g), epsilon
