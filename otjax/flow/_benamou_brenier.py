"""Transport between densities on a grid, through all times between."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import constant, count, float_array, positive_number
from .._control import in_turn
from .._results import RESULTS
from ._staggered import Fields, StaggeredGrid


# Of the primal-dual iteration: the product of its steps, its over-relaxation, and its first dual
# step, for densities of mean 1 on the unit cube; then every so often the two residuals are balanced,
# less and less so that the iteration converges.
_PRODUCT, _RELAXATION, _FIRST_STEP = 0.99, 1.8, 0.3
_BALANCE_EVERY, _MOST_BALANCE, _FADING = 20, 2.0, 0.9
# Slopes of the potential below this count as zero, per unit of tolerance.
_SLOPE = 1e-2
_NEWTON_STEPS = 8


class DynamicSolution(eqx.Module):
    r"""A transport through time. Only `cost` is differentiable.

    - `cost`: $\int\int \|m\|^2 / \rho$, which is $W_2^2$ for densities of total mass 1.
    - `density`: at equally spaced times, both ends included, shape (times, n_1, ..., n_d), in the
      unit of the input.
    - `momentum`: at the centres of the cells of time, shape (times - 1, d, n_1, ..., n_d), in that
      unit times lengths of the cube per unit of time.
    - `source`: the rate at which mass appears, shape (times - 1, n_1, ..., n_d); None where it is
      conserved.
    - `num_steps`: the number of iterations.
    - `residual`: how far the two copies of the fields are apart, or the potential from optimality,
      whichever is more; relative.
    - `result`: a member of `RESULTS`.
    """

    cost: Float[Array, ""]
    density: Float[Array, "times ..."]
    momentum: Float[Array, "intervals d ..."]
    source: Float[Array, "intervals ..."] | None
    num_steps: Int[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS


class _Outcome(eqx.Module):
    """What the iteration ends with, in its own unit: all that the solution is made of."""

    cost: Float[Array, ""]
    slopes: tuple[Array, Array, Array | None]  # of the cost in the two ends and in the growth
    density: Float[Array, "times ..."]
    momenta: tuple[Float[Array, "..."], ...]
    source: Float[Array, "..."] | None
    num_steps: Int[Array, ""]
    residual: Float[Array, ""]


@eqx.filter_jit
def benamou_brenier(
    a: ArrayLike,
    b: ArrayLike,
    *,
    num_times: int,
    growth: ArrayLike | None = None,
    obstacle: ArrayLike | None = None,
    tolerance: ArrayLike = 3e-4,
    max_steps: int | Int[Array, ""] = 3000,
) -> DynamicSolution:
    r"""Transport of one density to another as a flow of least kinetic energy (Benamou and Brenier
    2000):

    $$W_2^2(a, b) = \min_{\rho, m} \int_0^1 \int \frac{\|m\|^2}{\rho}, \qquad
      \partial_t \rho + \nabla \cdot m = 0, \quad \rho_0 = a, \quad \rho_1 = b,$$

    on a grid of the unit cube without flow through its walls. Space and time are staggered and the
    continuity equation is a projection by cosine transforms, after Papadakis, Peyré and Oudet
    (2014, arXiv:1304.5784); the iteration is primal-dual and over-relaxed. Never raises for values,
    and no number is NaN.

    The error of the grid falls as the squares of the cells' sizes: mass should move by no more than
    about the width of its features from time to time.

    **Arguments:**

    - `a`, `b`: densities or masses of the cells, shape (n_1, ..., n_d) with d up to 3, not negative.
        Only their shape counts: the cost is that of total mass 1.
    - `num_times`: how many densities to return, both ends included, at least 3.
    - `growth`: a length; mass may then appear and vanish, at the price
        $\int\int \text{growth}^2 \zeta^2 / \rho$ for the rate $\zeta$ (Wasserstein-Fisher-Rao;
        Chizat et al. 2015, arXiv:1506.06430): what is further apart than $\pi$ times it grows and
        decays in place. Masses may differ, and the cost is that of masses of mean 1.
    - `obstacle`: where no mass may be, booleans of shape (n_1, ..., n_d).
    - `tolerance`: the `residual` at which to stop.
    - `max_steps`: the largest number of iterations.

    **Returns:** a `DynamicSolution`. Its cost can be differentiated once, in the ends and in
    `growth`, with the flow held fixed (envelope theorem).

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    a, b = _densities(a, b)
    if not isinstance(num_times, int) or num_times < 3:
        raise ValueError(f"`num_times` must be a whole number, at least 3, got {num_times!r}.")
    closed = _closed(obstacle, a.shape)
    growth = None if growth is None else positive_number(growth, "growth", a.dtype)
    a, b, unit, result = _ends(a, b, closed, growth)
    outcome = in_turn(
        _iterate,
        *constant((a, b)),
        num_times - 1,
        constant(growth),
        closed,
        constant(positive_number(tolerance, "tolerance", a.dtype)),
        count(max_steps, "max_steps"),
    )
    cost = outcome.cost
    for number, slope in zip((a, b, growth), outcome.slopes, strict=True):
        if number is not None:
            cost = cost + jnp.sum(slope * (number - lax.stop_gradient(number)))
    reached = outcome.residual <= tolerance
    unit = lax.stop_gradient(unit)
    return DynamicSolution(
        cost=cost,
        density=unit * outcome.density,
        momentum=unit * jnp.stack(outcome.momenta, axis=1),
        source=None if outcome.source is None else unit * outcome.source,
        num_steps=outcome.num_steps,
        residual=outcome.residual,
        result=RESULTS.where(
            (result == RESULTS.successful) & ~reached, RESULTS.max_steps_reached, result
        ),
    )


def _densities(a: ArrayLike, b: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    axes = " ".join(f"n_{k + 1}" for k in range(max(jnp.ndim(a), 1)))
    a, b = float_array(a, "a", axes), float_array(b, "b", axes)
    if a.ndim > 3 or min(a.shape) < 2:
        raise ValueError(
            "`a` must be a density on a grid of one to three axes with two cells at least, got "
            f"shape {a.shape}."
        )
    if b.shape != a.shape or b.dtype != a.dtype:
        raise ValueError(
            f"`b` must be on the grid of `a`, of shape {a.shape} and dtype {a.dtype}, got shape "
            f"{b.shape} and dtype {b.dtype}."
        )
    return a, b


def _closed(obstacle: ArrayLike | None, shape: tuple[int, ...]) -> Bool[Array, "..."] | None:
    if obstacle is None:
        return None
    closed = jnp.asarray(obstacle)
    if closed.shape != shape or closed.dtype != bool:
        raise ValueError(
            f"`obstacle` must hold a boolean for each cell, shape {shape}, got shape "
            f"{closed.shape} and dtype {closed.dtype}."
        )
    return closed


def _ends(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    closed: Bool[Array, "..."] | None,
    growth: Float[Array, ""] | None,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, ""], RESULTS]:
    """The two ends in densities of mean one, the unit that they had, and what was wrong."""
    valid, ends = jnp.array(True), []
    for density in (a, b):
        fits = jnp.all(jnp.isfinite(density) & (density >= 0))
        if closed is not None:
            fits = fits & ~jnp.any(closed & (density > 0))
        fits = fits & (jnp.mean(density) > 0) & jnp.isfinite(jnp.mean(density))
        valid = valid & fits
        anywhere = jnp.ones_like(density) if closed is None else 1 - closed.astype(density.dtype)
        ends.append(jnp.where(fits, density, anywhere))
    means = jnp.mean(ends[0]), jnp.mean(ends[1])
    unit, result = 0.5 * (means[0] + means[1]), RESULTS.successful
    if growth is None:
        gap = jnp.abs(means[0] / means[1] - 1)
        equal = gap <= (1e-4 if a.dtype == jnp.float32 else 1e-6)
        result = RESULTS.where(equal, result, RESULTS.unequal_mass)
    else:
        means = unit, unit
    result = RESULTS.where(valid, result, RESULTS.invalid_mass)
    return ends[0] / means[0], ends[1] / means[1], unit, result


def _iterate(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    num_intervals: int,
    growth: Float[Array, ""] | None,
    closed: Bool[Array, "..."] | None,
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> _Outcome:
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
        size = _norm(grid.to_faces(slopes)) + _SLOPE * jnp.sqrt(1.0 * slopes.density.size).astype(
            a.dtype
        )
        return new, slopes, centres, gap, excess / size

    def body(state):
        faces, p, sigma, num_steps, _ = state
        new, slopes, _, gap, excess = step(faces, p, sigma)
        relax = lambda old, new: old + _RELAXATION * (new - old)
        faces, p = _tree(relax, faces, new), _tree(relax, p, slopes)
        round_ = (num_steps // _BALANCE_EVERY).astype(a.dtype)
        ratio = jnp.clip(jnp.sqrt((gap + 1e-12) / (excess + 1e-12)), 1 / _MOST_BALANCE, _MOST_BALANCE)
        balanced = sigma * ratio ** (_FADING**round_)
        at_round = (num_steps + 1) % _BALANCE_EVERY == 0
        sigma = jnp.where(at_round, balanced, sigma)
        return faces, p, sigma, num_steps + 1, jnp.maximum(gap, excess)

    unfinished = lambda state: (state[4] > tolerance) & (state[3] < max_steps)
    rest = grid.at_rest()
    none = _tree(jnp.zeros_like, grid.to_centres(rest))
    first = jnp.asarray(_FIRST_STEP, a.dtype), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, a.dtype)
    faces, p, sigma, num_steps, residual = lax.while_loop(unfinished, body, (rest, none, *first))
    faces, slopes, centres, _, _ = step(faces, p, sigma)

    cells = slopes.density.size
    products = _tree(lambda s, v: jnp.sum(s * v), slopes, grid.to_centres(faces))
    # Stationary in the faces: to_faces(slopes) + flux(lambda) = 0.
    multiplier = -grid.multiplier(grid.to_faces(slopes))
    at_a = 0.5 * slopes.density[0] - num_intervals * multiplier[0]
    at_b = 0.5 * slopes.density[-1] + num_intervals * multiplier[-1]
    at_growth = None
    if growth is not None:
        at_growth = jnp.sum(multiplier * faces.source) / jnp.square(growth) / cells
    return _Outcome(
        cost=sum(jax.tree.leaves(products), start=jnp.zeros((), a.dtype)) / cells,
        slopes=(at_a / cells, at_b / cells, at_growth),
        density=grid.densities(faces),
        momenta=centres.momenta,
        source=None if growth is None else centres.source / growth,
        num_steps=num_steps,
        residual=residual,
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
