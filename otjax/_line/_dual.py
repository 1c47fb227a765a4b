r"""Dual potentials on the line, and the transport cost with its derivatives.

Where a level of cumulative mass $A_i$ moves, the boundary between the points $x_i$ and $x_{i+1}$
does, against the point $y$ that has this level: the derivative of the cost by $A_i$ is
$c(x_i, y) - c(x_{i+1}, y)$. Summed up, these steps are the potentials.
"""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._ground_cost import GroundCost
from ._staircase import levels, sorting


def along(cost: GroundCost, x: Float[Array, " k"], y: Float[Array, " k"]) -> Float[Array, " k"]:
    """The costs between pairs of points of the line."""
    return jax.vmap(cost)(x[:, None], y[:, None])


def potentials(
    cost: GroundCost,
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Optimal dual potentials, with the same mean under the masses on both sides.

    Levels of the two sides that agree up to rounding leave a choice, of which y is compared with
    which boundary of x; the two extreme choices are averaged, so that neither side is preferred.
    """
    order_x, order_y = sorting(x), sorting(y)
    # Rounding may make parallel sums fall by an ulp.
    ends_x, ends_y = (
        lax.cummax(lax.stop_gradient(levels(mass)[0])) for mass in (a[order_x], b[order_y])
    )
    tie = 8 * jnp.finfo(a.dtype).eps * ends_x[-1]
    ends_x, ends_y = ends_x[:-1], ends_y[:-1]
    u, v = x[order_x], y[order_y]
    # Two staircases: y before x at ties, and x before y. Each is counted from one side and read
    # off from the other, as rounding could make two counts disagree.
    y_first = jnp.searchsorted(ends_y, ends_x + tie, side="right")
    x_first = jnp.searchsorted(ends_y, ends_x - tie, side="left")
    columns = jnp.arange(v.shape[0] - 1, dtype=x_first.dtype)
    steps_x = [along(cost, u[1:], v[j]) - along(cost, u[:-1], v[j]) for j in (y_first, x_first)]
    rows = [jnp.searchsorted(j, columns, side="right") for j in (y_first, x_first)]
    steps_y = [along(cost, u[i], v[1:]) - along(cost, u[i], v[:-1]) for i in rows]
    f = jnp.concatenate([jnp.zeros((1,), u.dtype), jnp.cumsum(sum(steps_x) / 2)])
    g = along(cost, u[:1], v[:1]) + jnp.concatenate(
        [jnp.zeros((1,), u.dtype), jnp.cumsum(sum(steps_y) / 2)]
    )
    f, g = f[jnp.argsort(order_x)], g[jnp.argsort(order_y)]
    shift = (jnp.sum(a * f) - jnp.sum(b * g)) / (2 * jnp.sum(a))
    return f - shift, g + shift


@eqx.filter_custom_jvp
def transport_cost(cost, x, y, a, b, plan):
    """The cost of the optimal `plan` of the four arrays, as a function of all it depends on."""
    del a, b
    return jnp.sum(plan.mass * along(cost, x[plan.i], y[plan.j]))


@transport_cost.def_jvp
def _transport_cost_jvp(primals, tangents):
    """By points at a fixed plan, by masses at fixed potentials; both are differentiable again."""
    cost, x, y, a, b, plan = primals
    t_cost, t_x, t_y, t_a, t_b, _ = tangents

    def at_plan(cost, x, y):
        return jnp.sum(plan.mass * along(cost, x[plan.i], y[plan.j]))

    value, moved = eqx.filter_jvp(at_plan, (cost, x, y), (t_cost, t_x, t_y))
    value = transport_cost(cost, x, y, a, b, plan)
    derivative = jnp.zeros_like(value) if moved is None else moved
    if t_a is not None or t_b is not None:
        f, g = potentials(cost, x, y, a, b)
        for potential, tangent in ((f, t_a), (g, t_b)):
            if tangent is not None:
                derivative = derivative + jnp.sum(potential * tangent)
    return value, derivative
