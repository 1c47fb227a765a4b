"""Steps with one absorbed plan, until it is of no more use."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._control import launches_cost
from ._absorbed import Absorbed, AbstractStep, DRIFT
from ._acceleration import AbstractAcceleration, Best
from ._ending import Ending


# Near what rounding allows, so many steps without progress mean that there is none to come. Further
# away four times as many mean that the acceleration goes round in circles: it begins anew.
_PATIENCE = 50


class _Inner(eqx.Module):
    """The state between two steps."""

    g: Float[Array, " m"]
    history: PyTree
    best: Best
    milestone: Float[Array, ""]  # the error at the last progress
    since_progress: Int[Array, ""]
    num_steps: Int[Array, ""]
    drifted: Bool[Array, ""]


# No module: JAX asks for the hash of what a loop repeats, and this holds arrays.
@dataclasses.dataclass(frozen=True, eq=False)
class Iteration:
    """Steps with one absorbed plan, until `tolerance`, `limit`, or too far from it."""

    step: AbstractStep
    acceleration: AbstractAcceleration
    absorbed: Absorbed
    limit: Int[Array, ""]
    tolerance: Float[Array, ""]
    floor: Float[Array, ""]

    @property
    def reach(self) -> Float[Array, ""]:
        """How far from its potentials the plan carries. A soft minimum moves no further than its
        argument, so that `f` stays as near as `g`."""
        return (0.8 * DRIFT[self.absorbed.g0.dtype] - 1) * self.absorbed.problem.epsilon

    def begin(self, history: PyTree, num_steps: Int[Array, ""]) -> _Inner:
        infinite = jnp.full_like(self.floor, jnp.inf)
        keeps = launches_cost() and self.absorbed.problem.has_gauge
        f0, g0 = self.absorbed.f0 if keeps else None, self.absorbed.g0
        return _Inner(
            g=g0,
            history=history,
            best=Best(g0, infinite, self.tolerance, f0),
            milestone=infinite,
            since_progress=jnp.zeros((), jnp.int32),
            num_steps=num_steps,
            drifted=jnp.array(False),
        )

    def unfinished(self, state: _Inner) -> Bool[Array, ""]:
        patience = jnp.where(state.best.error > 4 * self.floor, 4 * _PATIENCE, _PATIENCE)
        return (
            (state.num_steps < self.limit)
            & ~(state.best.error <= self.tolerance)
            & ~state.drifted
            & (state.since_progress < patience)
        )

    def step_once(self, state: _Inner) -> _Inner:
        absorbed, reach = self.absorbed, self.reach
        point = self.step.near(absorbed, state.g)
        g, history = self.acceleration.update(state.history, absorbed, point, state.best)
        progress = point.error < 0.9 * state.milestone
        # No worse counts as better: on a plateau an extrapolation that was refused would come back
        # to one place for ever. False for NaN.
        better = point.error <= 1.001 * state.best.error
        return _Inner(
            # Points that an acceleration sends too far go as far as the plan carries.
            g=jnp.clip(g, absorbed.g0 - reach, absorbed.g0 + reach),
            history=history,
            best=Best(
                image=jnp.where(better, point.image, state.best.image),
                error=jnp.fmin(point.error, state.best.error),
                tolerance=self.tolerance,
                f=None if state.best.f is None else jnp.where(better, point.f, state.best.f),
            ),
            milestone=jnp.where(progress, point.error, state.milestone),
            since_progress=jnp.where(progress, 0, state.since_progress + 1),
            num_steps=state.num_steps + 1,
            drifted=~(jnp.max(jnp.abs(point.image - absorbed.g0)) < reach)
            | ~jnp.isfinite(point.error),
        )

    def why_it_ended(self, end: _Inner, begun: Int[Array, ""]) -> Int[Array, ""]:
        """The `Ending` of the iteration, which began with `begun` steps made."""
        near = end.best.error <= 4 * self.floor
        ending = jnp.asarray(Ending.EXHAUSTED, jnp.int32)
        for holds, reason in (
            (end.since_progress >= jnp.where(near, 1, 4) * _PATIENCE, Ending.CIRCLING),
            (near & (end.since_progress >= _PATIENCE), Ending.STALLED),
            (end.drifted, Ending.DRIFTED),
            (end.best.error <= self.tolerance, Ending.REACHED),
            ((end.num_steps > begun) & ~(end.best.error < jnp.inf), Ending.OUT_OF_RANGE),
        ):
            ending = jnp.where(holds, reason, ending)
        return ending
