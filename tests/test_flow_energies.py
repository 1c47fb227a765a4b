"""Energies against sums in NumPy, their flows and proximal steps against Ornstein-Uhlenbeck."""

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest
import scipy.stats

from otjax import flow, nn, RESULTS


def quadratic(x):
    return 0.5 * jnp.sum(jnp.square(x))


def test_energies_are_sums_over_particles():
    x, _ = helpers.points(n=7)
    masses = jnp.arange(7.0) / 21  # one of them zero
    np.testing.assert_allclose(
        flow.potential_energy(quadratic, x, masses), np.sum(masses * np.sum(x**2, axis=1) / 2)
    )
    densities = [
        sum(
            m * scipy.stats.multivariate_normal.pdf(p, q, 0.3**2)
            for m, q in zip(masses.tolist(), np.asarray(x), strict=True)
        )
        for p in np.asarray(x)
    ]
    expected = np.sum(masses * np.log(densities))
    function = lambda x: flow.entropy(x, masses, bandwidth=0.3)
    np.testing.assert_allclose(function(x), expected, rtol=1e-12)
    np.testing.assert_allclose(flow.entropy(x[1:], masses[1:], bandwidth=0.3), expected)
    way = jr.normal(jr.key(0), x.shape)
    _, forward = jax.jvp(function, (x,), (way,))
    np.testing.assert_allclose(forward, helpers.central_difference(function, x, way), rtol=1e-7)
    assert np.all(jax.grad(function)(x)[0] == 0)
    single = flow.entropy(x.astype(jnp.float32), bandwidth=jnp.float32(0.3))
    assert single.dtype == jnp.float32


@pytest.mark.slow
def test_particles_follow_the_equation_of_fokker_and_planck():
    """From N(0, 4) in the potential x^2 / 2 the variance is 1 + 3 e^{-2t}."""
    x = jnp.asarray(2 * scipy.stats.norm.ppf((np.arange(100) + 0.5) / 100))[:, None]
    energy = lambda x: flow.potential_energy(quadratic, x) + flow.entropy(x, bandwidth=0.2)
    end = flow.gradient_flow(energy, x, step_size=0.02, max_steps=25, tolerance=1e-4)
    assert end.time > 0.3
    np.testing.assert_allclose(np.var(end.samples), 1 + 3 * np.exp(-2 * end.time), rtol=0.05)


# Proximal steps


def slope_of_step(variance, h, temperature=1.0):
    """The slope s of the exact step of N(0, v) in x^2 / 2: (s - 1) v / h + s v = T / s."""
    return (1 + np.sqrt(1 + 4 * (1 + h) * h * temperature / variance)) / (2 * (1 + h))


def test_the_loss_of_a_step_is_least_at_the_exact_one():
    h, temperature = 0.2, 0.7
    x = np.random.default_rng(0).normal(size=(50, 2))
    x = jnp.asarray((x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, ddof=0))).T)
    x = x * jnp.array([[0.5, 2.0]])
    exact = jnp.asarray(slope_of_step(np.array([0.25, 4.0]), h, temperature))

    @jax.jit
    def loss_at(slopes):
        loss = lambda s: flow.jko_loss(
            lambda x: 0.5 * jnp.sum(s * jnp.square(x)), x, quadratic,
            step=h, temperature=temperature, has_aux=True,
        )  # fmt: skip
        return jax.value_and_grad(loss, has_aux=True)(slopes)

    (value, found), gradient = loss_at(exact)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    np.testing.assert_allclose(found.samples, exact[None, :] * x, rtol=1e-12)
    np.testing.assert_allclose(found.log_volume, np.sum(np.log(exact)), rtol=1e-12)
    variances = np.array([0.25, 4.0])
    by_hand = np.sum((exact - 1) ** 2 * variances / (2 * h) + exact**2 * variances / 2)
    np.testing.assert_allclose(value, by_hand - temperature * np.sum(np.log(exact)), rtol=1e-12)
    assert loss_at(1.1 * exact)[0][0] > value
    (value, found), gradient = loss_at(jnp.array([1.0, -0.1]))
    assert found.result == RESULTS.not_convex
    assert np.isnan(value) and np.all(gradient == 0)
    broken = flow.convex_step(quadratic, x.at[0, 0].set(jnp.nan))
    assert broken.result == RESULTS.nonfinite_input


@pytest.mark.slow
def test_convex_networks_step_along_an_ornstein_uhlenbeck_process():
    """By two steps from N(2, 1/4): against the implicit steps exactly, and the process itself."""
    h, n, steps = 0.1, 200, 600
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    x = jnp.asarray(2 + 0.5 * scipy.stats.norm.ppf((np.arange(n) + 0.5) / n))[:, None]
    log_density = jax.scipy.stats.norm.logpdf(x[:, 0], 2.0, 0.5)

    @jax.jit
    def advance(key, x):
        network = nn.ICNN(1, width=24, depth=2, strong_convexity=0.5, key=key)

        def step(state, _):
            network, moments = state
            gradient = jax.grad(lambda net: flow.jko_loss(net, x, quadratic, step=h))(network)
            with jax.numpy_dtype_promotion("standard"):
                updates, moments = optimiser.update(gradient, moments)
            return (optax.apply_updates(network, updates), moments), None

        state = network, optimiser.init(network)
        (network, _), _ = jax.lax.scan(step, state, None, length=steps)
        return flow.convex_step(network, x)

    mean, variance = 2.0, np.var(x)
    for k in range(2):
        moved = advance(jr.key(k), x)
        x, log_density = moved.samples, log_density - moved.log_volume
        mean, variance = mean / (1 + h), variance * slope_of_step(variance, h) ** 2
    assert moved.result == RESULTS.successful
    np.testing.assert_allclose(np.mean(x), mean, rtol=0.01)
    np.testing.assert_allclose(np.var(x), variance, rtol=0.02)
    np.testing.assert_allclose(np.mean(x), 2 * np.exp(-0.2), rtol=0.03)
    np.testing.assert_allclose(np.var(x), 1 - 0.75 * np.exp(-0.4), rtol=0.1)
    expected = scipy.stats.norm.logpdf(x[:, 0], mean, np.sqrt(variance))
    assert np.median(np.abs(log_density - expected)) < 0.05


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: flow.entropy(x, bandwidth=0.0), "bandwidth"),
        (lambda x: flow.entropy(x, x[:, 0][:2], bandwidth=1.0), "a"),
        (lambda x: flow.potential_energy(jnp.sin, x), "potential"),
        (lambda x: flow.potential_energy(None, x), "potential"),
        (lambda x: flow.potential_energy(quadratic, x > 0), "x"),
        (lambda x: flow.convex_step(jnp.sin, x), "convex"),
        (lambda x: flow.convex_step(None, x), "convex"),
        (lambda x: flow.jko_loss(quadratic, x[0], quadratic, step=0.1), "x"),
        (lambda x: flow.jko_loss(quadratic, x, quadratic, step=0.0), "step"),
        (
            lambda x: flow.jko_loss(quadratic, x, quadratic, step=0.1, temperature=-1.0),
            "temperature",
        ),
        (lambda x: flow.jko_loss(quadratic, x, jnp.sin, step=0.1), "potential"),
    ],
)
def test_wrong_structure_is_named(call, name):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"[`']{name}[`']"):
        call(jnp.ones((4, 2)))
