"""Flows against closed forms: Gaussian bridges, matrix exponentials, rotations."""

import sys

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, strategies as st

import otjax
from otjax import flow


KEY = jr.key(0)
MATRIX = jnp.array([[0.3, -1.2], [0.7, -0.5]])


def spread(seed, d):
    """A covariance."""
    root = np.random.default_rng(seed).normal(size=(d, d))
    return jnp.asarray(root @ root.T + 0.3 * np.eye(d))


def standardised(n, d):
    """Samples of mean exactly 0 and covariance exactly I."""
    x = np.random.default_rng(0).normal(size=(n, d))
    x = x - x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / n)).T


# The bridge between Gaussians


def test_the_bridge_between_shifted_standard_gaussians():
    a, sigma = jnp.array([0.5, -1.0]), 1.3
    bridge = flow.GaussianBridge(-a, jnp.eye(2), a, jnp.eye(2), sigma=sigma)
    for t in (0.0, 0.3, 1.0):
        variance = (1 - t) ** 2 + t**2 + t * (1 - t) * np.sqrt(4 + sigma**4)
        np.testing.assert_allclose(bridge.mean(t), (2 * t - 1) * a)
        np.testing.assert_allclose(bridge.covariance(t), variance * np.eye(2), atol=1e-12)
    mean, joint = bridge.joint
    np.testing.assert_allclose(mean, [-0.5, 1.0, 0.5, -1.0])
    np.testing.assert_allclose(joint[0, 2], (np.sqrt(4 + sigma**4) - sigma**2) / 2)
    mean, cov = a.astype(jnp.float32), jnp.eye(2, dtype=jnp.float32)
    single = flow.GaussianBridge(mean, cov, mean, cov, sigma=sigma)
    assert single.covariance(0.3).dtype == single.velocity(0.3, a).dtype == jnp.float32


@given(seed=st.integers(0, 1000), sigma=st.floats(0.1, 3))
def test_the_joint_law_of_the_bridge_is_that_of_the_entropic_plan(seed, sigma):
    """A Gaussian coupling is an entropic plan iff its precision couples the ends by -2 / epsilon,
    times the identity: the density is exp of a function of each end minus the cost / epsilon."""
    d, covs = 3, (spread(seed, 3), spread(seed + 1, 3))
    bridge = flow.GaussianBridge(jnp.zeros(d), covs[0], jnp.ones(d), covs[1], sigma=sigma)
    precision = np.linalg.inv(bridge.joint[1])
    np.testing.assert_allclose(
        precision[:d, d:], -np.eye(d) / sigma**2, rtol=1e-6, atol=1e-9 / sigma**4
    )
    assert np.all(np.linalg.eigvalsh(bridge.joint[1]) > 0)


def test_without_diffusion_the_bridge_is_the_geodesic():
    covs = spread(0, 3), spread(1, 3)
    bridge = flow.GaussianBridge(jnp.zeros(3), covs[0], jnp.ones(3), covs[1], sigma=0.0)
    root = scipy.linalg.sqrtm(covs[0])
    inverse = np.linalg.inv(root)
    map_ = inverse @ scipy.linalg.sqrtm(root @ covs[1] @ root) @ inverse
    for t in (0.0, 0.4, 1.0):
        at_t = (1 - t) * np.eye(3) + t * map_
        np.testing.assert_allclose(bridge.covariance(t), at_t @ covs[0] @ at_t, atol=1e-12)


def test_the_bridge_is_differentiable_where_eigenvalues_coincide():
    @jax.jit
    def function(numbers):
        cov, mean, sigma = numbers
        bridge = flow.GaussianBridge(mean, cov, 2 * mean, spread(1, 2), sigma=sigma)
        return jnp.sum(jnp.sin(bridge.covariance(0.3)) + bridge.velocity(0.3, 0.1 + mean)[None, :])

    point = jnp.eye(2), jnp.array([0.3, 0.2]), jnp.asarray(0.8)
    ways = [
        (jnp.array([[0.2, 0.5], [0.5, -0.3]]), jnp.array([1.0, -1.0]), jnp.asarray(0.4)),
        (jnp.array([[0.1, -0.2], [-0.2, 0.3]]), jnp.array([0.3, 1.0]), jnp.asarray(-1.0)),
    ]
    gradient = jax.jit(jax.grad(function))
    expected = helpers.central_difference(function, point, ways[0])
    np.testing.assert_allclose(helpers.inner_product(gradient(point), ways[0]), expected, rtol=1e-8)
    _, second = jax.jvp(gradient, (point,), (ways[0],))
    expected = helpers.central_difference(gradient, point, ways[0])
    np.testing.assert_allclose(
        helpers.inner_product(second, ways[1]),
        helpers.inner_product(expected, ways[1]),
        rtol=1e-7,
    )


def test_bridge_matching_finds_the_flow_of_the_bridge():
    """Its velocity, times a factor, is best at the factor one."""
    bridge = flow.GaussianBridge(jnp.zeros(2), spread(0, 2), jnp.ones(2), spread(1, 2), sigma=1.0)
    mean, joint = bridge.joint
    ends = mean[None, :] + jr.normal(KEY, (40_000, 4)) @ jnp.linalg.cholesky(joint).T

    def loss(factor):
        return flow.velocity_loss(
            lambda t, x: factor * bridge.velocity(t, x), jr.key(1), ends[:, :2], ends[:, 2:],
            coupling=flow.Paired(), interpolant=flow.BrownianBridge(1.0, margin=0.1),
        )  # fmt: skip

    slope, curvature = jax.grad(loss)(1.0), jax.grad(jax.grad(loss))(1.0)
    assert abs(slope / curvature) < 0.03


# Integration


@pytest.mark.parametrize("solver", [flow.Euler(), flow.Heun(), flow.RK4()])
def test_the_order_of_a_solver(solver):
    """A linear field with a moving centre, whose flow is a matrix exponential."""
    d = jnp.array([1.0, 2.0])
    velocity = lambda t, x: MATRIX @ x + jnp.cos(3 * t) * d
    x0 = jr.normal(KEY, (5, 2))
    truth = _exactly(x0, np.asarray(MATRIX), np.asarray(d))
    errors = []
    for num_steps in (8, 16):
        solution = flow.integrate(velocity, x0, solver=solver, num_steps=num_steps)
        errors.append(np.abs(solution.samples - truth).max())
        assert solution.num_evaluations == num_steps * len(solver.table[1])
        assert solution.result == otjax.RESULTS.successful
    order = {"Euler": 1, "Heun": 2, "RK4": 4}[type(solver).__name__]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.4


def _exactly(x0, matrix, d):
    """The linear system with cos(3 t) and sin(3 t) as two more coordinates."""
    whole = np.zeros((4, 4))
    whole[:2, :2], whole[:2, 2] = matrix, d
    whole[2, 3], whole[3, 2] = -3, 3
    start = np.concatenate([x0, np.tile([1.0, 0.0], (len(x0), 1))], axis=1)
    return (start @ scipy.linalg.expm(whole).T)[:, :2]


def test_the_flow_of_a_bridge_has_its_marginals_and_its_volume():
    means, covs = (jnp.zeros(3), jnp.ones(3)), (spread(0, 3), spread(1, 3))
    bridge = flow.GaussianBridge(means[0], covs[0], means[1], covs[1], sigma=0.7)
    x0 = jnp.asarray(standardised(40, 3) @ np.linalg.cholesky(covs[0]).T)
    solution = flow.integrate(
        bridge.velocity, x0, solver=flow.RK4(), num_steps=100, trace=flow.ExactTrace()
    )
    np.testing.assert_allclose(np.mean(solution.samples, axis=0), means[1], atol=1e-5)
    np.testing.assert_allclose(np.cov(solution.samples.T, bias=True), covs[1], atol=1e-4)
    # The flow is linear, so that all volumes grow alike, as the root of the determinants.
    growth = 0.5 * (np.linalg.slogdet(covs[1])[1] - np.linalg.slogdet(covs[0])[1])
    np.testing.assert_allclose(solution.log_volume, np.full(40, growth), rtol=1e-5)
    back = flow.integrate(
        bridge.velocity, solution.samples, solver=flow.RK4(), num_steps=100, start=1.0, end=0.0
    )
    np.testing.assert_allclose(back.samples, x0, atol=1e-6)
    np.testing.assert_allclose(back.path_energy, solution.path_energy, rtol=1e-6)
    assert back.log_volume is None


def test_hutchinson_is_right_on_average():
    x0 = jr.normal(KEY, (300, 2))
    field = lambda t, x: MATRIX @ jnp.sin(x)
    volumes = {
        name: flow.integrate(field, x0, num_steps=4, trace=trace).log_volume
        for name, trace in {
            "exact": flow.ExactTrace(),
            "one": flow.Hutchinson(jr.key(1)),
            "many": flow.Hutchinson(jr.key(1), num_probes=64),
        }.items()
    }
    errors = {name: np.abs(volumes[name] - volumes["exact"]) for name in volumes}
    assert 0 < errors["many"].mean() < 0.3 * errors["one"].mean()
    assert abs(np.mean(volumes["one"] - volumes["exact"])) < 0.1


def test_energy_and_straightness():
    """On straight paths the energy is the squared length; on circles the chord is shorter."""
    x0 = jr.normal(KEY, (6, 2))
    straight = flow.integrate(lambda t, x: jnp.array([3.0, 4.0]), x0, num_steps=3)
    np.testing.assert_allclose(straight.path_energy, 25)
    np.testing.assert_allclose(straight.straightness, 0, atol=1e-12)
    turn = lambda t, x: jnp.array([-x[1], x[0]])
    for solver in (flow.Heun(), flow.RK4()):
        circle = flow.integrate(turn, x0, solver=solver, num_steps=100, start=0.5, end=2.5)
        square = np.mean(np.sum(np.square(x0), axis=1))
        chord = (2 * np.sin(1)) ** 2 * square
        np.testing.assert_allclose(circle.path_energy, 2 * square, rtol=1e-3)
        np.testing.assert_allclose(circle.straightness, 2 * square - chord / 2, rtol=1e-3)


def test_gradients_go_through_the_steps():
    x0 = jr.normal(KEY, (4, 2))

    def function(numbers):
        matrix, x0, end = numbers
        solution = flow.integrate(
            lambda t, x: matrix @ jnp.sin(x), x0, num_steps=3, end=end, trace=flow.ExactTrace()
        )
        return jnp.sum(solution.samples**2) + jnp.sum(solution.log_volume) + solution.straightness

    point = MATRIX, x0, jnp.asarray(0.9)
    way = jax.tree.map(lambda leaf: jr.normal(jr.key(leaf.ndim), leaf.shape), point)
    gradient = helpers.inner_product(jax.grad(function)(point), way)
    _, forward = jax.jvp(function, (point,), (way,))
    expected = helpers.central_difference(function, point, way)
    np.testing.assert_allclose([gradient, forward], [expected, expected], rtol=1e-7)


def test_reflow_gives_the_pairs_of_the_flow_and_makes_it_straight():
    """Independent Gaussians leave the field of section one of every paper; the pairs that it makes
    are monotone, and the best field on them is straight."""
    s, x0 = 3.0, jnp.linspace(-2.0, 2.0, 50)[:, None]
    curved = lambda t, x: (s**2 * t - (1 - t)) / ((1 - t) ** 2 + s**2 * t**2) * x
    (z0, z1), aux = flow.reflow(curved, x0, solver=flow.RK4(), num_steps=60, has_aux=True)
    np.testing.assert_array_equal(z0, x0)
    np.testing.assert_allclose(z1, s * x0, rtol=1e-4)
    assert aux.straightness > 0.1
    straight = lambda t, x: (s - 1) / (1 + (s - 1) * t) * x
    loss = flow.velocity_loss(straight, KEY, z0, z1, coupling=flow.Paired())
    assert loss < 1e-6
    assert flow.integrate(straight, x0, solver=flow.RK4()).straightness < 1e-6
    gradient = jax.grad(lambda x0: jnp.sum(flow.reflow(curved, x0, num_steps=2)[1]))(x0)
    assert np.all(gradient == 0)


def test_each_sample_has_its_condition_dtype_and_status():
    x0 = jnp.ones((3, 2), jnp.float32)
    solution = flow.integrate(
        lambda t, x, c: c.astype(x.dtype) * jnp.ones_like(x), x0, jnp.arange(3), num_steps=2,
        trace=flow.ExactTrace(),
    )  # fmt: skip
    np.testing.assert_allclose(solution.samples, [[1, 1], [2, 2], [3, 3]])
    floats = [
        leaf for leaf in jax.tree.leaves(solution) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert all(leaf.dtype == jnp.float32 for leaf in floats)
    explode = flow.integrate(lambda t, x: 1e30 * x * x, x0, num_steps=4)
    assert explode.result == otjax.RESULTS.nonfinite_path
    broken = flow.integrate(lambda t, x: x, x0.at[0, 0].set(jnp.nan), num_steps=1)
    assert broken.result == otjax.RESULTS.nonfinite_input


def test_one_trace_for_new_numbers_eager_or_not():
    seen = []
    velocity = lambda t, x: seen.append(None) or x
    for end in (0.5, 0.7, 0.9):
        flow.integrate(velocity, jnp.ones((2, 1)), solver=flow.Euler(), end=end)
    assert len(seen) == 1

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(x0, end):
        return jax.vmap(lambda end: flow.integrate(lambda t, x: t * x, x0, end=end).samples)(end)

    for k in range(3):
        out = run(jnp.ones((2, 1)) + k, jnp.array([0.5, 1.0]) + k)
    assert out.shape == (2, 2, 1)
    assert out[0, 0, 0] < out[1, 0, 0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"condition": jnp.ones(2)}, "condition"),
        ({"velocity": lambda t, x: x[:1]}, "velocity"),
        ({"x0": jnp.ones((3, 2), int)}, "x0"),
        ({"end": jnp.ones(2)}, "end"),
    ],
)
def test_wrong_structure_is_named(options, name):
    given = {"velocity": lambda t, x: x, "x0": jnp.ones((3, 2))} | options
    with pytest.raises(ValueError, match=f"`{name}` must"):
        flow.integrate(given.pop("velocity"), given.pop("x0"), **given)


def test_steps_adapt_to_what_is_asked():
    pytest.importorskip("diffrax")
    x = jr.normal(KEY, (5, 2))
    turn = lambda t, x: 3 * t * MATRIX.astype(x.dtype) @ x

    @jax.jit
    def at(x, tolerance):
        solver = flow.Tsit5(rtol=tolerance, atol=tolerance)
        return flow.integrate(turn, x, solver=solver, end=0.8, trace=flow.ExactTrace())

    fine, coarse = at(x, 1e-9), at(x, 1e-3)
    exact = x @ scipy.linalg.expm(1.5 * 0.8**2 * MATRIX).T
    np.testing.assert_allclose(fine.samples, exact, atol=1e-7)
    np.testing.assert_allclose(fine.log_volume, 1.5 * 0.8**2 * jnp.trace(MATRIX), rtol=1e-7)
    grid = flow.integrate(turn, x, solver=flow.RK4(), num_steps=100, end=0.8)
    np.testing.assert_allclose(fine.path_energy, grid.path_energy, rtol=1e-6)
    assert fine.num_evaluations > 2 * coarse.num_evaluations
    back = flow.integrate(
        turn, fine.samples, solver=flow.Tsit5(rtol=1e-9, atol=1e-9), start=0.8, end=0.0
    )
    np.testing.assert_allclose(back.samples, x, atol=1e-6)
    np.testing.assert_allclose(back.path_energy, fine.path_energy, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(at(x, 1e-9).samples))(x)
    np.testing.assert_allclose(
        gradient, jnp.ones((5, 2)) @ scipy.linalg.expm(0.96 * MATRIX), atol=1e-6
    )
    short = flow.integrate(turn, x, solver=flow.Tsit5(rtol=1e-9, atol=1e-9, max_steps=2))
    assert short.result == otjax.RESULTS.max_steps_reached
    single = flow.integrate(turn, x.astype(jnp.float32), solver=flow.Tsit5())
    assert single.samples.dtype == jnp.float32 and single.result == otjax.RESULTS.successful


def test_an_adaptive_method_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match="otjax\\[diffrax\\]"):
        flow.integrate(lambda t, x: x, jnp.ones((3, 1)), solver=flow.Tsit5())
    for options in ({"rtol": 0.0}, {"atol": -1.0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            flow.Tsit5(**options)
