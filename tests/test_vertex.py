"""The optimum itself: vertices, forbidden pairs, distances of any order, points far from all."""

import functools as ft

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.stats

import otjax
from otjax import RESULTS


N, M = 12, 10


def make_matrix(kind: str, seed: int = 0):
    """Costs and masses: of every sort of degeneracy, at one shape, so that one program serves."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(size=(N, M))
    a, b = rng.uniform(0.1, 1, N), rng.uniform(0.1, 1, M)
    if kind == "ties":
        cost, a, b = np.floor(3 * cost), np.floor(1 + 5 * a), np.floor(1 + 5 * b)
    elif kind == "tails":
        a, b = np.exp(-3.0 * np.arange(N) ** 2), np.exp(-2.0 * np.arange(M) ** 2)
    elif kind == "zeros":
        a[:3], b[4] = 0, 0
    elif kind == "shifted":
        cost = cost - 100
    elif kind in ("forbidden", "alone"):
        # A plan that exists, and few pairs beside those that it needs.
        used = rng.uniform(size=(N, M)) < 0.1
        used[np.arange(N), np.arange(N) % M] = True
        plan = np.where(used, rng.uniform(0.1, 1, (N, M)), 0)
        a, b = plan.sum(axis=1), plan.sum(axis=0)
        cost = np.where(used | (rng.uniform(size=(N, M)) < 0.1), cost, np.inf)
        if kind == "alone":
            cost[2] = np.inf
    elif kind == "crowded":
        # Six rows for three columns of too little room.
        cost[:6, 3:] = np.inf
    return cost, a / a.sum(), b / b.sum()


FEASIBLE = ("plain", "ties", "tails", "zeros", "shifted", "forbidden")


@jax.jit
def vertex(cost, a, b):
    return otjax.solve_exact(otjax.CostMatrix(cost), a, b, gap=0, throw=False)


def as_arrays(dtype, *arrays):
    return tuple(jnp.asarray(array, dtype) for array in arrays)


def best_cost(cost, a, b):
    """The optimum by POT, which gives up on masses far below rounding and on negative costs:
    without these."""
    a, b = np.where(a > 1e-16, a, 0), np.where(b > 1e-16, b, 0)
    above = np.where(np.isinf(cost), 1e3, cost - cost.min())
    return float(cost.min() + ot.emd2(a / a.sum(), b / b.sum(), above))


def check_vertex(solution, cost, a, b, *, atol):
    best = best_cost(cost, a, b)
    assert solution.result == RESULTS.successful
    assert isinstance(solution.plan, otjax.SparsePlan)
    np.testing.assert_allclose(solution.value, best, rtol=10 * atol, atol=atol)
    assert solution.lower <= best + 10 * atol and best <= solution.upper + 10 * atol
    assert jnp.sum(solution.plan.masses > 0) <= N + M - 1
    plan = np.asarray(solution.plan.as_matrix(), float)
    assert plan.min() >= 0 and np.all(plan[np.isinf(cost)] == 0)
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=atol)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=atol)
    f, g = (np.asarray(potential, float) for potential in solution.potentials)
    alive = (a > 0)[:, None] & (b > 0)[None, :]
    assert np.all((f[:, None] + g[None, :] - cost)[alive] <= 100 * atol)
    np.testing.assert_allclose(f @ a + g @ b, solution.lower, rtol=100 * atol, atol=100 * atol)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_gap_of_zero_ends_at_a_vertex_of_the_linear_program(dtype):
    atol = 1e-14 if dtype == jnp.float64 else 2e-7
    for kind in FEASIBLE:
        for seed in range(3):
            cost, a, b = make_matrix(kind, seed)
            cost, a, b = (np.asarray(array, dtype).astype(float) for array in (cost, a, b))
            a, b = a / a.sum(), b / b.sum()
            scale = 100 if kind == "shifted" else 1
            solution = vertex(*as_arrays(dtype, cost, a, b))
            check_vertex(solution, cost, a, b, atol=scale * atol)


def test_an_infeasible_problem_is_called_so():
    for kind in ("crowded", "alone"):
        cost, a, b = as_arrays(jnp.float64, *make_matrix(kind))
        solution = vertex(cost, a, b)
        assert solution.result == RESULTS.infeasible and solution.upper == jnp.inf
        assert jnp.isfinite(solution.value) and solution.lower < solution.upper
        problem = otjax.EntropicProblem(otjax.CostMatrix(cost), a, b, epsilon=0.05)
        entropic = otjax.solve(problem, otjax.Sinkhorn(), max_steps=300, throw=False)
        assert entropic.result == RESULTS.infeasible
    with pytest.raises(Exception, match="No plan meets"):
        otjax.solve_exact(otjax.CostMatrix(cost), a, b, gap=0)


def test_members_of_a_batch_do_not_touch_each_other():
    problems = [make_matrix(kind) for kind in ("plain", "crowded", "forbidden", "tails")]
    problems.insert(1, (np.full((N, M), np.nan), *problems[0][1:]))
    batch = [jnp.asarray(np.stack(arrays)) for arrays in zip(*problems, strict=True)]
    solutions = jax.jit(jax.vmap(vertex))(*batch)
    assert (solutions.result == RESULTS.nonfinite_input)[1]
    assert (solutions.result == RESULTS.infeasible)[2]
    for k in (0, 3, 4):
        one = vertex(*(arrays[k] for arrays in batch))
        np.testing.assert_allclose(solutions.value[k], one.value, rtol=1e-14)
        np.testing.assert_array_equal(solutions.plan.masses[k], one.plan.masses)


def test_bounds_are_finite_wherever_a_plan_avoids_forbidden_pairs():
    @jax.jit
    def certificate(cost, a, b):
        problem = otjax.EntropicProblem(otjax.CostMatrix(cost), a, b, epsilon=0.02)
        return otjax.certify(otjax.solve(problem, otjax.Sinkhorn(), throw=False))

    for seed in range(4):
        cost, a, b = make_matrix("forbidden", seed)
        best = best_cost(cost, a, b)
        found = certificate(*as_arrays(jnp.float64, cost, a, b))
        assert found.lower <= best + 1e-12 and best <= found.upper + 1e-12 < jnp.inf
        plan = np.asarray(found.plan.as_matrix())
        assert np.all(plan[np.isinf(cost)] == 0)
        np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-12)
        np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-12)
        np.testing.assert_allclose(np.sum(plan[plan > 0] * cost[plan > 0]), found.upper, rtol=1e-9)


def test_equal_clouds_meet_at_zero_by_the_identity():
    x, _ = helpers.points(n=30)
    solution = otjax.solve_exact(otjax.PointCloud(x, x), gap=0)
    assert solution.lower == solution.upper == solution.value == solution.gap == 0
    np.testing.assert_array_equal(solution.plan.columns, jnp.arange(30))
    np.testing.assert_allclose(solution.plan.masses, 1 / 30)
    np.testing.assert_allclose(solution.plan.T.mv(jnp.ones(30)), 1 / 30)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e6, 1e13])
def test_a_distance_in_single_precision_at_any_scale_and_order(scale):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    # Far below what the matrix of costs resolves.
    shift = np.float32(0.01)
    factor = np.float32(scale)

    for p in (1, 2):
        loss = jax.value_and_grad(ft.partial(otjax.wasserstein, p=p))
        value, gradient = loss(jnp.asarray(factor * x), jnp.asarray(factor * (x + shift)))
        np.testing.assert_allclose(value, scale * 0.01 * 2**0.5, rtol=1e-3)
        np.testing.assert_allclose(gradient, np.full((40, 2), -(0.5**0.5) / 40), rtol=1e-2)


@pytest.mark.slow
def test_histograms_have_the_distance_of_their_places():
    x, y = helpers.points(2)
    a, b = helpers.masses(2, zeros=True)
    distances = jnp.linalg.norm(x[:, None] - y[None], axis=-1)
    for p in (1, 3.0):
        by_matrix = otjax.wasserstein(otjax.CostMatrix(distances), a=a, b=b, p=p, gap=0)
        np.testing.assert_allclose(by_matrix, otjax.wasserstein(x, y, a, b, p=p, gap=0), rtol=1e-12)
    order = lambda p: otjax.wasserstein(x, y, a, b, p=p, gap=0)
    expected = helpers.central_difference(order, jnp.asarray(3.0), jnp.asarray(1.0))
    np.testing.assert_allclose(jax.grad(order)(jnp.asarray(3.0)), expected, rtol=1e-7)
    assert jnp.isnan(jax.jit(order)(jnp.asarray(0.5)))
    assert jnp.isnan(otjax.wasserstein(otjax.CostMatrix(-distances), a=a, b=b, gap=0))
    with pytest.raises(ValueError, match="`y`"):
        otjax.wasserstein(x)
    with pytest.raises(ValueError, match="`y`"):
        otjax.wasserstein(otjax.CostMatrix(distances), y)
    with pytest.raises(ValueError, match="`gap`"):
        otjax.wasserstein(x, y, gap=-1.0)


def test_the_potential_of_w1_is_a_critic():
    x, y = helpers.points(5)
    a, b = helpers.masses(5)
    distance, solution = otjax.wasserstein(x, y, a, b, p=1, gap=0, has_aux=True)
    potential = solution.potential
    np.testing.assert_allclose(a @ potential(x) - b @ potential(y), distance, rtol=1e-12)
    u, v = 10 * jnp.asarray(np.random.default_rng(0).normal(size=(2, 50, 2)))
    steps = jnp.linalg.norm(u - v, axis=1)
    assert jnp.all(jnp.abs(potential(u) - potential(v)) <= steps * (1 + 1e-14))
    slopes = jax.vmap(jax.grad(lambda point: potential(point[None])[0]))(u)
    np.testing.assert_allclose(jnp.linalg.norm(slopes, axis=1), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="PointCloud"):
        otjax.solve_exact(otjax.CostMatrix(jnp.ones((2, 2))), gap=0).potential(u)


@pytest.mark.parametrize(
    "cost, dtype",
    [
        (otjax.SqEuclidean(), jnp.float32),
        (otjax.SqEuclidean(), jnp.float64),
        (otjax.Euclidean(), jnp.float32),
    ],
)
def test_a_query_however_far_is_a_softmax(cost, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(25, 2)) + 1
    geometry = otjax.PointCloud(*as_arrays(dtype, x, y), cost=cost)
    problem = otjax.EntropicProblem(geometry, epsilon=0.05)
    solution = otjax.solve(problem, otjax.Sinkhorn(), throw=False)
    angle = rng.uniform(0, 2 * np.pi, 100)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for radius in (1e3, 1e6, 1e12):
        queries = jnp.asarray(radius * directions, dtype)
        image = np.asarray(solution.transport(queries))
        assert np.all(np.isfinite(image)) and jnp.all(jnp.isfinite(solution.potential(queries)))
        assert np.all(image >= y.min(axis=0) - 1e-3) and np.all(image <= y.max(axis=0) + 1e-3)
        if isinstance(cost, otjax.SqEuclidean):
            # The extreme point, up to what the runner-up gets.
            reached = np.sum(image * directions, axis=1)
            np.testing.assert_allclose(reached, np.max(directions @ y.T, axis=1), atol=1e-3)
    one = lambda point: solution.transport(point[None])[0]
    jacobian = jax.jacobian(one)(jnp.asarray([1e6, -1e6], dtype))
    np.testing.assert_allclose(jacobian, 0, atol=1e-3)


@pytest.mark.slow
def test_distances_are_a_metric_and_converge_with_samples():
    rng = np.random.default_rng(0)
    masses = rng.dirichlet(np.ones(8), size=3)
    clouds = rng.normal(size=(3, 8, 2))
    for p in (1.0, 1.5, 2.0, 4.0):
        distance = ft.partial(otjax.wasserstein, p=p, gap=0)
        between = np.array(
            [[distance(*clouds[[i, j]], *masses[[i, j]]) for j in range(3)] for i in range(3)]
        )
        # The root of what rounding leaves.
        np.testing.assert_allclose(np.diag(between), 0, atol=max(1e-7, 1e-16 ** (1 / p)))
        np.testing.assert_allclose(between, between.T, rtol=1e-9, atol=1e-7)
        assert between[0, 2] <= between[0, 1] + between[1, 2] + 1e-12
        moved = distance(2 * clouds[0] + 3, 2 * clouds[1] + 3, *masses[:2])
        np.testing.assert_allclose(moved, 2 * between[0, 1], rtol=1e-9)
    # On the line W_1 of two samples falls as one over the root of their size; moments follow it.
    means = []
    for size in (25, 100, 400):
        samples = rng.normal(size=(6, 2, size, 1))
        found = [float(otjax.wasserstein(u, v, p=1, gap=0)) for u, v in samples]
        for (u, v), value in zip(samples, found, strict=True):
            np.testing.assert_allclose(
                value, scipy.stats.wasserstein_distance(u[:, 0], v[:, 0]), rtol=1e-9
            )
            assert abs(np.mean(u) - np.mean(v)) <= value + 1e-12
        means.append(np.mean(found))
    rate = -np.polyfit(np.log([25, 100, 400]), np.log(means), 1)[0]
    assert 0.3 < rate < 0.7
