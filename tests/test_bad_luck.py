"""Problems that break solvers: each ends with a status and the best iterate, never with NaN."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SOLVERS

import otjax
from otjax import RESULTS


SIZE = 10


def disconnected(masses):
    """Two halves with no way between them; `masses` is what the first half of each side has."""
    cost = np.random.default_rng(0).uniform(size=(SIZE, SIZE))
    half = np.arange(SIZE) < SIZE // 2
    cost[half[:, None] != half[None, :]] = np.inf
    a, b = (np.where(half, mass, 1 - mass) / (SIZE // 2) for mass in masses)
    return cost, a, b, 0.05


def uniform(cost, epsilon):
    return cost, np.full(SIZE, 1 / SIZE), np.full(SIZE, 1 / SIZE), epsilon


def squared_distances(x, y):
    return np.sum((x[:, None] - y[None]) ** 2, axis=-1)


def cases():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, SIZE, 2))
    order = rng.permutation(SIZE)
    twice = np.concatenate([x[:1], x[:-1]])
    spread = 10.0 ** rng.uniform(-12, 0, SIZE)
    a = spread / spread.sum()
    return {
        "two identical points": uniform(squared_distances(twice, twice[order]), 0.01),
        "a plan that is a permutation": uniform(squared_distances(x, x[order]), 1e-4),
        "epsilon too small": uniform(squared_distances(x, y), 1e-9),
        "all costs equal": uniform(np.ones((SIZE, SIZE)), 0.1),
        "masses over twelve orders": (squared_distances(x, y), a, a[order], 1e-3),
        "disconnected": disconnected((0.5, 0.5)),
        "disconnected, impossible": disconnected((0.6, 0.4)),
        "huge and tiny costs": uniform(10.0 ** rng.uniform(-8, 8, (SIZE, SIZE)), 0.1),
    }


IMPOSSIBLE = {"disconnected, impossible"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_ends_with_a_status_and_finite_numbers(name, dtype):
    solver = SOLVERS[name](tolerance=1e-3)

    @jax.jit
    def solve(matrix, a, b, epsilon, max_steps):
        problem = otjax.EntropicProblem(otjax.CostMatrix(matrix), a, b, epsilon=epsilon)
        solution = otjax.solve(problem, solver, throw=False, max_steps=max_steps)
        error = solution.stats.marginal_error
        return solution.result, error, solution.potentials, solution.value, solution.marginals

    for case, (matrix, a, b, epsilon) in cases().items():
        inputs = (jnp.asarray(array, dtype) for array in (matrix, a, b, epsilon))
        result, error, potentials, value, marginals = solve(*inputs, 600)
        assert all(np.all(np.isfinite(leaf)) for leaf in (error, *potentials, value)), case
        if result == RESULTS.successful:
            assert case not in IMPOSSIBLE and error <= 1e-3, case
            wrong = sum(
                np.sum(np.abs(np.asarray(ours, float) - np.asarray(asked, float)))
                for ours, asked in zip(marginals, (a, b), strict=True)
            )
            assert wrong <= 1.1e-3, case
        else:
            assert error > 1e-3 or case == "epsilon too small", case


# L-BFGS moves the potentials of a pair of two huge costs last of all.
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "l-bfgs"])
def test_large_potentials_at_the_start_hide_no_epsilon_that_is_resolved(name):
    # The mean cost is 1e7, the potentials of the solution are below one.
    matrix, a, b, epsilon = (
        jnp.asarray(array, jnp.float32) for array in cases()["huge and tiny costs"]
    )
    problem = otjax.EntropicProblem(otjax.CostMatrix(matrix), a, b, epsilon=epsilon)
    solution = otjax.solve(problem, SOLVERS[name](tolerance=1e-3))
    exact = float(otjax.assignment(matrix.astype(jnp.float64)).value) / SIZE
    assert float(solution.problem.epsilon) == float(epsilon)
    assert exact - 1e-3 <= float(solution.value_linear) <= exact + 0.1 * np.log(SIZE)


@pytest.mark.parametrize("name", ["newton", "adaptive"])
def test_newton_does_not_crawl_on_uneven_masses_at_small_epsilon(name):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(60, 2))), jnp.asarray(1 + 0.5 * rng.normal(size=(50, 2)))
    a, b = (jnp.asarray(rng.uniform(size=size)) for size in (60, 50))
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    epsilon = 3e-4 * jnp.mean(cost)
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=epsilon)
    solution = otjax.solve(problem, SOLVERS[name](tolerance=1e-9))
    assert solution.result == RESULTS.successful
    assert solution.stats.num_steps < 400


@pytest.mark.parametrize("name", ["sinkhorn", "newton"])
def test_few_steps_end_where_the_plan_overflows_on_the_way(name):
    """A point of next to no mass, near everybody, on a side where mass is cheap."""
    cost = jnp.asarray(np.random.default_rng(2).random((5, 4)), jnp.float32)
    cost = cost.at[2].add(2.0).at[:, 1].set(0.0)
    b = jnp.array([0.3, 1e-30, 0.3, 0.4])

    @jax.jit
    def solve(max_steps):
        marginals = otjax.Balanced(), otjax.Unbalanced(1e-3)
        problem = otjax.EntropicProblem(
            otjax.CostMatrix(cost), b=b, epsilon=1e-3, marginals=marginals
        )
        return otjax.solve(problem, SOLVERS[name](), max_steps=max_steps, throw=False)

    results = [solve(jnp.int32(steps)) for steps in range(1, 13)]
    assert all(jnp.isfinite(result.value) for result in results)
    assert all(result.stats.num_steps <= k + 1 for k, result in enumerate(results))
    assert not any(bool(result.result == RESULTS.successful) for result in results[:4])


@pytest.mark.parametrize("name", ["sinkhorn", "plain", "newton"])
def test_a_start_from_anywhere_ends_where_one_from_scratch_does(name):
    """Of soft marginals potentials that are far from any solution ask for masses that overflow."""
    rng = np.random.default_rng(0)
    single = lambda array: jnp.asarray(array, jnp.float32)
    matrices = single(10 ** rng.uniform(-6, 3, (32, 12, 15)) * (rng.uniform(size=(32, 1, 1)) < 0.5))
    matrices += single(rng.uniform(size=(32, 12, 15)))
    a, b = single(np.full(12, 1 / 12)), single(np.full(15, 3 / 15))
    starts = tuple(single(10 * rng.normal(size=(32, size))) for size in (12, 15))

    @jax.jit
    @jax.vmap
    def solve(matrix, f, g):
        problem = otjax.EntropicProblem(
            otjax.CostMatrix(matrix), a, b, epsilon=1e-3, marginals=otjax.Unbalanced(0.02)
        )
        solver = SOLVERS[name]()
        warm = otjax.solve(problem, solver, init=(f, g), throw=False)
        cold = otjax.solve(problem, solver, throw=False)
        return warm.value, warm.potentials, warm.result == cold.result, cold.value

    value, potentials, same, expected = solve(matrices, *starts)
    assert all(np.all(np.isfinite(array)) for array in (value, *potentials))
    assert np.mean(same) > 0.9
    np.testing.assert_allclose(value, expected, rtol=3e-3)
