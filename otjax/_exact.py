"""Unregularised transport, with proof: a rough plan, then the cheapest vertex; or, where no matrix
of costs is held, an epsilon that is lowered until the bounds of the cost meet."""

from typing import cast

import equinox as eqx
import equinox.internal as eqxi
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from . import _couplings
from ._arrays import constant, float_array, float_scalar, known_number
from ._certificate import relative_gap, RoundedPlan
from ._control import in_turn
from ._dual import transport_plan
from ._geometry import (
    AbstractCloud,
    AbstractCostGeometry,
    AbstractGeometry,
    AbstractPointGeometry,
)
from ._mesh import on_any_mesh
from ._narrowing import narrow, Options
from ._problem import EntropicProblem
from ._reduction import by_rows, Pairs
from ._results import raise_unless_successful, RESULTS
from ._solution import Stats
from ._solver import AbstractSolver
from ._vertex import at_absent_points, may_forbid, SparsePlan


_TOO_FEW_STAGES = (
    "The bounds are further apart than `gap` after `max_stages` stages "
    "(`RESULTS.max_steps_reached`). Raise `max_stages` or `gap`."
)


class ExactSolution(eqx.Module):
    r"""The unregularised transport cost with its proof.

    - `value`: the cost of `plan`, within `upper - lower` of the optimum. Differentiable once in
      points, costs and masses, by the envelope rule: plan and potentials are held fixed.
    - `lower`, `upper`, `potentials`, `plan`: as in `Certificate`. With `gap=0` the plan is a
      `SparsePlan`, a vertex: its `rows`, `columns` and `masses` are the pairs.
    - `result`: `successful` if the relative gap of the bounds is what was asked for; `infeasible`
      if forbidden pairs leave no plan.
    - `stats`: the steps of the solver in all stages, the visits of rows by the search for a vertex
      included, and the last marginal error of the solver.
    - `geometry`, `b`: what was solved.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    plan: lx.AbstractLinearOperator
    result: RESULTS
    stats: Stats
    geometry: AbstractGeometry
    b: Float[Array, " m"]

    def sample(self, key: PRNGKeyArray, k: int) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
        """Pairs of indices `(i, j)`, shapes (k,), drawn from the plan, as of a `Solution`."""
        return _couplings.sample_pairs(self.plan, key, k)

    def match(self) -> Int[Array, " n"]:
        """For each row the column that it gives most to, as of a `Solution`."""
        return _couplings.best_partners(self.plan)

    def interpolate(self, t: ArrayLike) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """The measure at time `t` of the way, points and masses, as of a `Solution`.

        **Raises:** `ValueError` unless the geometry is one of points.
        """
        if not isinstance(self.geometry, AbstractPointGeometry):
            raise ValueError(
                "An interpolation needs points: solve with a `PointCloud`, not a "
                f"`{type(self.geometry).__name__}`."
            )
        return _couplings.interpolated(self.plan, self.geometry.T.y, self.geometry.y, t)

    @property
    def gap(self) -> Float[Array, ""]:
        """The distance of the bounds relative to the upper one; 0 where they meet."""
        return relative_gap(self.lower, self.upper)

    @eqx.filter_jit
    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        r"""The first potential at any points, the c-transform of the second:
        $f(x) = \min_j c(x, y_j) - g_j$.

        For a cost that is a metric, as `Euclidean()`, it is 1-Lipschitz everywhere, and
        $\langle a, f(x) \rangle - \langle b, f(y) \rangle$ is at least `lower`: the
        Kantorovich-Rubinstein potential of $W_1$. Its gradient is that of the cost to the nearest
        $y_j$ in that sense.

        **Arguments:**

        - `x`: points of the first space, shape (k, d).

        **Returns:** the potential, shape (k,).

        **Raises:** `ValueError` unless the geometry is a `PointCloud`.
        """
        geometry = self.geometry
        if not isinstance(geometry, AbstractCloud):
            raise ValueError(
                "Potentials at other points need points: solve with a `PointCloud`, not a "
                f"`{type(geometry).__name__}`."
            )
        points = float_array(x, "x", "k d").astype(geometry.dtype)
        g = jnp.where(self.b > 0, self.potentials[1], -jnp.inf)

        def of_rows(x: Float[Array, "block d"]) -> Float[Array, " block"]:
            new = geometry.seen_from(x, self.b, jnp.ones((), geometry.dtype))
            return jnp.min(Pairs(new.x, new.y, new.cost).matrix() - g[None, :], axis=1)

        return by_rows(of_rows, points, self.b.shape[0])


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

    An entropic problem is solved; if its bounds are not close enough, the cheapest vertex is found
    by shortest paths from its potentials, and the bounds meet up to rounding. Where the matrix of
    costs is neither held nor small, entropic problems are solved at falling `epsilon` instead, each
    begun at the last one's potentials, until a feasible plan and feasible potentials prove the cost
    to within `gap`.

    **Arguments:**

    - `geometry`: a `PointCloud` or `CostMatrix` of shape (n, m). An entry of `inf` forbids a pair.
    - `a`, `b`: the masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1, for
        which the search is fastest if n = m: it is one for a permutation.
    - `gap`: the distance of the bounds at which to stop, relative to the upper one. The number 0
        asks for a vertex: a `SparsePlan` of at most n + m - 1 pairs, and a permutation where masses
        are uniform and n = m; for this the matrix of costs is made in any case. In float32 the
        lower bound is known up to the rounding of the costs, relative to which transport may cost
        little: bounds that differ by no more meet, and the plan is right to as much.
    - `solver`: the solver of each entropic problem; `None` is `Adaptive` with a tolerance fit for
        `gap`.
    - `max_stages`: the largest number of epsilons, the search for a vertex being one more.
    - `throw`: whether a result other than `successful` raises.

    **Returns:** an `ExactSolution`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the gap is not reached and `throw` is true.
    """
    asked = float_scalar(gap, "gap", jnp.result_type(float))
    known = known_number(gap)
    if known is not None and not known >= 0:
        raise ValueError(f"`gap` must be positive, or 0 for a vertex, got {gap!r}.")
    if not isinstance(max_stages, int) or max_stages < 1:
        raise ValueError(f"`max_stages` must be a positive integer, got {max_stages!r}.")
    if solver is not None and not isinstance(solver, AbstractSolver):
        raise ValueError(f"`solver` must be a solver such as `Adaptive()`, got {solver!r}.")
    problem = EntropicProblem(geometry, a, b)
    if known == 0 and not isinstance(geometry, AbstractCostGeometry):
        raise ValueError(
            "`gap=0` needs a `PointCloud` or a `CostMatrix`, of which the cost of a pair is known, "
            f"got `{type(geometry).__name__}`; pass a positive `gap`."
        )
    n, m = problem.geometry.shape
    options = Options(
        gap=None if known == 0 else asked.astype(problem.geometry.dtype),
        solver=solver,
        max_stages=jnp.asarray(max_stages, jnp.int32),
        uniform=a is None and b is None and n == m,
    )
    solution = _solve_exact(problem, options)
    if throw:
        short = solution.result == RESULTS.max_steps_reached
        solution = eqx.error_if(solution, short, _TOO_FEW_STAGES)
        reached = lambda: f"(The gap is {float(solution.gap):.2g}.)"
        solution = raise_unless_successful(solution, solution.result, reached)
    return solution


@eqx.filter_jit
@on_any_mesh
def _solve_exact(problem: EntropicProblem, options: Options) -> ExactSolution:
    prepared, validity = problem.prepare()
    valid = validity == RESULTS.successful
    fixed = constant(prepared)
    end, vertex, reached, by_vertex = in_turn(narrow, fixed, options)()
    result = RESULTS.where(end.stuck, RESULTS.gap_stagnated, RESULTS.max_steps_reached)
    result = RESULTS.where(reached, RESULTS.successful, result)
    if vertex is not None:
        result = RESULTS.where(by_vertex & ~vertex.feasible, RESULTS.infeasible, result)
    result = RESULTS.where(valid, result, validity)

    f, g, epsilon = end.primal
    rounded = RoundedPlan(fixed.at(epsilon), f, g)
    share = jnp.ones_like(end.upper)
    if vertex is None:
        plan, sparse = rounded.operator(), None
    elif options.gap is None:
        plan, rounded, sparse = vertex.plan, None, vertex.plan
    else:
        share = jnp.where(by_vertex, 0, 1).astype(end.upper.dtype)
        masses = jnp.where(by_vertex, vertex.plan.masses, 0)
        sparse = eqx.tree_at(lambda plan: plan.masses, vertex.plan, masses)
        plan = rounded.operator(share) + sparse
    # What is not known to be finite is taken from the prepared geometry, where it is.
    unit, geometry, factor = prepared.unit, problem.geometry, 1 / prepared.unit
    if may_forbid(geometry):
        geometry, factor = prepared.geometry, jnp.ones_like(unit)
    pairs = sparse, factor, valid
    lower, upper = end.lower, end.upper
    if vertex is not None and sparse is not None:  # both or neither, of such a geometry
        costs = cast(AbstractCostGeometry, constant(geometry))
        exact = _cost_of_pairs(costs, sparse, factor, valid)
        known = by_vertex & vertex.feasible
        # The same distance apart: at the cost that the pairs have each for itself.
        lower = jnp.where(known, exact - (upper - lower), lower)
        upper = jnp.where(known, exact, upper)
    value = jnp.where(valid, jnp.where(upper < jnp.inf, upper, lower), 0)
    return ExactSolution(
        value=unit * _envelope((prepared, geometry), (rounded, share, pairs), end.dual, value),
        lower=jnp.where(valid, unit * lower, -jnp.inf),
        upper=jnp.where(valid, unit * upper, jnp.inf),
        potentials=at_absent_points(
            constant(problem.geometry), prepared.a, prepared.b, *(unit * p for p in end.dual)
        ),
        plan=plan,
        result=result,
        stats=Stats(end.steps, end.error),
        geometry=problem.geometry,
        b=prepared.b,
    )


def _cost_of_pairs(
    geometry: AbstractCostGeometry,
    plan: SparsePlan,
    factor: Float[Array, ""],
    valid: Bool[Array, ""],
) -> Float[Array, ""]:
    costs = geometry.costs(plan.rows, plan.columns, valid)
    return jnp.sum(plan.masses * (factor * costs))


@eqx.filter_custom_jvp
def _envelope(defined, plans, potentials, value):
    del defined, plans, potentials
    return value


@_envelope.def_jvp
def _envelope_jvp(primals, tangents):
    defined, (rounded, share, pairs), (f, g), value = primals
    # The rule is one of first order: a second derivative of it would be wrong, and is refused.
    defined = eqxi.nondifferentiable(
        defined, name="the second derivative of an unregularised transport cost"
    )

    def cost(defined):
        p, geometry = defined
        total = jnp.sum(p.a * f) + jnp.sum(p.b * g)
        if pairs[0] is not None:
            total += _cost_of_pairs(geometry, *pairs)
        if rounded is not None:
            left = eqx.tree_at(lambda r: r.problem.geometry, rounded, p.geometry)
            plan = transport_plan(left.problem, rounded.f, rounded.g)
            # The derivative of <P, C> at a fixed plan P is that of -epsilon times the plan's mass.
            mass = jnp.sum(plan.mv(jnp.ones_like(g)))
            total += share * (left.spread_cost() - rounded.problem.epsilon * mass)
        return total

    _, derivative = eqx.filter_jvp(cost, (defined,), (tangents[0],))
    return value, jnp.zeros_like(value) if derivative is None else derivative
