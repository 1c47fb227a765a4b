r"""Truncated Newton on the semi-dual (Kemertas et al. 2025, arXiv:2504.02067, for its annealing).

With $f$ the best response to $g$, the dual is a concave function of $g$ alone, of gradient
$\mathrm{target}_b(g) - P^T 1$ and Hessian $-S / \epsilon$, S the Schur complement of the plan.
"""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import positive_number
from .._problem import EntropicProblem
from .._schur import conjugate_gradients, Schur
from ._absorbed import Absorbed, DRIFT, alternate, alternate_in_log_domain, Point
from ._acceleration import AbstractAcceleration
from ._annealing import AbstractAnnealing, GeometricAnnealing
from ._base import AbstractSolver, Outcome, Potentials
from ._loop import AbsorbedIteration
from ._sinkhorn import SymmetricSinkhorn


class _Search(eqx.Module):
    """A line search under way: from `base` along `direction`, now at `length`."""

    base: Float[Array, " m"]
    direction: Float[Array, " m"]
    length: Float[Array, ""]
    slope: Float[Array, ""]  # of the dual along the direction, at the base
    begun: Bool[Array, ""]


class Newton(AbstractAcceleration):
    """Newton's step by conjugate gradients, with a line search on the slope of the dual.

    Along a line the dual is concave: where its slope is still not negative it has increased. A
    step that overshoots is shortened to where the secant of the slope vanishes.
    """

    max_products: int = eqx.field(static=True)

    def init(self, g: Float[Array, " m"]) -> _Search:
        zero = jnp.zeros((), g.dtype)
        return _Search(g, jnp.zeros_like(g), zero, zero, jnp.array(False))

    def update(
        self, history: _Search, absorbed: Absorbed, point: Point
    ) -> tuple[Float[Array, " m"], _Search]:
        problem = absorbed.problem
        gradient = problem.marginals[1].target(point.g, problem.b) - point.column
        slope = jnp.sum(gradient * history.direction)
        accept = ~history.begun | (slope >= -0.1 * history.slope)

        def shorter() -> _Search:
            secant = history.slope / (history.slope - slope)
            factor = jnp.where(jnp.isfinite(secant), jnp.clip(secant, 0.1, 0.7), 0.1)
            return eqx.tree_at(lambda h: h.length, history, factor * history.length)

        search = lax.cond(accept, lambda: self._begin(absorbed, point, gradient), shorter)
        g = search.base + search.length * search.direction
        # No ascent direction or no length left: a plain step increases the dual as well.
        useful = (search.slope > 0) & (search.length > 1e-3)
        g = jnp.where(useful, g, point.image)
        return g, eqx.tree_at(lambda h: h.begun, search, useful)

    def _begin(
        self, absorbed: Absorbed, point: Point, gradient: Float[Array, " m"]
    ) -> _Search:
        """A new direction, as accurate as the error left makes worthwhile."""
        problem = absorbed.problem
        plan = absorbed.plan_at(point.f, point.g)
        row = point.f / problem.marginals[0].damping(problem.epsilon)
        row = jnp.exp((absorbed.f0 - row) / problem.epsilon)
        schur = Schur(problem, plan, row, point.column)
        direction = conjugate_gradients(
            schur.mv,
            problem.epsilon * gradient,
            schur.inverse_diagonal(),
            tolerance=jnp.clip(point.error, 1e-3, 0.3),
            max_steps=self.max_products,
        )
        # As far as the absorbed plan carries; f follows g, and goes no further.
        room = 0.8 * DRIFT[direction.dtype] - absorbed.drift(absorbed.f0, point.g)
        reach = jnp.max(jnp.abs(direction)) / problem.epsilon
        length = jnp.minimum(1, room / jnp.maximum(reach, 1e-6))
        return _Search(
            point.g, direction, length, jnp.sum(gradient * direction), jnp.array(True)
        )
