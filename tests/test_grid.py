"""Grids agree with the matrix of all their costs, at every epsilon and whatever the masses."""

import functools as ft

import helpers
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import otjax
from otjax import RESULTS
from otjax.testing import check_geometry


def axis(seed, size, dtype=jnp.float64):
    """Increasing, with unequal spacings."""
    spacings = np.random.default_rng(seed).uniform(0.2, 1, size)
    return jnp.asarray(np.cumsum(spacings) / spacings.sum(), dtype)


def asymmetric(x, y):
    return jnp.sum(jnp.square(x - 0.7 * y)) + 0.3 * jnp.sin(x[0]) * y[0]


def wall(x, y):
    """Nothing may cross it, on either axis."""
    same = (x[0] < 0.8) == (y[0] < 0.8)
    return jnp.where(same, jnp.square(x[0] - y[0]), jnp.inf)


def points(axes):
    return jnp.stack([t.ravel() for t in jnp.meshgrid(*axes, indexing="ij")], axis=1)


def dense(axes, other_axes, cost):
    """The matrix that the grid stands for, pair by pair."""
    one = lambda x, y: sum(cost(x[k : k + 1], y[k : k + 1]) for k in range(len(axes)))
    return helpers.cost_matrix(points(axes), points(other_axes), one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cost, sizes, dtype",
    [
        (otjax.SqEuclidean(), (3, 4), jnp.float32),
        (asymmetric, (2, 3, 2), jnp.float64),
        (wall, (7,), jnp.float64),
    ],
)
def test_the_contract(cost, sizes, dtype):
    axes = tuple(axis(k, size, dtype) for k, size in enumerate(sizes))
    other_axes = tuple(axis(k + 9, size + 1, dtype) for k, size in enumerate(sizes))
    check_geometry(otjax.Grid(axes, other_axes, cost=cost))


@pytest.mark.parametrize(
    "dtype, epsilons",
    [
        (jnp.float32, (0.3, 1e-3, 1e-4)),
        pytest.param(jnp.float64, (0.3, 8e-5, 1e-5), marks=pytest.mark.slow),
    ],
)
def test_products_at_every_epsilon(dtype, epsilons):
    """From one product of matrices down to a log-sum-exp for each row, signs and all."""
    axes, other_axes = (
        (axis(0, 70, dtype), axis(1, 3, dtype)),
        (axis(2, 66, dtype), axis(3, 4, dtype)),
    )
    geometry = otjax.Grid(axes, other_axes)
    cost = np.asarray(dense(axes, other_axes, otjax.SqEuclidean()), np.float64)
    rng = np.random.default_rng(0)
    # Potentials with no structure along the axes, of the size of the costs.
    g = rng.uniform(-0.3, 0.3, cost.shape[1])
    vectors = rng.normal(size=(cost.shape[1], 2))

    @jax.jit
    def products(g, vectors, epsilon):
        f = geometry.softmin(g, epsilon)
        plan = geometry.plan(f, g, epsilon)
        return f, plan.mv(vectors), plan.T.mv(f), plan.squared_mv(vectors[:, 0]), plan.forward.care

    cares = []
    for epsilon in epsilons:
        number = ft.partial(jnp.asarray, dtype=dtype)
        f, product, back, squared, care = products(number(g), number(vectors), number(epsilon))
        given = np.asarray(number(g), np.float64)
        scores = (given[None, :] - cost) / epsilon
        top = scores.max(axis=1, keepdims=True)
        exact = -epsilon * (top[:, 0] + np.log(np.exp(scores - top).sum(axis=1)))
        rounding = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(f, exact, atol=rounding * 3)
        plan = np.exp((np.asarray(f, np.float64)[:, None] + given[None, :] - cost) / epsilon)
        tolerance = rounding * (4 + 2 / epsilon)
        for got, matrix, vector in (
            (product, plan, vectors),
            (back, plan.T, np.asarray(f, np.float64)),
            (squared, plan**2, vectors[:, 0]),
        ):
            got, size = np.asarray(got, np.float64), np.abs(matrix) @ np.abs(vector)
            assert np.all(np.abs(got - matrix @ vector) <= tolerance * size + 1e-30)
        cares.append(int(care))
    assert cares == [0, 1, 2]


def everything(geometry, a, b, epsilon, marginals):
    problem = otjax.EntropicProblem(
        geometry, a, b, epsilon=epsilon, marginals=helpers.MARGINALS[marginals](0.7)
    )
    tolerance = 1e-11 if geometry.dtype == jnp.float64 else 1e-5
    return otjax.solve(problem, tolerance=tolerance, throw=False)


def outputs(inputs, make):
    axes, a, b, epsilon = inputs
    solution = everything(make(axes), a, b, epsilon, "balanced")
    return solution.value, (solution.result._value, solution.value_linear, solution.marginals)


def assert_same(grid, matrix):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-6, atol=1e-8), grid, matrix)


@pytest.mark.slow
def test_a_solution_is_that_of_the_matrix():
    axes, other_axes, cost = (axis(0, 4), axis(1, 3)), (axis(2, 3), axis(3, 5)), otjax.SqEuclidean()
    inputs = axes, *helpers.masses(n=12, m=15, zeros=True), jnp.array(0.05)
    solved = lambda make: jax.jit(jax.value_and_grad(outputs, has_aux=True), static_argnums=1)(
        inputs, make
    )
    grid = solved(lambda axes: otjax.Grid(axes, other_axes))
    assert grid[0][1][0] == RESULTS.successful._value
    assert_same(grid, solved(lambda axes: otjax.CostMatrix(dense(axes, other_axes, cost))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes, cost, marginals",
    [
        ((9,), asymmetric, "unbalanced"),
        ((3, 2, 3), otjax.Euclidean(), "unbalanced first"),
    ],
)
def test_second_derivatives_are_those_of_the_matrix(sizes, cost, marginals):
    axes = tuple(axis(k, size) for k, size in enumerate(sizes))
    other_axes = tuple(axis(k + 9, size + 1) for k, size in enumerate(sizes))
    n, m = (int(np.prod([t.shape[0] for t in side])) for side in (axes, other_axes))
    a, b = helpers.masses(n=n, m=m, zeros=True)
    weights = jnp.where(a > 0, jnp.asarray(np.random.default_rng(5).normal(size=n)), 0)
    inputs = axes, a, b, jnp.array(0.05)
    direction = jax.tree.map(lambda leaf: jnp.cos(10 * leaf), inputs)

    def measured(make):
        def scalar(inputs):
            axes, a, b, epsilon = inputs
            solution = everything(make(axes), a, b, epsilon, marginals)
            f, _ = solution.potentials
            return solution.value + jnp.sum(weights * f), solution.plan.as_matrix()

        gradient = jax.grad(scalar, has_aux=True)
        return jax.jit(lambda u, v: jax.jvp(gradient, (u,), (v,), has_aux=True))(inputs, direction)

    assert_same(
        measured(lambda axes: otjax.Grid(axes, other_axes, cost=cost)),
        measured(lambda axes: otjax.CostMatrix(dense(axes, other_axes, cost))),
    )


@pytest.mark.slow
def test_images_in_one_line_and_a_batch_of_them():
    t = jnp.linspace(0, 1, 6, dtype=jnp.float32)
    grid = otjax.Grid((t, t))
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.dirichlet(np.ones(36), size=2), jnp.float32) for _ in range(2))
    a = a.at[:, :9].set(0)  # a dark edge
    a = a / jnp.sum(a, axis=1, keepdims=True)
    loss = lambda a, b: otjax.divergence(grid, grid, grid, a, b, epsilon=0.05, tolerance=1e-5)[0]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(a, b)
    x = points((t, t))
    cloud = lambda a, b: otjax.sinkhorn_divergence(x, x, a, b, epsilon=0.05, tolerance=1e-5)
    expected, slopes = jax.jit(jax.vmap(jax.value_and_grad(cloud)))(a, b)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradients, slopes, atol=1e-3)
    assert jnp.all(gradients[:, :9] == 0)


@pytest.mark.slow
def test_values_that_cannot_be():
    t, s = axis(0, 4), axis(1, 3)
    a, b = helpers.masses(n=12, m=12)

    @jax.jit
    def solve(t, a):
        def value(t, a):
            problem = otjax.EntropicProblem(otjax.Grid((t, s)), a, b, epsilon=0.1)
            solution = otjax.solve(problem, tolerance=1e-8, throw=False)
            return solution.value, solution.result

        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(t, a)

    for spoilt in (t.at[1].set(jnp.nan), t.at[2].set(jnp.inf)):
        (value, result), gradient = solve(spoilt, a)
        assert result == RESULTS.nonfinite_input
        assert jnp.isfinite(value) and all(jnp.all(jnp.isfinite(leaf)) for leaf in gradient)
    # Where there is no mass there is no coordinate.
    (wanted, _), slope = solve(t, jnp.zeros(12).at[3:].set(1 / 9))
    (_, result), _ = solve(t.at[0].set(jnp.nan), jnp.zeros(12).at[3:].set(1 / 9))
    assert result == RESULTS.nonfinite_input  # for the other measure, which is on the same grid


@pytest.mark.parametrize("cost", [otjax.SqEuclidean(), wall])
def test_mean_and_least_cost_are_those_of_what_has_mass(cost):
    axes = axis(0, 5), axis(1, 4)
    matrix = np.asarray(dense(axes, axes, cost))
    prepare = jax.jit(lambda a, b: otjax.Grid(axes, cost=cost).prepare(a, b)[1:4])
    for seed, apart in ((0, False), (1, True)):
        a, b = (np.random.default_rng((seed, side)).uniform(0.1, 1, 20) for side in range(2))
        if apart:  # no pixel of one is in a row or a column of the other's
            a, b = a * (np.arange(20) == 0), b * (np.arange(20) == 5)
        finite, mean, least = prepare(jnp.asarray(a), jnp.asarray(b))
        allowed = np.isfinite(matrix) & (a[:, None] > 0) & (b[None, :] > 0)
        weights = np.where(allowed, a[:, None] * b[None, :], 0)
        costs = np.where(allowed, matrix, 0)
        assert finite
        np.testing.assert_allclose(mean, np.average(costs, weights=weights), rtol=1e-12)
        np.testing.assert_allclose(least, matrix[allowed].min(), atol=1e-14)


@pytest.mark.slow
def test_maps_of_pixels():
    axes, other_axes = (axis(0, 4), axis(1, 3)), (axis(2, 3), axis(3, 5))
    a, b = helpers.masses(n=12, m=15, zeros=True)
    new = points(axes) + 0.1
    solved = lambda geometry: otjax.solve(
        otjax.EntropicProblem(geometry, a, b, epsilon=0.1), tolerance=1e-10
    )
    cloud = solved(otjax.PointCloud(points(axes), points(other_axes)))
    grid = solved(otjax.Grid(axes, other_axes))
    np.testing.assert_allclose(grid.transport(new), cloud.transport(new), atol=1e-8)


T = np.linspace(0, 1, 4)
WRONG = {
    "no tuple": (lambda: otjax.Grid(T), "`axes`"),
    "no axes": (lambda: otjax.Grid(()), "`axes`"),
    "an axis of length 1": (lambda: otjax.Grid((T, T[:1])), "`axes[1]`"),
    "an empty axis": (lambda: otjax.Grid((T[:0],)), "`axes[0]`"),
    "two axes in one": (lambda: otjax.Grid((np.ones((2, 2)),)), "`axes[0]`"),
    "whole numbers": (lambda: otjax.Grid((np.arange(3),)), "`axes[0]`"),
    "a point twice": (lambda: otjax.Grid((T, T[[0, 1, 1]])), "`axes[1]`"),
    "falling": (lambda: otjax.Grid((T, T), (T, T[::-1])), "`other_axes[1]`"),
    "NaN": (lambda: otjax.Grid((np.array([0, np.nan, 1]),)), "`axes[0]`"),
    "infinite": (lambda: otjax.Grid((np.array([0, np.inf]),)), "`axes[0]`"),
    "other dimension": (lambda: otjax.Grid((T, T), (T,)), "`other_axes`"),
    "other dtype": (lambda: otjax.Grid((T, T.astype(np.float32))), "dtype"),
    "cost a class": (lambda: otjax.Grid((T,), cost=otjax.Euclidean), "`cost`"),
    "cost no scalar": (lambda: otjax.Grid((T,), cost=lambda x, y: x - y), "`cost`"),
    "an image as masses": (
        lambda: otjax.EntropicProblem(otjax.Grid((T, T)), np.ones((4, 4))),
        "`a`",
    ),
    "too few masses": (
        lambda: otjax.EntropicProblem(otjax.Grid((T, T)), None, np.ones(4)),
        "`b`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_structure_names_the_argument(name):
    call, argument = WRONG[name]
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError) as raised:
            call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert argument in str(raised.value)
