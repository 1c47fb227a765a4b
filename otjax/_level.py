"""A constant that all costs share, which would take the place of their last digits."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._geometry import CostMatrix
from ._problem import EntropicProblem


def without_constant(problem: EntropicProblem) -> tuple[EntropicProblem, Float[Array, ""]]:
    """The balanced problem of a matrix of costs without a constant that they share, and that
    constant, which carries no derivative; any other problem as it is, and 0.

    It is the least cost, where no cost is more than two times another: then the differences are
    exact. The plan is the same; points with their costs are brought near the origin instead.
    """
    geometry = problem.geometry
    if problem.has_gauge and isinstance(geometry.T, CostMatrix):
        level, constant = without_constant(problem.T)
        return level.T, constant
    if not problem.has_gauge or not isinstance(geometry, CostMatrix):
        return problem, jnp.zeros((), geometry.dtype)
    alive = (problem.a > 0)[:, None] & (problem.b > 0)[None, :]
    cost = lax.stop_gradient(geometry.matrix)
    counts = alive & jnp.isfinite(cost)
    least = jnp.min(jnp.where(counts, cost, jnp.inf))
    most = jnp.max(jnp.where(counts, cost, -jnp.inf))
    near = (least > 0) & (most <= 2 * least) | (most < 0) & (least >= 2 * most)
    constant = jnp.where(near & jnp.isfinite(least), least, 0)
    level = EntropicProblem(
        CostMatrix(geometry.matrix - constant),
        problem.a,
        problem.b,
        epsilon=problem.epsilon,
        marginals=problem.marginals,
    )
    return level, constant
