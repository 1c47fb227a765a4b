"""Drifts against gradients of the divergence and loops in NumPy; particles against closed forms."""

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
import scipy.special

import otjax
from otjax import flow, RESULTS


# What compiles fastest; tests share sizes, so that they share programs.
solver = otjax.DualNewton
FINE = solver(tolerance=1e-11)


def clouds(dtype=jnp.float64):
    return helpers.points(n=9, m=12, dtype=dtype)


# Drifts


EPSILONS = (0.2, 1.5)
DRIFT = flow.SinkhornDrift(EPSILONS, solver=FINE)  # one program for many tests


@jax.jit
def divergence_and_descent(x, y, epsilon):
    function = lambda x: otjax.sinkhorn_divergence(x, y, epsilon=epsilon, solver=FINE)
    value, gradient = jax.value_and_grad(function)(x)
    return value, -0.5 * len(x) * gradient


def test_the_sinkhorn_drift_is_the_gradient_of_the_divergence():
    x, y = clouds()
    x, y = x + 100.0, y + 100.0
    found = DRIFT.evaluate(x, y)
    values, fields = zip(*(divergence_and_descent(x, y, e) for e in EPSILONS), strict=True)
    np.testing.assert_allclose(found.field, np.mean(fields, axis=0), atol=1e-8)
    size = np.sqrt(np.mean(np.sum(np.square(found.field), axis=1)))
    np.testing.assert_allclose(found.size, size, rtol=1e-12)
    np.testing.assert_allclose(found.w2, np.sqrt(values[0]), rtol=1e-8)
    assert found.result == RESULTS.successful


def test_a_drift_vanishes_at_the_data_and_goes_on_from_an_earlier_one():
    x, y = clouds()
    first = DRIFT.evaluate(x, y)
    steps = lambda found: sum(int(jnp.sum(s.stats.num_steps)) for s in found.solutions)
    again = DRIFT.evaluate(x, y, first)
    assert steps(again) < 0.3 * steps(first)
    np.testing.assert_allclose(again.field, first.field, atol=1e-8)
    # Potentials are functions of space: other batches can start from them.
    x, y = x[::-1] + 0.1, y[::-1] - 0.2
    np.testing.assert_allclose(
        DRIFT.evaluate(x, y, first).field, DRIFT.evaluate(x, y).field, atol=1e-8
    )
    # Nine points and twelve of one law: each of three points thrice, or four times.
    there = DRIFT.evaluate(jnp.repeat(y[:3], 3, axis=0), jnp.tile(y[:3], (4, 1)))
    np.testing.assert_allclose(there.field, 0, atol=1e-8)
    np.testing.assert_allclose(there.w2, 0, atol=1e-5)


def plan_map(x, y, epsilon):
    """By Sinkhorn's steps in NumPy."""
    x, y = np.asarray(x), np.asarray(y)
    costs = np.sum((x[:, None] - y[None]) ** 2, axis=2)
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(3000):
        f = -epsilon * scipy.special.logsumexp((g[None] - costs) / epsilon, axis=1, b=1 / len(y))
        g = -epsilon * scipy.special.logsumexp((f[:, None] - costs) / epsilon, axis=0, b=1 / len(x))
    return np.exp((f[:, None] + g[None] - costs) / epsilon) @ y / len(y)


@pytest.mark.slow
def test_the_split_drift_is_that_of_two_batches():
    x, y = clouds()
    x, y = x[:8], y[:8]
    split = flow.SplitSinkhornDrift(EPSILONS, solver=FINE)
    found = split.evaluate(x, y)
    first, second = x[:4], x[4:]
    fields = [
        np.concatenate(
            [
                plan_map(one, y, epsilon) - plan_map(one, other, epsilon)
                for one, other in ((first, second), (second, first))
            ]
        )
        for epsilon in EPSILONS
    ]
    np.testing.assert_allclose(found.field, np.mean(fields, axis=0), atol=1e-8)
    np.testing.assert_allclose(split(x + 50.0, y + 50.0), found.field, atol=1e-6)
    value, _ = divergence_and_descent(x, y, EPSILONS[0])
    np.testing.assert_allclose(found.w2, np.sqrt(value), rtol=1e-6)
    assert found.result == RESULTS.successful
    np.testing.assert_allclose(split.evaluate(x, y, found).field, found.field, atol=1e-8)
    broken = split.evaluate(x.at[0, 0].set(jnp.nan), y)
    assert broken.result == RESULTS.nonfinite_input


@pytest.mark.slow
def test_where_laws_are_equal_the_split_drift_alone_has_mean_zero():
    """The mean of <V, x> is how fast samples spread: without a bias it is zero."""
    x, y = (jr.normal(jr.key(k), (400, n, 2)) for k, n in enumerate((16, 8)))
    spread = lambda drift: jax.jit(
        jax.vmap(lambda x, y: jnp.mean(jnp.sum(drift(x, y) * x, axis=1)))
    )(x, y)
    drifts = flow.SplitSinkhornDrift, flow.SinkhornDrift
    pulls = [np.asarray(spread(drift(0.1, solver=solver()))) for drift in drifts]
    errors = [np.std(pull) / 20 for pull in pulls]
    assert np.abs(np.mean(pulls[0])) < 3 * errors[0]
    assert np.mean(pulls[1]) < -3 * errors[1]


@pytest.mark.slow
@pytest.mark.parametrize("drift", [flow.MeanShift(0.3, normalised=False), DRIFT])
def test_a_drift_is_followed_for_several_steps(drift):
    x, y = clouds()
    followed = flow.Followed(drift, num_steps=3, step_size=0.4)
    here = x
    for _ in range(3):
        here = here + 0.4 * drift.evaluate(here, y).field
    found, start = followed.evaluate(x, y), drift.evaluate(x, y)
    np.testing.assert_allclose(found.field, here - x, atol=1e-7)
    np.testing.assert_allclose(followed(x, y), here - x, atol=1e-7)
    np.testing.assert_allclose([found.size, found.w2], [start.size, start.w2])
    assert found.result == RESULTS.successful
    warm = followed.evaluate(x, y, found)
    np.testing.assert_allclose(warm.field, here - x, atol=1e-7)


def test_a_solve_that_fails_is_reported():
    x, y = clouds()
    impossible = flow.SinkhornDrift((0.2, 1.5), solver=solver(tolerance=1e-25))
    assert impossible.evaluate(x, y).result != RESULTS.successful
    assert DRIFT.evaluate(x.at[0, 0].set(jnp.nan), y).result == RESULTS.nonfinite_input
    assert flow.MeanShift().evaluate(x, y.at[0, 0].set(jnp.inf)).result == RESULTS.nonfinite_input


def mean_shift(x, y, tau, power):
    """The field by loops, from kernels that are normalised over rows and over columns."""
    n, m = len(x), len(y)
    points = np.concatenate([x, y])
    kernel = np.zeros((n, n + m))
    for i in range(n):
        for j in range(n + m):
            if i != j:
                kernel[i, j] = np.exp(-(np.linalg.norm(x[i] - points[j]) ** power) / tau)
    weights = kernel / np.sqrt(kernel.sum(1, keepdims=True) * kernel.sum(0, keepdims=True))
    field = np.zeros_like(x)
    for i in range(n):
        for j in range(m):
            for k in range(n):
                field[i] += weights[i, n + j] * weights[i, k] * (y[j] - x[k])
    return field


def test_the_mean_shift_is_that_of_loops():
    x, y = (np.asarray(cloud) for cloud in clouds())
    distances = np.linalg.norm(x[:, None] - y[None], axis=2)
    size = lambda field: np.sqrt(np.mean(np.sum(field**2, axis=1)))
    fields = [mean_shift(x, y, tau * distances.mean(), 1) for tau in (0.05, 0.2, 0.7)]
    raw = flow.MeanShift((0.05, 0.2, 0.7), normalised=False)
    np.testing.assert_allclose(raw(x, y), sum(fields), rtol=1e-9)
    normalised = flow.MeanShift((0.05, 0.2, 0.7)).evaluate(x, y)
    expected = sum(distances.mean() * field / size(field) for field in fields)
    np.testing.assert_allclose(normalised.field, expected, rtol=1e-9)
    np.testing.assert_allclose(normalised.size, size(sum(fields)), rtol=1e-9)
    epsilon = 0.05 * (np.mean(distances**2) - np.min(distances**2))
    divergence, _ = divergence_and_descent(jnp.asarray(x), jnp.asarray(y), epsilon)
    np.testing.assert_allclose(normalised.w2, np.sqrt(divergence), rtol=1e-6)
    gauss = flow.MeanShift(0.3, cost=otjax.SqEuclidean(), normalised=False)
    tau = 0.3 * np.mean(distances**2)
    np.testing.assert_allclose(gauss(x, y), mean_shift(x, y, tau, 2), rtol=1e-9)
    # The unit of the samples is that of the field, and their origin is nobody's.
    moved = flow.MeanShift()(10.0 * x + 3.0, 10.0 * y + 3.0)
    np.testing.assert_allclose(moved, 10 * flow.MeanShift()(x, y), rtol=1e-8)


@pytest.mark.parametrize("drift", [DRIFT, flow.MeanShift()])
def test_the_loss_moves_samples_along_the_drift(drift):
    _, y = clouds()
    latents = jr.normal(jr.key(0), (9, 3))
    weight = jr.normal(jr.key(1), (2, 3))
    generate = lambda weight: lambda latent: jnp.tanh(weight @ latent)
    loss = lambda weight, y: flow.drift_loss(generate(weight), y, drift, latents=latents)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    value, gradient = value_and_grad(weight, y)
    samples, pull = jax.vjp(lambda weight: jax.vmap(generate(weight))(latents), weight)
    found = drift.evaluate(samples, y)
    np.testing.assert_allclose(value, np.sum(found.field**2) / 9, rtol=1e-9)
    np.testing.assert_allclose(gradient, pull(-2 / 9 * found.field)[0], rtol=1e-9)
    value, gradient = value_and_grad(weight, y.at[0].set(jnp.nan))
    assert np.isnan(value) and np.all(gradient == 0)


def test_training_brings_a_generator_to_the_data_in_one_trace():
    y = (0.3 * helpers.points(m=32)[1] + jnp.array([[3.0, -1.0]])).astype(jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(parameters, key, epsilon):
        latents = jr.normal(key, (32, 2), jnp.float32)
        drift = flow.SinkhornDrift(epsilon, solver=solver())
        loss = lambda p: flow.drift_loss(lambda z: p[0] + p[1] * z, y, drift, latents=latents)
        value, gradient = jax.value_and_grad(loss)(parameters)
        return jax.tree.map(lambda p, g: p - jnp.float32(0.4) * g, parameters, gradient), value

    parameters = jnp.zeros(2, jnp.float32), jnp.ones((), jnp.float32)
    losses = []
    for k in range(12):
        parameters, value = step(parameters, jr.key(k), jnp.float32(2 / (1 + k)))
        losses.append(float(value))
    assert losses[-1] < 0.1 * losses[0]
    np.testing.assert_allclose(parameters[0], np.mean(y, axis=0), atol=0.15)
    assert all(leaf.dtype == jnp.float32 for leaf in (*parameters, value))


# Particles


def pulled(centre):
    """Half the squared distance from a centre, over masses: each particle goes there as e^-t."""
    return lambda masses: lambda x: 0.5 * jnp.sum(masses[:, None] * jnp.square(x - centre[None, :]))


def test_particles_of_any_mass_flow_alike():
    x, _ = clouds()
    masses = jnp.arange(9.0)  # of which one is zero
    centre = jnp.array([2.0, 1.0])
    run = lambda **options: flow.gradient_flow(pulled(centre)(masses), x, masses, **options)
    end = run(tolerance=1e-3)
    assert end.result == RESULTS.successful
    np.testing.assert_array_equal(end.samples[0], x[0])
    distances = np.linalg.norm(end.samples - centre[None, :], axis=1)
    ratios = distances[1:] / np.linalg.norm(x - centre[None, :], axis=1)[1:]
    np.testing.assert_allclose(ratios, ratios[0])
    norm = lambda d: np.sqrt(np.sum(masses * d**2) / np.sum(masses))
    np.testing.assert_allclose(end.norm, norm(distances))
    assert end.norm <= 1e-3 * norm(np.linalg.norm(x - centre[None, :], axis=1))
    np.testing.assert_allclose(end.value, pulled(centre)(masses)(end.samples))
    # Short steps follow the flow.
    short = run(step_size=1e-3, max_steps=3)
    np.testing.assert_allclose(short.time, 1e-3 * (1 + 1.5 + 1.5**2))
    follows = centre[None, :] + (x - centre[None, :]) * jnp.exp(-short.time)
    np.testing.assert_allclose(short.samples[1:], follows[1:], atol=1e-4)
    assert short.result == RESULTS.max_steps_reached and short.num_steps == 3
    assert run(tolerance=0.5).num_steps < run(tolerance=1e-3).num_steps


@pytest.mark.slow
def test_particles_reach_the_data():
    x, y = clouds()
    x = x - 2.0
    divergence = lambda x: otjax.sinkhorn_divergence(x, y[:9], epsilon=0.02, solver=FINE)
    end = flow.gradient_flow(divergence, x, tolerance=1e-2)
    assert end.result == RESULTS.successful
    np.testing.assert_allclose(end.value, divergence(end.samples))
    assert end.value < 2e-3 * divergence(x)
    nearest = np.linalg.norm(end.samples[:, None] - y[None, :9], axis=2).argmin(axis=1)
    assert sorted(nearest.tolist()) == list(range(9))


def test_what_stops_particles_is_told():
    x, _ = clouds()
    odd = lambda x: jnp.sum(jnp.square(x)) + jnp.sum(x - jax.lax.stop_gradient(x)) * 1e3
    stuck = flow.gradient_flow(odd, x)  # whose gradient is a lie
    assert stuck.result == RESULTS.no_descent
    np.testing.assert_allclose(stuck.value, odd(stuck.samples))
    broken = flow.gradient_flow(lambda x: jnp.sum(x**2), x.at[0, 0].set(jnp.nan), max_steps=2)
    assert broken.result == RESULTS.nonfinite_input
    seen = []
    flat = lambda x: seen.append(None) or jnp.sum(x * 0.0)
    flow.gradient_flow(flat, x, tolerance=0.1, max_steps=2)
    traces = len(seen)
    still = flow.gradient_flow(flat, x, tolerance=0.2, max_steps=2)
    assert len(seen) == traces
    assert still.result == RESULTS.successful and still.num_steps == 0


def test_gradients_go_through_the_flow_of_particles():
    x, _ = clouds()

    @jax.jit
    def function(numbers):
        centre, x = numbers
        masses = jnp.full(len(x), 1 / len(x))
        end = flow.gradient_flow(pulled(centre)(masses), x, step_size=0.3, max_steps=4)
        return jnp.sum(jnp.sin(end.samples)) + end.value + end.norm

    point = jnp.array([2.0, 1.0]), x
    way = jax.tree.map(lambda leaf: jr.normal(jr.key(leaf.ndim), leaf.shape), point)
    expected = helpers.central_difference(function, point, way, step=1e-4)
    _, forward = jax.jvp(function, (point,), (way,))
    gradient = helpers.inner_product(jax.grad(function)(point), way)
    np.testing.assert_allclose([gradient, forward], [expected, expected], rtol=1e-7)
    batch = jax.vmap(lambda c: flow.gradient_flow(pulled(c)(jnp.ones(9) / 9), x).num_steps)(
        jnp.array([[0.0, 0.0], [50.0, 0.0]])
    )
    assert batch.shape == (2,)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, y: flow.SinkhornDrift(0.0), "epsilon"),
        (lambda x, y: flow.SinkhornDrift(jnp.ones((2, 2))), "epsilon"),
        (lambda x, y: flow.SinkhornDrift(1.0, solver="sinkhorn"), "solver"),
        (lambda x, y: flow.MeanShift((0.1, -0.1)), "temperatures"),
        (lambda x, y: flow.SplitSinkhornDrift(0.0), "epsilon"),
        (lambda x, y: flow.SplitSinkhornDrift(1.0, solver="sinkhorn"), "solver"),
        (lambda x, y: flow.SplitSinkhornDrift(1.0)(x[:3], y), "x"),
        (lambda x, y: flow.Followed(None), "drift"),
        (lambda x, y: flow.Followed(DRIFT, num_steps=0), "num_steps"),
        (lambda x, y: flow.Followed(DRIFT, step_size=0.0), "step_size"),
        (lambda x, y: flow.MeanShift(cost=None), "cost"),
        (lambda x, y: flow.MeanShift()(x[:1], y), "x"),
        (lambda x, y: flow.MeanShift()(x, y[:, :1]), "y"),
        (lambda x, y: flow.drift_loss(None, y, flow.MeanShift(), latents=x), "generator"),
        (lambda x, y: flow.drift_loss(jnp.sin, y, None, latents=x), "drift"),
        (lambda x, y: flow.drift_loss(jnp.sin, y[:, :1], flow.MeanShift(), latents=x), "data"),
        (lambda x, y: flow.drift_loss(jnp.sin, y, flow.MeanShift(), latents=x, init=x), "init"),
        (lambda x, y: flow.gradient_flow(None, x), "objective"),
        (lambda x, y: flow.gradient_flow(jnp.sin, x), "objective"),
        (lambda x, y: flow.gradient_flow(jnp.sum, x, y[:, 0]), "a"),
        (lambda x, y: flow.gradient_flow(jnp.sum, x, max_steps=0), "max_steps"),
        (lambda x, y: flow.gradient_flow(jnp.sum, x, step_size=0.0), "step_size"),
        (lambda x, y: flow.gradient_flow(jnp.sum, x, tolerance=-1.0), "tolerance"),
    ],
)
def test_wrong_structure_is_named(call, name):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"[`']{name}[`']"):
        call(*clouds())
