"""The door: a problem and a solver in, a solution out."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ._adjoint import AbstractAdjoint, envelope, ImplicitAdjoint
from ._arrays import constant, count, float_array
from ._control import in_turn
from ._dual import centre, excess_mass, left_out, marginal_error
from ._level import without_constant
from ._memory import check_memory
from ._mesh import on_any_mesh, on_explicit_mesh
from ._precision import needs_precision
from ._problem import EntropicProblem, PreparedProblem
from ._reduction import is_allowed
from ._results import is_invalid, raise_unless_successful, RESULTS
from ._slack import with_slack
from ._small import solves_at_once
from ._solution import Solution, Stats
from ._solver import AbstractSolver, chosen_solver, Potentials, size_of
from ._unit import times_unit
from ._vertex import lacks_room


def solve(
    problem: EntropicProblem,
    solver: AbstractSolver | None = None,
    *,
    tolerance: ArrayLike | None = None,
    init: tuple[ArrayLike, ArrayLike] | None = None,
    adjoint: AbstractAdjoint | None = None,
    max_steps: int | Int[Array, ""] | None = None,
    throw: bool = True,
) -> Solution:
    """Solves an entropic transport problem.

    Compiled, once per shape; under `jax.vmap` each problem has its own status and step count.

    **Arguments:**

    - `problem`: the problem.
    - `solver`: `Sinkhorn(...)`, `DualNewton(...)`, `Adaptive(...)`, `LBFGS(...)` or
        `CoarseToFine(...)`. `None` is `Sinkhorn()` in float32 and `Adaptive()` in float64, within a
        `CoarseToFine` for more than 2^28 pairs of a `Grid`, or of a `PointCloud` in up to three
        dimensions.
    - `tolerance`: that of the default solver, in place of `solver`: the L1 errors of the two
        marginals together, relative to the total mass. `None` is 1e-4 in float32 and 1e-9 in
        float64, or what rounding allows if that is more.
    - `init`: potentials `(f, g)` to start from, for instance those of an earlier solution.
    - `adjoint`: how potentials are differentiated; `None` is `ImplicitAdjoint()`. The value
        always has its envelope derivative, which needs the potentials only.
    - `max_steps`: the largest number of steps; `None` is the solver's own limit.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned. (Under
        `jax.jit` the error reaches Python through a callback, wrapped by JAX.)

    **Returns:** a `Solution`.

    **Raises:** `ValueError` for arguments of the wrong kind, and for a problem that cannot fit the
    memory of the device; a `RuntimeError` that says what to change if the solve fails and `throw`
    is true.
    """
    if not isinstance(problem, EntropicProblem):
        raise ValueError(
            f"`problem` must be an `EntropicProblem`, got {type(problem).__name__}; pass "
            "`otjax.EntropicProblem(otjax.PointCloud(x, y))`."
        )
    needs_precision(problem.geometry.dtype, "`problem`")
    check_memory(problem)
    solver = chosen_solver(solver, tolerance, problem)
    adjoint = ImplicitAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, AbstractAdjoint):
        raise ValueError(
            f"`adjoint` must be an adjoint such as `ImplicitAdjoint()`, got {adjoint!r}."
        )
    solve_there = _solve_on_mesh if on_explicit_mesh((problem, init)) else _solve
    solution = solve_there(
        problem,
        solver,
        _checked_init(init, problem),
        adjoint,
        None if max_steps is None else count(max_steps, "max_steps"),
    )
    if throw:
        solution = raise_unless_successful(solution, solution.result, lambda: _numbers_of(solution))
    return solution


def _numbers_of(solution: Solution) -> str:
    """What a failed solve came to."""
    if is_invalid(solution.result):
        return ""
    stats = solution.stats
    return (
        f"(It made {int(stats.num_steps)} steps in {solution.value.dtype}, and left a marginal "
        f"error of {float(stats.marginal_error):.2g} at an `epsilon` of "
        f"{float(solution.epsilon):.4g}.)"
    )


def _solved(
    problem: EntropicProblem,
    solver: AbstractSolver,
    init: Potentials | None,
    adjoint: AbstractAdjoint,
    max_steps: Int[Array, ""] | None,
) -> Solution:
    level, constant_cost = without_constant(problem)
    given, validity = level.prepare()
    # Mass that may be left is that of one more point on each side.
    prepared, slack_validity = with_slack(problem, given)
    if prepared is not given and init is not None:
        init = jnp.pad(init[0], (0, 1)), jnp.pad(init[1], (0, 1))
    # Nothing is differentiated through the iterations of a solver.
    # In the problem's unit and without a constant of its costs, and back at the end.
    unit, half = prepared.unit, 0.5 * constant_cost
    fixed = constant(prepared)
    init = jax.tree.map(lambda potential: (potential - half) / fixed.unit, constant(init))
    outcome = in_turn(type(solver).run, solver, fixed, init, max_steps, at_once=solves_at_once)()
    # The problem's own, or the least that is resolved; then there is nothing to differentiate.
    epsilon = jnp.where(outcome.epsilon > fixed.epsilon, outcome.epsilon, prepared.epsilon)
    prepared = prepared.at(epsilon)
    fixed = fixed.at(outcome.epsilon)
    error = marginal_error(fixed, outcome.f, outcome.g, outcome.marginals)
    # Centred first, so that second derivatives of the value see the potentials that users see.
    potentials = times_unit(_attach, unit, adjoint, prepared, outcome.f, outcome.g)
    f, g = (potential / unit for potential in potentials)
    excess = excess_mass(fixed, outcome.f, outcome.g, jnp.sum(outcome.marginals[0]))
    value = times_unit(_optimum, unit, prepared, f, g, excess)
    # Potentials of the size of a forbidden cost are those of points that have no other pair.
    blocked = ~is_allowed(4 * size_of(outcome.f, outcome.g))
    failed = outcome.result != RESULTS.successful
    blocked |= lacks_room(problem.geometry, fixed, outcome.f, outcome.g, failed)
    # Of a solve that ended where its plan overflows.
    result = RESULTS.where(jnp.isfinite(value), outcome.result, RESULTS.nonfinite)
    value = jnp.nan_to_num(value)
    result = RESULTS.where(blocked, RESULTS.infeasible, result)
    # One that is known is not compared: that would be a computation of its own, on no mesh.
    if slack_validity is not RESULTS.successful:
        result = RESULTS.where(slack_validity == RESULTS.successful, result, slack_validity)
    result = RESULTS.where(validity == RESULTS.successful, result, validity)
    stats = Stats(outcome.num_steps, error)
    # Without the points of what is left.
    n, m = problem.geometry.shape
    inner = f[:n], g[:m]
    potentials = potentials[0][:n] + half, potentials[1][:m] + half
    value += half * (jnp.sum(given.a) + jnp.sum(given.b))
    return Solution(
        problem.at(unit * epsilon),
        given.at(epsilon),
        inner,
        constant_cost,
        potentials,
        value,
        result,
        stats,
    )


_solve = eqx.filter_jit(_solved)
_solve_on_mesh = eqx.filter_jit(on_any_mesh(_solved))


def _attach(
    adjoint: AbstractAdjoint,
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
) -> Potentials:
    return centre(problem, *adjoint.attach(problem, f, g))


def _optimum(
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    excess: Float[Array, ""],
) -> Float[Array, ""]:
    return envelope(problem, f, g, excess) + left_out(problem)


def _checked_init(
    init: tuple[ArrayLike, ArrayLike] | None, problem: EntropicProblem
) -> Potentials | None:
    if init is None:
        return None
    if not isinstance(init, tuple) or len(init) != 2:
        raise ValueError("`init` must be a pair of potentials `(f, g)`.")
    f, g = (
        float_array(potential, f"init[{side}]", "points").astype(problem.geometry.dtype)
        for side, potential in enumerate(init)
    )
    if f.shape + g.shape != problem.geometry.shape:
        raise ValueError(
            f"`init` must have one number for each point, {problem.geometry.shape}, got "
            f"{f.shape + g.shape}."
        )
    return f, g
