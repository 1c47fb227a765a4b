"""Values and plans that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


GRID = np.linspace(-12.0, 12.0, 320)


def _on_grid(mean: float, variance: float, mass: float = 1.0) -> jax.Array:
    """A Gaussian measure on the grid."""
    weights = np.exp(-((GRID - mean) ** 2) / (2 * variance))
    return jnp.asarray(mass * weights / weights.sum())


def _solve(a: jax.Array, b: jax.Array, epsilon: float, marginals: object) -> otjax.Solution:
    cloud = otjax.PointCloud(jnp.asarray(GRID[:, None]), jnp.asarray(GRID[:, None]))
    problem = otjax.EntropicProblem(cloud, a, b, epsilon=epsilon, marginals=marginals)
    return otjax.solve(problem)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 4.0])
def test_entropic_gaussians(epsilon: float) -> None:
    """Janati et al. (2020, arXiv:2006.02572): the value and the plan's cross-covariance."""
    (m_a, v_a), (m_b, v_b) = (0.5, 0.7), (-1.0, 1.8)
    s2 = epsilon / 2
    d = np.sqrt(4 * v_a * v_b + s2**2)
    expected = (m_a - m_b) ** 2 + v_a + v_b - d + s2 * (1 - np.log(2 * s2)) + s2 * np.log(d + s2)
    solution = _solve(_on_grid(m_a, v_a), _on_grid(m_b, v_b), epsilon, otjax.Balanced())
    np.testing.assert_allclose(solution.value, expected, rtol=1e-6)
    plan = np.asarray(solution.plan.as_matrix())
    covariance = (GRID - m_a) @ plan @ (GRID - m_b)
    np.testing.assert_allclose(covariance, d / 2 - s2 / 2, rtol=1e-5)


class _Quadratic:
    """c0 + c1 x + c2 x^2, and its integrals against Gaussian measures."""

    def __init__(self, c0: float, c1: float, c2: float):
        self.c = np.array([c0, c1, c2])

    def exp_integral(self, mean: float, variance: float, mass: float) -> float:
        """The integral of exp of this against a Gaussian measure."""
        precision = 1 / variance - 2 * self.c[2]
        linear = mean / variance + self.c[1]
        exponent = self.c[0] + linear**2 / (2 * precision) - mean**2 / (2 * variance)
        return mass * np.exp(exponent) / np.sqrt(variance * precision)


def _softmin(
    g: _Quadratic, epsilon: float, mean: float, variance: float, mass: float
) -> _Quadratic:
    """-epsilon log int exp((g(y) - (x - y)^2) / epsilon) of a Gaussian measure: a quadratic."""
    c0, c1, c2 = g.c / epsilon
    precision = 1 / variance - 2 * (c2 - 1 / epsilon)
    linear = mean / variance + c1
    log_integral = (
        c0
        + linear**2 / (2 * precision)
        - mean**2 / (2 * variance)
        - np.log(variance * precision) / 2
        + np.log(mass),
        linear * (2 / epsilon) / precision,
        -1 / epsilon + (2 / epsilon) ** 2 / (2 * precision),
    )
    return _Quadratic(*(-epsilon * np.array(log_integral)))


@pytest.mark.parametrize("epsilon, rho", [(0.5, 1.0), (1.0, 0.3), (0.3, 10.0)])
def test_unbalanced_entropic_gaussians(epsilon: float, rho: float) -> None:
    """Between Gaussians the potentials are quadratics, and each half-step is exact for them
    (Janati et al. 2020): iterated to the end, they give the exact value and mass."""
    alpha, beta = (0.5, 0.7, 1.3), (-0.8, 1.5, 0.6)
    damping = rho / (rho + epsilon)
    f = g = _Quadratic(0.0, 0.0, 0.0)
    for _ in range(2000):
        f = _Quadratic(*(damping * _softmin(g, epsilon, *beta).c))
        g = _Quadratic(*(damping * _softmin(f, epsilon, *alpha).c))
    over = _Quadratic(*((f.c - _softmin(g, epsilon, *beta).c) / epsilon))
    plan_mass = over.exp_integral(*alpha)
    value = -epsilon * (plan_mass - alpha[2] * beta[2])
    for potential, measure in ((f, alpha), (g, beta)):
        kept = _Quadratic(*(-potential.c / rho)).exp_integral(*measure)
        value += rho * (measure[2] - kept)
    solution = _solve(_on_grid(*alpha), _on_grid(*beta), epsilon, otjax.Unbalanced(rho))
    np.testing.assert_allclose(solution.value, value, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(solution.marginals[0]), plan_mass, rtol=1e-6)


@pytest.mark.parametrize("epsilon, rho", [(0.1, 1.0), (2.0, 0.2)])
def test_two_diracs(epsilon: float, rho: float) -> None:
    p, q, cost = 0.7, 2.5, 1.3
    problem = otjax.EntropicProblem(
        otjax.CostMatrix(jnp.array([[cost]])),
        jnp.array([p]),
        jnp.array([q]),
        epsilon=epsilon,
        marginals=otjax.Unbalanced(rho),
    )
    mass = otjax.solve(problem).plan.as_matrix()[0, 0]
    power = (epsilon + rho) / (epsilon + 2 * rho)
    expected = (p * q) ** power * np.exp(-cost / (epsilon + 2 * rho))
    np.testing.assert_allclose(mass, expected, rtol=1e-9)


def test_two_by_two_unbalanced() -> None:
    """The published example that tells the references of the KL apart (POT's issue 691)."""
    problem = otjax.EntropicProblem(
        otjax.CostMatrix(jnp.array([[0.0, 1.0], [1.0, 0.0]])),
        jnp.array([0.5, 0.5]),
        jnp.array([0.5, 0.5]),
        epsilon=1.0,
        marginals=otjax.Unbalanced(1.0),
    )
    plan = otjax.solve(problem).plan.as_matrix()
    expected = [[0.32205361, 0.1184769], [0.1184769, 0.32205361]]
    np.testing.assert_allclose(plan, expected, rtol=1e-6)
    assert not np.allclose(plan, 0.25)
