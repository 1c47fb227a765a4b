"""The loop of every solver here: absorb the potentials in a plan, then iterate with that plan."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._control import cond_any
from .._dual import centre, marginal_error, transport_plan
from .._problem import EntropicProblem
from .._results import RESULTS
from ._absorbed import Absorbed, DRIFT, Point
from ._acceleration import AbstractAcceleration
from ._annealing import AbstractAnnealing
from ._base import Outcome, Potentials, rounding_floor, tolerance_or_default


# Near what rounding allows, so many steps without progress mean that there is none to come. Further
# away four times as many mean that the acceleration goes round in circles: it begins anew.
_PATIENCE = 50
_MAX_STEPS = 5000


class _Outer(eqx.Module):
    """The state between absorptions."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    history: PyTree  # of the acceleration at this epsilon
    fresh: Bool[Array, ""]  # whether the history is to be begun anew
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    log_domain: Bool[Array, ""]  # whether the next step must be a log-sum-exp
    stalled: Bool[Array, ""]
    num_steps: Int[Array, ""]
    done: Bool[Array, ""]
    result: RESULTS


class _Inner(eqx.Module):
    """The state between two steps with one absorbed plan.

    The best potentials are those of least error, to end with; the top ones those of largest
    value, to go on from.
    """

    g: Float[Array, " m"]
    history: PyTree
    best_f: Float[Array, " n"]
    best_g: Float[Array, " m"]
    best_error: Float[Array, ""]
    top_f: Float[Array, " n"]
    top_g: Float[Array, " m"]
    top_value: Float[Array, ""]
    milestone: Float[Array, ""]  # the error at the last progress
    since_progress: Int[Array, ""]
    num_steps: Int[Array, ""]
    drifted: Bool[Array, ""]


class AbsorbedIteration(eqx.Module):
    """Annealing around absorption around an accelerated step.

    `step` is one Sinkhorn step with an absorbed plan; `log_step` is the same step by
    log-sum-exps, for potentials so far off that their plan over- or underflows.
    """

    step: Callable[[Absorbed, Array], Point]
    log_step: Callable[[EntropicProblem, Array], Potentials]
    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    acceleration: AbstractAcceleration

    def run(
        self,
        problem: EntropicProblem,
        init: Potentials | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        """Iterates until the marginal error, made afresh, is below the tolerance."""
        limit = jnp.asarray(_MAX_STEPS if max_steps is None else max_steps, jnp.int32)
        if init is None:
            # As good as zeros, and at a large epsilon their plan neither over- nor underflows.
            mean_cost = problem.geometry.mean_cost(problem.a, problem.b)
            half = jnp.where(limit > 0, 0.5 * mean_cost, 0)
            f, g = jnp.full_like(problem.a, half), jnp.full_like(problem.b, half)
            epsilon = self.annealing.first(problem.epsilon, mean_cost)
            epsilon = jnp.where(limit <= 1, problem.epsilon, epsilon)
        else:
            f, g = init
            epsilon = problem.epsilon
        start = _Outer(
            f=f,
            g=g,
            epsilon=epsilon,
            history=self.acceleration.init(g, jnp.zeros_like(epsilon)),
            fresh=jnp.array(True),
            marginals=(problem.a, problem.b),
            log_domain=jnp.array(False),
            stalled=jnp.array(False),
            num_steps=jnp.zeros((), jnp.int32),
            done=jnp.array(False),
            result=RESULTS.successful,
        )
        end = lax.while_loop(
            lambda state: ~state.done, lambda state: self._absorb(problem, state, limit), start
        )
        f, g = centre(problem, end.f, end.g)
        return Outcome(f, g, end.marginals, end.num_steps, end.result)

    def _absorb(self, problem: EntropicProblem, state: _Outer, limit: Int[Array, ""]) -> _Outer:
        """Makes the plan at the current potentials, checks it, and iterates with it."""
        current = problem.at(state.epsilon)
        f, g = cond_any(
            state.log_domain,
            lambda: self.log_step(current, state.g),
            lambda: (state.f, state.g),
        )
        finite = jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
        f, g = jnp.where(finite, f, state.f), jnp.where(finite, g, state.g)
        num_steps = jnp.where(state.log_domain, state.num_steps + 1, state.num_steps)
        absorbed = Absorbed(current, f, g, transport_plan(current, f, g))
        row = absorbed.plan.density.mv(problem.b)
        column = absorbed.plan.density.T.mv(problem.a)
        in_range = _in_range(row) & _in_range(column)
        marginals = problem.a * row, problem.b * column
        error = marginal_error(current, f, g, marginals)

        at_end = state.epsilon <= problem.epsilon
        floor = rounding_floor(current, f, g)
        tolerance = tolerance_or_default(self.tolerance, floor)
        converged = at_end & (error <= tolerance) & (num_steps > 0)
        stalled = at_end & (state.stalled | (floor > 1)) & (num_steps > 0)
        exhausted = at_end & (num_steps >= limit)
        result = RESULTS.where(stalled, RESULTS.stagnated, RESULTS.max_steps_reached)
        result = RESULTS.where(finite, result, RESULTS.nonfinite)
        result = RESULTS.where(converged, RESULTS.successful, result)
        done = converged | stalled | exhausted | ~finite

        stage_tolerance = self.annealing.tolerance(state.epsilon, problem.epsilon, tolerance)
        solved = ~at_end & (error <= stage_tolerance)
        # The last step belongs to the problem's own epsilon.
        stage_limit = jnp.where(at_end, limit, limit - 1)
        begun = self.acceleration.init(g, stage_tolerance)
        resumed = self.acceleration.resume(state.history, g)
        inner = self._iterate(
            absorbed,
            history=jax.tree.map(lambda new, old: jnp.where(state.fresh, new, old), begun, resumed),
            num_steps=num_steps,
            limit=jnp.where(done | solved | ~in_range, num_steps, stage_limit),
            tolerance=stage_tolerance,
            floor=floor,
        )
        stepped = inner.num_steps > num_steps
        failed = ~in_range | (stepped & ~(inner.best_error < jnp.inf))
        hurry = ~at_end & ((inner.num_steps >= limit - 1) | (floor > 1))
        leave = solved | (inner.best_error <= stage_tolerance)
        next_epsilon = self.annealing.next(state.epsilon, problem.epsilon)
        next_epsilon = jnp.where(leave, next_epsilon, state.epsilon)
        unsolved = inner.best_error > stage_tolerance
        idle = unsolved & (inner.since_progress >= _PATIENCE)
        stalled = idle & (inner.best_error <= 4 * floor)
        # Away from the plan at hand on from the top, otherwise the error would have to fall.
        unsolved &= (inner.drifted | idle) & ~stalled
        unsolved &= inner.num_steps < limit
        return _Outer(
            f=jnp.where(unsolved, inner.top_f, inner.best_f),
            g=jnp.where(unsolved, inner.top_g, inner.best_g),
            epsilon=jnp.where(hurry, problem.epsilon, next_epsilon),
            history=inner.history,
            fresh=failed | hurry | leave | idle,
            marginals=marginals,
            log_domain=(failed | hurry) & (inner.num_steps < limit),
            stalled=stalled,
            num_steps=inner.num_steps,
            done=done,
            result=result,
        )

    def _iterate(
        self,
        absorbed: Absorbed,
        *,
        history: PyTree,
        num_steps: Int[Array, ""],
        limit: Int[Array, ""],
        tolerance: Float[Array, ""],
        floor: Float[Array, ""],
    ) -> _Inner:
        """Steps with one absorbed plan, until `tolerance`, `limit`, or too far from it."""

        limit_of_drift = 0.8 * DRIFT[absorbed.g0.dtype] - 1

        def patience(state: _Inner) -> Int[Array, ""]:
            return jnp.where(state.best_error > 4 * floor, 4 * _PATIENCE, _PATIENCE)

        def unfinished(state: _Inner) -> Bool[Array, ""]:
            return (
                (state.num_steps < limit)
                & ~(state.best_error <= tolerance)
                & ~state.drifted
                & (state.since_progress < patience(state))
            )

        def body(state: _Inner) -> _Inner:
            point = self.step(absorbed, state.g)
            better = point.error < state.best_error  # false for NaN
            progress = point.error < 0.9 * state.milestone
            g, history = self.acceleration.update(state.history, absorbed, point)
            higher = point.value > state.top_value
            # Points that an acceleration sends too far go as far as the plan carries.
            reach = limit_of_drift * absorbed.problem.epsilon
            return _Inner(
                g=jnp.clip(g, absorbed.g0 - reach, absorbed.g0 + reach),
                history=history,
                best_f=jnp.where(better, point.f, state.best_f),
                best_g=jnp.where(better, point.image, state.best_g),
                best_error=jnp.where(better, point.error, state.best_error),
                top_f=jnp.where(higher, point.f, state.top_f),
                top_g=jnp.where(higher, point.image, state.top_g),
                top_value=jnp.where(higher, point.value, state.top_value),
                milestone=jnp.where(progress, point.error, state.milestone),
                since_progress=jnp.where(progress, 0, state.since_progress + 1),
                num_steps=state.num_steps + 1,
                drifted=~(absorbed.drift(point.f, point.image) < limit_of_drift)
                | ~jnp.isfinite(point.error),
            )

        start = _Inner(
            g=absorbed.g0,
            history=history,
            best_f=absorbed.f0,
            best_g=absorbed.g0,
            best_error=jnp.full_like(floor, jnp.inf),
            top_f=absorbed.f0,
            top_g=absorbed.g0,
            top_value=jnp.full_like(floor, -jnp.inf),
            milestone=jnp.full_like(floor, jnp.inf),
            since_progress=jnp.zeros((), jnp.int32),
            num_steps=num_steps,
            drifted=jnp.array(False),
        )
        return lax.while_loop(unfinished, body, start)


def _in_range(sums: Float[Array, " n"]) -> Bool[Array, ""]:
    """Whether sums of a plan are such that their logarithms can be trusted."""
    return jnp.all((sums > jnp.sqrt(jnp.finfo(sums.dtype).tiny)) & jnp.isfinite(sums))
