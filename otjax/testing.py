"""A check for those who write a geometry of their own."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from ._geometry import AbstractGeometry


def check_geometry(geometry: AbstractGeometry) -> None:
    """Checks, in seconds, that a geometry keeps the contract of `AbstractGeometry`: its shape and
    transpose, that soft minima, plans, means and minima belong to one matrix of costs, derivatives
    in both modes and of second order, batches, and points of mass zero.

    **Arguments:**

    - `geometry`: one that is small, since its matrix is formed: a few dozens of points. At least
        two on each side.

    **Raises:** `AssertionError`, which names the member that is wrong, and how.
    """
    _agrees(isinstance(geometry, AbstractGeometry), "the geometry is no `AbstractGeometry`")
    n, m = geometry.shape
    _check_shapes(geometry)
    numbers = _numbers(n, m, geometry.dtype)
    for message, (got, expected) in _pairs_to_compare(geometry, *numbers).items():
        _equal(got, expected, message, 1e-9 if geometry.dtype == jnp.float64 else 1e-3)
    _check_derivatives(geometry, *numbers)


@eqx.filter_jit
def _pairs_to_compare(geometry, a, b, f, g) -> dict[str, tuple[Array, Array]]:
    """What is got and what is expected, by the message for those who differ."""
    prepared = geometry.prepare(a, b)
    yes = jnp.ones((), a.dtype)
    compared = {
        "`prepare`: says that the numbers are not finite": (prepared.finite.astype(a.dtype), yes)
    }
    cost = _matrix(prepared.geometry, prepared.mean)
    epsilon = _epsilon(cost)
    compared |= _values(prepared.geometry, cost, f, g, epsilon, "")
    compared |= _values(prepared.geometry.T, cost.T, g, f, epsilon, " of `T`")
    compared |= _summary(prepared, cost, a, b)
    compared |= _absent_points(geometry, cost, a, b)
    return compared


def _numbers(n: int, m: int, dtype) -> tuple[Array, Array, Array, Array]:
    keys = jr.split(jr.key(0), 4)
    a, b = (0.5 + jr.uniform(key, (k,), dtype) for key, k in zip(keys[:2], (n, m), strict=True))
    f, g = (jr.uniform(key, (k,), dtype) for key, k in zip(keys[2:], (n, m), strict=True))
    return a / jnp.sum(a), b / jnp.sum(b), f, g


def _matrix(geometry: AbstractGeometry, scale: Array) -> Array:
    """The costs that the plan at zero potentials is made of."""
    n, m = geometry.shape
    zeros = jnp.zeros((n,), geometry.dtype), jnp.zeros((m,), geometry.dtype)
    scale = jnp.where(scale == 0, 1, jnp.abs(scale)).astype(geometry.dtype)
    # Lest the compiler see the logarithm of an exponential, which never is that of zero.
    return -scale * jnp.log(lax.optimization_barrier(geometry.plan(*zeros, scale).as_matrix()))


def _epsilon(cost: Array) -> Array:
    allowed = jnp.where(jnp.isfinite(cost), cost, jnp.nan)
    spread = jnp.nanmax(allowed) - jnp.nanmin(allowed)
    return jnp.where(spread > 0, 0.3 * spread, 1)


def _check_shapes(geometry: AbstractGeometry) -> None:
    n, m = geometry.shape
    _agrees(geometry.T.shape == (m, n), f"`T`: its shape is {geometry.T.shape}, not {(m, n)}")
    _agrees(geometry.T.T.shape == (n, m), "`T`: twice is not the geometry's own shape")
    _agrees(geometry.T.dtype == geometry.dtype, "`T`: its dtype is another")
    _agrees(
        geometry.dtype in (jnp.float32, jnp.float64),
        f"`dtype`: must be float32 or float64, got {geometry.dtype}",
    )
    zeros, one = jnp.zeros((n + m,), geometry.dtype), jnp.ones((), geometry.dtype)
    plan = lambda: geometry.plan(zeros[:n], zeros[n:], one, jnp.dtype("float32")).as_matrix()
    _agrees(jax.eval_shape(plan).dtype == jnp.float32, "`plan`: the `dtype` is ignored")


def _values(geometry, cost: Array, f: Array, g: Array, epsilon: Array, of: str):
    """The reductions, and those of the matrix."""
    f, g = epsilon * f, epsilon * g
    softmin = lambda h: -epsilon * jax.nn.logsumexp((h[None, :] - cost) / epsilon, axis=1)
    absent, batch = g.at[0].set(-jnp.inf), jnp.stack([g, 2 * g])
    batched = jax.vmap(lambda h: geometry.softmin(h, epsilon))(batch)
    matrix = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon)
    plan = geometry.plan(f, g, epsilon)
    columns = jnp.stack([g - 0.5, jnp.ones_like(g)], axis=1)
    return {
        f"`softmin`{of}: not that of the plan's costs": (geometry.softmin(g, epsilon), softmin(g)),
        f"`softmin`{of}: wrong for -inf in `h`": (
            geometry.softmin(absent, epsilon),
            softmin(absent),
        ),
        f"`softmin`{of}: wrong under `jax.vmap`": (batched, jax.vmap(softmin)(batch)),
        f"`plan`{of}: `as_matrix` is not exp((f + g - C) / epsilon)": (plan.as_matrix(), matrix),
        f"`plan`{of}: `mv` is not the product with the matrix": (plan.mv(g), _dot(matrix, g)),
        f"`plan`{of}: `mv` is wrong for two columns": (plan.mv(columns), _dot(matrix, columns)),
        f"`plan`{of}: `T` is not the transpose": (plan.T.mv(f), _dot(matrix.T, f)),
        f"`plan`{of}: `squared_mv` is not the product with the squared entries": (
            plan.squared_mv(g),
            _dot(jnp.square(matrix), g),
        ),
    }


def _summary(prepared, cost: Array, a: Array, b: Array):
    allowed = jnp.isfinite(cost)
    mean = _mean(cost, a, b)
    least = jnp.min(jnp.where(allowed, cost, jnp.inf))
    return {
        "`prepare`: `mean` is not the mean cost of allowed pairs": (prepared.mean, mean),
        "`prepare`: `least` is not the least cost": (prepared.least, least),
    }


def _mean(cost: Array, a: Array, b: Array) -> Array:
    """The mean cost of allowed pairs."""
    weights = jnp.where(jnp.isfinite(cost), a[:, None] * b[None, :], 0)
    return jnp.sum(weights * jnp.where(jnp.isfinite(cost), cost, 0)) / jnp.sum(weights)


def _absent_points(geometry, cost: Array, a: Array, b: Array):
    """Without the first point of each side: the others' costs stay."""
    a, b = a.at[0].set(0), b.at[0].set(0)
    prepared = geometry.prepare(a, b)
    got = _matrix(prepared.geometry, prepared.mean)
    mean = _mean(cost[1:, 1:], a[1:], b[1:])
    return {
        "`prepare`: a mass of zero changes the costs of others": (got[1:, 1:], cost[1:, 1:]),
        "`prepare`: a point of mass zero counts in `mean`": (prepared.mean, mean),
    }


def _check_derivatives(geometry, a, b, f, g) -> None:
    """Along one direction: against a central difference, backwards, and twice."""
    double = geometry.dtype == jnp.float64
    for name, (forward, numeric, backward, finite) in _derivatives(geometry, a, b, f, g).items():
        wrong = f"`{name}`: its derivative is not that of its values"
        scale = 1 + jnp.abs(numeric)
        _equal(forward / scale, numeric / scale, wrong, 1e-6 if double else 2e-2)
        wrong = f"`{name}`: `jax.grad` is not `jax.jvp`"
        _equal(backward / scale, forward / scale, wrong, 1e-9 if double else 1e-3)
        _agrees(bool(finite), f"`{name}`: a second derivative is not finite")


@eqx.filter_jit
def _derivatives(geometry, a, b, f, g) -> dict[str, tuple[Array, Array, Array, Array]]:
    prepared = geometry.prepare(a, b)
    epsilon = _epsilon(_matrix(prepared.geometry, prepared.mean))
    numbers, rest = eqx.partition((geometry, f, g, epsilon), eqx.is_inexact_array)

    def softmin(numbers):
        geometry, f, g, epsilon = eqx.combine(numbers, rest)
        return jnp.sum(f * geometry.prepare(a, b).geometry.softmin(epsilon * g, epsilon))

    def plan(numbers):
        geometry, f, g, epsilon = eqx.combine(numbers, rest)
        plan = geometry.prepare(a, b).geometry.plan(epsilon * f, epsilon * g, epsilon)
        return jnp.sum(f * plan.mv(g))

    def some_direction(key, leaf):
        finite = jnp.where(jnp.isfinite(leaf), leaf, jnp.nan)
        size = 0.1 * jnp.maximum(jnp.nanstd(finite), 0.1 * epsilon)
        return jnp.where(jnp.isfinite(leaf), size * jr.normal(key, leaf.shape, leaf.dtype), 0)

    leaves, structure = jax.tree.flatten(numbers)
    keys = jr.split(jr.key(1), len(leaves))
    directions = [some_direction(*one) for one in zip(keys, leaves, strict=True)]
    direction = jax.tree.unflatten(structure, directions)
    step = jnp.asarray(1e-4 if geometry.dtype == jnp.float64 else 3e-2, geometry.dtype)
    along = lambda t: jax.tree.map(lambda p, v: p + t * v, numbers, direction)

    def measured(function):
        _, forward = jax.jvp(function, (numbers,), (direction,))
        numeric = (function(along(step)) - function(along(-step))) / (2 * step)
        gradient, second = jax.jvp(jax.grad(function), (numbers,), (direction,))
        parts = zip(jax.tree.leaves(gradient), directions, strict=True)
        backward = jnp.sum(jnp.stack([jnp.sum(u * v) for u, v in parts]))
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(second)]
        return forward, numeric, backward, jnp.all(jnp.stack(finite))

    return {"softmin": measured(softmin), "plan": measured(plan)}


def _dot(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _equal(got: Array, expected: Array, message: str, tolerance: float) -> None:
    if got.shape != expected.shape:
        raise AssertionError(f"{message} (shape {got.shape}, not {expected.shape})")
    # Forbidden pairs cost infinity, by whatever finite number they are held.
    error = jnp.where(jnp.isinf(expected), 0, jnp.abs(got - expected)) / (1 + jnp.abs(expected))
    if not jnp.max(error) <= tolerance:
        raise AssertionError(f"{message} (by {float(jnp.max(error)):.1e})")


def _agrees(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
