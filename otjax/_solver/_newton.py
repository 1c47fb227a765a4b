r"""Truncated Newton on the semi-dual (Kemertas et al. 2025, arXiv:2504.02067, for its annealing).

With $f$ the best response to $g$, the dual is a concave function of $g$ alone, of gradient
$\mathrm{target}_b(g) - P^T 1$ and Hessian $-S / \epsilon$, S the Schur complement of the plan.
"""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import inner, optional_positive_number
from .._control import cond_any
from .._operators import TransportPlan
from .._schur import conjugate_gradients, Schur
from ._absorbed import Absorbed, AbstractStep, Alternating, DRIFT, Point
from ._acceleration import AbstractAcceleration, Best
from ._annealing import AbstractAnnealing, annealing_or_default
from ._loop import AbstractAbsorbedSolver


# In units of epsilon: how far a direction goes at first. The dual is quadratic over a few units.
_RADIUS = 4.0
# Above this marginal error directions are good enough in single precision, at half the price.
# Below, what is left is where the Hessian is nearly singular, which single precision does not see.
_COARSE = 1e-5


class _Search(eqx.Module):
    """A line search under way: from `base` along `direction`, now at `length`."""

    base: Float[Array, " m"]
    direction: Float[Array, " m"]
    length: Float[Array, ""]
    value: Float[Array, ""]  # of the dual at the base
    slope: Float[Array, ""]  # of the dual along the direction, at the base
    radius: Float[Array, ""]  # of the trust region, in units of epsilon
    begun: Bool[Array, ""]
    image: Float[Array, " m"]  # where a plain step takes the base


class Newton(AbstractAcceleration):
    """Newton's step by conjugate gradients within a trust region, with a line search on the dual.

    Where parts of the plan hardly touch, the Hessian is nearly singular and its inverse says
    nothing of the dual at a distance: the region, in units of epsilon, grows where it is right, and
    what lies beyond it goes to its edge.
    A step is kept if the dual has increased: always where its slope is still not negative, as it
    is concave. Otherwise it is shortened towards where the secant of the slope vanishes.
    """

    max_products: int = eqx.field(static=True)

    def __init__(self, max_products: int = 2000):
        """**Arguments:**

        - `max_products`: the largest number of conjugate gradient steps for one direction.
        """
        if not isinstance(max_products, int) or max_products < 1:
            raise ValueError(f"`max_products` must be a positive integer, got {max_products!r}.")
        self.max_products = max_products

    def init(self, g: Float[Array, " m"]) -> _Search:
        zero = jnp.zeros((), g.dtype)
        return _Search(
            base=g,
            direction=jnp.zeros_like(g),
            length=zero,
            value=zero,
            slope=zero,
            radius=jnp.full_like(zero, _RADIUS),
            begun=jnp.array(False),
            image=g,
        )

    def resume(self, history: _Search, anew: Bool[Array, ""]) -> _Search:
        where = lambda search: (search.begun, search.radius)
        radius = jnp.where(anew, _RADIUS, history.radius)
        return eqx.tree_at(where, history, (jnp.array(False), radius))

    def rest(self, history: _Search, best: Best) -> Float[Array, " m"]:
        # The dual has increased so far, however the error wavered.
        return history.image

    def update(
        self, history: _Search, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], _Search]:
        problem = absorbed.problem
        gradient = problem.b * problem.marginals[1].share(point.g) - point.column
        slope = inner(gradient, history.direction)
        # Up to rounding, where that is more than there is to gain.
        noise = 16 * jnp.finfo(slope.dtype).eps * jnp.abs(history.value)
        noise = jnp.where(history.slope * history.length <= noise, noise, 0)
        increased = (point.value >= history.value - noise) & (slope >= -0.5 * history.slope)
        kept = history.begun & ((slope >= 0) | increased)
        radius = jnp.where(kept, _radius_after(history, problem.epsilon), history.radius)
        history = eqx.tree_at(lambda search: search.radius, history, radius)
        search = cond_any(
            ~history.begun & (point.error > best.tolerance),
            lambda: self._turn(history, absorbed, point, gradient, best.tolerance),
            lambda: self._shorten(history, slope),
        )
        # A plain step, which increases the dual as well, where there is no ascent direction or no
        # length left; and after each step that is kept, for what its model does not reach: it costs
        # a small part of the next direction.
        useful = (search.slope > 0) & (search.length > 1e-4) & ~kept
        g = jnp.where(useful, search.base + search.length * search.direction, point.image)
        image = jnp.where(kept, point.image, search.image)
        return g, eqx.tree_at(lambda s: (s.begun, s.image), search, (useful, image))

    def _shorten(self, search: _Search, slope: Float[Array, ""]) -> _Search:
        secant = search.slope / (search.slope - slope)
        factor = jnp.where(jnp.isfinite(secant), jnp.clip(secant, 0.1, 0.7), 0.1)
        return eqx.tree_at(lambda search: search.length, search, factor * search.length)

    def _turn(
        self,
        search: _Search,
        absorbed: Absorbed,
        point: Point,
        gradient: Float[Array, " m"],
        tolerance: Float[Array, ""],
    ) -> _Search:
        """A new direction, as accurate as the error left makes worthwhile."""
        problem = absorbed.problem
        enough = jnp.maximum(point.error, 0.1 * tolerance / point.error)
        # As far as the absorbed plan carries; f follows g, and goes no further.
        drift = jnp.max(jnp.abs(point.g - absorbed.g0)) / problem.epsilon
        room = 0.8 * DRIFT[gradient.dtype] - drift
        # In units that keep the numbers in the range of single precision.
        unit = jnp.max(jnp.abs(gradient))
        unit = problem.epsilon * jnp.where(unit > 0, unit, 1)
        radius_in_units = (
            problem.epsilon * jnp.minimum(search.radius, jnp.maximum(room, 1e-3)) / unit
        )

        def direction_by(plan: TransportPlan) -> Float[Array, " m"]:
            schur, dtype = Schur(problem, plan), plan.b.dtype
            direction = conjugate_gradients(
                schur.mv,
                (problem.epsilon * gradient / unit).astype(dtype),
                schur.inverse_diagonal(),
                tolerance=jnp.clip(enough, 0.05, 0.3).astype(dtype),
                max_steps=self.max_products,
                radius=radius_in_units.astype(dtype),
            )
            return unit * direction.astype(gradient.dtype)

        if gradient.dtype == jnp.float32:
            direction = direction_by(absorbed.plan_at(point.f, point.g))
        else:
            direction = lax.cond(
                point.error > _COARSE,
                lambda: direction_by(absorbed.coarse_plan_at(point.f, point.g)),
                lambda: direction_by(absorbed.plan_at(point.f, point.g)),
            )
        return _Search(
            base=point.g,
            direction=direction,
            length=jnp.ones_like(search.length),
            value=point.value,
            slope=inner(gradient, direction),
            radius=search.radius,
            begun=jnp.array(True),
            image=point.image,
        )


def _radius_after(search: _Search, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """A step that was kept whole says that one may go further, one that was cut how far."""
    kept = search.length * jnp.max(jnp.abs(search.direction)) / epsilon
    return jnp.where(search.length < 1, 2 * kept, jnp.maximum(search.radius, 4 * kept))


class DualNewton(AbstractAbsorbedSolver):
    """Annealed, truncated Newton on the entropic semi-dual: for small epsilon and tight tolerance.

    Each direction is found by conjugate gradients on the plan's Schur complement, matrix-free.
    """

    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    newton: Newton

    def __init__(
        self,
        *,
        tolerance: ArrayLike | None = None,
        annealing: AbstractAnnealing | None = None,
        max_products: int = 2000,
    ):
        """**Arguments:**

        - `tolerance`: as for `Sinkhorn`.
        - `annealing`: `GeometricAnnealing(...)` (the default) or `NoAnnealing()`; a warm start
            skips it.
        - `max_products`: the largest number of conjugate gradient steps for one direction.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")
        self.annealing = annealing_or_default(annealing)
        self.newton = Newton(max_products)

    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        return Alternating(), self.annealing, self.newton
