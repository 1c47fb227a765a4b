r"""Where a plan sends a point, at any point however far: the law of $y_j$ given $x$, which is
proportional to $b_j \exp((g_j - c(x, y_j)) / \epsilon)$.

Far away all costs are large and their differences, which alone decide, drown in rounding. So they
are made from the points, against the $y_r$ that is likeliest in each row.
"""

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._arrays import constant
from ._geometry import AbstractCloud, AbstractPointGeometry
from ._ground_cost import Euclidean, SqEuclidean
from ._reduction import by_rows, Pairs, without_infinities


# As in squared distances: up to this many coordinates summed pair by pair.
_DIFFERENCES_UP_TO = 4


def conditional(
    geometry: AbstractPointGeometry,
    g: Float[Array, " m"],
    b: Float[Array, " m"],
    epsilon: Float[Array, ""],
    values: Float[Array, "m c"],
) -> tuple[Float[Array, " k"], Float[Array, "k c"]]:
    r"""The soft minimum $-\epsilon \log \sum_j b_j \exp((g_j - C_{ij}) / \epsilon)$ of each row,
    and the mean of `values` under its law. Differentiable to every order in everything."""
    # Added after the division by epsilon, or its derivative would meet an infinity.
    log_b = jnp.where(b > 0, jnp.log(jnp.where(b > 0, b, 1)), -jnp.inf)
    h = constant(g + epsilon * log_b)
    if not isinstance(geometry, AbstractCloud):
        return _by_operators(geometry, g, b, h, epsilon, values)
    pairs = Pairs(geometry.x, geometry.y, geometry.cost)

    def of_rows(x: Float[Array, "block d"]) -> tuple[Array, Array]:
        block = Pairs(x, pairs.y, pairs.cost)
        cost = block.matrix()
        likeliest = jnp.argmax(h[None, :] - constant(cost), axis=1)
        least = without_infinities(jax.vmap(pairs.cost)(x, pairs.y[likeliest]))
        above = _differences(block, cost, likeliest)
        scores = (g[None, :] - g[likeliest][:, None] - above) / epsilon + log_b[None, :]
        softmin = least - g[likeliest] - epsilon * jax.nn.logsumexp(scores, axis=1)
        return softmin, _product(jax.nn.softmax(scores, axis=1), values)

    return by_rows(of_rows, pairs.x, pairs.shape[1])


def _differences(
    pairs: Pairs, cost: Float[Array, "k m"], likeliest: Int[Array, " k"]
) -> Float[Array, "k m"]:
    """How much more each pair costs than the likeliest of its row."""
    own = lambda matrix: jnp.take_along_axis(matrix, likeliest[:, None], axis=1)
    if isinstance(pairs.cost, SqEuclidean):
        return _squared_differences(pairs, likeliest)
    if isinstance(pairs.cost, Euclidean):
        both = cost + own(cost)
        apart = both > 0
        return jnp.where(
            apart, _squared_differences(pairs, likeliest) / jnp.where(apart, both, 1), 0
        )
    return cost - own(cost)


def _squared_differences(pairs: Pairs, likeliest: Int[Array, " k"]) -> Float[Array, "k m"]:
    r"""$\|x_i - y_j\|^2 - \|x_i - y_r\|^2 = (y_j - y_r) \cdot (y_j + y_r - 2 x_i)$."""
    if pairs.x.shape[1] <= _DIFFERENCES_UP_TO:
        x, y, y_r = pairs.x[:, None, :], pairs.y[None, :, :], pairs.y[likeliest][:, None, :]
        terms = (
            (y[..., k] - y_r[..., k]) * (y[..., k] + y_r[..., k] - 2 * x[..., k])
            for k in range(pairs.x.shape[1])
        )
        return sum(terms, start=jnp.zeros((), pairs.x.dtype))
    centre = lax.stop_gradient(jnp.mean(pairs.y, axis=0, keepdims=True))
    x, y = pairs.x - centre, pairs.y - centre
    linear = jnp.sum(jnp.square(y), axis=1)[None, :] - 2 * _product(x, y.T)
    return linear - jnp.take_along_axis(linear, likeliest[:, None], axis=1)


def _by_operators(
    geometry: AbstractPointGeometry,
    g: Float[Array, " m"],
    b: Float[Array, " m"],
    h: Float[Array, " m"],
    epsilon: Float[Array, ""],
    values: Float[Array, "m c"],
) -> tuple[Float[Array, " k"], Float[Array, "k c"]]:
    """The same of a geometry of which nothing but its two operations is known."""
    f = lax.stop_gradient(constant(geometry).softmin(h, epsilon))
    density = geometry.plan(f, g, epsilon)
    # Mass and mean in one product; normalised, so that the weights sum to one.
    weighted = density.mv(jnp.concatenate([b[:, None], b[:, None] * values], axis=1))
    mass = weighted[:, 0]
    return f - epsilon * jnp.log(mass), weighted[:, 1:] / mass[:, None]


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
