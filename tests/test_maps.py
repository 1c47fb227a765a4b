"""Entropic maps and potentials, at the points of the problem and elsewhere."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
@pytest.mark.parametrize("engine", ["dense", "streamed"])
def test_maps_at_the_points_are_projections_of_the_plan(engine: str, marginals: str) -> None:
    problem = helpers.make_problem(engine=engine, marginals=marginals, zeros=True)
    solution = otjax.solve(problem)
    x, y = helpers.points()
    plan = solution.plan.as_matrix()
    alive = np.asarray(problem.a > 0)
    projected = plan @ y / plan.sum(1, keepdims=True)
    np.testing.assert_allclose(solution.transport(x)[alive], projected[alive], rtol=1e-6)
    alive = np.asarray(problem.b > 0)
    projected = plan.T @ x / plan.sum(0)[:, None]
    np.testing.assert_allclose(solution.T.transport(y)[alive], projected[alive], rtol=1e-6)


@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
def test_potentials_extend_to_new_points(marginals: str) -> None:
    problem = helpers.make_problem(marginals=marginals)
    solution = otjax.solve(problem)
    x, y = helpers.points()
    np.testing.assert_allclose(solution.potential(x), solution.potentials[0], atol=1e-8)
    np.testing.assert_allclose(solution.T.potential(y), solution.potentials[1], atol=1e-8)
    new = x[:4] + 0.1
    cost = helpers.cost_matrix(new, y, otjax.SqEuclidean())
    scores = (solution.potentials[1][None, :] - cost) / problem.epsilon
    softmin = -problem.epsilon * jax.nn.logsumexp(scores, axis=1, b=problem.b[None, :])
    damping = 1.0 if marginals == "balanced" else 0.7 / (0.7 + 0.3)
    np.testing.assert_allclose(solution.potential(new), damping * softmin, rtol=1e-9)


def test_the_map_of_a_squared_cost_is_the_gradient_of_its_potential() -> None:
    """T(x) = x - grad f(x) / 2 for the squared distance, not halved."""
    solution = otjax.solve(helpers.make_problem(epsilon=0.2))
    new = helpers.points(5)[0]
    slopes = jax.vmap(jax.grad(lambda point: solution.potential(point[None, :])[0]))(new)
    np.testing.assert_allclose(solution.transport(new), new - 0.5 * slopes, rtol=1e-8)


def test_small_epsilon_recovers_an_affine_map() -> None:
    x = helpers.points(1, n=400, d=1)[0]
    solution = otjax.solve(
        otjax.EntropicProblem(otjax.PointCloud(x, 2 * x + 1), epsilon=1e-2),
        otjax.Sinkhorn(tolerance=1e-3),
    )
    inner = x[jnp.abs(x[:, 0]) < 1]
    np.testing.assert_allclose(solution.transport(inner), 2 * inner + 1, atol=0.05)
    np.testing.assert_allclose(solution.T.transport(2 * inner + 1), inner, atol=0.05)


def test_a_point_far_from_all_others_has_an_image() -> None:
    solution = otjax.solve(helpers.make_problem(epsilon=0.01), throw=False)
    image = solution.transport(jnp.array([[1e4, -1e4]]))
    assert np.all(np.isfinite(image))


def test_a_cost_matrix_has_no_maps() -> None:
    solution = otjax.solve(helpers.make_problem(engine="matrix"))
    for method in (solution.transport, solution.potential):
        with pytest.raises(ValueError, match="PointCloud"):
            method(jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="`x`"):
        otjax.solve(helpers.make_problem()).transport(jnp.zeros(2))
