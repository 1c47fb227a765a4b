"""Sinkhorn's algorithm, in the log domain between absorptions and by plain products within."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._arrays import positive_number
from .._dual import centre, marginal_error, total_mass, transport_plan
from .._operators import TransportPlan
from .._problem import EntropicProblem
from .._results import RESULTS
from ._acceleration import AbstractAcceleration, Anderson
from ._annealing import AbstractAnnealing, GeometricAnnealing, NoAnnealing
from ._base import AbstractSolver, Outcome, rounding_floor, tolerance_or_default


# How far log-scalings may drift from the absorbed potentials: well inside exp's range.
_DRIFT = {jnp.dtype("float32"): 25.0, jnp.dtype("float64"): 200.0}
# Near what rounding allows, steps without progress mean that there is none to come.
_PATIENCE = 20
_MAX_STEPS = 5000


class _Absorbed(eqx.Module):
    """The problem seen from potentials `f0`, `g0` whose plan is at hand.

    Soft minima near them are a product with the plan: Schmitzer (2019, arXiv:1610.06519).
    """

    problem: EntropicProblem
    f0: Float[Array, " n"]
    g0: Float[Array, " m"]
    plan: TransportPlan

    def softmin(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The soft minimum over the columns at `g`, for each row."""
        epsilon = self.problem.epsilon
        scaling = self.problem.b * jnp.exp((g - self.g0) / epsilon)
        return self.f0 - epsilon * jnp.log(self.plan.density.mv(scaling))

    def softmin_transpose(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """The soft minimum over the rows at `f`, for each column."""
        epsilon = self.problem.epsilon
        scaling = self.problem.a * jnp.exp((f - self.f0) / epsilon)
        return self.g0 - epsilon * jnp.log(self.plan.density.T.mv(scaling))

    def drift(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, ""]:
        far = jnp.maximum(jnp.max(jnp.abs(f - self.f0)), jnp.max(jnp.abs(g - self.g0)))
        return far / self.problem.epsilon


def _alternate(
    absorbed: _Absorbed, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""]]:
    """One Sinkhorn step: the first potential, the next second one, the error of `f` with `g`."""
    problem = absorbed.problem
    side_a, side_b = problem.marginals
    f = side_a.damping(problem.epsilon) * absorbed.softmin(g)
    softmin = absorbed.softmin_transpose(f)
    # The row marginal of (f, g) is exact; the column marginal is b exp((g - softmin) / epsilon).
    target = side_b.target(g, problem.b)
    excess = problem.b * jnp.exp((g - softmin) / problem.epsilon) - target
    error = jnp.sum(jnp.abs(excess)) / total_mass(problem, jnp.sum(target))
    return f, side_b.damping(problem.epsilon) * softmin, error


def _average(
    absorbed: _Absorbed, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""]]:
    """One step of the symmetric problem, whose two potentials are one: half the products."""
    problem = absorbed.problem
    side, _ = problem.marginals
    softmin = absorbed.softmin(g)
    target = side.target(g, problem.a)
    excess = problem.a * jnp.exp((g - softmin) / problem.epsilon) - target
    error = 2 * jnp.sum(jnp.abs(excess)) / total_mass(problem, jnp.sum(target))
    return g, 0.5 * (g + side.damping(problem.epsilon) * softmin), error


class _Outer(eqx.Module):
    """The state between absorptions."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    log_domain: Bool[Array, ""]  # whether the next step must be a log-sum-exp
    stalled: Bool[Array, ""]
    num_steps: Int[Array, ""]
    done: Bool[Array, ""]
    result: RESULTS


class _Inner(eqx.Module):
    """The state between two products with an absorbed plan."""

    g: Float[Array, " m"]
    history: PyTree
    best_f: Float[Array, " n"]
    best_g: Float[Array, " m"]
    best_error: Float[Array, ""]
    since_progress: Int[Array, ""]
    num_steps: Int[Array, ""]
    drifted: Bool[Array, ""]
    failed: Bool[Array, ""]  # whether no step gave a finite error


class _FixedPoint(eqx.Module):
    """The loop of both Sinkhorn solvers.

    `sweep` is one step with an absorbed plan; `log_step` is the same step by log-sum-exps, for
    potentials so far off that their plan over- or underflows.
    """

    sweep: Callable[[_Absorbed, Array], tuple[Array, Array, Array]]
    log_step: Callable[[EntropicProblem, Array], tuple[Array, Array]]
    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    acceleration: AbstractAcceleration

    def run(
        self,
        problem: EntropicProblem,
        init: tuple[Float[Array, " n"], Float[Array, " m"]] | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        limit = jnp.asarray(_MAX_STEPS if max_steps is None else max_steps)
        if init is None:
            f, g = jnp.zeros_like(problem.a), jnp.zeros_like(problem.b)
            mean_cost = problem.geometry.mean_cost(problem.a, problem.b)
            epsilon = self.annealing.first(problem.epsilon, mean_cost)
            epsilon = jnp.where(limit <= 1, problem.epsilon, epsilon)
        else:
            f, g = init
            epsilon = problem.epsilon
        start = _Outer(
            f=f,
            g=g,
            epsilon=epsilon,
            marginals=(problem.a, problem.b),
            log_domain=jnp.asarray(init is None) & (limit > 0),
            stalled=jnp.array(False),
            num_steps=jnp.array(0),
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
        f, g = lax.cond(
            state.log_domain,
            lambda: self.log_step(current, state.g),
            lambda: (state.f, state.g),
        )
        finite = jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
        f, g = jnp.where(finite, f, state.f), jnp.where(finite, g, state.g)
        num_steps = jnp.where(state.log_domain, state.num_steps + 1, state.num_steps)
        absorbed = _Absorbed(current, f, g, transport_plan(current, f, g))
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

        # The last step belongs to the problem's own epsilon.
        stage_limit = jnp.where(at_end, limit, limit - 1)
        stage_tolerance = self.annealing.tolerance(state.epsilon, problem.epsilon, tolerance)
        solved = ~at_end & (error <= stage_tolerance)
        inner = self._iterate(
            absorbed,
            num_steps=num_steps,
            limit=jnp.where(done | solved | ~in_range, num_steps, stage_limit),
            tolerance=stage_tolerance,
            floor=floor,
        )
        reached = solved | (inner.best_error <= stage_tolerance)
        out_of_steps = (inner.num_steps >= limit - 1) | (floor > 1)
        next_epsilon = self.annealing.next(state.epsilon, problem.epsilon)
        next_epsilon = jnp.where(reached, next_epsilon, state.epsilon)
        return _Outer(
            f=inner.best_f,
            g=inner.best_g,
            epsilon=jnp.where(out_of_steps, problem.epsilon, next_epsilon),
            marginals=marginals,
            log_domain=(~in_range | inner.failed | (out_of_steps & ~at_end))
            & (inner.num_steps < limit),
            stalled=inner.since_progress >= _PATIENCE,
            num_steps=inner.num_steps,
            done=done,
            result=result,
        )

    def _iterate(
        self,
        absorbed: _Absorbed,
        *,
        num_steps: Int[Array, ""],
        limit: Int[Array, ""],
        tolerance: Float[Array, ""],
        floor: Float[Array, ""],
    ) -> _Inner:
        """Steps with one absorbed plan, until `tolerance`, `limit`, or too far from it."""
        f0, g0, weights = absorbed.f0, absorbed.g0, absorbed.problem.b
        empty = self.acceleration.init(g0)

        def unfinished(state: _Inner):
            return (
                (state.num_steps < limit)
                & ~(state.best_error <= tolerance)
                & ~state.drifted
                & (state.since_progress < _PATIENCE)
            )

        def step(state: _Inner) -> _Inner:
            f, image, error = self.sweep(absorbed, state.g)
            better = error < state.best_error  # false for NaN
            worse = ~(error <= 2 * state.best_error)
            best_g = jnp.where(better, image, state.best_g)
            proposal, history = self.acceleration.update(state.history, state.g, image, weights)
            # An extrapolation that failed is forgotten: on from the best image.
            g = jnp.where(worse, best_g, proposal)
            history = jax.tree.map(lambda new, old: jnp.where(worse, old, new), history, empty)
            near_floor = state.best_error < 4 * floor
            progress = (error < 0.9 * state.best_error) | ~near_floor
            return _Inner(
                g=g,
                history=history,
                best_f=jnp.where(better, f, state.best_f),
                best_g=best_g,
                best_error=jnp.where(better, error, state.best_error),
                since_progress=jnp.where(progress, 0, state.since_progress + 1),
                num_steps=state.num_steps + 1,
                failed=~(jnp.minimum(error, state.best_error) < jnp.inf),
                drifted=~(absorbed.drift(f, g) < _DRIFT[g.dtype]) | ~jnp.isfinite(error),
            )

        start = _Inner(
            g=g0,
            history=empty,
            best_f=f0,
            best_g=g0,
            best_error=jnp.full_like(floor, jnp.inf),
            since_progress=jnp.array(0),
            num_steps=num_steps,
            drifted=jnp.array(False),
            failed=jnp.array(False),
        )
        return lax.while_loop(unfinished, step, start)


def _in_range(sums: Float[Array, " n"]) -> Bool[Array, ""]:
    """Whether sums of a plan are such that their logarithms can be trusted."""
    return jnp.all((sums > jnp.sqrt(jnp.finfo(sums.dtype).tiny)) & jnp.isfinite(sums))


def _alternate_in_log_domain(
    problem: EntropicProblem, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    geometry, epsilon = problem.geometry, problem.epsilon
    side_a, side_b = problem.marginals
    f = side_a.damping(epsilon) * geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
    g = side_b.damping(epsilon) * geometry.T.softmin(f + epsilon * jnp.log(problem.a), epsilon)
    return f, g


def _average_in_log_domain(
    problem: EntropicProblem, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    epsilon = problem.epsilon
    softmin = problem.geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
    g = 0.5 * (g + problem.marginals[0].damping(epsilon) * softmin)
    return g, g


class Sinkhorn(AbstractSolver):
    """Sinkhorn's algorithm (Cuturi 2013), stabilised, annealed and accelerated.

    Log-sum-exps are taken until the plan at the potentials can be represented; from there on a
    step is two products with that plan.
    """

    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    acceleration: AbstractAcceleration

    def __init__(
        self,
        *,
        tolerance: ArrayLike | None = None,
        annealing: AbstractAnnealing | None = None,
        acceleration: AbstractAcceleration = Anderson(),
    ):
        """**Arguments:**

        - `tolerance`: the L1 errors of the two marginals together, relative to the total mass, at
            which to stop. `None` is 1e-4 in float32 and 1e-9 in float64, or what rounding allows
            at the problem's epsilon, if that is more.
        - `annealing`: `GeometricAnnealing(...)` (the default) or `NoAnnealing()`; a warm start
            skips it.
        - `acceleration`: `Anderson(...)`, `Overrelaxation(...)` or `Plain()`.
        """
        self.tolerance = positive_number(tolerance, "tolerance")
        self.annealing = GeometricAnnealing() if annealing is None else annealing
        self.acceleration = acceleration

    def run(
        self,
        problem: EntropicProblem,
        init: tuple[Float[Array, " n"], Float[Array, " m"]] | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        loop = _FixedPoint(
            _alternate, _alternate_in_log_domain, self.tolerance, self.annealing, self.acceleration
        )
        return loop.run(problem, init, max_steps)

    def symmetric(self) -> "SymmetricSinkhorn":
        return SymmetricSinkhorn(tolerance=self.tolerance)


class SymmetricSinkhorn(AbstractSolver):
    """The averaged iteration for a measure against itself (Feydy et al. 2019, arXiv:1810.08278).

    The problem must have one measure and one marginal constraint on both sides, and a symmetric
    cost; the two potentials are one. A step is one product with the plan, and the iteration
    contracts by about a half where the kernel is positive definite.
    """

    tolerance: Float[Array, ""] | None

    def __init__(self, *, tolerance: ArrayLike | None = None):
        """**Arguments:**

        - `tolerance`: as for `Sinkhorn`.
        """
        self.tolerance = positive_number(tolerance, "tolerance")

    def run(
        self,
        problem: EntropicProblem,
        init: tuple[Float[Array, " n"], Float[Array, " m"]] | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        loop = _FixedPoint(
            _average, _average_in_log_domain, self.tolerance, NoAnnealing(), Anderson()
        )
        return loop.run(problem, init, max_steps)

    def symmetric(self) -> "SymmetricSinkhorn":
        return self
