"""Numbers at the edges: penalties without bound, masses next to nothing, shifted costs, points that
have no partner."""

import importlib
import pathlib
import sys

import equinox as eqx
import helpers
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import ot
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
@pytest.mark.parametrize(
    "epsilon", [1e-3, *(pytest.param(e, marks=pytest.mark.slow) for e in (1e-2, 0.1))]
)
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


@pytest.mark.parametrize(
    "shift", [-1e5, *(pytest.param(s, marks=pytest.mark.slow) for s in (3e3, 1e6))]
)
def test_a_constant_in_the_costs_takes_no_digits_of_the_plan(shift):
    x, y = _clouds(jnp.float32)
    moved = helpers.cost_matrix(x, y, otjax.SqEuclidean()) + jnp.float32(shift)
    a = jnp.where(jnp.arange(len(x)) < 2, 0.0, 1.0)
    problem = lambda cost: otjax.EntropicProblem(
        otjax.CostMatrix(cost.at[:2].set(7.0)), a / jnp.sum(a), epsilon=0.1
    )
    level = otjax.solve(problem(moved - shift))  # exactly
    for turned in (False, True):
        solution = otjax.solve(problem(moved).T if turned else problem(moved))
        solution = solution.T if turned else solution
        assert solution.result == RESULTS.successful
        plan, expected = solution.plan.as_matrix(), level.plan.as_matrix()
        np.testing.assert_allclose(plan, expected, atol=5e-5)
        unit = 4e-7 * abs(shift)
        np.testing.assert_allclose(solution.value - shift, level.value, atol=unit + 1e-5)
        np.testing.assert_allclose(
            solution.value_linear - shift, level.value_linear, atol=unit + 1e-5
        )
        f, g = (p[p != 0] for p in solution.potentials)
        np.testing.assert_allclose(f[2:].mean() + g.mean(), shift, atol=10)
        bounds, tight = otjax.certify(solution), otjax.certify(level)
        for name in ("lower", "upper"):
            np.testing.assert_allclose(
                getattr(bounds, name) - shift, getattr(tight, name), atol=unit + 1e-5
            )
    if abs(shift) <= 1e5:  # what was found is a start, as far as it has digits
        again = otjax.solve(problem(moved), init=solution.potentials)
        assert again.stats.num_steps < level.stats.num_steps
    gradient = jax.grad(lambda cost: otjax.solve(problem(cost)).value)(moved)
    np.testing.assert_allclose(gradient, level.plan.as_matrix(), atol=5e-5)
    f = jax.grad(lambda a: otjax.solve(eqx.tree_at(lambda p: p.a, problem(moved), a)).value)(
        a / jnp.sum(a)
    )
    np.testing.assert_allclose(f[2:], otjax.solve(problem(moved)).potentials[0][2:], rtol=1e-6)


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
    nowhere = otjax.EntropicProblem(otjax.CostMatrix(jnp.full((5, 4), jnp.inf)), epsilon=0.1)
    assert otjax.solve(nowhere, throw=False).result == RESULTS.infeasible
    # Without mass it needs none.
    a = jnp.array([0.25, 0.25, 0.0, 0.25, 0.25])
    absent = otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost), a, epsilon=0.1))
    np.testing.assert_allclose(absent.value, 1.0, rtol=1e-6)


def test_an_absent_point_of_a_soft_side_has_no_plan_that_overflows():
    cost = jnp.asarray(np.random.default_rng(2).random((5, 4)), jnp.float32).at[2].add(2.0)
    b, there = jnp.array([0.3, 0.0, 0.3, 0.4]), jnp.array([0, 2, 3])
    solve = lambda cost, b: otjax.solve(
        otjax.EntropicProblem(
            otjax.CostMatrix(cost), b=b, epsilon=1e-3,
            marginals=(otjax.Balanced(), otjax.Unbalanced(6e-3)),
        )
    )  # fmt: skip
    solution, without = solve(cost, b), solve(cost[:, there], b[there])
    np.testing.assert_allclose(solution.value, without.value, rtol=1e-5)
    np.testing.assert_allclose(solution.marginals[1][there], without.marginals[1], atol=1e-5)
    assert solution.marginals[1][1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_mass_without_an_allowed_partner_vanishes_at_its_price(dtype):
    rng = np.random.default_rng(0)
    cost, u = 4 * rng.random((9, 8)), np.full(9, 0.1)
    forbidden = cost.copy()
    forbidden[2], forbidden[:, [1, 6]] = np.inf, np.inf
    rows, columns = np.delete(np.arange(9), 2), np.delete(np.arange(8), [1, 6])
    numbers = tuple(jnp.asarray(one, dtype) for one in (u, u[:8], 0.1, 1.0))

    def value(cost, a, b, epsilon, rho):
        marginals = otjax.Unbalanced(rho), otjax.Unbalanced(2 * rho)
        geometry = otjax.CostMatrix(cost)
        problem = otjax.EntropicProblem(geometry, a, b, epsilon=epsilon, marginals=marginals)
        solution = otjax.solve(problem, throw=False)
        return solution.value, solution

    def without(cost, a, b, epsilon, rho):
        value_of_rest, solution = value(cost[rows][:, columns], a[rows], b[columns], epsilon, rho)
        lost_a, lost_b = a[2], b[1] + b[6]
        mass = jnp.sum(a) * jnp.sum(b) - jnp.sum(a[rows]) * jnp.sum(b[columns])
        return value_of_rest + rho * lost_a + 2 * rho * lost_b + epsilon * mass, solution

    differentiated = lambda function: jax.jit(
        jax.value_and_grad(function, argnums=(0, 1, 2, 3, 4), has_aux=True)
    )
    (got, solution), gradient = differentiated(value)(jnp.asarray(forbidden, dtype), *numbers)
    (expected, rest), expected_gradient = differentiated(without)(
        jnp.asarray(cost, dtype), *numbers
    )
    assert solution.result == RESULTS.successful
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(got, expected, rtol=tolerance)
    for one, other in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
    plan = solution.plan.as_matrix()
    np.testing.assert_allclose(plan[rows][:, columns], rest.plan.as_matrix(), atol=tolerance)
    assert jnp.all(plan[2] == 0) and jnp.all(plan[:, np.array([1, 6])] == 0)
    # The default epsilon is that of the rest as well, and a fixed marginal cannot give way.
    default = lambda geometry, *masses, marginals: otjax.solve(
        otjax.EntropicProblem(geometry, *masses, marginals=marginals), throw=False
    )
    a, b, *_ = numbers
    of_all = default(
        otjax.CostMatrix(jnp.asarray(forbidden, dtype)), a, b, marginals=otjax.Unbalanced(1.0)
    )
    of_rest = default(
        otjax.CostMatrix(jnp.asarray(cost, dtype)[rows][:, columns]), a[rows], b[columns],
        marginals=otjax.Unbalanced(1.0),
    )  # fmt: skip
    np.testing.assert_allclose(of_all.problem.epsilon, of_rest.problem.epsilon, rtol=1e-6)
    geometry = otjax.CostMatrix(jnp.asarray(forbidden, dtype))
    sides = otjax.Balanced(), otjax.Unbalanced(1.0)
    assert default(geometry, a, b, marginals=sides).result == RESULTS.infeasible


@pytest.mark.slow
@pytest.mark.parametrize("engine", [otjax.Dense(), otjax.Streamed(4)])
def test_a_cost_may_forbid_a_point_all_partners(engine):
    x = jnp.linspace(0, 1, 9)[:, None].at[3].set(5.0)
    y = jnp.linspace(0.1, 1.3, 7)[:, None].at[0].set(-9.0)
    near = lambda p, q: jnp.where(jnp.abs(p[0] - q[0]) < 2, (p[0] - q[0]) ** 2, jnp.inf)
    cost = np.asarray(helpers.cost_matrix(x, y, near))
    rows, columns = np.delete(np.arange(9), 3), np.arange(1, 7)
    solve = lambda geometry, *masses: otjax.solve(
        otjax.EntropicProblem(geometry, *masses, marginals=otjax.Unbalanced(0.5))
    )
    solution = solve(otjax.PointCloud(x, y, cost=near, engine=engine))
    rest = solve(otjax.CostMatrix(cost[rows][:, columns]), np.full(8, 1 / 9), np.full(6, 1 / 7))
    epsilon = rest.problem.epsilon
    np.testing.assert_allclose(solution.problem.epsilon, epsilon, rtol=1e-12)
    price = 0.5 * (1 / 9 + 1 / 7) + epsilon * (1 - 8 / 9 * 6 / 7)
    np.testing.assert_allclose(solution.value, rest.value + price, rtol=1e-9)


def _outputs(geometry, of_epsilon, *masses):
    """All that scales, of float32 points or costs."""

    def value(geometry, epsilon, linear):
        problem = otjax.EntropicProblem(geometry, *masses, epsilon=epsilon)
        solution = otjax.solve(problem, throw=False)
        return solution.value_linear if linear else solution.value, solution

    slopes = [
        eqx.filter_value_and_grad(lambda both, linear=linear: value(*both, linear), has_aux=True)(
            (geometry, of_epsilon)
        )
        for linear in (False, True)
    ]
    (of_value, solution), gradient = slopes[0]
    (linear, _), gradient_linear = slopes[1]
    outputs = {
        "value": of_value,
        "value_linear": linear,
        "potential": solution.potentials[0],
        "d value": jax.tree.leaves(gradient[0])[0],
        "d value_linear": jax.tree.leaves(gradient_linear[0])[0],
        "d value / d epsilon": gradient[1],
        "d value_linear / d epsilon": gradient_linear[1],
        "result": solution.result._value,
    }
    if isinstance(geometry, otjax.PointCloud):
        outputs["transport"] = solution.transport(geometry.x + geometry.y[:1])
        outputs["potential there"] = solution.potential(geometry.x + geometry.y[:1])
    return outputs


_POWERS = {"d value": 1, "d value_linear": 1, "transport": 1} | {
    name: 0 for name in ("d value / d epsilon", "d value_linear / d epsilon", "result")
}


@pytest.mark.parametrize(
    "engine",
    [otjax.Dense(), pytest.param(otjax.Streamed(8), marks=pytest.mark.slow)],
    ids=["dense", "streamed"],
)
def test_answers_scale_with_the_points_to_the_last_bit(engine):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(14, 2)), rng.normal(size=(11, 2)) + 1

    @jax.jit
    def outputs(scale):
        clouds = (jnp.asarray(points, jnp.float32) * scale for points in (x, y))
        return _outputs(otjax.PointCloud(*clouds, engine=engine), 0.2 * scale**2)

    expected = outputs(jnp.float32(1.0))
    assert expected["result"] == 0
    for exponent in (-59, -50, -27, 15, 50):
        for name, got in outputs(jnp.float32(2.0**exponent)).items():
            back = np.ldexp(np.asarray(got, float), -exponent * _POWERS.get(name, 2))
            # The least numbers that float32 has are coarse.
            rtol = 3e-3 if exponent < -55 else 0
            size = np.max(np.abs(np.asarray(expected[name])))
            np.testing.assert_allclose(
                back, expected[name], rtol=0, atol=rtol * size, err_msg=f"{name}, 2^{exponent}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_default_epsilon_penalties_and_certificates_scale_too(dtype):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(n, 3)), dtype) for n in (14, 11))

    @jax.jit
    def outputs(scale):
        unit = scale**2
        cloud = otjax.PointCloud(x * scale, y * scale)
        costs = otjax.CostMatrix(otjax.SqEuclidean().pairwise(x, y) * unit)
        found = {}
        for name, geometry in (("points", cloud), ("matrix", costs)):
            free = otjax.EntropicProblem(geometry, marginals=otjax.Unbalanced(0.7 * unit))
            tied = otjax.solve(otjax.EntropicProblem(geometry), throw=False)
            loose = otjax.solve(free, throw=False)
            proof = otjax.certify(tied)
            found[name] = tuple(
                number / unit for number in (
                    tied.problem.epsilon, tied.value, loose.value, proof.lower, proof.upper,
                )
            )  # fmt: skip
        divergence = otjax.sinkhorn_divergence(x * scale, y * scale)
        return found | {"divergence": divergence / unit}

    expected = outputs(jnp.asarray(1.0, dtype))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(expected))
    for exponent in (-50, -20, 20, 49) if dtype == jnp.float32 else (-400, 400):
        got = outputs(jnp.asarray(2.0**exponent, dtype))
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6, 1e7])
def test_large_epsilon_in_single_precision(ratio):
    x, y = (np.random.default_rng(k).normal(size=(20, 3)).astype(np.float32) for k in (0, 1))
    y = y + np.float32(0.3)
    cost = np.square(x[:, None].astype(float) - y).sum(-1)
    means = x.mean(0, dtype=float) - y.mean(0, dtype=float)

    def limit(cost):
        # To first order in 1 / epsilon: what remains of the cost's variance without its two sides.
        centred = cost - cost.mean(0) - cost.mean(1)[:, None] + cost.mean()
        return cost.mean() - np.mean(centred**2) / (2 * ratio * mean)

    mean = cost.mean()
    both, divergence = _at_large_epsilon(x, y, np.float32(ratio * mean))
    of_y = np.square(y[:, None].astype(float) - y).sum(-1)
    of_x = np.square(x[:, None].astype(float) - x).sum(-1)
    for value in both:
        np.testing.assert_allclose(value, limit(cost), rtol=1e-4)
    expected = means @ means if ratio > 1e5 else limit(cost) - 0.5 * (limit(of_x) + limit(of_y))
    np.testing.assert_allclose(divergence, expected, rtol=1e-3 if ratio < 1e5 else 1e-4)


@jax.jit
def _at_large_epsilon(x, y, epsilon):
    geometry = otjax.PointCloud(x, y)
    values = [
        otjax.solve(
            otjax.EntropicProblem(geometry, epsilon=epsilon, marginals=marginals), throw=False
        ).value
        # A penalty that is hard enough for the mean to be moved, and far below epsilon.
        for marginals in (otjax.Balanced(), otjax.Unbalanced(jnp.float32(3e5)))
    ]
    return values, otjax.sinkhorn_divergence(x, y, epsilon=epsilon)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_penalties_so_soft_that_all_mass_vanishes(dtype):
    cost = jnp.asarray(np.random.default_rng(0).random((6, 5)) + 1e3, dtype)
    problem = otjax.EntropicProblem(
        otjax.CostMatrix(cost), epsilon=0.1, marginals=otjax.Unbalanced(0.5)
    )
    solution = otjax.solve(problem)
    np.testing.assert_allclose(solution.value, 2 * 0.5 + 0.1, rtol=1e-5)
    assert jnp.all(solution.plan.as_matrix() == 0)


def test_a_result_prints_its_text_and_a_failure_its_numbers():
    x, y = _clouds()
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.05)
    solution = otjax.solve(problem, max_steps=2, throw=False)
    assert "Raise `max_steps`" in str(solution.result)
    assert "successful" in str(RESULTS.successful)
    with pytest.raises(RuntimeError, match=r"`max_steps`.*2 steps in float64.*`epsilon` of 0\.05"):
        otjax.solve(problem, max_steps=2)


def test_double_precision_is_read_where_there_is_some():
    x, y = _clouds()
    solution = otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=1.0))
    with jax.enable_x64(False):
        for read in (
            lambda: solution.value_linear,
            lambda: solution.plan,
            lambda: solution.marginals,
            lambda: solution.transport(np.zeros((2, 3), np.float32)),
            lambda: otjax.certify(solution),
            lambda: otjax.solve(solution.problem),
            lambda: otjax.sinkhorn_divergence(x, y),
        ):
            with pytest.raises(ValueError, match="enable_x64"):
                read()


def test_double_precision_within_jit_is_refused_in_words():
    x, y = (points.astype(np.float32) for points in _clouds())

    def solved(x, y):
        return otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y)), throw=False).value

    losses = {
        "solve": solved,
        "divergence": otjax.sinkhorn_divergence,
        "gradient": jax.grad(otjax.sinkhorn_divergence),
        "vmap": lambda x, y: jax.vmap(otjax.wasserstein, (None, 0))(x, y[None]),
        "matrix": lambda x, y: otjax.solve_exact(otjax.CostMatrix(x @ y.T), throw=False).value,
    }
    with jax.enable_x64(False):
        for loss in losses.values():

            def inside(x, y, loss=loss):
                with jax.enable_x64(True):
                    return jnp.float32(loss(x.astype(float), y.astype(float)))

            with pytest.raises(ValueError, match="around the call of what is under `jax.jit`"):
                jax.jit(inside)(x, y)


def test_potentials_of_pot_are_a_start_and_ours_are_its():
    x, y = _clouds()
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 1.5, n) for n in (30, 40))
    a, b, epsilon = a / a.sum(), b / b.sum(), 0.5
    cost = np.asarray(helpers.cost_matrix(x, y, otjax.SqEuclidean()))
    theirs = ot.solve(cost, a, b, reg=epsilon, reg_type="entropy", tol=1e-12, max_iter=10_000)
    logs = [epsilon * np.asarray(one) for one in theirs.potentials]
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=epsilon)
    init = otjax.without_masses(*logs, a, b, epsilon=epsilon)
    warm = otjax.solve(problem, init=init)
    assert warm.stats.num_steps <= 2
    f, g = otjax.with_masses(*warm.potentials, a, b, epsilon=epsilon)
    plan = np.exp((np.asarray(f)[:, None] + np.asarray(g) - cost) / epsilon)
    np.testing.assert_allclose(plan, theirs.plan, atol=1e-9)
    back = otjax.without_masses(f, g, a, b, epsilon=epsilon)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=1e-12), back, warm.potentials)
    # Points of mass zero.
    f, _ = otjax.with_masses(
        jnp.ones(2), jnp.ones(1), jnp.array([1.0, 0.0]), jnp.ones(1), epsilon=1
    )
    assert f[1] == -jnp.inf
    f, _ = otjax.without_masses(f, jnp.ones(1), jnp.array([1.0, 0.0]), jnp.ones(1), epsilon=1)
    np.testing.assert_array_equal(f, [1.0, 0.0])
    with pytest.raises(ValueError, match="`f` and `a`"):
        otjax.with_masses(jnp.ones(2), jnp.ones(1), jnp.ones(3), jnp.ones(1), epsilon=1.0)


@pytest.fixture
def fuzz(monkeypatch):
    """The script of random problems, and its bounds in float64."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("fuzz")
    sys.modules.pop("fuzz")


def test_the_bounds_that_answers_are_held_against(fuzz):
    """Closed form: two points each, equal masses, and the plan that they have."""
    cost, half = np.array([[0.0, 1.0], [1.0, 0.0]]), np.full(2, 0.5)
    zero, infinite = np.zeros(2), (np.inf, np.inf)
    value = -0.3 * np.log(0.5 + 0.5 * np.exp(-1 / 0.3))
    np.testing.assert_allclose(
        fuzz.bounds(cost, half, half, 0.3, infinite, zero, zero), value, rtol=1e-4
    )
    # A plan that is not one, a NaN and a value that is off are found.
    given = fuzz.Problem(
        ("matrix", "balanced", "float64"), (cost,), half, half, np.array(0.3),
        (np.array(1.0), np.array(1.0)),
    )  # fmt: skip
    answer = fuzz.ask(given)
    assert fuzz.faults(given, answer) == []
    wrong = lambda where, number: fuzz.faults(
        given, answer._replace(solution=eqx.tree_at(where, answer.solution, number))
    )
    assert "value" in wrong(lambda s: s.value, jnp.asarray(value * 1.01))[0]
    shifted = answer.solution.inner[0] + jnp.array([0.01, 0.0])
    assert "marginal error" in wrong(lambda s: s.inner[0], shifted)[0]
    nan = answer._replace(numbers=jnp.array([jnp.nan]))
    assert "not finite" in fuzz.faults(given, nan)[0]


@pytest.mark.slow
@hypothesis.settings(
    max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_no_number_lies(fuzz, unchecked, seed):
    given = fuzz.problem(seed, ("small", "middle"))
    assert fuzz.faults(given, fuzz.ask(given)) in ([], fuzz.UNKNOWN)


@pytest.mark.slow
# Potentials of points of next to no mass: larger than all others, and beyond epsilon.
@pytest.mark.parametrize("seed", [3002, 5001, 6038, 9105])
def test_points_of_next_to_no_mass_blur_nothing(fuzz, unchecked, seed):
    given = fuzz.problem(seed)
    assert fuzz.faults(given, fuzz.ask(given)) == []


@pytest.mark.slow
def test_what_rounding_allows_is_told_by_potentials_with_their_best_constant(fuzz, unchecked):
    given = fuzz.problem(21656, ("small", "middle"))
    assert fuzz.faults(given, fuzz.ask(given)) in ([], fuzz.UNKNOWN)


# What each member of a batch has at its edge, and what a solve says of it.
MEMBERS = {
    "plain": "successful",
    "not a number": "nonfinite_input",
    "far away": "successful",
    "a size of 1e9": "successful",
    "tails": "successful",
    "an epsilon below rounding": "unresolved_epsilon",
    "a negative mass": "invalid_mass",
    "an epsilon of zero": "invalid_epsilon",
    "plain again": "successful",
}


def _members(dtype):
    rng = np.random.default_rng(3)
    count = len(MEMBERS)
    x, y = rng.normal(size=(count, 14, 2)), rng.normal(size=(count, 11, 2)) + 0.5
    a = np.full((count, 14), 1 / 14)
    epsilon = np.full(count, 0.2)
    x[1, 3] = np.nan
    x[2], y[2] = x[2] + 300, y[2] + 300
    x[3], y[3], epsilon[3] = 1e9 * x[3], 1e9 * y[3], 0.2e18
    a[4] = scipy.special.softmax(-6.0 * np.arange(14))
    epsilon[5] = 1e-9 if dtype == jnp.float32 else 1e-18
    a[6, 0] = -0.1
    epsilon[7] = 0
    return tuple(jnp.asarray(array, dtype) for array in (x, y, a, epsilon))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dense", "streamed"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", helpers.SOLVERS)
def test_a_bad_member_of_a_batch_changes_no_other(name, dtype, engine):
    def solve(x, y, a, epsilon):
        cloud = helpers.ENGINES[engine](x, y, otjax.SqEuclidean())
        problem = otjax.EntropicProblem(cloud, a, epsilon=epsilon)
        return otjax.solve(problem, helpers.SOLVERS[name](), throw=False)

    members = _members(dtype)
    batch, alone = jax.vmap(solve)(*members), eqx.filter_jit(solve)
    for k, expected in enumerate(MEMBERS.values()):
        member = lambda array, k=k: array[k]
        one = alone(*map(member, members))
        assert one.result == getattr(RESULTS, expected), (k, RESULTS[one.result])
        assert jax.tree.map(member, batch.result) == one.result
        # To the tolerance: rounding may end one program a step before the other; and where it
        # decides everything the value alone is known.
        known = [lambda s: s.value, lambda s: s.potentials, lambda s: s.marginals]
        for numbers in known[:1] if expected == "unresolved_epsilon" else known:
            members_of = jax.tree.leaves(jax.vmap(numbers)(batch))
            for one_of, many in zip(jax.tree.leaves(numbers(one)), members_of, strict=True):
                assert np.all(np.isfinite(one_of))
                atol = 1e-2 * np.max(np.abs(one_of))
                np.testing.assert_allclose(many[k], one_of, rtol=1e-4, atol=atol)
    # And so do the derivatives of a loss, which are zero where the input is invalid.
    loss = lambda x, y, a, epsilon: otjax.sinkhorn_divergence(x, y, a, epsilon=epsilon)
    values, gradients = jax.vmap(jax.value_and_grad(loss))(*members)
    invalid = np.array(
        [status not in ("successful", "unresolved_epsilon") for status in MEMBERS.values()]
    )
    np.testing.assert_array_equal(np.isnan(values), invalid)
    assert np.all(np.isfinite(gradients))
    np.testing.assert_array_equal(np.any(gradients != 0, axis=(1, 2)), ~invalid)
