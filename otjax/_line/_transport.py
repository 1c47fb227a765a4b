"""Transport on the line with plan and potentials, for any convex cost of the difference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import float_scalar
from .._ground_cost import checked_cost, GroundCost, SqEuclidean
from .._results import raise_unless_successful, RESULTS
from ._dual import along, potentials, transport_cost
from ._measure import line_points, optional_masses, valid_pair
from ._staircase import levels, sorting, staircase


class LineSolution(eqx.Module):
    r"""Optimal transport on the line. Differentiable in points, masses and the cost.

    - `value`: the optimal cost $\sum_k m_k \, c(x_{i_k}, y_{j_k})$.
    - `potentials`: $(f, g)$, shapes (n,) and (m,), with $f_i + g_j \le c(x_i, y_j)$ and equality
      where mass moves. They are the derivatives of `value` by the masses; the constant left open
      is chosen such that both have the same mean under the masses. A point of mass zero has that
      of another point.
    - `i`, `j`, `mass`: the plan, in the order of the line: `mass[k]` goes from point `i[k]` to
      point `j[k]`. Shape (n + m - 1,); unused entries have mass 0.
    - `x`, `y`: the points; those of mass zero are put where another point is.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    """

    value: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    i: Int[Array, " k"]
    j: Int[Array, " k"]
    mass: Float[Array, " k"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    result: RESULTS

    @property
    def plan(self) -> lx.AbstractLinearOperator:
        """The coupling, an n x m lineax operator: `mv(v)`, `.T`, `as_matrix()`."""
        return sparse_plan(self.i, self.j, self.mass, (self.x.shape[0], self.y.shape[0]))

    def interpolate(self, t: ArrayLike) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """The measure at time `t` of the way from `x` (0) to `y` (1), a geodesic.

        **Arguments:**

        - `t`: the time, a number that may be traced.

        **Returns:** points and their masses, shapes (k,).
        """
        t = float_scalar(t, "t", self.mass.dtype)
        return (1 - t) * self.x[self.i] + t * self.y[self.j], self.mass


def sparse_plan(
    i: Int[Array, " k"], j: Int[Array, " k"], mass: Float[Array, " k"], shape: tuple[int, int]
) -> lx.AbstractLinearOperator:
    """The n x m operator of a plan given by its entries."""

    def mv(vector: Float[Array, " m"]) -> Float[Array, " n"]:
        return jnp.zeros((shape[0],), mass.dtype).at[i].add(mass * vector[j])

    return lx.FunctionLinearOperator(mv, jax.ShapeDtypeStruct((shape[1],), mass.dtype))


def transport_1d(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    cost: GroundCost = SqEuclidean(),
    throw: bool = True,
) -> LineSolution:
    r"""Solves $\min_{P1 = a, P^T1 = b} \langle P, C \rangle$ on the line, exactly.

    For a convex cost of the difference the monotone plan is optimal: sort, and merge the two
    cumulative masses, $O((n + m) \log(n + m))$ (Villani 2003, Topics in Optimal Transportation,
    section 2.2; Peyré and Cuturi 2019, arXiv:1803.00567, section 2.6).

    **Arguments:**

    - `x`, `y`: the points, shapes (n,) and (m,), in any order.
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `cost`: a ground cost such as `SqEuclidean()`, or any callable that takes a point of `x` and
        a point of `y`, of shape (1,), to a scalar; convex in their difference.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `LineSolution`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if numbers are invalid and `throw` is true.
    """
    x, y = line_points(x, y)
    cost = checked_cost(cost, x[:1], y[:1])
    a = optional_masses(a, "a", x.shape[0], x.dtype)
    b = optional_masses(b, "b", y.shape[0], y.dtype)
    solution = _transport_1d(x, y, a, b, cost)
    if throw:
        solution = raise_unless_successful(solution, solution.result)
    return solution


@eqx.filter_jit
def _transport_1d(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None,
    b: Float[Array, " m"] | None,
    cost: GroundCost,
) -> LineSolution:
    (x, y, a, b), result = valid_pair(x, y, a, b)
    plan = staircase(x, y, a, b)
    value = transport_cost(cost, x, y, a, b, plan)
    f, g = potentials(cost, x, y, a, b)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
    monotone = RESULTS.where(_is_monotone(cost, x, y, a, b), result, RESULTS.invalid_cost)
    result = RESULTS.where(result == RESULTS.successful, monotone, result)
    result = RESULTS.where(finite, result, RESULTS.nonfinite_input)
    value, f, g = (jnp.where(finite, part, 0) for part in (value, f, g))
    return LineSolution(value, (f, g), plan.i, plan.j, plan.mass, x, y, result)


def _is_monotone(
    cost: GroundCost,
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
) -> Bool[Array, ""]:
    """Whether no two neighbours along the plan would gain by crossing, as for a concave cost.

    $c(x_i, y_j) + c(x_{i+1}, y_{j+1}) \\le c(x_i, y_{j+1}) + c(x_{i+1}, y_j)$ is what convexity
    means for the plan; it is checked where the end of the mass of x_i meets that of y_j.
    """
    u, v = x[sorting(x)], y[sorting(y)]
    ends_x, ends_y = levels(a[sorting(x)])[0], levels(b[sorting(y)])[0]
    if min(u.shape[0], v.shape[0]) == 1:
        return jnp.array(True)
    j = jnp.clip(jnp.searchsorted(ends_y, ends_x[:-1]), 0, v.shape[0] - 2)
    costs = [along(cost, s, t) for s in (u[:-1], u[1:]) for t in (v[j], v[j + 1])]
    straight, crossed = costs[0] + costs[3], costs[1] + costs[2]
    noise = 64 * jnp.finfo(x.dtype).eps * sum(jnp.abs(entry) for entry in costs)
    # Costs that overflow are reported as such.
    return ~jnp.any(straight > crossed + noise)
