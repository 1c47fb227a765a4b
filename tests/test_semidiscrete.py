"""Semi-discrete transport: from a sampler to points."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import otjax


DATA = jr.normal(jr.key(0), (1000, 2), jnp.float32)
Y = jr.uniform(jr.key(1), (20, 2), jnp.float32) * 2 - 0.5
B = jnp.linspace(1.0, 2.0, 20, dtype=jnp.float32) / 30


def sampler(key):
    return DATA[jr.randint(key, (128,), 0, len(DATA))]


def uniform(key):
    return jr.uniform(key, (256, 1), jnp.float32)


@pytest.mark.parametrize("entropy", ["entropic", "none"])
def test_agrees_with_a_discrete_solve(entropy):
    epsilon = 0.2 if entropy == "entropic" else None
    found = otjax.semidiscrete(
        sampler, Y, B, key=jr.key(2), epsilon=epsilon, ascent=otjax.StochasticAscent(max_steps=1500)
    )
    geometry = otjax.PointCloud(DATA, Y)
    masses = B / jnp.sum(B)
    if entropy == "entropic":
        expected = otjax.solve(otjax.EntropicProblem(geometry, None, masses, epsilon=epsilon)).value
    else:
        expected = otjax.wasserstein(DATA, Y, None, masses, gap=1e-2) ** 2
    assert abs(float(found.value - expected)) < 0.01 * float(expected) + 3 * float(
        found.value_error
    )
    shares = found.sites.look(DATA, found.potential_sites)[1]
    true_error = np.sqrt(np.sum(np.square(shares - masses) / masses))
    assert abs(true_error - found.error) < 0.03
    np.testing.assert_allclose(np.sum(found.masses), 1.0, rtol=1e-4)
    assert found.history.shape == (1500,)


def test_cells_of_an_interval():
    """From the uniform law of [0, 1] to points in order: cells are intervals of their masses."""
    y = jnp.array([[0.9], [0.1], [0.4]], jnp.float32)
    b = jnp.array([0.2, 0.5, 0.3], jnp.float32)
    ascent = otjax.StochasticAscent(
        max_steps=800, num_tests=50, optimiser=optax.sgd(optax.cosine_decay_schedule(0.3, 800))
    )
    found = otjax.semidiscrete(uniform, y, b, key=jr.key(0), ascent=ascent)
    x = jnp.array([[0.2], [0.45], [0.55], [0.75], [0.85], [0.99]], jnp.float32)
    np.testing.assert_array_equal(found.assign(x), [1, 1, 2, 2, 0, 0])
    np.testing.assert_array_equal(found.transport(x), y[jnp.array([1, 1, 2, 2, 0, 0])])
    cost = sum(
        ((high - at) ** 3 - (low - at) ** 3) / 3
        for low, high, at in ((0.0, 0.5, 0.1), (0.5, 0.8, 0.4), (0.8, 1.0, 0.9))
    )
    np.testing.assert_allclose(found.value, cost, atol=4 * float(found.value_error))
    cells, transform = otjax.nearest(x, y, found.potential_sites)
    np.testing.assert_allclose(found.potential(x), transform, atol=1e-6)
    short = otjax.semidiscrete(
        uniform,
        y,
        b,
        key=jr.key(0),
        ascent=otjax.StochasticAscent(max_steps=1, num_tests=20),
        throw=False,
    )
    assert short.result == otjax.RESULTS.max_steps_reached
    assert short.error > found.error


def test_statuses_and_what_does_not_fit(unchecked):
    few = otjax.StochasticAscent(max_steps=2, num_tests=2)
    solve = lambda *args, **kwargs: otjax.semidiscrete(
        *args, key=jr.key(0), ascent=few, throw=False, **kwargs
    )
    for found, result in (
        (solve(sampler, Y.at[0, 0].set(jnp.nan)), otjax.RESULTS.nonfinite_input),
        (solve(sampler, Y, -B), otjax.RESULTS.invalid_mass),
        (solve(sampler, Y, epsilon=-1.0), otjax.RESULTS.invalid_epsilon),
        (solve(lambda key: sampler(key) * jnp.nan, Y), otjax.RESULTS.nonfinite_input),
    ):
        assert found.result == result
        assert np.isfinite(found.value)
    for message, call in {
        "`sampler` must be": lambda: solve(3.0, Y),
        "`sampler` must return": lambda: solve(uniform, Y),
        "`b`": lambda: solve(sampler, Y, B[1:]),
        "`max_steps`": lambda: otjax.StochasticAscent(max_steps=0),
        "`num_tests`": lambda: otjax.StochasticAscent(num_tests=1),
        "`tolerance`": lambda: solve(sampler, Y, tolerance=-1.0),
        "`ascent`": lambda: otjax.semidiscrete(sampler, Y, key=jr.key(0), ascent=1),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    absent = solve(sampler, Y, B.at[3].set(0))
    assert absent.masses[3] == 0 and not np.any(absent.assign(DATA) == 3)
    assert jax.vmap(lambda b: solve(sampler, Y, b).value)(jnp.stack([B, B])).shape == (2,)
