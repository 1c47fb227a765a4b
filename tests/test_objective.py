"""The value that is reported is the documented objective at the plan that is returned."""

import helpers
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    """The KL of measures."""
    ratio = np.where(p > 0, p / np.where(q > 0, q, 1), 1)
    return float(np.sum(p * np.log(ratio) - p + q))


def _objective(problem: otjax.EntropicProblem, plan: np.ndarray, cost: np.ndarray) -> float:
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    value = np.sum(plan * cost) + float(problem.epsilon) * _kl(plan, np.outer(a, b))
    for side, marginal, mass in zip(
        problem.marginals, (plan.sum(1), plan.sum(0)), (a, b), strict=True
    ):
        if isinstance(side, otjax.Unbalanced):
            value += float(side.rho) * _kl(marginal, mass)
    return value


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("engine", helpers.ENGINES)
@pytest.mark.parametrize("marginals", helpers.MARGINALS)
def test_value_is_the_objective(marginals: str, engine: str, zeros: bool) -> None:
    totals = (2.0, 2.0) if marginals == "balanced" else (1.5, 0.6)
    if marginals.startswith("unbalanced "):
        totals = (1.5, 1.5)
    problem = helpers.make_problem(
        engine=engine, marginals=marginals, zeros=zeros, totals=totals, epsilon=0.4
    )
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-11))
    x, y = helpers.points()
    cost = np.asarray(helpers.cost_matrix(x, y, otjax.SqEuclidean()))
    plan = np.asarray(solution.plan.as_matrix())
    np.testing.assert_allclose(solution.value, _objective(problem, plan, cost), rtol=1e-8)
    np.testing.assert_allclose(solution.value_linear, np.sum(plan * cost), rtol=1e-8)
    np.testing.assert_allclose(solution.marginals[0], plan.sum(1), atol=1e-12)
    np.testing.assert_allclose(solution.marginals[1], plan.sum(0), atol=1e-12)


def test_value_is_optimal() -> None:
    """No other plan with these marginals does better: tried along directions that keep them."""
    problem = helpers.make_problem(epsilon=0.4)
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-11))
    x, y = helpers.points()
    cost = np.asarray(helpers.cost_matrix(x, y, otjax.SqEuclidean()))
    plan = np.asarray(solution.plan.as_matrix())
    rng, tried = np.random.default_rng(0), 0
    for _ in range(40):
        i, k = rng.choice(helpers.N, 2, replace=False)
        j, l = rng.choice(helpers.M, 2, replace=False)
        change = np.zeros_like(plan)
        change[[i, k], [j, l]], change[[i, k], [l, j]] = 1, -1
        room = 0.5 * min(plan[i, l], plan[k, j])
        if room < 1e-6:
            continue
        tried += 1
        assert _objective(problem, plan + room * change, cost) > solution.value
    assert tried > 10


def test_the_dual_bounds_the_value_from_below() -> None:
    """An early stop reports the dual objective of its potentials, never too much."""
    problem = helpers.make_problem(epsilon=0.05)
    values = [
        otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-9), max_steps=steps, throw=False).value
        for steps in (1, 2, 4, 8, 2000)
    ]
    assert all(early <= values[-1] + 1e-9 for early in values)
    assert values[0] < values[-1] - 1e-6


def test_balanced_value_is_the_mean_of_the_potentials() -> None:
    problem = helpers.make_problem()
    solution = otjax.solve(problem)
    f, g = solution.potentials
    mean_f, mean_g = jnp.sum(problem.a * f), jnp.sum(problem.b * g)
    np.testing.assert_allclose(solution.value, mean_f + mean_g, rtol=1e-8)
    np.testing.assert_allclose(mean_f, mean_g, rtol=1e-8)


@pytest.mark.parametrize("engine", helpers.ENGINES)
def test_default_epsilon_is_five_percent_of_the_mean_cost_above_the_least(engine: str) -> None:
    x, y = helpers.points()
    a, b = helpers.masses(zeros=True)
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    mean = jnp.sum(a[:, None] * b[None, :] * cost)
    least = jnp.min(cost[a > 0][:, b > 0])
    geometry = helpers.ENGINES[engine](x, y, otjax.SqEuclidean())
    for epsilon, fraction in ((None, 0.05), (otjax.Relative(0.2), 0.2)):
        solution = otjax.solve(otjax.EntropicProblem(geometry, a, b, epsilon=epsilon))
        np.testing.assert_allclose(solution.problem.epsilon, fraction * (mean - least), rtol=1e-12)
