"""Barycentres of histograms and of clouds."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest

import otjax


N = 20
T = jnp.linspace(0.0, 1.0, N)
COST = jnp.square(T[:, None] - T[None, :])
OBJECTIVES = {"entropic": otjax.Entropic(), "debiased": otjax.Debiased()}


def bump(mean, deviation):
    values = jnp.exp(-0.5 * jnp.square((T - mean) / deviation)) + 1e-6
    return values / jnp.sum(values)


MASSES = jnp.stack([bump(0.3, 0.08), bump(0.6, 0.1), bump(0.5, 0.05)])
WEIGHTS = jnp.array([0.5, 0.3, 0.2])


@jax.jit
def entropic(masses, weights, epsilon, cost):
    return otjax.barycenter(
        otjax.CostMatrix(cost), masses, weights, epsilon=epsilon, tolerance=1e-13, throw=False
    )


@jax.jit
def debiased(masses, weights, epsilon, cost):
    return otjax.barycenter(
        otjax.CostMatrix(cost),
        masses,
        weights,
        epsilon=epsilon,
        objective=otjax.Debiased(),
        tolerance=1e-12,
        max_steps=20_000,
        throw=False,
    )


@pytest.mark.parametrize("objective", ["entropic", "debiased"])
def test_of_histograms_as_pot(objective):
    epsilon = 4e-3
    numbers = np.asarray(MASSES).T, np.asarray(COST), epsilon, np.asarray(WEIGHTS)
    if objective == "entropic":
        found = entropic(MASSES, WEIGHTS, jnp.asarray(epsilon), COST)
        # The other method keeps unequal weights as its start has them, which is equal.
        expected = ot.bregman.barycenter(
            *numbers, method="sinkhorn_log", stopThr=1e-13, numItermax=20_000
        )
    else:
        found = debiased(MASSES, WEIGHTS, jnp.asarray(epsilon), COST)
        expected = ot.bregman.barycenter_debiased(
            *numbers, stopThr=1e-14, numItermax=20_000, warn=False
        )
    assert found.result == otjax.RESULTS.successful
    np.testing.assert_allclose(found.masses, expected, atol=1e-8)
    np.testing.assert_allclose(np.sum(found.masses), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["entropic", "debiased"])
def test_derivatives_of_masses(objective):
    solve = entropic if objective == "entropic" else debiased

    @jax.jit
    def function(numbers):
        masses, weights, epsilon, noise = numbers
        masses = masses / jnp.sum(masses, axis=1, keepdims=True)
        found = solve(masses, weights, epsilon, COST + 0.1 * (noise + noise.T))
        return jnp.sum(found.masses * jnp.cos(3 * T)) + found.value

    numbers = MASSES, WEIGHTS, jnp.asarray(4e-3), jnp.zeros((N, N))
    gradient = jax.jit(jax.grad(function))(numbers)
    keys = jr.split(jr.key(0), 3)
    directions = (
        (MASSES * jr.normal(keys[0], MASSES.shape), 0 * WEIGHTS, 0.0, 0.0),
        (0 * MASSES, jr.normal(keys[1], WEIGHTS.shape), 0.0, 0.0),
        (0 * MASSES, 0 * WEIGHTS, 1e-3, 0.0),
        (0 * MASSES, 0 * WEIGHTS, 0.0, 0.1 * jr.normal(keys[2], (N, N))),
    )

    def moved(direction, step):
        return jax.tree.map(lambda u, v: u + step * v, numbers, direction)

    for direction in directions:
        difference = function(moved(direction, 1e-4)) - function(moved(direction, -1e-4))
        difference = difference / 2e-4
        slope = sum(np.sum(u * v) for u, v in zip(gradient, direction, strict=True))
        np.testing.assert_allclose(slope, difference, rtol=1e-4, atol=1e-8)


def test_a_debiased_barycentre_of_one_measure_is_that_measure():
    same = jnp.stack([MASSES[0], MASSES[0]])
    weights, epsilon = jnp.array([0.4, 0.6]), jnp.asarray(4e-3)
    np.testing.assert_allclose(debiased(same, weights, epsilon, COST).masses, MASSES[0], atol=1e-7)
    assert np.max(np.abs(entropic(same, weights, epsilon, COST).masses - MASSES[0])) > 1e-2


@pytest.mark.parametrize("geometry", ["grid", "matrix"])
def test_no_mass_elsewhere_lowers_the_divergence_from_images(geometry):
    """Pixels that are empty in all measures are pixels of the barycentre: its objective, of
    solutions of its own, is convex, and rises towards every one of them."""
    rng, n, epsilon = np.random.default_rng(0), 8, 4e-3
    images = np.zeros((3, n, n))
    for image in images:
        i, j = rng.integers(0, n - 4, 2)
        image[i : i + 4, j : j + 4] = rng.integers(0, 5, (4, 4))
    masses = jnp.asarray(images.reshape(3, -1) / images.sum((1, 2))[:, None])
    assert jnp.any(jnp.sum(masses, axis=0) == 0)
    line = jnp.arange(n) / n
    points = jnp.stack(jnp.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    matrix = otjax.CostMatrix(jnp.sum(jnp.square(points[:, None] - points[None]), axis=-1))
    on = matrix if geometry == "matrix" else otjax.Grid((line, line))
    debiased = otjax.Debiased()
    found = otjax.barycenter(on, masses, epsilon=epsilon, objective=debiased, tolerance=1e-5)

    @jax.jit
    @jax.vmap
    def objective(b):
        def value(u, v):
            problem = otjax.EntropicProblem(matrix, u, v, epsilon=epsilon)
            return otjax.solve(problem, tolerance=1e-9, throw=False).value

        return jnp.mean(jax.vmap(lambda a: value(a, b))(masses)) - 0.5 * value(b, b)

    step = 1e-3
    others = (1 - step) * found.masses[None] + step * jnp.eye(n * n)[::3]
    values = objective(jnp.concatenate([found.masses[None], others]))
    assert jnp.all(values[1:] - values[0] >= -1e-5 * epsilon * step)


def test_a_measure_of_weight_zero_and_the_total():
    epsilon = jnp.asarray(4e-3)
    without = entropic(MASSES[:2], WEIGHTS[:2], epsilon, COST)
    ignored = entropic(3 * MASSES, WEIGHTS.at[2].set(0), epsilon, COST)
    np.testing.assert_allclose(ignored.masses, 3 * without.masses, atol=1e-9)


def test_a_batch_of_weights_and_another_support():
    rectangular = otjax.CostMatrix(jnp.square(T[:, None] - T[None, ::2]))
    weights = jnp.array([[1.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
    solve = lambda weights: otjax.barycenter(rectangular, MASSES, weights, epsilon=4e-3)
    batch = jax.vmap(solve)(weights)
    assert batch.masses.shape == (2, N // 2)
    np.testing.assert_allclose(batch.masses[1], solve(weights[1]).masses, atol=1e-9)


def clouds(k=2, n=10):
    return jr.normal(jr.key(0), (k, n, 2)) * jnp.array([[[1.0, 0.5]]]) + jnp.arange(
        float(k)
    ).reshape(k, 1, 1)


@pytest.mark.parametrize("objective", ["entropic", "debiased"])
def test_of_clouds(objective):
    """Entropic as POT; debiased, of a cloud and its translates, their translate."""
    points, weights = clouds(), jnp.array([0.4, 0.6])
    if objective == "entropic":
        found = otjax.barycenter(points, None, weights, epsilon=0.3, tolerance=1e-8)
        # Its own steps, from some other place, are many: from ours it takes none.
        expected = ot.bregman.free_support_sinkhorn_barycenter(
            [np.asarray(cloud) for cloud in points],
            [np.full(10, 0.1)] * 2,
            np.asarray(found.points),
            0.3,
            weights=np.asarray(weights),
            numItermax=1,
            numInnerItermax=5000,
        )
        np.testing.assert_allclose(found.points, expected, atol=2e-4)
    else:
        shifts = jnp.array([[[0.0, 0.0]], [[2.0, 1.0]]])
        found = otjax.barycenter(
            points[:1] + shifts, None, weights, epsilon=0.3, objective=otjax.Debiased()
        )
        expected = points[0] + jnp.array([[1.2, 0.6]])
        np.testing.assert_allclose(found.points, expected, atol=1e-4)
    assert found.points.shape == (10, 2) and found.masses.shape == (10,)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["entropic", "debiased"])
def test_derivatives_of_points(objective):
    weights = jnp.array([0.4, 0.6])

    @jax.jit
    def function(points, weights):
        found = otjax.barycenter(
            points,
            None,
            weights,
            epsilon=0.5,
            objective=OBJECTIVES[objective],
            tolerance=1e-11,
            throw=False,
        )
        return jnp.sum(jnp.sin(found.points)) + found.value

    points = clouds(n=6)
    by_points, by_weights = jax.jit(jax.grad(function, (0, 1)))(points, weights)
    move, lean = jr.normal(jr.key(1), points.shape), jnp.array([0.3, -0.1])
    step = 1e-3
    along = function(points + step * move, weights) - function(points - step * move, weights)
    np.testing.assert_allclose(np.sum(by_points * move), along / (2 * step), rtol=1e-3)
    along = function(points, weights + step * lean) - function(points, weights - step * lean)
    np.testing.assert_allclose(np.sum(by_weights * lean), along / (2 * step), rtol=1e-3)


@pytest.mark.slow
def test_of_samples_of_gaussians_as_the_closed_form():
    means = jnp.array([[0.0, 0.0], [2.0, 1.0]])
    roots = jnp.array([[[1.0, 0.0], [0.3, 0.5]], [[0.5, 0.0], [-0.2, 0.8]]])
    z = jr.normal(jr.key(0), (300, 2))
    z = (z - jnp.mean(z, axis=0, keepdims=True)) @ jnp.linalg.inv(
        jnp.linalg.cholesky(jnp.cov(z, rowvar=False, bias=True))
    ).T
    points = jnp.einsum("kij,nj->kni", roots, z) + means[:, None, :]
    exact = otjax.gaussian_barycenter(means, jnp.einsum("kij,klj->kil", roots, roots))
    found = otjax.barycenter(points, epsilon=0.1, objective=otjax.Debiased(), throw=False)
    np.testing.assert_allclose(np.mean(found.points, axis=0), exact.mean, atol=1e-3)
    cov = np.cov(np.asarray(found.points), rowvar=False, bias=True)
    np.testing.assert_allclose(cov, exact.cov, atol=0.05)


def test_single_precision_reaches_what_it_can():
    """The constants that are open must not drift: rounding would take all digits."""
    single = lambda array: array.astype(jnp.float32)
    geometry = otjax.CostMatrix(single(COST))
    found = otjax.barycenter(geometry, single(MASSES), single(WEIGHTS), epsilon=4e-3)
    expected = entropic(MASSES, WEIGHTS, jnp.asarray(4e-3), COST).masses
    assert found.masses.dtype == jnp.float32
    np.testing.assert_allclose(found.masses, expected, atol=1e-4)
    assert all(np.max(np.abs(potential)) < 2 for potential in found.potentials)


def test_statuses_and_what_does_not_fit(unchecked):
    geometry = otjax.CostMatrix(COST)
    solve = lambda masses=MASSES, weights=WEIGHTS, epsilon=4e-3, **kwargs: otjax.barycenter(
        geometry, masses, weights, epsilon=epsilon, throw=False, **kwargs
    )
    assert solve(max_steps=2).result == otjax.RESULTS.max_steps_reached
    assert int(solve(max_steps=2).num_steps) == 2
    for found, result in (
        (solve(weights=WEIGHTS.at[0].set(-1.0)), otjax.RESULTS.invalid_weights),
        (solve(masses=MASSES.at[0, 0].set(jnp.nan)), otjax.RESULTS.invalid_mass),
        (solve(masses=MASSES.at[0].multiply(2.0)), otjax.RESULTS.unequal_mass),
        (solve(epsilon=-1.0), otjax.RESULTS.invalid_epsilon),
    ):
        assert found.result == result
        assert np.all(np.isfinite(found.masses))
    for message, call in {
        "`objective`": lambda: solve(objective=0.5),
        "`support`": lambda: solve(support=jnp.ones((3, 1))),
        "`masses` must be given": lambda: otjax.barycenter(geometry, epsilon=1.0),
        "`masses` must have shape": lambda: solve(masses=MASSES[:, 1:]),
        "`weights`": lambda: solve(weights=WEIGHTS[:2]),
        "`geometry`": lambda: otjax.barycenter(jnp.ones((3, 2)), epsilon=1.0),
        r"Debiased\(\)": lambda: otjax.barycenter(
            otjax.CostMatrix(COST[:, 1:]), MASSES, epsilon=1.0, objective=otjax.Debiased()
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
