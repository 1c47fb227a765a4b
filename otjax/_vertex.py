"""The cheapest plan itself, a vertex of the polytope of plans, with potentials that prove it."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from ._augmenting import permutation_from
from ._control import cond_any
from ._geometry import AbstractCostGeometry, AbstractGeometry
from ._operators import register
from ._problem import PreparedProblem
from ._reduction import is_allowed
from ._support import overfull
from ._transportation import ship


# Up to so many pairs the matrix of costs is made, also where an engine would not hold it.
_FEW_PAIRS = 2**22


@register
class SparsePlan(lx.AbstractLinearOperator):
    """A plan of few pairs, as an n x m lineax operator.

    - `rows`, `columns`: the pairs, shapes (k,), with k = n for a permutation and else n + m.
    - `masses`: what each moves, shape (k,). At most n + m - 1 are positive; the others are 0, at a
        pair that is somewhere.
    """

    rows: Int[Array, " k"]
    columns: Int[Array, " k"]
    masses: Float[Array, " k"]
    shape: tuple[int, int] = eqx.field(static=True)

    def mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        moved = self.masses * vector[self.columns]
        return jnp.zeros(self.shape[:1], moved.dtype).at[self.rows].add(moved)

    def as_matrix(self) -> Float[Array, "n m"]:
        empty = jnp.zeros(self.shape, self.masses.dtype)
        return empty.at[self.rows, self.columns].add(self.masses)

    def transpose(self) -> "SparsePlan":
        return SparsePlan(self.columns, self.rows, self.masses, self.shape[::-1])

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape[1:], self.masses.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape[:1], self.masses.dtype)


class Vertex(NamedTuple):
    """The cheapest plan with its proof.

    - `plan`, `potentials`, `lower`, `upper`: as in a certificate.
    - `feasible`: whether there is a plan; if not, the plan is short of mass and `upper` infinite.
    - `visits`: the number of rows that the search looked at.
    """

    plan: SparsePlan
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    feasible: Bool[Array, ""]
    visits: Int[Array, ""]


def known_costs(
    geometry: AbstractGeometry, at_any_size: bool = False
) -> Float[Array, "n m"] | None:
    """The costs of a prepared geometry that holds them; also those of points where they are few, or
    where asked."""
    if not isinstance(geometry, AbstractCostGeometry):
        return None
    n, m = geometry.shape
    wanted = geometry.holds_costs or at_any_size or n * m <= _FEW_PAIRS
    return geometry.all_costs() if wanted else None


def lacks_room(
    geometry: AbstractGeometry,
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    failed: Bool[Array, ""],
) -> Bool[Array, ""]:
    """Whether forbidden pairs leave no plan, as far as potentials show it that a solver which has
    failed ended at: those of points that ask for more than there is grow without end."""
    none = jnp.array(False)
    costs = known_costs(problem.geometry) if may_forbid(geometry) and problem.has_gauge else None
    if costs is None:
        return none

    def look() -> Bool[Array, ""]:
        a, b = problem.a, problem.b
        allowed = is_allowed(costs) & (a > 0)[:, None] & (b > 0)[None, :]
        return overfull(allowed, a, b, f) | overfull(allowed.T, b, a, g)

    return cond_any(failed, look, lambda: none)


def may_forbid(geometry: AbstractGeometry) -> bool:
    """Whether some of its pairs may be forbidden."""
    return not isinstance(geometry, AbstractCostGeometry) or geometry.may_forbid


def cheapest_vertex(
    problem: PreparedProblem, costs: Float[Array, "n m"], g: Float[Array, " m"], uniform: bool
) -> Vertex:
    """The cheapest plan, found from potentials `g` that are nearly right.

    **Arguments:**

    - `problem`: whose masses and marginals are meant.
    - `costs`: its costs, those of forbidden pairs as its geometry gives them.
    - `g`: potentials of the second side.
    - `uniform`: whether n = m and all masses are known to be equal.
    """
    n, m = costs.shape
    a, b = problem.a, problem.b
    # In units of the costs, a power of two, and above the least: rounded the same at all scales.
    unit = jnp.where(problem.spread > 0, problem.spread, 1)
    unit = power_of_two_below(unit)
    allowed = is_allowed(costs)
    relative = jnp.where(allowed, (costs - problem.least) / unit, jnp.inf)
    alive_a, alive_b = a > 0, b > 0
    start = g / unit
    # Some of the size of a forbidden cost tell nothing.
    start = jnp.where(jnp.abs(start) < 1 / jnp.finfo(start.dtype).eps, start, 0)
    start -= jnp.max(start)
    if uniform:
        columns, v, feasible, visits = permutation_from(relative, start)
        rows = jnp.arange(n, dtype=jnp.int32)
        masses = jnp.where(columns >= 0, a, 0)
    else:
        usable = jnp.where(alive_a[:, None] & alive_b[None, :], relative, jnp.inf)
        shipment = ship(usable, a, b, start)
        rows, columns, masses, v, left, visits = shipment
        feasible = jnp.sum(left) <= 64 * jnp.finfo(a.dtype).eps * jnp.sum(a)
    # Pairs that are not in use are somewhere, at points that are there.
    in_use = masses > 0
    rows = jnp.where(in_use, rows, jnp.argmax(a).astype(jnp.int32))
    columns = jnp.where(in_use, columns, jnp.argmax(b).astype(jnp.int32))

    least = lambda reduced, axis: _finite(jnp.min(reduced, axis=axis))
    f = least(jnp.where(alive_b[None, :], relative - v[None, :], jnp.inf), 1)
    g = least(jnp.where(alive_a[:, None], relative - f[:, None], jnp.inf), 0)
    used = jnp.where(in_use, relative[rows, columns], 0)
    slack = jnp.sum(masses * jnp.maximum(used - f[rows] - g[columns], 0))
    rounding = jnp.finfo(a.dtype).eps * jnp.sum(
        masses * (jnp.abs(used) + jnp.abs(f[rows]) + jnp.abs(g[columns]))
    )
    total = jnp.sum(jnp.where(in_use, masses * costs[rows, columns], 0))
    # From below the cost is known by what the pairs in use cost above their potentials. Bounds
    # that differ by no more than rounding meet.
    proven = jnp.where(slack <= rounding, total, total - unit * slack)
    f, g = unit * f + problem.least, unit * g
    return Vertex(
        plan=SparsePlan(rows, columns, masses, (n, m)),
        potentials=(f, g),
        lower=jnp.where(feasible, proven, jnp.sum(a * f) + jnp.sum(b * g)),
        upper=jnp.where(feasible, total, jnp.inf),
        feasible=feasible,
        visits=visits,
    )


def empty_vertex(problem: PreparedProblem, costs: Float[Array, "n m"], uniform: bool) -> Vertex:
    """In place of one that was not looked for: a plan of no mass at an infinite cost."""
    search = lambda: cheapest_vertex(problem, costs, problem.b, uniform)
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
    vertex = jax.tree.map(zeros, eqx.filter_eval_shape(search))
    return vertex._replace(upper=jnp.full_like(vertex.upper, jnp.inf))


def at_absent_points(
    geometry: AbstractGeometry,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    f: Float[Array, " n"],
    g: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The same potentials, those of points of mass zero as large as their own costs allow, where
    these are held: a solver sees others in their place."""
    if not isinstance(geometry, AbstractCostGeometry) or not geometry.holds_costs:
        return f, g
    costs = geometry.all_costs()
    limits = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
    of_columns = jnp.where(b[None, :] > 0, limits - g[None, :], jnp.inf)
    f = jnp.where(a > 0, f, _finite(jnp.min(of_columns, axis=1)))
    return f, jnp.where(b > 0, g, _finite(jnp.min(limits - f[:, None], axis=0)))


def power_of_two_below(size: Float[Array, ""]) -> Float[Array, ""]:
    """The power of two below a positive number, exactly."""
    _, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.ones_like(size), exponent - 1)


def _finite(values: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(jnp.isfinite(values), values, 0)
