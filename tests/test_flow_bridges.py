"""Schrödinger bridges against the Gaussian closed form, quadrature and the recursions of Euler."""

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

import otjax
from otjax import flow


KEY = jr.key(0)
GOLDEN = (np.sqrt(5) - 1) / 2  # the covariance of the ends at sigma 1, of standard Gaussians


def standardised(seed, n, mean):
    """Points of mean and variance exactly as asked."""
    x = np.random.default_rng(seed).normal(size=(n, 1))
    return jnp.asarray((x - x.mean()) / x.std() + mean)


class Polynomial(eqx.Module):
    """A field that is affine in the point and a polynomial in time: fitted by one linear system."""

    slopes: jax.Array
    offsets: jax.Array

    def __call__(self, t, x):
        powers = t ** jnp.arange(len(self.slopes), dtype=x.dtype)
        return jnp.dot(powers, self.slopes) * x + jnp.dot(powers, self.offsets)


def least(loss, num_fields=1, degree=3):
    """The fields at which a loss, quadratic in their coefficients, is least."""
    zero = jnp.zeros(2 * degree * num_fields)

    def fields(coefficients):
        parts = jnp.split(coefficients, 2 * num_fields)
        return [Polynomial(*parts[2 * k : 2 * k + 2]) for k in range(num_fields)]

    of = lambda coefficients: loss(*fields(coefficients))
    return fields(-jnp.linalg.solve(jax.hessian(of)(zero), jax.grad(of)(zero)))


@pytest.mark.slow
def test_iterative_markovian_fitting_reaches_the_bridge():
    n, a = 60_000, 0.5
    x0, x1 = standardised(0, n, -a), standardised(1, n, a)
    bridge = flow.BrownianBridge(1.0, margin=0.01)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def ends(key, z0, z1, starts):
        loss = lambda drift: flow.bridge_loss(
            drift, key, z0, z1, bridge=bridge, coupling=flow.Paired()
        )
        (drift,) = least(loss)
        return flow.diffuse(drift, key, starts, sigma=bridge.sigma, num_steps=30).samples

    z0, z1, found = x0, x1, []  # at random: independent
    for k in range(3):
        z0, z1 = x0, ends(jr.key(2 * k), z0, z1, x0)
        found.append(np.corrcoef(z0[:, 0], z1[:, 0])[0, 1])
        z1, z0 = x1, ends(jr.key(2 * k + 1), z1, z0, x1)
        found.append(np.corrcoef(z0[:, 0], z1[:, 0])[0, 1])
    # Of independent pairs the process is known: d cov(x_0, x_t) / dt is that times the slope.
    t = (np.arange(1000) + 0.5) / 1000
    variance = 1 - t * (1 - t)
    expected = np.exp(np.mean((t - variance) / ((1 - t) * variance)))
    assert expected < 0.9 * GOLDEN
    np.testing.assert_allclose(found[0], expected, rtol=0.02)
    np.testing.assert_allclose(np.mean(found[2:]), GOLDEN, rtol=0.02)
    np.testing.assert_allclose(np.mean(z0), -a, atol=0.02)


def test_velocity_and_score_together_are_those_of_the_bridge():
    mean, cov = jnp.array([0.5]), jnp.array([[0.6]])
    exact = flow.GaussianBridge(-mean, jnp.eye(1), mean, cov, sigma=0.8)
    centre, joint = exact.joint
    ends = jr.multivariate_normal(KEY, centre, joint, (8_000,))
    x0, x1 = ends[:, :1], ends[:, 1:]
    bridge = flow.BrownianBridge(0.8, margin=0.02)
    options = {"bridge": bridge, "coupling": flow.Paired()}
    both = lambda v, s, b: (
        flow.score_and_flow_loss(v, s, KEY, x0, x1, **options)
        + flow.bridge_loss(b, jr.key(1), x0, x1, **options)
    )
    velocity, score, drift = jax.jit(lambda: least(both, 3))()
    for t in (0.2, 0.5, 0.8):
        for x in (jnp.array([-1.0]), jnp.array([1.0])):
            time = jnp.asarray(t)
            of_density = -(x - exact.mean(t)) / exact.covariance(t)[0]
            np.testing.assert_allclose(velocity(time, x), exact.velocity(t, x), atol=0.12)
            np.testing.assert_allclose(score(time, x), of_density, atol=0.12)
            of_both = exact.velocity(t, x) + 0.5 * 0.8**2 * of_density
            np.testing.assert_allclose(drift(time, x), of_both, atol=0.12)


# The light bridge


@jax.jit
def fitted(bridge, x0, x1):
    optimiser = optax.adam(0.05)
    arrays, rest = eqx.partition(bridge, eqx.is_array)

    def step(state, _):
        arrays, moments = state
        loss = lambda arrays: flow.light_bridge_loss(eqx.combine(arrays, rest), x0, x1)
        value, gradient = jax.value_and_grad(loss)(arrays)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(arrays, updates), moments), value

    (arrays, _), values = jax.lax.scan(step, (arrays, optimiser.init(arrays)), None, length=150)
    return eqx.combine(arrays, rest), values[-1]


def test_a_light_bridge_learns_that_between_gaussians():
    n, a = 10_000, 0.5
    x0, x1 = standardised(0, n, -a), standardised(1, n, a)
    bridge, loss = fitted(flow.LightBridge(x1[:1], sigma=1.0), x0, x1)
    assert bridge.sigma == 1.0  # not trained
    np.testing.assert_allclose(jnp.exp(bridge.log_scales[0]), GOLDEN, rtol=0.02)
    ends = jax.vmap(bridge.sample)(jr.split(KEY, 8 * n), jnp.tile(x0, (8, 1)))
    covariance = np.cov(np.tile(x0[:, 0], 8), ends[:, 0])[0, 1]
    np.testing.assert_allclose(covariance, GOLDEN, rtol=0.02)
    # The loss is the KL from Brownian motion: by Girsanov half the energy of the drift.
    moved = flow.diffuse(bridge.drift, KEY, x0, sigma=1.0, num_steps=50)
    np.testing.assert_allclose(-loss, 0.5 * moved.path_energy, rtol=0.02)
    np.testing.assert_allclose(np.cov(x0[:, 0], moved.samples[:, 0])[0, 1], GOLDEN, rtol=0.05)
    np.testing.assert_allclose(np.mean(moved.samples), a, atol=0.03)


def mixture_bridge(dtype=jnp.float64):
    means = jnp.array([[-1.0, 0.3], [0.5, 2.0], [1.0, -1.0]], dtype)
    bridge = flow.LightBridge(means, sigma=0.7, scale=0.4)
    numbers = (
        jnp.array([0.3, -0.5, 0.1], dtype),
        jnp.log(jnp.array([[0.3, 2.0], [1.0, 0.5], [0.7, 0.2]], dtype)),
    )
    return eqx.tree_at(lambda b: (b.log_weights, b.log_scales), bridge, numbers)


def test_the_potential_of_a_light_bridge_is_an_expectation_of_brownian_motion():
    bridge, x, t = mixture_bridge(), jnp.array([0.2, -0.4]), 0.3
    # v(y) e^{|y|^2 / 2 sigma^2}, its expectation by quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    weight_at = lambda y: sum(
        np.exp(float(bridge.log_weights[k]))
        * np.prod(
            np.exp(-((y - r) ** 2) / (2 * 0.49 * s)) / np.sqrt(0.49 * s) * np.exp(y**2 / 0.98),
            axis=-1,
        )
        for k, (r, s) in enumerate(
            zip(np.asarray(bridge.means), np.exp(np.asarray(bridge.log_scales)), strict=True)
        )
    )
    ends = np.asarray(x) + 0.7 * np.sqrt(1 - t) * grid
    expected = np.log(np.sum(weights * weight_at(ends)))
    np.testing.assert_allclose(bridge.potential(t, x), expected, rtol=1e-8)
    np.testing.assert_allclose(bridge.potential(1.0, x), np.log(weight_at(np.asarray(x))))
    slope = helpers.central_difference(lambda x: bridge.potential(t, x), x, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(bridge.drift(t, x)[0], 0.49 * slope, rtol=1e-8)
    bigger = lambda sigma: flow.LightBridge(bridge.means, sigma=sigma).potential(t, x)
    by_sigma = helpers.central_difference(bigger, jnp.asarray(0.7), jnp.ones(()))
    np.testing.assert_allclose(jax.grad(bigger)(jnp.asarray(0.7)), by_sigma, rtol=1e-7)
    # The law of the end, given the start: its moments by the same quadrature from time 0.
    ends = np.asarray(x) + 0.7 * grid
    law = weights * weight_at(ends)
    law = law / law.sum()
    drawn = np.asarray(jax.vmap(lambda key: bridge.sample(key, x))(jr.split(KEY, 20_000)))
    mean = law @ ends
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    covariance = (ends - mean).T @ (law[:, None] * (ends - mean))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.02)


# Simulation


def test_a_diffusion_is_that_of_the_recursion():
    n, h, sigma = 40_000, 0.1, 0.5
    start = standardised(0, n, 2.0)
    end = flow.diffuse(lambda t, x: -(1 + t) * x, KEY, start, sigma=sigma, num_steps=10)
    mean, variance, energy = 2.0, 1.0, 0.0
    for t in np.arange(10) * h:
        energy += h * (1 + t) ** 2 * (variance + mean**2)
        mean, variance = mean * (1 - h * (1 + t)), variance * (1 - h * (1 + t)) ** 2
        variance += sigma**2 * h
    np.testing.assert_allclose(np.mean(end.samples), mean, atol=0.01)
    np.testing.assert_allclose(np.var(end.samples), variance, rtol=0.02)
    np.testing.assert_allclose(end.path_energy, energy, rtol=0.01)
    assert end.num_evaluations == 10 and end.result == otjax.RESULTS.successful
    still = flow.diffuse(lambda t, x: x, KEY, start[:5], sigma=0.0, num_steps=2)
    np.testing.assert_allclose(still.samples, 2.25 * start[:5])


def test_diffusions_keep_their_dtype_and_have_derivatives():
    x, labels = jnp.ones((6, 2), jnp.float32), jnp.arange(6.0, dtype=jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def mean(rate, key):
        run = flow.diffuse(lambda t, x, c: rate * c - x, key, x, labels, sigma=0.1, num_steps=3)
        return jnp.mean(run.samples), run.samples

    (_, ends), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.float32(1.0), KEY)
    assert ends.dtype == jnp.float32
    np.testing.assert_allclose(gradient, 2.5 * (1 - (2 / 3) ** 3), rtol=1e-5)
    assert ends[5, 0] > ends[0, 0] + 2  # each by its own condition
    (_, others), _ = jax.value_and_grad(mean, has_aux=True)(jnp.float32(1.0), jr.key(1))
    assert not np.allclose(ends, others)
    wild = flow.diffuse(lambda t, x: 1e30 * x, KEY, x, sigma=0.1, num_steps=3)
    assert wild.result == otjax.RESULTS.nonfinite_path
    broken = flow.diffuse(lambda t, x: x, KEY, x.at[0, 0].set(jnp.nan), sigma=0.1)
    assert broken.result == otjax.RESULTS.nonfinite_input


def test_losses_of_bridges_say_what_is_invalid_and_keep_their_dtype():
    bridge = mixture_bridge(jnp.float32)
    x = jr.normal(KEY, (8, 2), jnp.float32)
    brownian = flow.BrownianBridge(0.7)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(bridge, x0):
        def total(bridge):
            field = bridge.drift
            losses = jnp.stack(
                [
                    flow.light_bridge_loss(bridge, x0, x),
                    flow.bridge_loss(field, KEY, x0, x, bridge=brownian),
                    flow.score_and_flow_loss(field, field, KEY, x0, x, bridge=brownian),
                ]
            )
            return jnp.sum(losses), losses

        return jax.value_and_grad(total, has_aux=True)(bridge)

    (_, losses), gradient = step(bridge, x)
    assert losses.dtype == jnp.float32 and np.all(np.isfinite(losses))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    (_, losses), gradient = step(bridge, x.at[3, 1].set(jnp.inf))
    assert np.all(np.isnan(losses))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


def drift(t, x):
    return x


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: flow.bridge_loss(drift, KEY, x, x, bridge=flow.Linear()), "bridge"),
        (
            lambda x: flow.bridge_loss(
                lambda t, x: x[:1], KEY, x, x, bridge=flow.BrownianBridge(1.0)
            ),
            "drift",
        ),
        (
            lambda x: flow.bridge_loss(
                drift, KEY, x, x, bridge=flow.BrownianBridge(1.0), coupling=flow.Linear()
            ),
            "coupling",
        ),
        (
            lambda x: flow.score_and_flow_loss(
                drift, lambda t, x: x[0], KEY, x, x, bridge=flow.BrownianBridge(1.0)
            ),
            "score",
        ),
        (lambda x: flow.diffuse(drift, KEY, x, sigma=1.0, num_steps=0), "num_steps"),
        (lambda x: flow.diffuse(drift, KEY, x, x[:3], sigma=1.0), "condition"),
        (lambda x: flow.diffuse(None, KEY, x, sigma=1.0), "drift"),
        (lambda x: flow.LightBridge(x, sigma=0.0), "sigma"),
        (lambda x: flow.LightBridge(x, sigma=1.0, scale=-1.0), "scale"),
        (lambda x: flow.LightBridge(x[0], sigma=1.0), "means"),
        (lambda x: flow.LightBridge(x, sigma=1.0).drift(0.5, x), "x"),
        (lambda x: flow.LightBridge(x, sigma=1.0).potential(0.5, x[0, :1]), "x"),
        (lambda x: flow.light_bridge_loss(drift, x, x), "bridge"),
        (lambda x: flow.light_bridge_loss(flow.LightBridge(x, sigma=1.0), x, x[:, :1]), "x1"),
        (
            lambda x: flow.light_bridge_loss(flow.LightBridge(x[:, :1], sigma=1.0), x, x),
            "x0",
        ),
    ],
)  # fmt: skip
def test_wrong_structure_is_named(call, name):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"[`']{name}[`']"):
        call(jnp.ones((4, 2)))
