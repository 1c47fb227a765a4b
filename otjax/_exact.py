"""Unregularised transport, with proof: epsilon is lowered until the bounds of the cost meet."""

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._arrays import constant, positive_number
from ._certificate import feasible_potentials, relative_gap, RoundedPlan
from ._control import in_turn
from ._dual import marginal_error, transport_plan
from ._geometry import AbstractGeometry
from ._problem import EntropicProblem, PreparedProblem
from ._results import RESULTS
from ._solution import Stats
from ._solver import AbstractSolver, Adaptive, NoAnnealing, Sinkhorn


# Epsilon starts at so many times the gap, within limits, as a fraction of the mean cost; that is
# enough where transport costs about as much as chance. Each stage then multiplies it by what the
# gap left suggests, within limits.
_PER_GAP, _LEAST_START, _LARGEST_START = 5, 5e-4, 0.02
_SLOWEST, _FASTEST = 0.5, 0.05
# Nothing is proven on the way to the first epsilon: a marginal error as of annealing will do.
_ROUGH = 0.05


class ExactSolution(eqx.Module):
    r"""The unregularised transport cost with its proof.

    - `value`: the cost of `plan`, within `upper - lower` of the optimum. Differentiable once in
      points, costs and masses, by the envelope rule: plan and potentials are held fixed.
    - `lower`, `upper`, `potentials`, `plan`: as in `Certificate`.
    - `result`: `successful` if the relative gap of the bounds is what was asked for.
    - `stats`: the steps of the solver in all stages, and its last marginal error.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    plan: lx.AbstractLinearOperator
    result: RESULTS
    stats: Stats

    @property
    def gap(self) -> Float[Array, ""]:
        """The distance of the bounds relative to the upper one; 0 where they meet."""
        return relative_gap(self.lower, self.upper)


class _Stage(eqx.Module):
    """The state between two epsilons: the current potentials, and the best bounds so far."""

    epsilon: Float[Array, ""]
    current: tuple[Float[Array, " n"], Float[Array, " m"]]
    primal: tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""]]  # f, g, epsilon
    dual: tuple[Float[Array, " n"], Float[Array, " m"]]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    steps: Int[Array, ""]
    error: Float[Array, ""]
    stages: Int[Array, ""]
    stuck: Bool[Array, ""]


def solve_exact(
    geometry: AbstractGeometry,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    gap: ArrayLike = 1e-3,
    solver: AbstractSolver | None = None,
    max_stages: int = 20,
    throw: bool = True,
) -> ExactSolution:
    r"""Solves $\min_{P1 = a, P^T1 = b} \langle P, C \rangle$ to a requested accuracy, with proof.

    Entropic problems are solved at falling `epsilon`, each from the last one's potentials, until
    a feasible plan and feasible potentials prove the cost to within `gap`.

    **Arguments:**

    - `geometry`: a `PointCloud` or `CostMatrix` of shape (n, m).
    - `a`, `b`: the masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `gap`: the distance of the bounds at which to stop, relative to the upper one. In float32
        rounding often ends the descent between 1e-2 and 1e-3; float64 reaches far less.
    - `solver`: the solver of each stage; `None` is `Adaptive` with a tolerance fit for `gap`.
    - `max_stages`: the largest number of epsilons.
    - `throw`: whether a result other than `successful` raises.

    **Returns:** an `ExactSolution`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the gap is not reached and `throw` is true.
    """
    gap = positive_number(gap, "gap")
    if not isinstance(max_stages, int) or max_stages < 1:
        raise ValueError(f"`max_stages` must be a positive integer, got {max_stages!r}.")
    if solver is None:
        solver = Adaptive(tolerance=0.1 * gap, annealing=NoAnnealing())
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"`solver` must be a solver such as `Adaptive()`, got {solver!r}.")
    problem = EntropicProblem(geometry, a, b)
    solution = _solve_exact(problem, gap, solver, jnp.asarray(max_stages, jnp.int32))
    if throw:
        failed = solution.result != RESULTS.successful
        solution = solution.result.error_if(solution, failed)
    return solution


@eqx.filter_jit
def _solve_exact(
    problem: EntropicProblem,
    gap: Float[Array, ""],
    solver: AbstractSolver,
    max_stages: Int[Array, ""],
) -> ExactSolution:
    prepared, validity = problem.prepare()
    fixed = constant(prepared)
    gap = gap.astype(fixed.epsilon.dtype)
    end, reached = in_turn(_narrow, fixed, gap, solver, max_stages)()
    result = RESULTS.where(end.stuck, RESULTS.stagnated, RESULTS.max_steps_reached)
    result = RESULTS.where(reached, RESULTS.successful, result)
    result = RESULTS.where(validity == RESULTS.successful, result, validity)
    valid = validity == RESULTS.successful

    f, g, epsilon = end.primal
    rounded = RoundedPlan(fixed.at(epsilon), f, g)
    unit = prepared.unit
    upper = jnp.where(valid, unit * end.upper, jnp.inf)
    return ExactSolution(
        value=unit * _envelope(prepared, rounded, end.dual, jnp.where(valid, end.upper, 0)),
        lower=jnp.where(valid, unit * end.lower, -jnp.inf),
        upper=upper,
        potentials=(unit * end.dual[0], unit * end.dual[1]),
        plan=rounded.operator(),
        result=result,
        stats=Stats(end.steps, end.error),
    )


def _narrow(
    problem: PreparedProblem,
    gap: Float[Array, ""],
    solver: AbstractSolver,
    max_stages: Int[Array, ""],
) -> tuple[_Stage, Bool[Array, ""]]:
    """Lowers epsilon until the bounds meet; also says whether they do."""
    scale = jnp.where(problem.spread > 0, problem.spread, 1)
    # Bounds that differ by rounding alone meet.
    size = jnp.maximum(jnp.abs(problem.mean), scale)
    noise = 64 * jnp.finfo(scale.dtype).eps * size * jnp.sum(problem.a)

    def reached(state: _Stage) -> Bool[Array, ""]:
        return (relative_gap(state.lower, state.upper) <= gap) | (state.upper - state.lower < noise)

    def unfinished(state: _Stage) -> Bool[Array, ""]:
        return ~reached(state) & ~state.stuck & (state.stages < max_stages)

    epsilon = jnp.clip(_PER_GAP * gap, _LEAST_START, _LARGEST_START) * scale
    rough = Sinkhorn(tolerance=_ROUGH).run(problem.at(epsilon), None, None)
    start = _Stage(
        epsilon=epsilon,
        current=(rough.f, rough.g),
        primal=(rough.f, rough.g, epsilon),
        dual=(rough.f, rough.g),
        lower=jnp.full_like(scale, -jnp.inf),
        upper=jnp.full_like(scale, jnp.inf),
        steps=rough.num_steps,
        error=jnp.full_like(scale, 2),
        stages=jnp.zeros((), jnp.int32),
        stuck=jnp.array(False),
    )
    end = lax.while_loop(
        unfinished, lambda state: _lower_epsilon(problem, solver, gap, state), start
    )
    return end, reached(end)


def _lower_epsilon(
    problem: PreparedProblem, solver: AbstractSolver, gap: Float[Array, ""], state: _Stage
) -> _Stage:
    """Solves at one epsilon, certifies, and chooses the next."""
    outcome = solver.run(problem.at(state.epsilon), state.current, None)
    current = problem.at(outcome.epsilon)
    rounded = RoundedPlan(current, outcome.f, outcome.g)
    upper = rounded.cost()
    f, g = feasible_potentials(current, outcome.g)
    lower = jnp.sum(problem.a * f) + jnp.sum(problem.b * g)
    cheaper, higher = upper < state.upper, lower > state.lower
    new_primal = (outcome.f, outcome.g, outcome.epsilon)
    choose = lambda condition, new, old: jax.tree.map(
        lambda ours, theirs: jnp.where(condition, ours, theirs), new, old
    )
    upper, lower = jnp.where(cheaper, upper, state.upper), jnp.where(higher, lower, state.lower)
    ratio = gap / relative_gap(lower, upper)
    return _Stage(
        epsilon=state.epsilon * jnp.clip(0.7 * ratio, _FASTEST, _SLOWEST),
        current=(outcome.f, outcome.g),
        primal=choose(cheaper, new_primal, state.primal),
        dual=choose(higher, (f, g), state.dual),
        lower=lower,
        upper=upper,
        steps=state.steps + outcome.num_steps,
        error=marginal_error(current, outcome.f, outcome.g, outcome.marginals),
        stages=state.stages + 1,
        # Neither bound moves once rounding decides.
        stuck=~(cheaper | higher),
    )


@eqx.filter_custom_jvp
def _envelope(problem, rounded, potentials, value):
    del problem, rounded, potentials
    return value


@_envelope.def_jvp
def _envelope_jvp(primals, tangents):
    problem, rounded, (f, g), value = primals
    # The rule is one of first order: a second derivative of it would be wrong, and is refused.
    problem = eqxi.nondifferentiable(
        problem, name="the second derivative of an unregularised transport cost"
    )

    def cost(p):
        left = eqx.tree_at(lambda r: r.problem.geometry, rounded, p.geometry)
        plan_mass = jnp.sum(transport_plan(left.problem, rounded.f, rounded.g).mv(jnp.ones_like(g)))
        # The derivative of <P, C> at a fixed plan P is that of -epsilon times the plan's mass.
        return (
            left.spread_cost()
            - rounded.problem.epsilon * plan_mass
            + jnp.sum(p.a * f)
            + jnp.sum(p.b * g)
        )

    _, derivative = eqx.filter_jvp(cost, (problem,), (tangents[0],))
    return value, jnp.zeros_like(value) if derivative is None else derivative
