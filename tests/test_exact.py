"""Unregularised transport: bounds that hold whatever the solver did, and solves until they meet."""

import functools as ft

import helpers
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import ot
import pytest
from helpers import make_problem

import otjax
from otjax import RESULTS


def exact_cost(cost, a, b):
    """The optimum of the linear program."""
    return ot.emd2(np.asarray(a, float), np.asarray(b, float), np.asarray(cost, float))


def check_certificate(certificate, cost, a, b, *, atol):
    """The bounds are what plan and potentials prove, and both of these are feasible."""
    cost, a, b = (np.asarray(array, float) for array in (cost, a, b))
    plan = np.asarray(certificate.plan.as_matrix(), float)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=atol)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=atol)
    np.testing.assert_allclose(np.sum(plan * cost), certificate.upper, rtol=10 * atol)
    f, g = (np.asarray(potential, float) for potential in certificate.potentials)
    alive = (a > 0)[:, None] & (b > 0)[None, :]
    assert np.all((f[:, None] + g[None, :] - cost)[alive] <= 10 * atol)
    np.testing.assert_allclose(f @ a + g @ b, certificate.lower, rtol=10 * atol, atol=atol)
    best = exact_cost(cost, a, b)
    assert certificate.lower <= best + 10 * atol and best <= certificate.upper + 10 * atol
    gap = (certificate.upper - certificate.lower) / certificate.upper
    np.testing.assert_allclose(certificate.gap, gap, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("engine, dtype", [("dense", jnp.float64), ("streamed", jnp.float32)])
def test_bounds_are_proven_and_close_in(engine, dtype):
    atol = 1e-13 if dtype == jnp.float64 else 1e-6
    gaps = []
    for epsilon, max_steps in ((0.5, 5000), (0.02, 5000), (0.02, 1)):
        problem = make_problem(engine=engine, epsilon=epsilon, zeros=True, dtype=dtype)
        cost = helpers.cost_matrix(*helpers.points(dtype=dtype), otjax.SqEuclidean())
        solution = otjax.solve(problem, otjax.Sinkhorn(), throw=False, max_steps=max_steps)
        certificate = otjax.certify(solution)
        check_certificate(certificate, cost, problem.a, problem.b, atol=atol)
        gaps.append(float(certificate.gap))
    # Smaller with epsilon, and valid, if larger, for potentials that are far from converged.
    assert gaps[1] < 0.1 * gaps[0] and gaps[1] < gaps[2] < jnp.inf


def test_the_cheapest_plan_where_rounding_would_need_a_forbidden_pair():
    rng = np.random.default_rng(0)
    cost = rng.uniform(1, 2, size=(6, 6))
    forbidden = (rng.uniform(size=(6, 6)) < 0.5) & ~np.eye(6, dtype=bool)
    matrix, masses = jnp.where(forbidden, jnp.inf, cost), jnp.arange(1.0, 7.0) / 21
    problem = otjax.EntropicProblem(otjax.CostMatrix(matrix), masses, masses, epsilon=0.05)
    best = exact_cost(np.where(forbidden, 1e6, cost), masses, masses)
    certificate = otjax.certify(otjax.solve(problem, otjax.Sinkhorn(), max_steps=1, throw=False))
    assert certificate.lower <= best + 1e-12
    np.testing.assert_allclose(certificate.upper, best, rtol=1e-12)
    solution = otjax.solve_exact(otjax.CostMatrix(matrix), masses, masses, gap=1e-6)
    assert solution.lower <= best + 1e-12
    np.testing.assert_allclose(solution.upper, best, rtol=1e-6)


def test_bounds_of_finite_costs_are_finite():
    # Compiled, the same quantity may round differently in two places; none may decide on it.
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(200, 2)).astype(np.float32) for _ in range(2))
    solution = otjax.solve_exact(otjax.PointCloud(x, y), gap=1e-3, throw=False)
    best = exact_cost(
        ot.dist(x.astype(float), y.astype(float)), np.ones(200) / 200, np.ones(200) / 200
    )
    np.testing.assert_allclose([solution.lower, solution.upper], best, rtol=2e-2)


def test_nothing_is_proven_of_an_invalid_problem():
    x, y = helpers.points()
    problem = otjax.EntropicProblem(otjax.PointCloud(x.at[0, 0].set(jnp.nan), y), epsilon=0.1)
    certificate = otjax.certify(otjax.solve(problem, otjax.Sinkhorn(), throw=False))
    assert certificate.lower == -jnp.inf and certificate.upper == jnp.inf
    solution = otjax.solve_exact(otjax.PointCloud(x.at[0, 0].set(jnp.nan), y), throw=False)
    assert solution.result == RESULTS.nonfinite_input
    assert solution.lower == -jnp.inf and solution.upper == jnp.inf
    assert jnp.isfinite(solution.value)


def test_what_has_no_certificate_is_refused():
    unbalanced = otjax.solve(make_problem(marginals="unbalanced first"), otjax.Sinkhorn())
    with pytest.raises(ValueError, match="Balanced"):
        otjax.certify(unbalanced)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="solution"):
        otjax.certify(make_problem())


@ft.cache
def clouds_and_masses():
    x, y = helpers.points(3)
    a, b = helpers.masses(3, zeros=True)
    return x, y, a, b


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_wasserstein_distances_are_those_of_the_linear_program(p):
    x, y, a, b = clouds_and_masses()
    cost = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y)[None], axis=-1) ** p
    distance, solution = otjax.wasserstein(x, y, a, b, p=p, gap=1e-8, has_aux=True)
    assert solution.result == RESULTS.successful and solution.gap <= 1e-8
    check_certificate(solution, cost, a, b, atol=1e-12)
    np.testing.assert_allclose(distance, exact_cost(cost, a, b) ** (1 / p), rtol=1e-8)
    assert otjax.wasserstein(x, y, a, b, p=p, gap=1e-8) == distance


def test_assignments():
    x, y = helpers.points(4, n=12, m=12)
    cost = helpers.cost_matrix(x, y, otjax.Euclidean())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
    solution = otjax.solve_exact(otjax.CostMatrix(cost), gap=1e-9)
    np.testing.assert_allclose(solution.value, jnp.mean(cost[rows, columns]), rtol=1e-8)
    plan = 12 * solution.plan.as_matrix()
    np.testing.assert_allclose(plan[rows, columns], 1, atol=1e-5)


def test_options_of_exact_solves_are_not_ignored():
    x, y, a, b = clouds_and_masses()
    solve = ft.partial(otjax.solve_exact, otjax.PointCloud(x, y), a, b)
    loose, tight = solve(gap=0.1), solve(gap=1e-8)
    assert 1e-8 < loose.gap <= 0.1 and tight.gap <= 1e-8
    assert loose.stats.num_steps < tight.stats.num_steps
    short = solve(gap=1e-8, max_stages=1, throw=False)
    assert short.result == RESULTS.max_steps_reached and short.gap > 1e-8
    with pytest.raises(Exception, match="max_steps"):
        solve(gap=1e-8, max_stages=1)
    plain = otjax.Sinkhorn(tolerance=1e-4, acceleration=otjax.Plain())
    other = solve(gap=0.1, solver=plain)
    assert other.result == RESULTS.successful and other.stats.num_steps != loose.stats.num_steps
    for name, wrong in {"gap": -1.0, "max_stages": 0, "solver": 3}.items():
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=name):
            solve(**{name: wrong})
    with pytest.raises(ValueError, match="`p`"):
        otjax.wasserstein(x, y, p=0.5)


def test_first_derivatives_are_those_of_the_linear_program():
    x, y, a, b = clouds_and_masses()

    @jax.jit
    def distance(x, a):
        return otjax.wasserstein(x, y, a / jnp.sum(a), b, gap=1e-10)

    rng = np.random.default_rng(0)
    dx, da = jnp.asarray(rng.normal(size=x.shape)), jnp.asarray(rng.normal(size=a.shape))
    direction = (dx, jnp.where(a > 0, da, 0) * 0.05)
    expected = helpers.central_difference(lambda xa: distance(*xa), (x, a), direction, step=2e-5)
    gradient = jax.grad(distance, argnums=(0, 1))(x, a)
    np.testing.assert_allclose(helpers.inner_product(gradient, direction), expected, rtol=1e-4)
    assert np.all(np.asarray(gradient[0])[np.asarray(a) == 0] == 0)
    _, tangent = jax.jvp(distance, (x, a), direction)
    np.testing.assert_allclose(tangent, expected, rtol=1e-4)
    with pytest.raises(RuntimeError, match="second derivative"):
        jax.grad(lambda x: jnp.sum(jax.grad(distance)(x, a)))(x)


def test_the_distance_of_a_cloud_from_itself_is_zero_with_zero_gradient():
    x, _ = helpers.points()
    value, gradient = jax.value_and_grad(lambda x: otjax.solve_exact(
        otjax.PointCloud(x, helpers.points()[0]), throw=False).value)(x)  # fmt: skip
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_a_batch_of_exact_solves_is_a_loop():
    x, y, a, b = clouds_and_masses()
    batch = jnp.stack([x, x + 1, 0.3 * x])
    distance = lambda x: otjax.wasserstein(x, y, a, b, gap=1e-6, has_aux=True)
    distances, solutions = jax.vmap(distance)(batch)
    for k in range(3):
        one, solution = distance(batch[k])
        np.testing.assert_allclose(distances[k], one, rtol=1e-6)
        # Rounding differs, and with it a step here and there.
        np.testing.assert_allclose(solutions.stats.num_steps[k], solution.stats.num_steps, rtol=0.3)
