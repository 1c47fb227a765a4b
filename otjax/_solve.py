"""The door: a problem and a solver in, a solution out."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from ._adjoint import AbstractAdjoint, envelope, ImplicitAdjoint
from ._arrays import constant, count, float_array
from ._control import in_turn
from ._dual import centre, marginal_error
from ._problem import EntropicProblem
from ._reduction import is_allowed
from ._results import RESULTS
from ._small import solves_at_once
from ._solution import Solution, Stats
from ._solver import AbstractSolver, chosen_solver, Potentials, size_of


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
    - `solver`: `Sinkhorn(...)`, `DualNewton(...)`, `Adaptive(...)` or `LBFGS(...)`. `None` is
        `Sinkhorn()` in float32 and `Adaptive()` in float64.
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

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the solve fails and `throw` is true.
    """
    if not isinstance(problem, EntropicProblem):
        raise ValueError(
            f"`problem` must be an `EntropicProblem`, got {type(problem).__name__}; pass "
            "`otjax.EntropicProblem(otjax.PointCloud(x, y))`."
        )
    solver = chosen_solver(solver, tolerance, problem.geometry.dtype)
    adjoint = ImplicitAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, AbstractAdjoint):
        raise ValueError(
            f"`adjoint` must be an adjoint such as `ImplicitAdjoint()`, got {adjoint!r}."
        )
    solution = _solve(
        problem,
        solver,
        _checked_init(init, problem),
        adjoint,
        None if max_steps is None else count(max_steps, "max_steps"),
    )
    if throw:
        failed = solution.result != RESULTS.successful
        solution = solution.result.error_if(solution, failed)
    return solution


@eqx.filter_jit
def _solve(
    problem: EntropicProblem,
    solver: AbstractSolver,
    init: Potentials | None,
    adjoint: AbstractAdjoint,
    max_steps: Int[Array, ""] | None,
) -> Solution:
    prepared, validity = problem.prepare()
    # Nothing is differentiated through the iterations of a solver.
    fixed = constant(prepared)
    outcome = in_turn(
        type(solver).run, solver, fixed, constant(init), max_steps, at_once=solves_at_once
    )()
    # The problem's own, or the least that is resolved; then there is nothing to differentiate.
    epsilon = jnp.where(outcome.epsilon > fixed.epsilon, outcome.epsilon, prepared.epsilon)
    prepared = prepared.at(epsilon)
    error = marginal_error(fixed.at(outcome.epsilon), outcome.f, outcome.g, outcome.marginals)
    # Centred first, so that second derivatives of the value see the potentials that users see.
    f, g = centre(prepared, *adjoint.attach(prepared, outcome.f, outcome.g))
    value = envelope(prepared, f, g, jnp.sum(outcome.marginals[0]))
    # Potentials of the size of a forbidden cost are those of points that have no other pair.
    blocked = ~is_allowed(4 * size_of(outcome.f, outcome.g))
    result = RESULTS.where(blocked, RESULTS.infeasible, outcome.result)
    result = RESULTS.where(validity == RESULTS.successful, result, validity)
    stats = Stats(outcome.num_steps, error)
    return Solution(problem.at(epsilon), prepared, (f, g), value, result, stats)


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
