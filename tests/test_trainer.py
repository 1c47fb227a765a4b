"""The training step: what it does to a game whose outcome is known, and that it can be resumed."""

import io

import chex
import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import jaxtyping
import numpy as np
import optax
import pytest

import otjax
from otjax import gan, nn
from otjax.gan._batches import batch_of


KEY = jr.key(0)
TARGET = jnp.array([1.5, -2.0])  # at a distance of 2.5


class Translation(eqx.Module):
    """A generator that moves its latent: W1 to a translate is the length of the difference."""

    shift: jax.Array

    def __call__(self, latent):
        return latent + self.shift


class Pull(gan.AbstractGame):
    """A game in closed form, which also tells what its steps were given.

    A critic, one number, gains `weight` with each step of gradient descent at rate 1; the generator
    loses what the critic is.
    """

    weight: jax.Array
    traces: list = eqx.field(static=True)

    def critic_loss(self, critic, real, fake, *, key):
        self.traces.append(real.shape)
        metrics = {"real": jnp.mean(real), "fake": jnp.mean(fake), "drawn": jr.uniform(key)}
        return -self.weight * critic, metrics

    def generator_loss(self, critic, real, fake):
        value = jnp.mean(jnp.sum(fake, axis=1))
        return critic * value, {"seen": jnp.mean(real)}


class Traces(list):
    """A log that is static: equal to itself alone."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def pull_trainer(**options):
    options = {
        "generator_optimiser": optax.sgd(0.1),
        "critic_optimiser": optax.sgd(1.0),
        "latent": 2,
        "batch_size": 4,
        "n_critic": 3,
        "ema_decay": 0.9,
    } | options
    return gan.Trainer(Pull(jnp.array(0.5, DATA.dtype), Traces()), **options)


DATA = jr.normal(KEY, (9, 2)) + TARGET[None, :]


def pull_state(trainer, key=KEY):
    return trainer.init(Translation(jnp.zeros(2)), jnp.array(0.0), key=key)


def after(trainer, steps, data=DATA, key=KEY):
    state = pull_state(trainer, key)
    for _ in range(steps):
        state, metrics = trainer.step(state, data)
    return state, metrics


# One step, in closed form


def test_critic_steps_come_before_the_generator_step_and_its_average():
    trainer = pull_trainer()
    state, _ = after(trainer, 2)
    critics = np.array([3 * 0.5, 6 * 0.5])
    shifts = -0.1 * np.cumsum(critics)
    np.testing.assert_allclose(state.critic, critics[-1])
    np.testing.assert_allclose(state.generator.shift, shifts[-1])
    ema = 0.9 * (0.1 * shifts[0]) + 0.1 * shifts[1]
    np.testing.assert_allclose(state.ema.shift, ema)
    assert state.step == 2


@pytest.mark.parametrize(
    "options, critic, shift, ema",
    [
        ({"n_critic": 1}, 0.5, -0.05, -0.005),
        ({"n_critic": 0}, 0.0, 0.0, 0.0),
        ({"critic_optimiser": optax.sgd(2.0)}, 3.0, -0.3, -0.03),
        ({"generator_optimiser": optax.sgd(1.0)}, 1.5, -1.5, -0.15),
        ({"ema_decay": 0.0}, 1.5, -0.15, -0.15),
    ],
)
def test_each_option_counts(options, critic, shift, ema):
    state, _ = after(pull_trainer(**options), 1)
    np.testing.assert_allclose(state.critic, critic)
    np.testing.assert_allclose(state.generator.shift, shift)
    np.testing.assert_allclose(state.ema.shift, ema)


def test_one_trace_serves_all_steps_and_all_numbers():
    trainer = pull_trainer()
    traces = trainer.objective.traces
    state, _ = after(trainer, 3)
    first = len(traces)
    number = jnp.array(5.0, DATA.dtype)
    heavier = eqx.tree_at(lambda t: (t.objective.weight, t.ema_decay), trainer, (number, number))
    new, _ = heavier.step(state, DATA + 1)
    assert len(traces) == first
    np.testing.assert_allclose(new.critic, state.critic + 15)


def test_steps_and_keys_draw_anew():
    trainer = pull_trainer()
    state = pull_state(trainer)
    one, first = trainer.step(state, DATA)
    _, again = trainer.step(state, DATA)
    _, second = trainer.step(one, DATA)
    _, other = trainer.step(pull_state(trainer, jr.key(1)), DATA)
    for name in ("real", "fake", "drawn", "seen"):
        assert first[name] == again[name]
        assert len({float(metrics[name]) for metrics in (first, second, other)}) == 3


@pytest.mark.parametrize(
    ("key", "impl"),
    [(KEY, "threefry2x32"), (jr.PRNGKey(0), "threefry2x32")]
    + [(jr.key(0, impl=impl), impl) for impl in ("rbg", "unsafe_rbg")],
)
def test_a_key_of_any_kind_draws_as_its_kind_does(key, impl):
    state, metrics = after(pull_trainer(), 2, key=key)
    key_critic, _, _ = jr.split(jr.fold_in(jr.key(0, impl=impl), 1), 3)
    _, _, key_loss = jr.split(jr.split(key_critic, 3)[-1], 3)
    assert metrics["drawn"] == jr.uniform(key_loss)
    assert state.key_at(7) == jr.fold_in(jr.key(0, impl=impl), 7)


def test_the_critic_steps_of_one_step_see_different_batches():
    real = [after(pull_trainer(n_critic=n), 1)[1]["real"] for n in (1, 2, 3)]
    assert len({float(value) for value in real}) == 3


# Where the data come from


def test_batches_are_drawn_uniformly():
    data = jnp.arange(5.0)[:, None]
    draws = jax.vmap(lambda key: batch_of(data, 4, key))(jr.split(KEY, 2000))
    assert draws.shape == (2000, 4, 1)
    counts = np.bincount(np.asarray(draws, int).ravel(), minlength=5)
    np.testing.assert_allclose(counts / 8000, 0.2, atol=0.02)


def test_a_batch_of_all_data_is_the_data():
    trainer = pull_trainer(batch_size=len(DATA), n_critic=1)
    _, metrics = after(trainer, 1)
    np.testing.assert_allclose(metrics["seen"], jnp.mean(DATA))
    assert set(trainer.objective.traces) == {DATA.shape}


def test_a_sampler_may_take_the_place_of_the_data():
    sampler = jtu.Partial(lambda mean, key: mean + jr.normal(key, (1000, 2)), jnp.array(7.0))
    trainer = pull_trainer()
    state, metrics = after(trainer, 2, sampler)
    first = len(trainer.objective.traces)
    np.testing.assert_allclose(metrics["seen"], 7, atol=0.1)
    # Its arrays are traced: other numbers, the same program.
    _, metrics = trainer.step(state, jtu.Partial(sampler.func, jnp.array(8.0)))
    np.testing.assert_allclose(metrics["seen"], 8, atol=0.1)
    assert len(trainer.objective.traces) == first
    assert set(trainer.objective.traces) == {(1000, 2)}


@pytest.mark.parametrize("latent", [2, lambda key: jr.uniform(key, (2,)) + 100])
def test_the_latent_is_drawn_as_told(latent):
    _, metrics = after(pull_trainer(latent=latent, batch_size=8, n_critic=1), 1)
    assert (metrics["fake"] > 50) == callable(latent)


# A distance that is known


def train(trainer, generator, critic, data, steps):
    state = trainer.init(generator, critic, key=KEY)
    history = []
    for _ in range(steps):
        state, metrics = trainer.step(state, data)
        assert metrics["finite"]
        history.append(metrics)
    return state, history


def noise(key):
    return 0.1 * jr.normal(key, (2,))


SAMPLES = jax.vmap(noise)(jr.split(KEY, 64)) + TARGET[None, :]
GAMES = {
    "wgan-gp": (gan.PenalisedWGAN(10.0), lambda: nn.MLPCritic(2, width=16, key=KEY), {}),
    "wgan-lp": (
        gan.PenalisedWGAN(10.0, penalty=gan.OneSided(), at=gan.Samples()),
        lambda: nn.MLPCritic(2, width=16, key=KEY),
        {},
    ),
    "lipschitz": (gan.WGAN(), lambda: nn.LipschitzMLP(2, width=8, key=KEY), {}),
    "clipped": (
        gan.WGAN(),
        lambda: nn.MLPCritic(2, width=16, key=KEY),
        {"critic_optimiser": optax.chain(optax.adam(0.02), gan.keep_params_within(0.2))},
    ),
    "jensen-shannon": (
        gan.JensenShannonGAN(),
        lambda: nn.MLPCritic(2, width=16, key=KEY),
        {"n_critic": 1},
    ),
    "sinkhorn": (gan.SinkhornGAN(0.5), lambda: None, {"n_critic": 0}),
    "entropic dual": (
        gan.EntropicDualGAN(2.0),
        lambda: tuple(nn.MLPCritic(2, width=16, key=key) for key in jr.split(KEY)),
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_a_game_brings_the_generator_to_the_data(name):
    objective, critic, options = GAMES[name]
    options = {
        "generator_optimiser": optax.adam(0.05, b1=0.0),
        "critic_optimiser": optax.adam(0.02),
        "latent": noise,
        "batch_size": 32,
    } | options
    trainer = gan.Trainer(objective, **options)
    state, history = train(trainer, Translation(jnp.zeros(2)), critic(), SAMPLES, 120)
    distance = jnp.sqrt(jnp.sum(jnp.square(state.generator.shift - TARGET)))
    assert distance < 0.6, [float(m["generator_loss"]) for m in history[::20]]  # from 2.5


@pytest.mark.parametrize(
    "objective, critic, expected",
    [
        (gan.WGAN(), GAMES["lipschitz"][1], 2.5),
        # The best slope s maximises 2.5 s - weight (s - 1)^2.
        (gan.PenalisedWGAN(10.0), GAMES["wgan-gp"][1], 2.5 * (1 + 2.5 / 20)),
        (
            gan.PenalisedWGAN(100.0, penalty=gan.OneSided()),
            GAMES["wgan-lp"][1],
            2.5 * (1 + 2.5 / 200),
        ),
    ],
)
def test_the_estimate_of_w1_is_the_distance(objective, critic, expected):
    """With a generator that stands still; a penalty lets the estimate exceed the distance."""
    trainer = gan.Trainer(
        objective,
        generator_optimiser=optax.set_to_zero(),
        critic_optimiser=optax.adam(0.02),
        latent=noise,
        batch_size=32,
        n_critic=150,
    )
    _, history = train(trainer, Translation(jnp.zeros(2)), critic(), SAMPLES, 1)
    metrics = history[-1]
    np.testing.assert_allclose(metrics["w1"], expected, rtol=0.02)
    if isinstance(objective, gan.PenalisedWGAN):
        np.testing.assert_allclose(metrics["gradient_norm"], expected / 2.5, rtol=0.05)
        penalty = objective.weight * metrics["penalty"]
        np.testing.assert_allclose(metrics["critic_loss"], penalty - metrics["w1"], rtol=1e-12)


# The objectives

REAL, FAKE = DATA[:6], DATA[3:8] * 2


def critic_of(seed):
    weight = jr.normal(jr.key(seed), (2,))
    return jtu.Partial(lambda w, x: jnp.tanh(jnp.sum(w * x)), weight)


def test_the_losses_of_the_objectives_are_the_functions():
    critic, real = critic_of(0), REAL[:5]
    penalised = gan.PenalisedWGAN(3.0, penalty=gan.OneSided())
    plain = gan.critic_loss(critic, real, FAKE)
    loss, metrics = penalised.critic_loss(critic, real, FAKE, key=KEY)
    penalty = gan.gradient_penalty(critic, real, FAKE, key=KEY, one_sided=True)
    np.testing.assert_allclose(loss, plain + 3 * penalty)
    np.testing.assert_allclose([metrics["w1"], metrics["penalty"]], [-plain, penalty])
    two_sided, _ = gan.PenalisedWGAN(3.0).critic_loss(critic, real, FAKE, key=KEY)
    np.testing.assert_allclose(
        two_sided, plain + 3 * gan.gradient_penalty(critic, real, FAKE, key=KEY)
    )
    for objective in (penalised, gan.WGAN()):
        generator_loss, _ = objective.generator_loss(critic, real, FAKE)
        np.testing.assert_allclose(generator_loss, gan.generator_loss(critic, FAKE))


def test_a_penalty_may_be_any_function_of_a_slope():
    critic = critic_of(0)
    objective = gan.PenalisedWGAN(3.0, penalty=lambda slope: slope**4, at=gan.Samples())
    _, metrics = objective.critic_loss(critic, REAL, FAKE, key=KEY)
    norms = gan.gradient_norms(critic, jnp.concatenate([REAL, FAKE]))
    np.testing.assert_allclose(metrics["penalty"], np.mean(np.asarray(norms) ** 4))


def test_a_penalty_at_samples_takes_one_pass():
    """The loss is made of the two functions, with the critic traced but once."""
    critic, calls = critic_of(0), []

    def counted(x):
        calls.append(x.shape)
        return critic(x)

    objective = gan.PenalisedWGAN(3.0, at=gan.Samples())
    loss, metrics = objective.critic_loss(counted, REAL, FAKE, key=KEY)  # 6 and 5 samples
    assert len(calls) == 1
    plain = gan.critic_loss(critic, REAL, FAKE)
    penalty = gan.gradient_penalty(critic, REAL, FAKE, at=gan.Samples())
    np.testing.assert_allclose(loss, plain + 3 * penalty)
    np.testing.assert_allclose([metrics["w1"], metrics["penalty"]], [-plain, penalty])
    norms = gan.gradient_norms(critic, jnp.concatenate([REAL, FAKE]))
    np.testing.assert_allclose(metrics["gradient_norm"], jnp.mean(norms))


def test_the_jensen_shannon_objective():
    critic = critic_of(0)
    loss, metrics = gan.JensenShannonGAN().critic_loss(critic, REAL, FAKE, key=KEY)
    np.testing.assert_allclose(loss, gan.jensen_shannon_critic_loss(critic, REAL, FAKE))
    np.testing.assert_allclose(metrics["jensen_shannon"], np.log(2) - loss / 2)
    for saturating, function in (
        (False, gan.non_saturating_generator_loss),
        (True, gan.saturating_generator_loss),
    ):
        objective = gan.JensenShannonGAN(saturating=saturating)
        loss, _ = objective.generator_loss(critic, REAL, FAKE)
        np.testing.assert_allclose(loss, function(critic, FAKE))


@pytest.mark.slow
def test_the_sinkhorn_objective_compares_samples_or_features():
    cost, solver = otjax.Euclidean(), otjax.Sinkhorn(tolerance=1e-9)
    objective = gan.SinkhornGAN(0.3, cost=cost, solver=solver)
    divergence = jax.jit(
        lambda x, y: otjax.sinkhorn_divergence(x, y, epsilon=0.3, cost=cost, solver=solver)
    )
    images = lambda x: x.reshape(-1, 1, 2, 1)
    loss, metrics = jax.jit(lambda x, y: objective.generator_loss(None, images(x), images(y)))(
        REAL, FAKE
    )
    np.testing.assert_allclose(loss, divergence(FAKE, REAL), rtol=1e-12)
    assert metrics["divergence"] == loss and metrics["unconverged"] == 0
    assert metrics["solver_steps"] > 1
    features = jtu.Partial(lambda a, x: a * jnp.square(x), jnp.array(0.5))
    game = jax.jit(
        lambda features: (
            objective.generator_loss(features, REAL, FAKE)[0],
            objective.critic_loss(features, REAL, FAKE, key=KEY),
        )
    )
    loss, (critic_loss, critic_metrics) = game(features)
    expected = divergence(0.5 * jnp.square(FAKE), 0.5 * jnp.square(REAL))
    np.testing.assert_allclose([loss, -critic_loss, critic_metrics["divergence"]], expected)


def test_the_sinkhorn_objective_says_what_is_not_finite_or_not_solved():
    hurried = gan.SinkhornGAN(1e-3, solver=otjax.Sinkhorn(tolerance=1e-30))
    loss, metrics = jax.jit(lambda x, y: hurried.generator_loss(None, x, y))(REAL, FAKE)
    assert jnp.isfinite(loss) and metrics["unconverged"] > 0
    loss, _ = jax.jit(lambda x, y: hurried.generator_loss(None, x, y))(
        REAL, FAKE.at[0, 0].set(jnp.nan)
    )
    assert jnp.isnan(loss)


def test_the_entropic_objective_is_the_dual_from_both_sides():
    critic, cost = (critic_of(0), critic_of(1)), otjax.Euclidean()
    objective = gan.EntropicDualGAN(0.7, cost=cost)
    value = gan.entropic_dual(*critic, REAL, FAKE, epsilon=0.7, cost=cost)
    loss, metrics = objective.critic_loss(critic, REAL, FAKE, key=KEY)
    generator_loss, _ = objective.generator_loss(critic, REAL, FAKE)
    np.testing.assert_allclose([-loss, metrics["entropic_cost"], generator_loss], value)


# A critic alone, and callables that are no modules


def test_critics_train_side_by_side():
    """A vmap of `update_critic` over two critics and two problems is each of them alone."""
    trainer = gan.Trainer(
        gan.PenalisedWGAN(),
        generator_optimiser=optax.sgd(0.0),
        critic_optimiser=optax.adam(0.01),
        latent=2,
        batch_size=5,
    )
    real = jnp.stack([REAL[:5], REAL[:5] + 1])

    def one(weight, real):
        critic = jtu.Partial(lambda w, x: jnp.sum(jnp.tanh(w * x)), weight)
        return trainer.update_critic(critic, trainer.init_critic(critic), real, FAKE, key=KEY)

    weights = jr.normal(KEY, (2, 2))
    together, _, metrics = jax.jit(jax.vmap(one))(weights, real)
    for index in range(2):
        alone, _, own = jax.jit(one)(weights[index], real[index])
        np.testing.assert_allclose(together.args[0][index], alone.args[0], rtol=1e-10)
        np.testing.assert_allclose(metrics["critic_loss"][index], own["critic_loss"], rtol=1e-10)
        assert jnp.any(alone.args[0] != weights[index])


def test_plain_functions_train_as_modules_do():
    trainer = gan.Trainer(
        gan.PenalisedWGAN(),
        generator_optimiser=optax.adam(0.05),
        critic_optimiser=optax.adam(0.01),
        latent=2,
        batch_size=8,
        n_critic=1,
    )
    apply = lambda parameters, z: z @ parameters["kernel"] + parameters["bias"]
    generator = jtu.Partial(apply, {"kernel": jnp.eye(2), "bias": jnp.zeros(2)})
    state = trainer.init(generator, critic_of(0), key=KEY)
    new, metrics = trainer.step(state, DATA)
    assert metrics["finite"]
    assert jnp.all(new.generator.args[0]["bias"] != 0)
    assert jnp.all(new.ema.args[0]["bias"] != 0)
    assert jnp.all(new.critic.args[0] != state.critic.args[0])


# Objectives that are no games


class Flow(gan.AbstractObjective):
    """A velocity v(t, x) is fitted to x_1 - x_0, at points between a latent x_0 and data x_1."""

    def loss(self, model, critic, real, latents, *, key):
        assert critic is None
        key_start, key_time = jr.split(key)
        start = latents(key_start, len(real))
        times = jr.uniform(key_time, (len(real), 1), real.dtype)
        velocities = jax.vmap(model)(times, (1 - times) * start + times * real)
        error = jnp.sum(jnp.square(velocities - (real - start)), axis=1)
        return jnp.mean(error), {"largest": jnp.max(error)}


class Velocity(eqx.Module):
    """A network v(t, x)."""

    mlp: eqx.nn.MLP

    def __init__(self, size, out_size, *, width, key):
        self.mlp = eqx.nn.MLP(size + 1, out_size, width, 2, jax.nn.silu, key=key)

    def __call__(self, time, point):
        return self.mlp(jnp.concatenate([time, point]))


def test_a_velocity_is_trained_as_a_generator_is():
    """From N(0, 1) to N(mean, spread^2) by independent pairs it is known, and what it leaves."""
    mean, spread = np.asarray(TARGET), 0.5
    steps, size = 500, 500
    trainer = gan.Trainer(
        Flow(),
        generator_optimiser=optax.adam(optax.cosine_decay_schedule(0.03, steps)),
        latent=2,
        batch_size=16,  # what a sampler of data draws counts
        n_critic=0,
        ema_decay=0.95,
    )
    data = lambda key: TARGET[None, :] + spread * jr.normal(key, (size, 2))
    network = Velocity(2, 2, width=32, key=KEY)
    parameters, static = eqx.partition(network, eqx.is_inexact_array)

    @chex.assert_max_traces(n=1)
    def velocity(parameters, time, point):
        return eqx.combine(parameters, static)(time, point)

    state, history = train(trainer, jtu.Partial(velocity, parameters), None, data, steps)
    fitted = jtu.Partial(velocity.__wrapped__, *state.ema.args)

    def slope(t):  # of the velocity in the point, whose coordinates are independent
        return (spread**2 * t - (1 - t)) / ((1 - t) ** 2 + spread**2 * t**2)

    t = (np.arange(1000) + 0.5) / 1000
    left = 2 * np.mean(1 + spread**2 - slope(t) ** 2 * ((1 - t) ** 2 + spread**2 * t**2))
    np.testing.assert_allclose(np.mean([m["generator_loss"] for m in history[-100:]]), left, 0.03)

    # Along the flow, by Euler's steps: it is where it should be, and goes where it should.
    points = start = np.random.default_rng(0).normal(size=(500, 2))
    velocities = jax.jit(jax.vmap(fitted, (None, 0)))
    for time in np.arange(50) / 50:
        found = np.asarray(velocities(jnp.array([time]), points))
        exact = mean + slope(time) * (points - time * mean)
        assert np.mean(np.square(found - exact)) < 0.1
        points = points + found / 50
    np.testing.assert_allclose(points, mean + spread * start, atol=0.3)


class Drift(gan.AbstractObjective):
    """Samples follow a drift: here that to where the mean of the data is."""

    def loss(self, model, critic, real, latents, *, key):
        fake = jax.vmap(model)(latents(key))
        drift = jnp.mean(real, axis=0) - jnp.mean(fake, axis=0)
        goal = lax.stop_gradient(fake + drift[None, :])
        return jnp.mean(jnp.sum(jnp.square(fake - goal), axis=1)), {"drift": jnp.sum(drift)}


class SinkhornDrift(gan.AbstractObjective):
    """The drift down the Sinkhorn divergence, with the factor that makes it the game's gradient."""

    def loss(self, model, critic, real, latents, *, key):
        fake = jax.vmap(model)(latents(key))
        divergence = lambda fake: otjax.sinkhorn_divergence(fake, real, epsilon=0.5)
        drift = -len(fake) / 2 * jax.grad(divergence)(lax.stop_gradient(fake))
        error = fake - lax.stop_gradient(fake + drift)
        return jnp.mean(jnp.sum(jnp.square(error), axis=1)), {}


def drift_trainer(objective, **options):
    options = {"latent": noise, "batch_size": len(DATA), "n_critic": 0, "ema_decay": 0.0} | options
    return gan.Trainer(objective, generator_optimiser=optax.sgd(0.25), **options)


def test_a_drift_is_followed():
    """By half of the way in each step."""
    trainer = drift_trainer(Drift(), latent=lambda key: jnp.zeros(2))
    state, history = train(trainer, Translation(jnp.zeros(2)), None, DATA, 5)
    way = np.mean(DATA, axis=0)
    chex.assert_trees_all_close(state.generator.shift, (1 - 0.5**5) * way, rtol=1e-12)
    left = [0.5**k * np.linalg.norm(way) for k in range(5)]
    np.testing.assert_allclose([np.sqrt(m["generator_loss"]) for m in history], left)


@pytest.mark.slow
def test_the_drift_down_the_sinkhorn_divergence_is_its_game():
    states = [
        train(drift_trainer(objective), Translation(jnp.zeros(2)), None, DATA, 2)[0]
        for objective in (SinkhornDrift(), gan.SinkhornGAN(0.5))
    ]
    chex.assert_trees_all_close(*states, rtol=1e-10)
    assert np.linalg.norm(states[0].generator.shift) > 1


# Resuming, and stopping


RESUMED = {
    "wgan-gp": (gan.PenalisedWGAN(), nn.MLPGenerator, nn.MLPCritic, 2),
    "flow": (Flow(), Velocity, None, 0),
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("wgan-gp", KEY),
        ("wgan-gp", jr.key(0, impl="rbg")),
        ("flow", jr.key(0, impl="unsafe_rbg")),
        ("flow", jr.PRNGKey(0)),
    ],
)
def test_a_saved_state_resumes_to_the_same_bits(name, key):
    objective, generator, critic, n_critic = RESUMED[name]
    trainer = gan.Trainer(
        objective,
        generator_optimiser=optax.adam(0.01),
        critic_optimiser=optax.adam(0.01),
        latent=2,
        batch_size=8,
        n_critic=n_critic,
    )
    make = lambda key: trainer.init(
        generator(2, 2, width=4, key=key), critic and critic(2, width=4, key=key), key=key
    )
    state = make(key)
    for _ in range(2):
        state, _ = trainer.step(state, DATA)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, state)
    file.seek(0)
    restored = eqx.tree_deserialise_leaves(file, eqx.filter_eval_shape(make, key))
    for _ in range(2):
        state, metrics = trainer.step(state, DATA)
        restored, again = trainer.step(restored, DATA)
    assert state.step == 4 and metrics["finite"]
    arrays = (eqx.filter(whole, eqx.is_array) for whole in ((state, metrics), (restored, again)))
    chex.assert_trees_all_equal(*arrays, strict=True)


@pytest.mark.parametrize("spoil", ["data", "generator", "critic"])
def test_what_is_not_finite_is_seen(spoil):
    trainer = pull_trainer()
    state = pull_state(trainer)
    nan = lambda leaf: leaf.at[...].set(jnp.nan)
    data = nan(DATA) if spoil == "data" else DATA
    if spoil == "generator":
        state = eqx.tree_at(lambda s: s.generator.shift, state, replace_fn=nan)
    if spoil == "critic":
        state = eqx.tree_at(lambda s: s.critic, state, replace_fn=nan)
    _, metrics = trainer.step(state, data)
    assert not metrics["finite"]


def test_an_optimiser_that_stands_still_for_ever_is_seen():
    """After one huge gradient Adam divides by infinity: all else is finite, and moves no more."""
    trainer = pull_trainer(critic_optimiser=optax.adam(0.1))
    state = pull_state(trainer)
    with jax.numpy_dtype_promotion("standard"):
        _, spoilt = trainer.critic_optimiser.update(jnp.array(1e200), state.critic_opt_state)
    state = eqx.tree_at(lambda s: s.critic_opt_state, state, spoilt)
    new, metrics = trainer.step(state, DATA)
    assert new.critic == state.critic and jnp.isfinite(metrics["critic_loss"])
    assert not metrics["finite"]


# Precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_model_in_half_precision_stays_so_and_its_average_moves(dtype):
    """Moments in float32 do not widen it, and the average, whose steps are small, is in float32."""
    adam = optax.adam(0.01, eps=1e-3, mu_dtype=jnp.float32)
    latent = lambda key: jr.normal(key, (2,), dtype)
    trainer = pull_trainer(
        generator_optimiser=adam, critic_optimiser=adam, latent=latent, ema_decay=0.999
    )
    trainer = eqx.tree_at(lambda t: t.objective.weight, trainer, jnp.array(0.5, dtype))
    start = Translation(jnp.full(2, 1.0, dtype))
    state = trainer.init(start, jnp.array(0.0, dtype), key=KEY)
    for _ in range(2):
        state, _ = trainer.step(state, DATA.astype(dtype))
    assert state.generator.shift.dtype == state.critic.dtype == dtype
    moved = np.asarray(state.generator.shift, np.float64) - 1
    assert state.ema.shift.dtype == jnp.float32
    average = np.asarray(state.ema.shift, np.float64) - 1
    assert np.all(average != 0) and np.all(np.abs(average) < 0.01 * np.abs(moved))


def test_without_decay_the_average_is_the_generator():
    trainer = pull_trainer(ema_decay=0.0, generator_optimiser=optax.sgd(1e-9))
    state = pull_state(trainer)
    state = eqx.tree_at(lambda s: s.ema.shift, state, jnp.full(2, 1e8))
    state, _ = trainer.step(state, DATA)
    np.testing.assert_array_equal(state.ema.shift, state.generator.shift)


def test_an_optimiser_may_look_at_the_loss():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.0, atol=1e9)
    trainer = pull_trainer(generator_optimiser=optax.chain(optax.sgd(0.1), plateau))
    state, metrics = after(trainer, 4)
    assert state.generator_opt_state[1].scale < 1 and metrics["finite"]


# Bad input


@pytest.mark.parametrize(
    "key",
    [
        jr.split(KEY, 3),
        jr.split(jr.key(0, impl="rbg"), 3),
        jnp.zeros((3, 2), jnp.uint32),
        # Its numbers alone do not tell of which of two kinds it is.
        jr.PRNGKey(0, impl="rbg"),
        jnp.zeros(2),
        jnp.array(0),
    ],
)
def test_a_wrong_key_is_named(key):
    with pytest.raises(ValueError, match="`key`"):
        pull_state(pull_trainer(), key)


@pytest.mark.parametrize(
    "name, options",
    [
        ("batch_size", {"batch_size": 0}),
        ("n_critic", {"n_critic": -1}),
        ("latent", {"latent": 0}),
        ("ema_decay", {"ema_decay": 1.0}),
        ("ema_decay", {"ema_decay": -0.1}),
        ("critic_optimiser", {"critic_optimiser": None}),
    ],
)
def test_a_wrong_option_is_named(name, options):
    with pytest.raises(ValueError, match=f"`{name}`"):
        pull_trainer(**options)


@pytest.fixture
def unchecked():
    """What users see, who run no type checker that would complain first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "name, make",
    [
        ("weight", lambda: gan.PenalisedWGAN(0.0)),
        ("weight", lambda: gan.PenalisedWGAN(-1.0)),
        ("at", lambda: gan.PenalisedWGAN(at="edges")),
        ("at", lambda: gan.PenalisedWGAN(at=gan.Samples)),
        ("penalty", lambda: gan.PenalisedWGAN(penalty=True)),
        ("penalty", lambda: gan.PenalisedWGAN(penalty=gan.OneSided)),
        ("epsilon", lambda: gan.SinkhornGAN(0.0)),
        ("epsilon", lambda: gan.EntropicDualGAN(-1.0)),
        ("critic", lambda: pull_trainer().init(Translation(jnp.zeros(2)), key=KEY)),
        ("key", lambda: pull_state(pull_trainer(), None)),
        ("n_critic", lambda: drift_trainer(Drift(), n_critic=1, critic_optimiser=optax.sgd(1.0))),
        ("objective", lambda: drift_trainer(None)),
        ("objective", lambda: drift_trainer(Drift()).update_critic(0.0, (), REAL, FAKE, key=KEY)),
        ("critic", lambda: gan.EntropicDualGAN(1.0).generator_loss(critic_of(0), REAL, FAKE)),
        ("critic", lambda: gan.SinkhornGAN().critic_loss(None, REAL, FAKE, key=KEY)),
        ("fake", lambda: gan.SinkhornGAN().generator_loss(None, REAL, FAKE[:, :1])),
        ("fake", lambda: gan.PenalisedWGAN().critic_loss(critic_of(0), REAL, FAKE, key=KEY)),
    ],
)
def test_bad_input_is_named(unchecked, name, make):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make()


@pytest.mark.parametrize("data", [DATA[:3], DATA[:0], jnp.ones((9, 2), int), lambda key: DATA[:0]])
def test_bad_data_are_named(data):
    trainer = pull_trainer()
    with pytest.raises(ValueError, match="`data`"):
        trainer.step(pull_state(trainer), data)
