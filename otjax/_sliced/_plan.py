"""A plan in many dimensions from the best of many lines."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .._ground_cost import checked_cost, GroundCost, SqEuclidean
from .._line._staircase import matching, Staircase, staircase
from .._line._transport import sparse_plan
from .._results import raise_unless_successful, RESULTS
from ._directions import chunk_size, for_each, project, random_directions
from ._measure import Clouds, clouds, valid_clouds


class SlicedPlan(eqx.Module):
    r"""The cheapest of the plans that are optimal along one of the directions.

    - `value`: its cost $\sum_k m_k \, c(x_{i_k}, y_{j_k})$: never less than the optimum.
    - `i`, `j`, `mass`: `mass[k]` goes from point `i[k]` to point `j[k]`. n + m - 1 entries, of
      which unused ones have mass 0; n entries for as many points on both sides, all of one mass.
    - `direction`: the direction along which the points are sorted, shape (d,).
    - `x`, `y`: the points.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    """

    value: Float[Array, ""]
    i: Int[Array, " k"]
    j: Int[Array, " k"]
    mass: Float[Array, " k"]
    direction: Float[Array, " d"]
    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    result: RESULTS

    @property
    def plan(self) -> lx.AbstractLinearOperator:
        """The coupling, an n x m lineax operator: `mv(v)`, `.T`, `as_matrix()`."""
        return sparse_plan(self.i, self.j, self.mass, (self.x.shape[0], self.y.shape[0]))


def sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    cost: GroundCost = SqEuclidean(),
    num_projections: int = 128,
    key: PRNGKeyArray,
    throw: bool = True,
) -> SlicedPlan:
    r"""A feasible plan of few entries at the price of sorting: of the plans that are optimal
    between projections, the one that costs least between the points themselves
    (min-SWGG, Mahey et al. 2023, arXiv:2307.01770).

    Its cost bounds the optimum from above, and meets it in one dimension. Differentiable at the
    plan found: in points, masses and the cost.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `cost`: a ground cost such as `SqEuclidean()`, or any callable (x_i, y_j) -> scalar.
    - `num_projections`: how many directions are tried.
    - `key`: the key of `jax.random` that they are drawn with; see `random_directions`.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `SlicedPlan`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if numbers are invalid and `throw` is true.
    """
    given = clouds(x, y, a, b)
    cost = checked_cost(cost, given.x[0], given.y[0])
    directions = random_directions(key, num_projections, given.x.shape[1], given.x.dtype)
    chunk = chunk_size(None, num_projections, given.x.size + given.y.size)
    found = _sliced_plan(given, cost, directions, chunk)
    if throw:
        found = raise_unless_successful(found, found.result)
    return found


@eqx.filter_jit
def _sliced_plan(
    given: Clouds, cost: GroundCost, directions: Float[Array, "k d"], chunk: int
) -> SlicedPlan:
    valid, result = valid_clouds(given)

    def plan_cost(plan: Staircase) -> Float[Array, ""]:
        return jnp.sum(plan.mass * jax.vmap(cost)(valid.x[plan.i], valid.y[plan.j]))

    def best_along(direction: Float[Array, " d"]) -> Staircase:
        x, y = project(valid.x, direction), project(valid.y, direction)
        return matching(x, y) if given.matches else staircase(x, y, valid.a, valid.b)

    def along(direction: Float[Array, " d"]) -> Float[Array, ""]:
        return lax.stop_gradient(plan_cost(best_along(direction)))

    costs = for_each(along, directions, chunk)
    best = directions[jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))]
    plan = best_along(best)
    value = plan_cost(plan)
    finite = jnp.isfinite(value)
    return SlicedPlan(
        value=jnp.where(finite, value, 0),
        i=plan.i,
        j=plan.j,
        mass=plan.mass,
        direction=best,
        x=valid.x,
        y=valid.y,
        result=RESULTS.where(
            finite | (result != RESULTS.successful), result, RESULTS.nonfinite_input
        ),
    )
