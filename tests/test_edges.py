"""Numbers at the edges: penalties without bound, masses next to nothing, shifted costs, points that
have no partner."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import otjax
from otjax import RESULTS


def _clouds(dtype=jnp.float64):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 1
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def _newton_of_the_dual(cost, a, b, epsilon, rho_a, rho_b):
    """The optimum of the unbalanced dual by damped Newton steps on a dense Hessian."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    c = np.log(a.sum() / b.sum()) / (1 / rho_a + 1 / rho_b)
    f, g = f + c, g - c

    @np.errstate(over="ignore", invalid="ignore")
    def dual(f, g):
        plan = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
        value = -rho_a * a @ np.expm1(-f / rho_a) - rho_b * b @ np.expm1(-g / rho_b)
        return value - epsilon * (plan.sum() - a.sum() * b.sum()), plan

    for _ in range(200):
        value, plan = dual(f, g)
        asked_a, asked_b = a * np.exp(-f / rho_a), b * np.exp(-g / rho_b)
        gradient = np.concatenate([asked_a - plan.sum(1), asked_b - plan.sum(0)])
        hessian = np.block(
            [
                [np.diag(asked_a / rho_a + plan.sum(1) / epsilon), plan / epsilon],
                [plan.T / epsilon, np.diag(asked_b / rho_b + plan.sum(0) / epsilon)],
            ]
        )
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while length > 1e-10 and not dual(*np.split(
            np.concatenate([f, g]) + length * step, [len(a)]
        ))[0] >= value - 1e-13 * abs(value):  # fmt: skip
            length /= 2
        f, g = np.split(np.concatenate([f, g]) + length * step, [len(a)])
        if np.max(np.abs(length * step)) < 1e-9 * epsilon:
            break
    return dual(f, g)


@pytest.mark.parametrize("rho_b", [1.0, None], ids=["both", "ten times harder"])
@pytest.mark.parametrize("rho", [1e3, 1e5])
def test_hard_penalties_of_totals_that_differ_move_the_constant_at_once(rho, rho_b):
    x, y = _clouds()
    a, b = np.full(30, 1 / 30), np.full(40, 2 / 40)
    rhos = (rho, rho * 10 if rho_b is None else rho)
    cost = np.asarray(helpers.cost_matrix(x, y, otjax.SqEuclidean()))
    value, plan = _newton_of_the_dual(cost, a, b, 0.5, *rhos)
    for name in ("sinkhorn", "newton", "adaptive", "overrelaxed"):
        problem = otjax.EntropicProblem(
            otjax.PointCloud(x, y), a, b, epsilon=0.5,
            marginals=tuple(map(otjax.Unbalanced, rhos)),
        )  # fmt: skip
        solution = otjax.solve(problem, helpers.SOLVERS[name](tolerance=1e-8))
        np.testing.assert_allclose(solution.value, value, rtol=1e-9)
        np.testing.assert_allclose(jnp.sum(solution.marginals[0]), plan.sum(), rtol=1e-7)
        assert solution.stats.num_steps < 100, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_ever_harder_penalties_meet_the_constraint_masses_gradients_included(dtype):
    x, y = _clouds(dtype)
    a = jnp.full(30, 1 / 30, dtype)

    def value(a, marginals):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, epsilon=0.5, marginals=marginals)
        return otjax.solve(problem, throw=False).value

    expected, gradient = jax.value_and_grad(value)(a, otjax.Balanced())
    for rho in (1e6, 1e8):
        got, got_gradient = jax.value_and_grad(value)(a, otjax.Unbalanced(rho))
        tolerance = 1e-4 if dtype == jnp.float32 else 1e-5
        np.testing.assert_allclose(got, expected, rtol=tolerance)
        np.testing.assert_allclose(got_gradient, gradient, atol=2e-3 if rho == 1e6 else 1e-3)
    # Where it is known to have no bound it is the constraint.
    assert otjax.EntropicProblem(
        otjax.PointCloud(x, y), marginals=otjax.Unbalanced(jnp.inf)
    ).marginals == (otjax.Balanced(), otjax.Balanced())


@pytest.mark.parametrize("engine", ["dense", "streamed"])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 0.1])
def test_tails_of_histograms_down_to_underflow(engine, epsilon):
    line = np.linspace(-1, 2, 60)[:, None]
    a = np.asarray(scipy.special.softmax(-0.5 * (line[:, 0] / 0.157) ** 2), np.float32)
    assert 1.2e-38 < a.min() < 1e-36
    b = a[::-1].copy()
    exact = otjax.solve(
        otjax.EntropicProblem(
            otjax.PointCloud(line, line), *(m.astype(float) / m.sum(dtype=float) for m in (a, b)),
            epsilon=epsilon,
        )
    )  # fmt: skip
    points = jnp.asarray(line, jnp.float32)
    cloud = helpers.ENGINES[engine](points, points, otjax.SqEuclidean())
    for name in ("sinkhorn", "adaptive", "newton"):
        problem = otjax.EntropicProblem(cloud, a, b, epsilon=jnp.float32(epsilon))
        solution = otjax.solve(problem, helpers.SOLVERS[name](), throw=False)
        assert solution.result == RESULTS.successful, name
        np.testing.assert_allclose(solution.value, exact.value, rtol=1e-4)
        # Right where the mass is next to nothing, too.
        f, g = (np.asarray(p, float) for p in solution.potentials)
        cost = np.asarray(np.square(points - points.T), float)
        scores = (g - cost) / epsilon
        softmin = -epsilon * scipy.special.logsumexp(scores, b=b.astype(float), axis=1)
        assert np.max(np.abs(softmin - f)) < 0.2 * epsilon + 1e-4, name
    value, gradient = jax.value_and_grad(
        lambda x: otjax.sinkhorn_divergence(x, x + 0.1, a, a, epsilon=epsilon)
    )(points)
    assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))


def test_a_constant_in_the_costs_changes_the_value_by_itself():
    x, y = _clouds(jnp.float32)
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    solve = lambda cost: otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost)), throw=False)
    plain = solve(cost)
    for shift in (-1e3, 1e3, 1e4):
        shifted = solve(cost + shift)
        assert shifted.problem.epsilon > 0
        np.testing.assert_allclose(
            shifted.problem.epsilon, plain.problem.epsilon, rtol=1e-6 * abs(shift)
        )
        noise = 1e-6 * abs(shift) + 1e-3
        np.testing.assert_allclose(shifted.value_linear - shift, plain.value_linear, atol=noise)


def test_costs_that_are_all_equal_take_any_epsilon():
    solution = otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(jnp.full((4, 5), -3.0))))
    assert solution.problem.epsilon == 1
    np.testing.assert_allclose(solution.value, -3.0, rtol=1e-6)


def test_a_point_without_an_allowed_partner_is_infeasible():
    cost = jnp.ones((5, 4)).at[2].set(jnp.inf)
    solution = otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost), epsilon=0.1), throw=False)
    assert solution.result == RESULTS.infeasible
    with pytest.raises(RuntimeError, match="Allow more pairs"):
        otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost), epsilon=0.1))
    # Without mass it needs none.
    a = jnp.array([0.25, 0.25, 0.0, 0.25, 0.25])
    absent = otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost), a, epsilon=0.1))
    np.testing.assert_allclose(absent.value, 1.0, rtol=1e-6)
