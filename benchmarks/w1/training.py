"""Trains the critics of several pairs side by side, and scores them."""

import statistics
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array
from tqdm import tqdm

from otjax import gan

from . import funnels as w1
from .critics import Setting


SAMPLES = 32_768  # of each measure, for scores; 4096 as published leaves an error of 2 % in W1


class Keys(NamedTuple):
    """Independent keys, one for each pair along a first axis: of weights, training and scores."""

    init: Array
    train: Array
    score: Array


def keys_of(seed: int, count: int) -> Keys:
    """All keys of a run; no other is made of `seed`, lest two of them be the same."""
    return Keys(*jr.split(jr.key(seed), (3, count)))


class State(NamedTuple):
    """What an update changes, for each pair along a first axis."""

    critic: Any  # its arrays
    ema: Any
    opt_state: Any
    key: Array


class Trained(NamedTuple):
    """The critics of all pairs, along a first axis of their arrays, and how long they took."""

    critics: Any
    compile_s: float
    run_s: float


def train(
    setting: Setting, pairs: w1.Funnels, seed: int, chunk: int = 100, label: str = ""
) -> Trained:
    """Trains one critic for each pair, all pairs in one compiled scan of `chunk` updates."""
    count, _, dim = pairs.centres.shape
    keys = keys_of(seed, count)
    trainer = gan.Trainer(
        setting.objective,
        generator_optimiser=optax.identity(),  # there is no generator
        critic_optimiser=setting.optimiser(setting.updates),
        latent=1,
        batch_size=setting.batch,
    )
    critics = eqx.filter_vmap(lambda key: setting.network(dim, key))(keys.init)
    arrays, static = eqx.partition(critics, eqx.is_inexact_array)

    def update(state: State, pair: w1.Funnels, step: Array) -> tuple[State, Array]:
        key_real, key_fake, key_loss = jr.split(jr.fold_in(state.key, step), 3)
        # Independent samples: which of them belong together is what a critic must find out.
        real = w1.moved(pair, w1.uniform(key_real, setting.batch, dim))
        fake = w1.uniform(key_fake, setting.batch, dim)
        critic, opt_state, metrics = trainer.update_critic(
            eqx.combine(state.critic, static), state.opt_state, real, fake, key=key_loss
        )
        critic = eqx.filter(critic, eqx.is_inexact_array)
        # The average forgets the first critics sooner.
        decay = jnp.minimum(setting.ema_decay, step / (step + 10))
        ema = optax.incremental_update(critic, state.ema, 1 - decay)
        return State(critic, ema, opt_state, state.key), metrics["critic_loss"]

    @eqx.filter_jit(donate="all-except-first")
    def some_updates(pairs: w1.Funnels, states: State, steps: Array) -> tuple[State, Array]:
        def all_pairs(states: State, step: Array) -> tuple[State, Array]:
            states, values = jax.vmap(update, (0, 0, None))(states, pairs, step)
            return states, values

        states, values = lax.scan(all_pairs, states, steps)
        return states, values[-1]

    states = State(arrays, arrays, jax.vmap(trainer.init_critic)(arrays), keys.train)
    states = jax.tree.map(jnp.copy, states)
    times = []
    starts = range(0, setting.updates, chunk)
    with tqdm(total=setting.updates, desc=label, mininterval=5.0) as bar:
        for start in starts:
            stop = min(start + chunk, setting.updates)
            begin = time.perf_counter()
            states, values = some_updates(pairs, states, jnp.arange(start, stop))
            values = jax.block_until_ready(values)
            times.append(time.perf_counter() - begin)
            if not bool(jnp.all(jnp.isfinite(values))):
                raise FloatingPointError(f"the critic's loss is not finite after {stop} updates")
            bar.update(stop - start)
            bar.set_postfix_str(f"loss {float(jnp.mean(values)):.3f}")
    # The first chunk compiles; what it takes beyond another one is not training.
    compile_s = max(0.0, times[0] - statistics.median(times[1:] or times))
    return Trained(eqx.combine(states.ema, static), compile_s, sum(times) - compile_s)


class Scores(NamedTuple):
    """The metrics of one critic; slopes are norms of its gradient at samples of p."""

    cos: float
    l2: float
    w1: float
    truth: float
    mean_slope: float
    max_slope: float


def evaluate(trained: Trained, pairs: w1.Funnels, seed: int, size: int = SAMPLES) -> list[Scores]:
    """The published metrics of each pair's critic, on samples not seen in training.

    The gradient is compared at samples of p; W1 is estimated on independent samples of both
    measures, and the truth, the mean distance moved, on paired ones.
    """
    count, _, dim = pairs.centres.shape
    arrays, static = eqx.partition(trained.critics, eqx.is_inexact_array)

    def scores(arrays: Any, pair: w1.Funnels, key: Array) -> tuple[Array, ...]:
        critic = eqx.combine(arrays, static)
        key_real, key_fake = jr.split(key)
        start = w1.uniform(key_real, size, dim)
        real, fake = w1.moved(pair, start), w1.uniform(key_fake, size, dim)
        values, gradients = jax.vmap(jax.value_and_grad(critic))(real)
        best = w1.best_gradient(pair, real)
        slopes = jnp.linalg.norm(gradients, axis=1)
        cos = jnp.sum(gradients * best, axis=1) / (slopes * jnp.linalg.norm(best, axis=1) + 1e-15)
        return (
            jnp.mean(cos),
            jnp.mean(jnp.sum((gradients - best) ** 2, axis=1)),
            jnp.mean(values) - jnp.mean(jax.vmap(critic)(fake)),
            jnp.mean(jnp.linalg.norm(start - real, axis=1)),
            jnp.mean(slopes),
            jnp.max(slopes),
        )

    keys = keys_of(seed, count).score
    one = eqx.filter_jit(scores)
    found = []
    for i in range(count):
        arrays_i, pair = jax.tree.map(lambda array, i=i: array[i], (arrays, pairs))
        found.append(Scores(*(float(value) for value in one(arrays_i, pair, keys[i]))))
    return found
