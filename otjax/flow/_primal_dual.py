"""The iteration behind transport through time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._varying import while_loop
from ._staggered import Fields, StaggeredGrid


# The product of the two steps, the over-relaxation, and the first dual step, for densities of mean
# 1 on the unit cube. Every so often the steps balance the two residuals, less and less so, that the
# iteration converges.
_PRODUCT, _RELAXATION, _FIRST_STEP = 0.99, 1.8, 0.3
_BALANCE_EVERY, _MOST_BALANCE, _FADING, _TINY = 20, 2.0, 0.9, 1e-12
# Slopes of the potential below this count as zero, per unit of tolerance.
_SLOPE = 1e-2
_NEWTON_STEPS = 8


class Outcome(eqx.Module):
    """What the iteration ends with, in its own unit: all that the solution is made of."""

    cost: Float[Array, ""]
    slopes: tuple[Array, Array, Array | None]  # of the cost in the two ends and in the growth
    density: Float[Array, "times ..."]
    momenta: tuple[Float[Array, "..."], ...]
    source: Float[Array, "..."] | None
    num_steps: Int[Array, ""]
    residual: Float[Array, ""]


def iterate(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    num_intervals: int,
    growth: Float[Array, ""] | None,
    closed: Bool[Array, "..."] | None,
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Outcome:
    """The iteration of Condat (2013) and Chambolle and Pock (2011) for
    `min_U max_p <p, to_centres(U)>`, over conserving `U` and over `p` in the paraboloid.
    """
    grid = StaggeredGrid(a, b, num_intervals, growth)

    def step(faces: Fields, p: Fields, sigma: Array) -> tuple[Fields, Fields, Fields, Array, Array]:
        """New fields and slopes, the fields at the centres, and the two residuals."""
        tau = _PRODUCT / sigma
        new = grid.conserving(_tree(lambda u, g: u - tau * g, faces, grid.to_faces(p)))
        ahead = grid.to_centres(_tree(lambda n, u: 2 * n - u, new, faces))
        target = _tree(lambda q, v: q + sigma * v, p, ahead)
        slopes = _in_paraboloid(target, closed)
        # Moreau: what the projection takes away is the other copy of the fields, not negative.
        centres = _tree(lambda q, s: (q - s) / sigma, target, slopes)
        gap = _norm(_tree(lambda v, w: v - w, centres, grid.to_centres(new))) / _norm(centres)
        change = grid.to_faces(_tree(lambda s, q: s - q, slopes, p))
        excess = _norm(_tree(lambda u, n, g: (u - n) / tau + g, faces, new, change))
        size = _norm(grid.to_faces(slopes)) + _SLOPE * slopes.density.size**0.5
        return new, slopes, centres, gap, excess / size

    def body(state):
        faces, p, sigma, num_steps, _ = state
        new, slopes, _, gap, excess = step(faces, p, sigma)
        relax = lambda old, new: old + _RELAXATION * (new - old)
        faces, p = _tree(relax, faces, new), _tree(relax, p, slopes)
        round_ = (num_steps // _BALANCE_EVERY).astype(a.dtype)
        ratio = jnp.sqrt((gap + _TINY) / (excess + _TINY))
        balanced = sigma * jnp.clip(ratio, 1 / _MOST_BALANCE, _MOST_BALANCE) ** (_FADING**round_)
        at_round = (num_steps + 1) % _BALANCE_EVERY == 0
        sigma = jnp.where(at_round, balanced, sigma)
        return faces, p, sigma, num_steps + 1, jnp.maximum(gap, excess)

    unfinished = lambda state: (state[4] > tolerance) & (state[3] < max_steps)
    rest = grid.at_rest()
    none = _tree(jnp.zeros_like, grid.to_centres(rest))
    first = (
        jnp.asarray(_FIRST_STEP, a.dtype),
        jnp.zeros((), jnp.int32),
        jnp.full((), jnp.inf, a.dtype),
    )
    faces, p, sigma, num_steps, residual = while_loop(unfinished, body, (rest, none, *first))
    # Once more without relaxation, after which the fields conserve and the slopes are feasible.
    faces, slopes, centres, gap, excess = step(faces, p, sigma)
    products = _tree(lambda s, v: jnp.sum(s * v), slopes, grid.to_centres(faces))
    # Stationary in the faces: to_faces(slopes) + flux(multiplier) = 0.
    multiplier = -grid.multiplier(grid.to_faces(slopes))
    cells = slopes.density.size
    at_a = 0.5 * slopes.density[0] - num_intervals * multiplier[0]
    at_b = 0.5 * slopes.density[-1] + num_intervals * multiplier[-1]
    source, at_growth = None, None
    if growth is not None and faces.source is not None and centres.source is not None:
        source = centres.source / growth
        at_growth = jnp.sum(multiplier * faces.source) / jnp.square(growth) / cells
    return Outcome(
        cost=sum(jax.tree.leaves(products), start=jnp.zeros((), a.dtype)) / cells,
        slopes=(at_a / cells, at_b / cells, at_growth),
        density=grid.densities(faces, closed),
        momenta=centres.momenta,
        source=source,
        num_steps=num_steps,
        residual=jnp.minimum(residual, jnp.maximum(gap, excess)),
    )


def _tree(function, *fields: Fields) -> Fields:
    return jax.tree.map(function, *fields)


def _norm(fields: Fields) -> Float[Array, ""]:
    squares = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(fields))
    return jnp.sqrt(sum(squares, start=jnp.zeros((), fields.density.dtype)))


def _in_paraboloid(q: Fields, closed: Bool[Array, "..."] | None) -> Fields:
    r"""The nearest point with $p_\rho + \|p_m\|^2 / 4 \le 0$ in each cell: the slopes of
    $\|m\|^2 / \rho$. In a closed cell, where the fields are zero, slopes are free.

    With $p_m = q_m / s$ and $p_\rho = q_\rho - 2 (s - 1)$, $s \ge 1$ is the root of a convex
    decreasing function, to which Newton's iteration rises from below.
    """
    others = [*q.momenta] if q.source is None else [*q.momenta, q.source]
    square = sum((jnp.square(one) for one in others), start=jnp.zeros_like(q.density))
    outside = q.density + 0.25 * square > 0
    if closed is not None:
        outside = outside & ~closed[None]
    shifted = q.density + 2
    s = jnp.maximum(jnp.maximum(0.5 * shifted, jnp.cbrt(0.125 * square)), 1)
    for _ in range(_NEWTON_STEPS):
        value = shifted - 2 * s + 0.25 * square / jnp.square(s)
        s = jnp.maximum(s + value / (2 + 0.5 * square / s**3), 1)
    s = jnp.where(outside, s, 1)
    source = None if q.source is None else q.source / s
    return Fields(q.density - 2 * (s - 1), tuple(one / s for one in q.momenta), source)
