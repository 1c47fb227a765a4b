"""The loop of every solver here: absorb the potentials in a plan, then iterate with that plan."""

import abc
import functools as ft

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._control import cond_any
from .._dual import marginal_error, translation, transport_plan
from .._problem import PreparedProblem
from .._results import RESULTS
from ._absorbed import Absorbed, AbstractStep
from ._acceleration import AbstractAcceleration
from ._annealing import AbstractAnnealing
from ._base import (
    AbstractSolver,
    in_range,
    least_resolved_epsilon,
    Outcome,
    Potentials,
    rounding_floor,
    settled_at,
    size_of,
    tolerance_or_default,
    weighed_size,
)
from ._ending import Ending, move_after, verdict
from ._iteration import Iteration
from ._start import start


_MAX_STEPS = 5000
# So many looks that do not confirm what an iteration says are enough, where rounding decides.
_LOOKS = 5


class _Round(eqx.Module):
    """The state between two absorptions."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    size: Float[Array, ""]  # of the potentials
    epsilon: Float[Array, ""]
    history: PyTree  # of the acceleration at this epsilon
    anew: Bool[Array, ""]  # whether it is to be begun anew
    by_log: Bool[Array, ""]  # whether the next step must be a log-sum-exp
    look: Bool[Array, ""]  # whether all that remains is to make the error afresh
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    num_steps: Int[Array, ""]
    ending: Int[Array, ""]  # an `Ending`, of the round before
    unconfirmed: Int[Array, ""]  # looks at the last epsilon that did not confirm what was reached
    done: Bool[Array, ""]
    result: RESULTS


class _Look(eqx.Module):
    """What the plan at the potentials tells, made afresh."""

    absorbed: Absorbed  # at the epsilon of this round
    size: Float[Array, ""]  # of the potentials
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    tolerance: Float[Array, ""]
    floor: Float[Array, ""]  # of the error, by rounding
    num_steps: Int[Array, ""]
    at_end: Bool[Array, ""]  # whether this epsilon is the last one
    unconfirmed: Int[Array, ""]
    seen: Int[Array, ""]  # an `Ending`; -1 is that there is something to do with this plan


class AbstractAbsorbedSolver(AbstractSolver):
    """A solver that anneals, around absorption, around an accelerated step.

    It ends: a round ends the solve, or lowers epsilon, which takes it to the last one in finitely
    many times, or makes a step: the iteration makes one before it can reach, drift, circle or
    stall, and after a plan that is out of range the next round begins by a log-sum-exp, which is
    a step. Steps are limited; with none left epsilon is the last one, a round looks, and ends.
    """

    tolerance: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        """The step, the schedule of epsilons, and the acceleration."""

    def on_look(
        self, num_steps: Int[Array, ""], error: Float[Array, ""], epsilon: Float[Array, ""]
    ) -> None:
        """Is told of each look, with epsilon in multiples of the problem's; `Watched` passes on."""

    def run(
        self,
        problem: PreparedProblem,
        init: Potentials | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        limit = jnp.asarray(_MAX_STEPS if max_steps is None else max_steps, jnp.int32)
        step, annealing, acceleration = self.parts()
        potentials, epsilon = start(problem, annealing, init, limit)
        f, g = step.start(problem, *potentials)
        no = jnp.array(False)
        begin = _Round(
            f=f,
            g=g,
            size=size_of(f, g),
            epsilon=epsilon,
            history=acceleration.init(g),
            anew=~no,
            by_log=no,
            look=no,
            marginals=(problem.a, problem.b),
            num_steps=jnp.zeros((), jnp.int32),
            ending=jnp.asarray(Ending.REACHED, jnp.int32),
            unconfirmed=jnp.zeros((), jnp.int32),
            done=no,
            result=RESULTS.successful,
        )
        following = ft.partial(self._round, problem, limit)
        end = lax.while_loop(lambda state: ~state.done, following, begin)
        return Outcome(end.f, end.g, end.epsilon, end.marginals, end.num_steps, end.result)

    def _look(self, problem: PreparedProblem, limit: Int[Array, ""], state: _Round) -> _Look:
        """Makes the plan at the current potentials, and looks at it."""
        step, annealing, _ = self.parts()
        epsilon = jnp.maximum(state.epsilon, least_resolved_epsilon(state.size))
        current = problem.at(epsilon)

        f, g = cond_any(
            state.by_log, lambda: step.far(current, state.g), lambda: (state.f, state.g)
        )
        finite = jnp.isfinite(size_of(f, g))
        f, g = jnp.where(finite, f, state.f), jnp.where(finite, g, state.g)
        num_steps = state.num_steps + state.by_log.astype(jnp.int32)
        # Where a history begins, and before a look that may be the last, so that the error is that
        # of the potentials which are returned, rounding included; not between, for a history is of
        # potentials as they are.
        last_look = (state.ending == Ending.REACHED) | state.look | (num_steps >= limit)
        shift = jnp.where(state.anew | last_look, translation(current, f, g), 0)
        f, g = f + shift, g - shift
        size = size_of(f, g)
        # An epsilon that the potentials of before asked for may be more than those of now need. A
        # tenth more ends the solve, or rounding could shift it for ever.
        at_end = epsilon <= jnp.maximum(problem.epsilon, 1.1 * least_resolved_epsilon(size))
        absorbed = Absorbed(current, f, g, transport_plan(current, f, g))
        row, column = absorbed.plan.density.mv(problem.b), absorbed.plan.density.T.mv(problem.a)
        marginals = problem.a * row, problem.b * column
        error = marginal_error(current, f, g, marginals)
        self.on_look(num_steps, error, epsilon / problem.epsilon)
        floor = rounding_floor(epsilon, weighed_size(problem, f, g))
        tolerance = annealing.tolerance(
            epsilon, problem.epsilon, tolerance_or_default(self.tolerance, floor)
        )
        # A stage asks for no more than rounding allows.
        tolerance = jnp.where(
            epsilon > problem.epsilon, jnp.maximum(tolerance, 4 * floor), tolerance
        )

        settled = settled_at(problem.a, row, current.marginals[0].share(f), tolerance)
        settled &= settled_at(problem.b, column, current.marginals[1].share(g), tolerance)
        # What an iteration sees as reached below what rounding allows, no look may ever confirm.
        reached = at_end & (state.ending == Ending.REACHED) & (num_steps > 0)
        unconfirmed = state.unconfirmed + (reached & (error > tolerance)).astype(jnp.int32)
        seen = jnp.asarray(-1, jnp.int32)
        for holds, ending in (
            ((unconfirmed >= _LOOKS) & (error < floor), Ending.STALLED),
            (~in_range(row, column), Ending.OUT_OF_RANGE),
            (~step.fits(problem, row, column, floor), Ending.UNFIT),
            (num_steps >= limit, Ending.EXHAUSTED),
            (state.look, state.ending),
            ((error <= tolerance) & ((num_steps > 0) | ~at_end), Ending.CONFIRMED),
            # No error tells of points of next to no mass: a log-sum-exp settles them.
            ((error <= tolerance) & at_end & ~settled & (num_steps < limit), Ending.OUT_OF_RANGE),
            (~finite, Ending.NOT_FINITE),
        ):
            seen = jnp.where(holds, ending, seen)
        return _Look(
            absorbed, size, marginals, tolerance, floor, num_steps, at_end, unconfirmed, seen
        )

    def _round(self, problem: PreparedProblem, limit: Int[Array, ""], state: _Round) -> _Round:
        """Looks at the plan of the current potentials, and iterates with it."""
        step, annealing, acceleration = self.parts()
        look = self._look(problem, limit, state)
        absorbed, num_steps, at_end = look.absorbed, look.num_steps, look.at_end
        epsilon, idle = absorbed.problem.epsilon, look.seen >= 0
        # The last step belongs to the problem's own epsilon.
        last = jnp.where(at_end, limit, limit - 1)
        most = jnp.where(idle, num_steps, last)
        iteration = Iteration(step, acceleration, absorbed, most, look.tolerance, look.floor)
        history = acceleration.resume(state.history, state.anew)
        begin = iteration.begin(history, num_steps)
        inner = lax.while_loop(iteration.unfinished, iteration.step_once, begin)
        ending = jnp.where(idle, look.seen, iteration.why_it_ended(inner, num_steps))
        move = move_after(ending, at_end)
        ends_now = move.end | (at_end & idle & (state.look | (num_steps >= limit)))
        following = jnp.where(move.jump, problem.epsilon, annealing.next(epsilon, problem.epsilon))
        rest = acceleration.rest(inner.history, inner.best)
        g = jnp.where(move.at_rest, rest, inner.best.image)
        stepped = inner.num_steps > num_steps
        # Without a product where what was kept will do: of a pair of which one has just followed
        # the other, the error of one marginal is no more than that of the other was.
        kept = inner.best.f if rest is inner.best.image else None
        first = step.first(absorbed, g) if kept is None else kept
        # The last step may have gone further than the plan carries at all.
        carried = jnp.isfinite(size_of(first, g))
        return _Round(
            f=jnp.where(stepped & carried, first, absorbed.f0),
            g=g,
            size=look.size,
            epsilon=jnp.where((move.lower | move.jump) & ~at_end, following, epsilon),
            history=inner.history,
            anew=jnp.asarray(move.anew),
            by_log=(move.by_log | ~carried) & (inner.num_steps < limit) & ~ends_now,
            look=jnp.asarray(move.look),
            marginals=look.marginals,
            num_steps=inner.num_steps,
            ending=ending,
            unconfirmed=look.unconfirmed,
            done=ends_now,
            result=verdict(ending, resolved=epsilon <= problem.epsilon),
        )
