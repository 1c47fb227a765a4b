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


@pytest.mark.parametrize("cost", ["squared euclidean", "euclidean"])
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
