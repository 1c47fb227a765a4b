r"""Proof of what the unregularised transport costs: bounds that hold whatever the solver did.

The plan of an entropic solution, rounded to the exact marginals, bounds
$W = \min_{P1 = a, P^T1 = b} \langle P, C \rangle$ from above; its potentials, made feasible for the
dual, bound it from below.
"""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from ._arrays import constant
from ._control import in_turn
from ._dual import linear_cost, mean_cost, transport_plan
from ._mesh import on_any_mesh
from ._operators import RankOne, TransportPlan
from ._precision import needs_precision
from ._problem import PreparedProblem
from ._results import is_invalid, RESULTS
from ._solution import Solution
from ._varying import cond
from ._vertex import cheapest_vertex, empty_vertex, known_costs, may_forbid, Vertex


class RoundedPlan(eqx.Module):
    """The plan of a pair of potentials made feasible: rows and columns that have too much are
    scaled down, and what is then missing is spread as a product (Altschuler et al. 2017,
    arXiv:1705.09634, algorithm 2)."""

    problem: PreparedProblem  # whose masses are those left after scaling
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    missing_a: Float[Array, " n"]
    missing_b: Float[Array, " m"]

    def __init__(self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]):
        density = transport_plan(problem, f, g).density
        a = problem.a / jnp.maximum(density.mv(problem.b), 1)
        column = density.T.mv(a)
        b = problem.b / jnp.maximum(column, 1)
        self.problem = eqx.tree_at(lambda problem: (problem.a, problem.b), problem, (a, b))
        self.f, self.g = f, g
        self.missing_a = jnp.maximum(problem.a - a * density.mv(b), 0)
        # Not b less what it gets: which columns lack mass must not be a matter of rounding, for
        # a compiler may compute it anew, and differently, wherever it is asked.
        self.missing_b = problem.b * jnp.maximum(1 - column, 0)

    def cost(self) -> Float[Array, ""]:
        """The transport cost of the plan; infinite if it had to use a forbidden pair."""
        total = linear_cost(self.problem, self.f, self.g) + self.spread_cost()
        return jnp.where(self._spreads_over_forbidden_pairs(), jnp.inf, total)

    def spread_cost(self) -> Float[Array, ""]:
        """The part of the cost that belongs to the product."""
        a, b = self._missing()
        return self.missing_mass * mean_cost(self.problem, a / jnp.sum(a), b)

    @property
    def missing_mass(self) -> Float[Array, ""]:
        """The mass that scaling took away."""
        return jnp.sum(self.missing_a)

    def operator(self, share: Float[Array, ""] | float = 1.0) -> lx.AbstractLinearOperator:
        """The plan, or a share of it, as an n x m operator."""
        missing_a, missing_b = self._missing()
        share = jnp.asarray(share, self.f.dtype)
        scaled: TransportPlan = transport_plan(self.problem, self.f, self.g)
        scaled = TransportPlan(scaled.density, share * scaled.a, scaled.b)
        spread = share * self.missing_mass / jnp.sum(missing_a)
        return scaled + RankOne(missing_a * spread, missing_b)

    def _missing(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The missing masses, the second of total 1; something where nothing is missing."""
        total_a, total_b = jnp.sum(self.missing_a), jnp.sum(self.missing_b)
        whole = (total_a > 0) & (total_b > 0)
        a = jnp.where(whole, self.missing_a, self.problem.a)
        b = jnp.where(whole, self.missing_b, self.problem.b)
        return a, b / jnp.sum(b)

    def _spreads_over_forbidden_pairs(self) -> Bool[Array, ""]:
        # At an epsilon beyond all costs but that of forbidden pairs the plan counts pairs.
        huge = jnp.asarray(jnp.finfo(self.f.dtype).max ** 0.5 / 100, self.f.dtype)
        missing_b = (self.missing_b > 0).astype(self.f.dtype)
        pairs = self.problem.geometry.plan(jnp.zeros_like(self.f), jnp.zeros_like(self.g), huge).mv(
            missing_b
        )
        forbidden = pairs < jnp.sum(missing_b) - 0.5
        return jnp.any(forbidden & (self.missing_a > 0))


def feasible_potentials(
    problem: PreparedProblem, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    r"""Potentials with $f_i + g_j \le C_{ij}$, by two c-transforms of `g`.

    A soft minimum is below the minimum, by as little as its epsilon is small.
    """
    geometry = problem.geometry
    size = jnp.maximum(jnp.max(jnp.abs(g)), problem.epsilon)
    sharp = jnp.finfo(g.dtype).eps * size
    f = geometry.softmin(jnp.where(problem.b > 0, g, -jnp.inf), sharp)
    return f, geometry.T.softmin(jnp.where(problem.a > 0, f, -jnp.inf), sharp)


class Certificate(eqx.Module):
    r"""Bounds of the unregularised transport cost $W$, with what proves them.

    - `lower`, `upper`: $\texttt{lower} \le W \le \texttt{upper}$, in exact arithmetic.
    - `potentials`: $(f, g)$ with $f_i + g_j \le C_{ij}$ and $\langle a, f \rangle +
      \langle b, g \rangle$ = `lower`.
    - `plan`: an n x m lineax operator with the marginals `a` and `b`, of cost `upper`.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    plan: lx.AbstractLinearOperator

    @property
    def gap(self) -> Float[Array, ""]:
        """The distance of the bounds relative to the upper one; 0 where they meet."""
        return relative_gap(self.lower, self.upper)


def relative_gap(lower: Float[Array, ""], upper: Float[Array, ""]) -> Float[Array, ""]:
    """The distance of two bounds, relative to the upper one."""
    size = jnp.maximum(jnp.abs(upper), jnp.finfo(upper.dtype).tiny)
    return jnp.where(jnp.isinf(upper), jnp.inf, jnp.maximum(upper - lower, 0) / size)


def certify(solution: Solution) -> Certificate:
    """Turns a solution into bounds of the unregularised transport cost.

    Valid for potentials that are far from converged too; the better they are and the smaller
    `epsilon` is, the nearer the bounds. Costs a few passes over the matrix.

    **Arguments:**

    - `solution`: a solution of a balanced problem.

    **Returns:** a `Certificate`.

    **Raises:** `ValueError` for a solution of an unbalanced problem, whose marginals are free.
    """
    if not isinstance(solution, Solution):
        raise ValueError(
            f"`solution` must be a `Solution`, got {type(solution).__name__}; pass what "
            "`otjax.solve(problem)` returns."
        )
    if not solution.prepared.has_gauge:
        raise ValueError(
            "`solution` must be of a balanced problem, got an unbalanced one: there is no exact "
            "transport between its measures. Pass `marginals=otjax.Balanced()` to the problem."
        )
    prepared = solution.prepared
    needs_precision(prepared.a.dtype, "`solution`")
    return _certify(
        prepared,
        *solution.inner,
        solution.constant,
        solution.result,
        may_forbid(solution.problem.geometry),
    )


@eqx.filter_jit
@on_any_mesh
def _certify(
    prepared: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    constant_cost: Float[Array, ""],
    result: RESULTS,
    searched: bool,
) -> Certificate:
    rounded = RoundedPlan(prepared, f, g)
    cost = rounded.cost()
    f, g = feasible_potentials(prepared, g)
    lower = jnp.sum(prepared.a * f) + jnp.sum(prepared.b * g)
    costs = known_costs(prepared.geometry) if searched else None
    plan = rounded.operator()
    if costs is not None:
        # Where missing mass would be spread over forbidden pairs, the cheapest plan has none there.
        fixed = constant((prepared, costs, g, cost == jnp.inf))
        vertex = in_turn(_vertex_if, *fixed)()
        cost = jnp.minimum(cost, vertex.upper)
        share = jnp.where(cost == vertex.upper, 0, 1).astype(cost.dtype)
        plan = rounded.operator(share) + vertex.plan
    # Of a problem with invalid numbers nothing is known.
    valid = ~is_invalid(result)
    shared, half = constant_cost * jnp.sum(prepared.a), 0.5 * constant_cost
    return Certificate(
        lower=jnp.where(valid, prepared.unit * lower + shared, -jnp.inf),
        upper=jnp.where(valid, prepared.unit * cost + shared, jnp.inf),
        potentials=(prepared.unit * f + half, prepared.unit * g + half),
        plan=plan,
    )


def _vertex_if(
    problem: PreparedProblem,
    costs: Float[Array, "n m"],
    g: Float[Array, " m"],
    needed: Bool[Array, ""],
) -> Vertex:
    """The cheapest vertex, or, where it is not needed, none, at an infinite cost."""
    return cond(
        needed,
        lambda: cheapest_vertex(problem, costs, g, False),
        lambda: empty_vertex(problem, costs, False),
    )
