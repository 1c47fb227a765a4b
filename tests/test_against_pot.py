"""The same problems solved by POT: an exact linear programme and independent Sinkhorn codes."""

import warnings

import helpers
import numpy as np
import ot
import pytest

import otjax


def _cost() -> np.ndarray:
    x, y = helpers.points()
    return np.asarray(helpers.cost_matrix(x, y, otjax.SqEuclidean()))


@pytest.mark.parametrize("engine", helpers.ENGINES)
@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_entropic_plan(engine: str, epsilon: float) -> None:
    problem = helpers.make_problem(engine=engine, epsilon=epsilon)
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-12))
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    plan = ot.sinkhorn(a, b, _cost(), epsilon, method="sinkhorn_log", stopThr=1e-13,
                       numItermax=100_000)  # fmt: skip
    np.testing.assert_allclose(solution.plan.as_matrix(), plan, atol=1e-9, rtol=1e-8)
    np.testing.assert_allclose(solution.value_linear, np.sum(plan * _cost()), rtol=1e-8)


@pytest.mark.parametrize("rho", [0.1, 1.0, 20.0])
def test_unbalanced_plan(rho: float) -> None:
    problem = helpers.make_problem(marginals="unbalanced", totals=(1.2, 0.7), rho=rho)
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-12))
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, b, _cost(), 0.3, rho, reg_type="kl", stopThr=1e-14, numItermax=100_000
    )
    np.testing.assert_allclose(solution.plan.as_matrix(), plan, atol=1e-9, rtol=1e-7)


def test_semirelaxed_plan() -> None:
    problem = helpers.make_problem(marginals="unbalanced second")
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-12))
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ot.unbalanced.sinkhorn_unbalanced(
            a, b, _cost(), 0.3, (1e12, 0.7), reg_type="kl", stopThr=1e-14, numItermax=100_000
        )
    np.testing.assert_allclose(solution.plan.as_matrix(), plan, atol=1e-7)


@pytest.mark.parametrize("cost", ["SqEuclidean", "Euclidean", "p-norm", "Cosine"])
def test_small_epsilon_gives_the_linear_programme(cost: str) -> None:
    x, y = helpers.points()
    matrix = np.asarray(helpers.cost_matrix(x, y, helpers.COSTS[cost]()))
    errors, plans = [], []
    for epsilon in (0.1, 0.01, 0.001):
        problem = helpers.make_problem(cost=cost, epsilon=epsilon * matrix.mean())
        solution = otjax.solve(problem, otjax.DualNewton(tolerance=1e-8))
        a, b = np.asarray(problem.a), np.asarray(problem.b)
        exact = ot.emd(a, b / b.sum() * a.sum(), matrix)
        plans.append(np.abs(solution.plan.as_matrix() - exact).sum())
        errors.append(float(solution.value_linear) / np.sum(exact * matrix) - 1)
    assert errors[0] > errors[1] > errors[2] > -1e-6
    assert errors[2] < 2e-3
    assert plans[2] < 0.1 < plans[0]
