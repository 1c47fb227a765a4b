"""Losses, penalties and clipping against closed forms."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import jaxtyping
import numpy as np
import optax
import pytest

import otjax
from otjax import gan


KEY = jr.key(0)


class Linear(eqx.Module):
    """A critic whose gradient is known: its weight."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.sum(self.weight * x)


def linear(norm, shape=(3,)):
    weight = jr.normal(jr.key(7), shape)
    return Linear(norm * weight / jnp.sqrt(jnp.sum(jnp.square(weight))))


def quadratic(curvature):
    """A critic whose gradient is `curvature * x`, as a plain function with its parameter."""
    return jtu.Partial(lambda a, x: 0.5 * a * jnp.sum(jnp.square(x)), jnp.asarray(curvature))


def cloud(seed, n=6, shape=(3,)):
    return jr.normal(jr.key(seed), (n, *shape))


# Losses


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_the_losses_of_a_linear_critic(shape):
    critic, real, fake = linear(2.0, shape), cloud(0, 6, shape), cloud(1, 9, shape) + 1
    loss = jnp.sum(critic.weight * (jnp.mean(fake, axis=0) - jnp.mean(real, axis=0)))
    np.testing.assert_allclose(gan.critic_loss(critic, real, fake), loss)
    np.testing.assert_allclose(
        gan.generator_loss(critic, fake), -jnp.sum(critic.weight * jnp.mean(fake, axis=0))
    )


def test_the_losses_of_a_discriminator():
    critic, real, fake = linear(2.0), cloud(0), cloud(1)
    probability = lambda x: 1 / (1 + np.exp(-np.asarray(x @ critic.weight)))
    np.testing.assert_allclose(
        gan.jensen_shannon_critic_loss(critic, real, fake),
        -np.mean(np.log(probability(real))) - np.mean(np.log(1 - probability(fake))),
    )
    np.testing.assert_allclose(
        gan.non_saturating_generator_loss(critic, fake), -np.mean(np.log(probability(fake)))
    )
    np.testing.assert_allclose(
        gan.saturating_generator_loss(critic, fake), np.mean(np.log(1 - probability(fake)))
    )


def test_the_best_discriminator_shows_the_jensen_shannon_divergence():
    """Two laws on {0, 1}, and the logits log(p / q)."""
    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    real, fake = jnp.array([[0.0], [1.0], [1.0], [1.0]]), jnp.array([[0.0], [1.0]])
    logits = jnp.asarray(np.log(p / q))
    middle = (p + q) / 2
    divergence = (p @ np.log(p / middle) + q @ np.log(q / middle)) / 2
    loss = gan.jensen_shannon_critic_loss(lambda x: logits[x[0].astype(int)], real, fake)
    np.testing.assert_allclose(np.log(2) - loss / 2, divergence)


def test_where_supports_are_disjoint_only_one_generator_loss_goes_silent():
    """Real points at 0, fake ones at a distance: the discriminator is sure, W1 is the distance."""
    real = jnp.zeros((1, 1))
    sure = lambda x: 40 - 1000 * x[0]
    critic = lambda x: -x[0]
    for distance in (0.1, 1.0, 10.0):
        fake = jnp.full((1, 1), distance)
        np.testing.assert_allclose(
            np.log(2) - gan.jensen_shannon_critic_loss(sure, real, fake) / 2, np.log(2)
        )
        np.testing.assert_allclose(-gan.critic_loss(critic, real, fake), distance)
        saturating = jax.grad(lambda x: gan.saturating_generator_loss(sure, x))(fake)
        others = [
            jax.grad(lambda x: gan.non_saturating_generator_loss(sure, x))(fake) / 1000,
            jax.grad(lambda x: gan.generator_loss(critic, x))(fake),
        ]
        assert jnp.abs(saturating)[0, 0] < 1e-20
        np.testing.assert_allclose(others, 1)


# Gradient penalties


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic(norm, shape):
    critic, real, fake = linear(norm, shape), cloud(0, 6, shape), cloud(1, 6, shape)
    direction = np.asarray(critic.weight) / norm

    def penalty(critic, one_sided, at):
        return gan.gradient_penalty(critic, real, fake, key=KEY, one_sided=one_sided, at=at)

    value_and_grad = jax.jit(jax.value_and_grad(penalty), static_argnums=1)
    for at in (gan.Segments(), gan.Samples()):
        value, gradient = value_and_grad(critic, False, at)
        np.testing.assert_allclose(value, (norm - 1) ** 2, atol=1e-15)
        np.testing.assert_allclose(gradient.weight, 2 * (norm - 1) * direction, atol=1e-14)
        value, gradient = value_and_grad(critic, True, at)
        np.testing.assert_allclose(value, max(norm - 1, 0) ** 2, atol=1e-15)
        np.testing.assert_allclose(gradient.weight, 2 * max(norm - 1, 0) * direction, atol=1e-14)


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_penalty_of_a_quadratic_critic(slope):
    """From 0 to a unit vector the gradient's norm is uniform in [0, slope]."""
    n = 40_000
    real, fake = jnp.zeros((n, 2)), jnp.tile(jnp.array([[0.6, 0.8]]), (n, 1))
    penalty = lambda **kwargs: gan.gradient_penalty(quadratic(slope), real, fake, **kwargs)
    two_sided = slope**2 / 3 - slope + 1
    one_sided = max(slope - 1, 0) ** 3 / (3 * slope)
    np.testing.assert_allclose(penalty(key=KEY), two_sided, atol=0.01)
    np.testing.assert_allclose(penalty(key=KEY, one_sided=True), one_sided, atol=0.01)
    assert penalty(key=jr.key(1)) != penalty(key=KEY)


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_penalty_of_a_quadratic_critic_at_samples(slope):
    """There the norm of its gradient is `slope * |x|`; the batches need not be pairs."""
    real, fake = cloud(0, 6), 3 * cloud(1, 9)
    excess = slope * np.linalg.norm(np.concatenate([real, fake]), axis=1) - 1
    penalty = lambda **kwargs: gan.gradient_penalty(
        quadratic(slope), real, fake, at=gan.Samples(), **kwargs
    )
    np.testing.assert_allclose(penalty(), np.mean(excess**2))
    np.testing.assert_allclose(penalty(one_sided=True), np.mean(np.maximum(excess, 0) ** 2))
    assert abs(np.mean(excess[:6] ** 2) - penalty()) > 0.01  # the fake ones count


@pytest.mark.parametrize("at", [gan.Segments(), gan.Samples()])
def test_a_place_gives_the_loss_and_the_norms_at_its_points(at):
    critic, real, fake = quadratic(2.0), cloud(0), 3 * cloud(1)
    points = at.points(real, fake, key=KEY)
    loss, norms = at.loss_and_norms(critic, real, fake, key=KEY)
    expected = gan.critic_loss(critic, real, fake), 2 * jnp.linalg.norm(points, axis=1)
    chex.assert_trees_all_close((loss, norms), expected, rtol=1e-12)


def test_points_on_segments_divide_them():
    """All coordinates by one share, that is uniform."""
    real, fake = cloud(0, 2000), 3 * cloud(1, 2000)
    shares = (gan.Segments().points(real, fake, key=KEY) - real) / (fake - real)
    np.testing.assert_allclose(shares, shares[:, :1] * np.ones((1, 3)), rtol=1e-9)
    np.testing.assert_allclose(np.sort(shares[:, 0]), (np.arange(2000) + 0.5) / 2000, atol=0.05)


def test_samples_leave_the_slope_between_supports_free():
    """What the documentation warns of: a step between two distant clouds costs nothing there."""
    real, fake = 5 + cloud(0, 64, (1,)), -5 - cloud(1, 64, (1,))
    step = lambda x: 100 * jnp.tanh(10 * x[0])
    penalty = lambda at: gan.gradient_penalty(step, real, fake, key=KEY, one_sided=True, at=at)
    assert penalty(gan.Samples()) < 1e-6
    assert penalty(gan.Segments()) > 100
    assert gan.critic_loss(step, real, fake) < -150  # of measures at a distance of about ten


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_penalty_where_the_gradient_vanishes(dtype):
    """Exactly one, or nothing one-sided, and a derivative that is finite, of any order."""
    real, fake = cloud(0).astype(dtype), cloud(1).astype(dtype)
    flat = quadratic(jnp.zeros((), dtype))
    penalty = lambda critic, one_sided, at: gan.gradient_penalty(
        critic, real, fake, key=KEY, one_sided=one_sided, at=at
    )
    value_and_grad = jax.jit(jax.value_and_grad(penalty), static_argnums=1)
    for one_sided, expected, at in ((False, 1, gan.Segments()), (True, 0, gan.Samples())):
        value, gradient = value_and_grad(flat, one_sided, at)
        assert value == expected and value.dtype == dtype
        assert jnp.isfinite(gradient.args[0])
    # At a single point too, beside others where it does not vanish.
    unit = quadratic(jnp.ones((), dtype))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(gan.gradient_norms(unit, x))))
    gradient = slope(jnp.stack([jnp.zeros(3, dtype), jnp.ones(3, dtype)]))
    np.testing.assert_allclose(gradient, [[0] * 3, [3**-0.5] * 3], rtol=1e-6)


def test_gradient_norms():
    x = cloud(3, 5, (2, 2))
    norms = gan.gradient_norms(quadratic(2.0), x)
    np.testing.assert_allclose(norms, 2 * np.linalg.norm(x.reshape(5, -1), axis=1))


def test_the_derivative_of_a_penalty_is_right():
    critic = eqx.nn.MLP(3, "scalar", 8, 1, jnp.tanh, key=KEY)
    parameters, rest = eqx.partition(critic, eqx.is_array)
    real, fake = cloud(0), cloud(1)

    @jax.jit
    def penalty(parameters):
        return gan.gradient_penalty(eqx.combine(parameters, rest), real, fake, key=KEY)

    leaves, structure = jax.tree.flatten(parameters)
    direction = structure.unflatten([jnp.cos(jnp.arange(p.size)).reshape(p.shape) for p in leaves])
    moved = lambda h: penalty(jax.tree.map(lambda p, d: p + h * d, parameters, direction))
    along = sum(
        jnp.sum(g * d)
        for g, d in zip(
            jax.tree.leaves(jax.grad(penalty)(parameters)), jax.tree.leaves(direction), strict=True
        )
    )
    np.testing.assert_allclose(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)


# Clipping

# As Equinox names parameters, and as Flax does; with what is no parameter among them.
MODELS = {
    "equinox": lambda: eqx.nn.MLP(3, "scalar", 8, 1, key=KEY),
    "flax": lambda: {
        "Dense_0": {"kernel": cloud(0, 3, (4,)), "bias": cloud(1, 4, ())},
        "count": jnp.arange(5),
    },
}


def arrays(model, biases):
    """The floating arrays of a model that are biases, or those that are not."""
    return [
        leaf
        for path, leaf in jtu.tree_flatten_with_path(model)[0]
        if eqx.is_inexact_array(leaf) and ("bias" in jtu.keystr(path)) == biases
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("biases", [True, False])
def test_clipping_keeps_weights_within_the_limit(name, biases):
    model = MODELS[name]()
    clipped = gan.clip_weights(model, 0.1, biases=biases)
    for old, new in zip(arrays(model, False), arrays(clipped, False), strict=True):
        np.testing.assert_array_equal(new, np.clip(old, -0.1, 0.1))
    for old, new in zip(arrays(model, True), arrays(clipped, True), strict=True):
        np.testing.assert_array_equal(new, np.clip(old, -0.1, 0.1) if biases else old)
    assert jax.tree.structure(clipped) == jax.tree.structure(model)
    if name == "flax":
        np.testing.assert_array_equal(clipped["count"], model["count"])


def test_the_limit_may_be_traced_and_clipping_differentiated():
    critic = linear(2.0)
    clip = jax.jit(lambda critic, limit: jnp.sum(gan.clip_weights(critic, limit).weight))
    gradient, slope = jax.grad(clip, (0, 1))(critic, 0.5)
    inside = np.abs(critic.weight) < 0.5
    np.testing.assert_array_equal(gradient.weight, inside)
    np.testing.assert_allclose(slope, np.sum(np.sign(critic.weight) * ~inside))


@pytest.mark.parametrize("biases", [True, False])
def test_an_optimiser_keeps_parameters_within_the_limit(biases):
    parameters = eqx.filter(MODELS["equinox"](), eqx.is_inexact_array)
    optimiser = optax.chain(optax.sgd(1.0), gan.keep_params_within(0.1, biases=biases))
    gradient = jax.tree.map(lambda p: jnp.cos(7 * p), parameters)
    updates, _ = optimiser.update(gradient, optimiser.init(parameters), parameters)
    plain = jax.tree.map(lambda p, g: p - g, parameters, gradient)
    expected = gan.clip_weights(plain, 0.1, biases=biases)
    updated = optax.apply_updates(parameters, updates)
    chex.assert_trees_all_close(updated, expected, rtol=1e-7, atol=1e-15)
    with pytest.raises(ValueError, match="`params`"):
        optimiser.update(gradient, optimiser.init(parameters))


# Entropic duals


class Lookup(eqx.Module):
    """A potential that is one number for each of the points."""

    points: jax.Array
    values: jax.Array

    def __call__(self, x):
        return self.values[jnp.argmin(jnp.sum(jnp.square(self.points - x[None, :]), axis=1))]


X, Y, EPSILON = cloud(0, 7, (2,)), cloud(1, 5, (2,)) + 0.5, 0.5


def maximised(objective, parameters, steps, learning_rate):
    """The parameters that maximise a function of them and a key, by Adam; one program."""
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    parameters, rest = eqx.partition(parameters, eqx.is_inexact_array)

    def step(carry, key):
        parameters, opt_state = carry
        loss = lambda parameters: -objective(eqx.combine(parameters, rest), key)
        gradient = jax.grad(loss)(parameters)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimiser.update(gradient, opt_state)
        return (optax.apply_updates(parameters, updates), opt_state), None

    carry = parameters, optimiser.init(parameters)
    (parameters, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, jr.split(KEY, steps)))(
        carry
    )
    return eqx.combine(parameters, rest)


@pytest.fixture(scope="module")
def solution():
    return otjax.solve(otjax.EntropicProblem(otjax.PointCloud(X, Y), epsilon=EPSILON))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("objective", [gan.entropic_dual, gan.entropic_semi_dual])
def test_entropic_objectives_compute_half_precision_in_float32(objective, dtype):
    x = jnp.zeros((2, 1), dtype)
    height = lambda point: jnp.asarray(20.0, dtype)
    potentials = [height] * (2 if objective is gan.entropic_dual else 1)
    value = objective(*potentials, x, x, epsilon=1.0)
    assert value.dtype == jnp.float32 and jnp.isfinite(value)
    assert jnp.isfinite(objective(*potentials, x, x, epsilon=1e-8))


def test_the_entropic_dual_is_its_formula():
    f, g = linear(0.7, (2,)), linear(0.3, (2,))
    cost = otjax.Euclidean()
    exponent = np.asarray((X @ f.weight)[:, None] + (Y @ g.weight)[None, :] - cost.pairwise(X, Y))
    expected = np.mean(X @ f.weight) + np.mean(Y @ g.weight)
    expected -= EPSILON * np.mean(np.exp(exponent / EPSILON) - 1)
    value = gan.entropic_dual(f, g, X, Y, epsilon=EPSILON, cost=cost)
    np.testing.assert_allclose(value, expected)
    assert abs(value - gan.entropic_dual(f, g, X, Y, epsilon=EPSILON)) > 0.01


def test_at_the_potentials_both_duals_are_the_value(solution):
    f, g = (
        Lookup(points, values) for points, values in zip((X, Y), solution.potentials, strict=True)
    )
    dual = gan.entropic_dual(f, g, X, Y, epsilon=EPSILON)
    np.testing.assert_allclose(dual, solution.value, rtol=1e-8)
    semi_dual = gan.entropic_semi_dual(g, X, Y, epsilon=EPSILON)
    np.testing.assert_allclose(semi_dual, solution.value, rtol=1e-8)


def test_free_potentials_reach_the_value(solution):
    def dual(values, _):
        f, g = values
        return gan.entropic_dual(Lookup(X, f), Lookup(Y, g), X, Y, epsilon=EPSILON)

    best = maximised(dual, (jnp.zeros(7), jnp.zeros(5)), 400, 0.1)
    np.testing.assert_allclose(dual(best, None), solution.value, rtol=1e-3)
    # And then they are the potentials, up to a constant.
    for values, potential in zip(best, solution.potentials, strict=True):
        shifted = values - jnp.mean(values) + jnp.mean(potential)
        np.testing.assert_allclose(shifted, potential, atol=0.03)


def test_networks_reach_the_value_by_minibatches(solution):
    networks = tuple(eqx.nn.MLP(2, "scalar", 32, 2, jax.nn.silu, key=key) for key in jr.split(KEY))

    def objective(networks, key):
        key_x, key_y = jr.split(key)
        x, y = (
            points[jr.randint(one, (16,), 0, len(points))]
            for points, one in ((X, key_x), (Y, key_y))
        )
        return gan.entropic_dual(*networks, x, y, epsilon=EPSILON)

    best = maximised(objective, networks, 2000, 5e-3)
    value = gan.entropic_dual(*best, X, Y, epsilon=EPSILON)
    np.testing.assert_allclose(value, solution.value, rtol=0.01)


def test_one_network_reaches_the_value(solution):
    network = eqx.nn.MLP(2, "scalar", 32, 2, jax.nn.silu, key=KEY)
    objective = lambda g, _: gan.entropic_semi_dual(g, X, Y, epsilon=EPSILON)
    best = maximised(objective, network, 300, 1e-2)
    np.testing.assert_allclose(objective(best, None), solution.value, rtol=0.01)
    assert objective(best, None) <= solution.value + 1e-9
    euclidean = gan.entropic_semi_dual(best, X, Y, epsilon=EPSILON, cost=otjax.Euclidean())
    assert abs(euclidean - solution.value) > 0.1


def test_potentials_far_too_high_have_a_finite_gradient():
    """Beyond e^30 the exponential goes on as its tangent: concave, and never infinite."""
    x = X.astype(jnp.float32)

    def dual(height):
        return gan.entropic_dual(lambda x: height, lambda y: height, x, x, epsilon=0.01)

    heights = jnp.array([0.1, 0.149, 0.151, 1.0, 100.0], jnp.float32)
    values, slopes = jax.vmap(jax.value_and_grad(dual))(heights)
    assert jnp.all(jnp.isfinite(values)) and jnp.all(jnp.isfinite(jnp.square(slopes)))
    assert jnp.all(jnp.diff(slopes) <= 0)


# Bad input

SAMPLES = cloud(0)
CRITIC = linear(1.0)


@pytest.fixture
def unchecked():
    """What users see, who run no type checker that would complain first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "name, call",
    [
        ("fake", lambda: gan.critic_loss(CRITIC, SAMPLES, SAMPLES[:, :2])),
        ("fake", lambda: gan.critic_loss(CRITIC, SAMPLES, SAMPLES.astype(jnp.float32))),
        ("real", lambda: gan.critic_loss(CRITIC, SAMPLES[:0], SAMPLES)),
        ("fake", lambda: gan.critic_loss(CRITIC, SAMPLES, SAMPLES[:0])),
        ("real", lambda: gan.critic_loss(CRITIC, jnp.ones((6, 3), int), SAMPLES)),
        ("real", lambda: gan.critic_loss(CRITIC, 1.0, SAMPLES)),
        ("critic", lambda: gan.critic_loss(lambda x: x, SAMPLES, SAMPLES)),
        ("critic", lambda: gan.critic_loss(lambda x: x[:1], SAMPLES, SAMPLES)),
        ("critic", lambda: gan.critic_loss(lambda x: jnp.argmax(x), SAMPLES, SAMPLES)),
        ("fake", lambda: gan.generator_loss(CRITIC, SAMPLES[:0])),
        ("critic", lambda: gan.generator_loss(lambda x: x, SAMPLES)),
        ("fake", lambda: gan.jensen_shannon_critic_loss(CRITIC, SAMPLES, SAMPLES[:, :2])),
        ("fake", lambda: gan.non_saturating_generator_loss(CRITIC, SAMPLES[:0])),
        ("fake", lambda: gan.saturating_generator_loss(CRITIC, SAMPLES[:0])),
        ("fake", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES[:4], key=KEY)),
        ("fake", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES[:, :2], key=KEY)),
        ("critic", lambda: gan.gradient_penalty(lambda x: x, SAMPLES, SAMPLES, key=KEY)),
        ("key", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES)),
        ("at", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES, key=KEY, at="middle")),
        ("at", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES, key=KEY, at=gan.Samples)),
        ("fake", lambda: gan.gradient_penalty(CRITIC, SAMPLES, SAMPLES[:, :2], at=gan.Samples())),
        ("key", lambda: gan.Segments().points(SAMPLES, SAMPLES, key=None)),
        ("fake", lambda: gan.Segments().points(SAMPLES, SAMPLES[:4], key=KEY)),
        ("critic", lambda: gan.gradient_norms(None, SAMPLES)),
        ("points", lambda: gan.gradient_norms(CRITIC, SAMPLES[:0])),
        ("limit", lambda: gan.clip_weights(CRITIC, 0.0)),
        ("limit", lambda: gan.clip_weights(CRITIC, -1)),
        ("limit", lambda: gan.clip_weights(CRITIC, jnp.nan)),
        ("limit", lambda: gan.clip_weights(CRITIC, jnp.ones(2))),
        ("limit", lambda: gan.keep_params_within(0.0)),
        ("y", lambda: gan.entropic_dual(CRITIC, CRITIC, SAMPLES, SAMPLES[:, :2], epsilon=1.0)),
        ("x", lambda: gan.entropic_dual(CRITIC, CRITIC, SAMPLES[:0], SAMPLES, epsilon=1.0)),
        ("epsilon", lambda: gan.entropic_dual(CRITIC, CRITIC, SAMPLES, SAMPLES, epsilon=0.0)),
        ("g", lambda: gan.entropic_dual(CRITIC, lambda x: x, SAMPLES, SAMPLES, epsilon=1.0)),
        ("f", lambda: gan.entropic_dual(lambda x: x, CRITIC, SAMPLES, SAMPLES, epsilon=1.0)),
        ("g", lambda: gan.entropic_semi_dual(lambda x: x, SAMPLES, SAMPLES, epsilon=1.0)),
        ("epsilon", lambda: gan.entropic_semi_dual(CRITIC, SAMPLES, SAMPLES, epsilon=-1.0)),
    ],
)
def test_bad_input_is_named(unchecked, name, call):
    with pytest.raises(ValueError, match=f"`{name}`"):
        call()
