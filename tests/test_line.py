"""Transport on the line and on the circle: exact values, plans, potentials and derivatives."""

import functools as ft

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import ot
import pytest
import scipy.stats
from checks import check_derivatives

import otjax
from otjax import RESULTS
from otjax._line._power import abs_power
from otjax._line._staircase import in_order


def exponential(x, y):
    """A convex cost that tells the two sides apart, as -d costs another thing than d."""
    return jnp.exp(x[0] - y[0]) - (x[0] - y[0])


COSTS = {
    "squared": otjax.SqEuclidean(),
    "absolute": otjax.Euclidean(),
    "cubed": otjax.PNorm(2.0, power=3.0),
    "exponential": exponential,
}


def samples(seed=0, *, n=7, m=5, zeros=False, dtype=jnp.float64):
    """Two weighted samples of the line, unsorted; with `zeros`, some points have no mass."""
    x, y = helpers.points(seed, n=n, m=m, d=1, dtype=dtype)
    a, b = helpers.masses(seed, n=n, m=m, zeros=zeros, dtype=dtype)
    return x[:, 0], y[:, 0], a, b


def moves(seed, x, y, a, b):
    """A direction for points and masses, that keeps the totals and lets dead points lie."""
    rng = np.random.default_rng(seed)
    dx, dy, da, db = (jnp.asarray(rng.normal(size=v.shape)) for v in (x, y, a, b))
    da, db = (jnp.where(m > 0, 0.03 * (d - d[m > 0].mean()), 0) for d, m in ((da, a), (db, b)))
    return 0.1 * dx, 0.1 * dy, da, db


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_numbers_of_every_sign_and_size_are_sorted(dtype):
    limits = np.finfo(dtype)
    x = np.random.default_rng(0).normal(size=200).astype(dtype)
    x = np.concatenate([x, 1e30 * x, 1e-30 * x, x[:50], [0.0, -0.0, limits.tiny, -limits.tiny]])
    x = np.concatenate([x, [limits.max, limits.min, limits.smallest_subnormal]]).astype(dtype)
    given = jnp.asarray(x)
    np.testing.assert_array_equal(in_order(given), np.sort(x))
    weights = jnp.arange(x.size, dtype=dtype)
    slope = jax.grad(lambda x: jnp.sum(weights * in_order(x)))(given)
    np.testing.assert_array_equal(slope, np.argsort(np.argsort(x, kind="stable"), kind="stable"))


def test_a_batch_along_another_axis_has_the_same_derivatives():
    xs, ys = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)))
    slope = jax.grad(otjax.wasserstein_1d)
    batch = jax.vmap(slope, in_axes=1, out_axes=1)(xs, ys)
    for k in range(3):
        np.testing.assert_allclose(batch[:, k], slope(xs[:, k], ys[:, k]), rtol=1e-12)


@pytest.mark.parametrize("n, m", [(7, 5), (6, 6), (1, 4)])
def test_distances_are_those_of_scipy_and_pot(n, m):
    x, y, a, b = samples(n, n=n, m=m)
    x = x.at[n // 2].set(x[0])  # a repeated point
    weighted = otjax.wasserstein_1d(x, y, a, b, p=1)
    np.testing.assert_allclose(weighted, scipy.stats.wasserstein_distance(x, y, a, b), rtol=1e-12)
    np.testing.assert_allclose(
        otjax.wasserstein_1d(x, y, p=1), scipy.stats.wasserstein_distance(x, y), rtol=1e-12
    )
    for p in (2, 1.3, 4.5):
        for masses in ((a, b), (None, None)):
            numpy = [None if mass is None else np.asarray(mass) for mass in masses]
            best = ot.wasserstein_1d(np.asarray(x), np.asarray(y), *numpy, p=p) ** (1 / p)
            distance = otjax.wasserstein_1d(x, y, *masses, p=p)
            np.testing.assert_allclose(distance, best, rtol=1e-12)
            if masses[0] is not None:  # a traced p is the same p
                traced = otjax.wasserstein_1d(x, y, *masses, p=jnp.asarray(float(p)))
                np.testing.assert_allclose(traced, best, rtol=1e-12)
    assert otjax.wasserstein_1d(x, y) == otjax.wasserstein_1d(x, y, p=2)


@pytest.mark.parametrize("name", COSTS)
def test_plans_and_potentials_are_optimal(name):
    cost = COSTS[name]
    x, y, a, b = samples(1, zeros=True)
    solution = otjax.transport_1d(x, y, a, b, cost=cost)
    matrix = np.asarray(helpers.cost_matrix(x[:, None], y[:, None], cost))
    best = ot.emd2(np.asarray(a), np.asarray(b), matrix)
    np.testing.assert_allclose(solution.value, best, rtol=1e-12)
    plan = np.asarray(solution.plan.as_matrix())
    assert solution.mass.shape == (7 + 5 - 1,) and np.all(solution.mass >= 0)
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-15)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-15)
    np.testing.assert_allclose(np.sum(plan * matrix), best, rtol=1e-12)
    np.testing.assert_allclose(solution.plan.T.mv(jnp.ones(7)), b, atol=1e-15)
    f, g = solution.potentials
    slack = matrix - f[:, None] - g[None, :]
    assert slack[a > 0][:, b > 0].min() > -1e-12
    np.testing.assert_allclose(slack[plan > 0], 0, atol=1e-12)
    np.testing.assert_allclose([f @ a, g @ b], best / 2, rtol=1e-12)  # the gauge


def test_points_of_mass_zero_do_not_exist():
    x, y, a, b = samples(2)
    more = jnp.array([jnp.nan, -1e300, 0.1, jnp.inf])
    padded = jnp.concatenate([more[:2], x, more[2:]]), jnp.pad(a, 2)

    def all_of(x, a):
        solution = otjax.transport_1d(x, y, a, b)
        return solution.value, otjax.wasserstein_1d(x, y, a, b), solution.potentials[1]

    for with_them, without in zip(all_of(*padded), all_of(x, a), strict=True):
        np.testing.assert_allclose(with_them, without, rtol=1e-13)
    total = lambda x, a: otjax.transport_1d(x, y, a, b).value + otjax.wasserstein_1d(x, y, a, b)
    for with_them, without in zip(
        jax.grad(total, (0, 1))(*padded), jax.grad(total, (0, 1))(x, a), strict=True
    ):
        np.testing.assert_allclose(with_them, np.pad(without, 2), atol=1e-13)


def power_of_distance(inputs):
    *arrays, p = inputs
    return otjax.wasserstein_1d(*arrays, p=p)


def circular_distance(inputs):
    *arrays, p = inputs
    return otjax.wasserstein_circle(*arrays, p=p, period=p + 0.5)


def cost_on_the_line(inputs):
    *arrays, p = inputs
    return otjax.transport_1d(*arrays, cost=otjax.PNorm(2.0, power=p)).value


def part_of_the_plan(inputs):
    *arrays, p = inputs
    solution = otjax.transport_1d(*arrays, cost=otjax.PNorm(2.0, power=p))
    f, g = solution.potentials
    points, masses = solution.interpolate(0.3)
    return jnp.sum(jnp.sin(3 * f)) + jnp.sum(jnp.cos(2 * g)) + jnp.sum(masses * jnp.exp(points))


@pytest.mark.parametrize(
    "function",
    [
        power_of_distance,
        circular_distance,
        cost_on_the_line,
        pytest.param(part_of_the_plan, marks=pytest.mark.slow),
    ],
)
def test_derivatives_are_those_of_differences(function):
    arrays = samples(3, zeros=True)
    point = (*arrays, jnp.asarray(2.3))
    first, second = ((*moves(seed, *arrays), jnp.asarray(0.2)) for seed in (4, 5))
    check_derivatives(function, point, first, second, twice=function is part_of_the_plan)


def test_second_derivatives_where_points_coincide():
    x, _, a, _ = samples(6)
    hessian = jax.hessian(lambda y: otjax.transport_1d(x, y, a, a).value)(x)
    np.testing.assert_allclose(hessian, 2 * np.diag(a), atol=1e-14)
    # A traced power of the distance has the same one.
    for p, derivatives in {2.0: [0, 2, 0], 4.0: [0, 0, 0, 24]}.items():
        function = lambda d, p=p: abs_power(d, jnp.asarray(p))
        for derivative in derivatives:
            function = jax.grad(function)
            assert jax.jit(function)(jnp.zeros(())) == derivative
    assert jax.grad(otjax.wasserstein_1d)(x, x).tolist() == [0.0] * 7


def test_ties_of_masses_prefer_neither_side():
    x, y, _, _ = samples(7, n=6, m=4)
    uniform_a, uniform_b = jnp.full(6, 1 / 6), jnp.full(4, 1 / 4)
    forth = otjax.transport_1d(x, y, uniform_a, uniform_b)
    back = otjax.transport_1d(y, x, uniform_b, uniform_a)
    np.testing.assert_allclose(forth.potentials[0], back.potentials[1], atol=1e-14)
    np.testing.assert_allclose(forth.potentials[1], back.potentials[0], atol=1e-14)
    # Of a measure to itself nothing moves, and no mass is worth more than another.
    by_masses = jax.grad(lambda a: otjax.transport_1d(x, x, a, uniform_a).value)(uniform_a)
    np.testing.assert_allclose(by_masses, 0, atol=1e-14)


def test_single_precision_and_large_numbers():
    x, y, a, b = samples(8, n=3000, m=2000, dtype=jnp.float32)
    solution = otjax.transport_1d(x, y, a, b)
    assert solution.value.dtype == solution.mass.dtype == jnp.float32
    plan = np.zeros(3000), np.zeros(2000)
    np.add.at(plan[0], solution.i, solution.mass)
    np.add.at(plan[1], solution.j, solution.mass)
    # Of masses of 4e-4; levels in single precision would be off by 6e-8.
    np.testing.assert_allclose(plan[0], a, rtol=1e-5)
    np.testing.assert_allclose(plan[1], b * (a.sum() / b.sum()), rtol=1e-5)
    exact = ot.wasserstein_1d(*(np.asarray(v, float) for v in (x, y, a, b / b.sum())), p=2)
    np.testing.assert_allclose(solution.value, exact, rtol=1e-5)
    far, near = jnp.float32(1e30), jnp.float32(1e-30)
    one = jnp.ones(1, jnp.float32)
    for size in (far, near):
        distance = otjax.wasserstein_1d(size * one, 3 * size * one, p=50)
        np.testing.assert_allclose(distance, 2 * size, rtol=1e-5)


def largest_array(function, *args):
    """The number of entries of the largest array in a computation."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                yield getattr(variable.aval, "size", 1)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*args)))


def test_nothing_of_the_size_of_a_matrix_is_made():
    x, y, a, b = samples(9, n=300, m=200)
    functions = {
        "distance": jax.value_and_grad(otjax.wasserstein_1d, (0, 1, 2, 3)),
        "circle": jax.value_and_grad(otjax.wasserstein_circle, (0, 1, 2, 3)),
        "solution": lambda *arrays: otjax.transport_1d(*arrays, throw=False).potentials,
    }
    for name, function in functions.items():
        assert largest_array(function, x, y, a, b) <= 2 * 501, name


@pytest.mark.parametrize("n, m", [(7, 5), (6, 6)])
def test_distances_on_the_circle_are_those_of_pot(n, m):
    x, y, a, b = samples(10 + n, n=n, m=m)
    u, v = np.asarray(x) % 1, np.asarray(y) % 1
    for p in (1, 2):
        for masses in ((a, b), (None, None)):
            numpy = [None if mass is None else np.asarray(mass) for mass in masses]
            best = ot.wasserstein_circle(u, v, *numpy, p=p)
            distance = otjax.wasserstein_circle(x, y, *masses, p=p)
            np.testing.assert_allclose(distance, best ** (1 / p), rtol=1e-10)
    # It may be turned as a whole, in units of any period.
    degrees = otjax.wasserstein_circle(360 * x + 77, 360 * y + 77 - 720, a, b, p=2, period=360)
    np.testing.assert_allclose(degrees / 360, otjax.wasserstein_circle(x, y, a, b, p=2), rtol=1e-10)
    # Never more than on the line, and the same where the line does not reach around.
    near = otjax.wasserstein_circle(x / 50, y / 50, a, b, p=2)
    np.testing.assert_allclose(near, otjax.wasserstein_1d(x / 50, y / 50, a, b), rtol=1e-10)


def test_quantiles_are_those_of_numpy():
    x, _, a, _ = samples(12, n=9, zeros=True)
    q = jnp.linspace(0, 1, 23)
    for masses in (a, None):
        weights = None if masses is None else np.asarray(masses)
        kept = np.ones(9, bool) if masses is None else weights > 0
        exact = np.quantile(
            np.asarray(x)[kept],
            np.asarray(q),
            weights=None if weights is None else weights[kept],
            method="inverted_cdf",
        )
        found = otjax.quantile(x, q, masses)
        assert found.tolist() == exact.tolist()
    # At the very ends of masses, which rounding moves.
    sixths = otjax.quantile(jnp.arange(6.0), jnp.arange(1, 7) / 6)
    assert sixths.tolist() == [0, 1, 2, 3, 4, 5]
    gradient = jax.grad(lambda x: otjax.quantile(x, 0.5))(x)
    assert sorted(gradient.tolist()) == [0] * 8 + [1]
    for bad in (otjax.quantile(x, 1.1), otjax.quantile(x.at[0].set(jnp.nan), 0.5)):
        assert jnp.isnan(bad)
    assert jnp.all(jax.grad(lambda x: otjax.quantile(x, -0.1))(x) == 0)


WRONG = {
    "NaN in x": (lambda x, y, a, b: (x.at[1].set(jnp.nan), y, a, b), RESULTS.nonfinite_input),
    "inf in y": (lambda x, y, a, b: (x, y.at[0].set(jnp.inf), a, b), RESULTS.nonfinite_input),
    "negative mass": (lambda x, y, a, b: (x, y, a.at[0].set(-0.1), b), RESULTS.invalid_mass),
    "NaN mass": (lambda x, y, a, b: (x, y, a, b.at[0].set(jnp.nan)), RESULTS.invalid_mass),
    "no mass": (lambda x, y, a, b: (x, y, 0 * a, b), RESULTS.invalid_mass),
    "unequal totals": (lambda x, y, a, b: (x, y, 1.01 * a, b), RESULTS.unequal_mass),
}
SCALARS = [otjax.wasserstein_1d, otjax.wasserstein_circle]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_named_or_nan_with_gradient_zero(name):
    spoil, expected = WRONG[name]
    inputs = spoil(*samples(13))
    for function in SCALARS:
        value, gradients = jax.value_and_grad(function, (0, 1, 2, 3))(*inputs)
        assert jnp.isnan(value)
        assert all(jnp.all(gradient == 0) for gradient in gradients)
    solution = otjax.transport_1d(*inputs, throw=False)
    assert solution.result == expected
    numbers = jax.tree.leaves(eqx.filter(solution, eqx.is_inexact_array))
    assert all(np.all(np.isfinite(array)) for array in numbers)
    with pytest.raises(Exception, match="Clean|masses"):
        otjax.transport_1d(*inputs)


def test_orders_below_one_and_costs_that_are_not_convex():
    x, y, a, b = samples(14)
    for function in SCALARS:
        for p in (0.5, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="`p`"):
                function(x, y, p=p)
        value, by_p = jax.jit(jax.value_and_grad(lambda p, f=function: f(x, y, a, b, p=p)))(0.5)
        assert jnp.isnan(value) and by_p == 0
    assert jnp.isnan(otjax.wasserstein_circle(x, y, period=-1.0))
    concave = otjax.PNorm(2.0, power=0.5)
    assert otjax.transport_1d(x, y, cost=concave, throw=False).result == RESULTS.invalid_cost
    with pytest.raises(Exception, match="convex"):
        otjax.transport_1d(x, y, cost=concave)
    infinite = lambda s, t: jnp.exp(1e4 * jnp.square(s[0] - t[0]))
    assert otjax.transport_1d(x, y, cost=infinite, throw=False).result == RESULTS.nonfinite_input


BAD_STRUCTURE = {
    "two axes": (lambda f, x: f(x[:, None], x), "`x`"),
    "integers": (lambda f, x: f(x, jnp.arange(3)), "`y`"),
    "empty": (lambda f, x: f(x[:0], x), "`x`"),
    "a list": (lambda f, x: f([1.0, 2.0], x), "x"),
    "two dtypes": (lambda f, x: f(x, x.astype(jnp.float32)), "dtype"),
    "too few masses": (lambda f, x: f(x, x, x[:2]), "`a`"),
}


@pytest.mark.parametrize("name", BAD_STRUCTURE)
def test_wrong_structure_is_an_error(name):
    call, match = BAD_STRUCTURE[name]
    for function in (*SCALARS, otjax.transport_1d):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=match):
            call(function, jnp.arange(3.0))
    for wrong in (otjax.SqEuclidean, 3, lambda s, t: s - t):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="cost"):
            otjax.transport_1d(jnp.arange(3.0), jnp.arange(3.0), cost=wrong)


def test_one_trace_for_new_numbers_and_batches_agree():
    x, y, a, b = samples(15)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(x, a, p):
        return otjax.wasserstein_1d(x, y, a, b, p=p)

    for k in range(3):
        step(x + k, a, 1.0 + k)
    batch = jnp.stack([x, x[::-1] + 0.3])
    for function in (ft.partial(otjax.wasserstein_1d, p=2), otjax.wasserstein_circle):
        together = jax.vmap(lambda x, f=function: f(x, y, a, b))(batch)
        for row, value in zip(batch, together, strict=True):
            np.testing.assert_allclose(value, function(row, y, a, b), rtol=1e-13)
