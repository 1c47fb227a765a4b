"""Extrapolation while it is fast, Newton's step when it is not; and the choice of a solver."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._arrays import optional_positive_number
from .._control import cond_any
from ._absorbed import Absorbed, AbstractStep, Alternating, Point
from ._acceleration import AbstractAcceleration, Anderson, Best
from ._annealing import AbstractAnnealing, annealing_or_default
from ._loop import AbstractAbsorbedSolver
from ._newton import Newton


# So many steps at a time tell how fast the extrapolation is; where the tolerance is further away
# than so many more of them, a few of Newton's steps are cheaper.
_WINDOW = 8
_FAR = 20
# A larger marginal error is that of some points far off, which Newton's model does not reach: it is
# worth five times as many steps before it is left to Newton's step.
_NEAR = 0.01


class _Trial(eqx.Module):
    """Extrapolation on trial, with Newton's step in reserve."""

    extrapolation: PyTree
    newton: PyTree
    use_newton: Bool[Array, ""]
    error: Float[Array, ""]  # the least so far
    error_before: Float[Array, ""]  # the least when the window began
    count: Int[Array, ""]


class AndersonThenNewton(AbstractAcceleration):
    """Anderson's extrapolation until its observed rate says that Newton's step is cheaper."""

    extrapolation: Anderson
    newton: Newton

    def init(self, g: Float[Array, " m"]) -> _Trial:
        infinity = jnp.full((), jnp.inf, g.dtype)
        return _Trial(
            extrapolation=self.extrapolation.init(g),
            newton=self.newton.init(g),
            use_newton=jnp.array(False),
            error=infinity,
            error_before=infinity,
            count=jnp.zeros((), jnp.int32),
        )

    def resume(self, history: _Trial, anew: Bool[Array, ""]) -> _Trial:
        return _Trial(
            extrapolation=self.extrapolation.resume(history.extrapolation, anew),
            newton=self.newton.resume(history.newton, anew),
            use_newton=history.use_newton & ~anew,
            error=jnp.where(anew, jnp.inf, history.error),
            error_before=jnp.where(anew, jnp.inf, history.error_before),
            count=jnp.where(anew, 0, history.count),
        )

    def rest(self, history: _Trial, best: Best) -> Float[Array, " m"]:
        extrapolation = self.extrapolation.rest(history.extrapolation, best)
        newton = self.newton.rest(history.newton, best)
        return jnp.where(history.use_newton, newton, extrapolation)

    def update(
        self, history: _Trial, absorbed: Absorbed, point: Point, best: Best
    ) -> tuple[Float[Array, " m"], _Trial]:
        error = jnp.fmin(history.error, point.error)
        count = history.count + 1
        full = count % _WINDOW == 0
        # Steps of the rate seen in this window that would still be needed.
        rate = jnp.maximum(jnp.log(history.error_before / error) / _WINDOW, 1e-6)
        far = jnp.log(error / best.tolerance) / rate > _FAR
        near = (error < _NEAR) | (jnp.log(error / _NEAR) / rate > 5 * _FAR)
        use_newton = history.use_newton | (full & far & near)

        g, extrapolation = self.extrapolation.update(history.extrapolation, absorbed, point, best)
        g, newton = cond_any(
            use_newton,
            lambda: self.newton.update(history.newton, absorbed, point, best),
            lambda: (g, history.newton),
        )
        before = jnp.where(full | (count == 1), error, history.error_before)
        return g, _Trial(extrapolation, newton, use_newton, error, before, count)


class Adaptive(AbstractAbsorbedSolver):
    """Sinkhorn with Anderson's extrapolation, then Newton where the observed rate asks for it.

    The default in float64: `Sinkhorn` where that is fast, and no crawl where `DualNewton` has none.
    """

    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing

    def __init__(
        self, *, tolerance: ArrayLike | None = None, annealing: AbstractAnnealing | None = None
    ):
        """**Arguments:**

        - `tolerance`, `annealing`: as for `Sinkhorn`.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")
        self.annealing = annealing_or_default(annealing)

    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        return Alternating(), self.annealing, AndersonThenNewton(Anderson(), Newton())
