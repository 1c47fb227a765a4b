"""The Sinkhorn divergence."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


SOLVER = otjax.Sinkhorn(tolerance=1e-11)


def _by_hand(x, y, a, b, epsilon, marginals, cost) -> jax.Array:
    """Three solves by the general solver, put together."""

    def value(x, y, a, b):
        cloud = otjax.PointCloud(x, y, cost=cost)
        problem = otjax.EntropicProblem(cloud, a, b, epsilon=epsilon, marginals=marginals)
        return otjax.solve(problem, SOLVER).value

    debiased = value(x, y, a, b) - 0.5 * (value(x, x, a, a) + value(y, y, b, b))
    return debiased + 0.5 * epsilon * (jnp.sum(a) - jnp.sum(b)) ** 2


@pytest.mark.parametrize("cost", ["SqEuclidean", "Euclidean"])
@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
def test_equals_three_solves(marginals: str, cost: str) -> None:
    x, y = helpers.points()
    a, b = helpers.masses(zeros=True, totals=(1.0, 1.0 if marginals == "balanced" else 1.7))
    side, ground = helpers.MARGINALS[marginals](0.7), helpers.COSTS[cost]()
    value = otjax.sinkhorn_divergence(
        x, y, a, b, epsilon=0.3, cost=ground, marginals=side, solver=SOLVER
    )
    expected = _by_hand(x, y, a, b, 0.3, side, ground)
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    swapped = otjax.sinkhorn_divergence(
        y, x, b, a, epsilon=0.3, cost=ground, marginals=side, solver=SOLVER
    )
    np.testing.assert_allclose(swapped, value, rtol=1e-8)


def test_gaussians() -> None:
    """Janati et al. (2020): each of the three terms is known."""
    epsilon, s2 = 1.0, 0.5
    grid = np.linspace(-10, 10, 220)

    def value(m_a, v_a, m_b, v_b):
        d = np.sqrt(4 * v_a * v_b + s2**2)
        drift = (m_a - m_b) ** 2 + v_a + v_b - d
        return drift + s2 * (1 - np.log(2 * s2)) + s2 * np.log(d + s2)

    def measure(mean, variance):
        weights = np.exp(-((grid - mean) ** 2) / (2 * variance))
        return jnp.asarray(weights / weights.sum())

    alpha, beta = (0.5, 0.7), (-1.0, 1.4)
    expected = value(*alpha, *beta) - 0.5 * (value(*alpha, *alpha) + value(*beta, *beta))
    points = jnp.asarray(grid[:, None])
    found = otjax.sinkhorn_divergence(
        points, points, measure(*alpha), measure(*beta), epsilon=epsilon
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_zero_with_zero_gradient_at_equality(dtype: jnp.dtype, epsilon: float) -> None:
    x, y = helpers.points(dtype=dtype)
    loss = jax.jit(
        jax.value_and_grad(lambda x, y: otjax.sinkhorn_divergence(x, y, epsilon=epsilon))
    )
    shuffled = x[np.random.default_rng(0).permutation(helpers.N)]
    value, gradient = loss(x, shuffled)
    scale = jnp.max(jnp.abs(loss(x, shuffled + 0.3)[1]))
    assert 0 <= value < (1e-5 if dtype == jnp.float32 else 1e-12)
    assert jnp.max(jnp.abs(gradient)) < (2e-3 if dtype == jnp.float32 else 1e-7) * scale


def test_gradient_and_default_epsilon() -> None:
    x, y = helpers.points()
    costs = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    fixed = 0.05 * (jnp.mean(costs) - jnp.min(costs))
    default = jax.value_and_grad(lambda x: otjax.sinkhorn_divergence(x, y, solver=SOLVER))
    held = jax.jit(lambda x: otjax.sinkhorn_divergence(x, y, epsilon=fixed, solver=SOLVER))
    value, gradient = default(x)
    direction = helpers.points(3)[0]
    numeric = helpers.central_difference(held, x, direction)
    np.testing.assert_allclose(value, held(x), rtol=1e-12)
    np.testing.assert_allclose(helpers.inner_product(gradient, direction), numeric, rtol=1e-7)


def test_auxiliary_solutions() -> None:
    x, y = helpers.points()
    value, (xy, xx, yy) = otjax.sinkhorn_divergence(x, y, epsilon=0.3, has_aux=True)
    np.testing.assert_allclose(value, xy.value - 0.5 * (xx.value + yy.value), rtol=1e-12)
    for solution in (xy, xx, yy):
        assert solution.result == otjax.RESULTS.successful
    for solution in (xx, yy):
        np.testing.assert_allclose(*solution.potentials, rtol=1e-14)
        # A symmetric step is one product with the plan, a step between measures is two.
        assert solution.stats.num_steps < 2 * xy.stats.num_steps


def test_the_solver_is_not_ignored() -> None:
    x, y = helpers.points()
    _, rough = otjax.sinkhorn_divergence(
        x, y, epsilon=0.3, solver=otjax.Sinkhorn(tolerance=1e-2), has_aux=True
    )
    _, fine = otjax.sinkhorn_divergence(x, y, epsilon=0.3, solver=SOLVER, has_aux=True)
    for loose, tight in zip(rough, fine, strict=True):
        assert 1e-10 < loose.stats.marginal_error < 1e-2
        assert tight.stats.marginal_error < 1e-11


def test_never_nan_and_never_silent() -> None:
    x, y = helpers.points()
    loss = jax.value_and_grad(
        lambda x: otjax.sinkhorn_divergence(x, y, epsilon=0.3, has_aux=True), has_aux=True
    )
    for bad in (jnp.nan, jnp.inf):
        (value, solutions), gradient = loss(x.at[2, 1].set(bad))
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))
        assert solutions.xy.result == otjax.RESULTS.nonfinite_input
        assert solutions.xx.result == otjax.RESULTS.nonfinite_input
        assert solutions.yy.result == otjax.RESULTS.successful


def test_invalid_input_is_nan_with_no_gradient_where_there_is_no_status() -> None:
    x, y = helpers.points()
    a, _ = helpers.masses()
    bad = {
        "NaN": (x.at[2, 1].set(jnp.nan), a),
        "infinity": (x.at[2, 1].set(jnp.inf), a),
        "negative mass": (x, a.at[0].set(-0.1)),
        "another total": (x, 2 * a),
    }
    loss = jax.jit(
        jax.value_and_grad(lambda x, a: otjax.sinkhorn_divergence(x, y, a), argnums=(0, 1))
    )
    for name, inputs in bad.items():
        value, gradients = loss(*inputs)
        assert jnp.isnan(value), name
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0, err_msg=name)
    value, gradients = loss(x, a)
    assert jnp.isfinite(value) and jnp.any(gradients[0] != 0)


def test_the_solver_that_was_asked_for_solves_all_three() -> None:
    x, y = helpers.points()

    class Counted(otjax.AbstractSolver):
        inner: otjax.AbstractSolver

        def run(self, problem, init, max_steps):
            runs.append(problem.geometry.shape)
            return self.inner.run(problem, init, max_steps)

    runs = []
    otjax.sinkhorn_divergence(x, y, epsilon=0.3, solver=Counted(otjax.LBFGS()))
    n, m = helpers.N, helpers.M
    assert set(runs) == {(n, m), (n, n), (m, m)}


@pytest.mark.slow
def test_over_geometries_it_is_that_of_the_points() -> None:
    x, y = helpers.points()
    a, b = helpers.masses()
    cost = otjax.Euclidean()
    expected, expected_aux = otjax.sinkhorn_divergence(
        x, y, a, b, epsilon=0.3, cost=cost, tolerance=1e-10, has_aux=True
    )
    matrices = (
        otjax.CostMatrix(helpers.cost_matrix(*pair, cost)) for pair in ((x, y), (x, x), (y, y))
    )
    value, aux = otjax.divergence(*matrices, a, b, epsilon=0.3, tolerance=1e-10)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for got, same in zip(aux, expected_aux, strict=True):
        assert got.stats.marginal_error < 1e-10
        np.testing.assert_allclose(got.value, same.value, rtol=1e-9)
    streamed = (
        otjax.PointCloud(*pair, cost=cost, engine=otjax.Streamed(helpers.BLOCK))
        for pair in ((x, y), (x, x), (y, y))
    )
    value, aux = otjax.divergence(*streamed, a, b, epsilon=0.3, tolerance=1e-10, max_steps=3)
    assert [int(one.stats.num_steps) for one in aux] == [3, 3, 3]


def test_a_self_term_of_other_samples_and_one_that_stays() -> None:
    x, y = helpers.points()
    other, _ = helpers.points(5)
    cloud = otjax.PointCloud
    fixed = otjax.solve(otjax.EntropicProblem(cloud(y, y), epsilon=0.3), tolerance=1e-10)
    general = otjax.Sinkhorn(tolerance=1e-10)
    of = lambda x: otjax.divergence(
        cloud(x, y), cloud(x, other), fixed, tolerance=1e-10, self_solver=general
    )
    value, aux = of(x)
    terms = (
        otjax.solve(otjax.EntropicProblem(geometry, epsilon=0.3), general).value
        for geometry in (cloud(x, y), cloud(x, other), cloud(y, y))
    )
    xy, xx, yy = terms
    np.testing.assert_allclose(value, xy - 0.5 * (xx + yy), rtol=1e-9)
    assert aux.yy is not None and aux.yy.result == otjax.RESULTS.successful
    # No solve of the constant: its steps are those it took once, and it has no derivative.
    direction = helpers.points(3)[0]
    gradient = jax.grad(lambda x: of(x)[0])(x)
    numeric = helpers.central_difference(lambda x: of(x)[0], x, direction)
    np.testing.assert_allclose(helpers.inner_product(gradient, direction), numeric, rtol=1e-6)
    # A constant of another epsilon is no part of this divergence.
    _, aux = otjax.divergence(cloud(x, y), cloud(x, x), fixed, epsilon=0.2)
    assert aux.yy.result == otjax.RESULTS.other_epsilon


def test_warm_starts_save_steps_in_training_and_change_no_gradient() -> None:
    x, y = helpers.points()

    @jax.jit
    def step(x, init):
        loss = lambda x: otjax.sinkhorn_divergence(
            x, y, epsilon=0.05, tolerance=1e-8, init=init, has_aux=True
        )
        (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        steps = jnp.stack([one.stats.num_steps for one in aux])
        return x - 0.05 * helpers.N * gradient, aux.potentials, gradient, jnp.sum(steps)

    cold = jax.jit(
        jax.grad(lambda x: otjax.sinkhorn_divergence(x, y, epsilon=0.05, tolerance=1e-8))
    )
    zeros = lambda n, m: (jnp.zeros(n), jnp.zeros(m))
    n, m = helpers.N, helpers.M
    none = (zeros(n, m), zeros(n, n), zeros(m, m))
    init, warm_steps, cold_steps = none, [], []
    for _ in range(10):
        _, _, _, from_nothing = step(x, none)
        moved, init, gradient, steps = step(x, init)
        np.testing.assert_allclose(gradient, cold(x), atol=1e-7)
        warm_steps.append(int(steps))
        cold_steps.append(int(from_nothing))
        x = moved
    assert sum(warm_steps[1:]) < 0.8 * sum(cold_steps[1:])
