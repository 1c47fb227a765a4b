"""The critics that are compared: networks, objectives, optimisers and budgets."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import optax
from jaxtyping import Array

from otjax import gan, nn


class Setting(NamedTuple):
    """How one critic is trained."""

    network: Callable[[int, Array], eqx.Module]  # of a dimension and a key
    objective: gan.AbstractObjective
    optimiser: Callable[[int], optax.GradientTransformation]  # of the number of updates
    updates: int
    batch: int = 1024
    ema_decay: float = 0.0  # of the weights that are evaluated; 0 evaluates the last ones
    text: str = ""


# The published settings (section 5 of the paper and its code): two hidden layers of max(2 D, 128)
# units, batches of 1024, Adam at 2e-4.


def published_network(dim: int, key: Array) -> eqx.Module:
    width = max(2 * dim, 128)
    return nn.MLPCritic(dim, width=width, depth=2, activation=jax.nn.relu, key=key)


def sorting_network(dim: int, key: Array) -> eqx.Module:
    width = max(2 * dim, 128)
    return nn.LipschitzMLP(dim, width=width, depth=2, group_size=width, key=key)


def spectral_network(dim: int, key: Array) -> eqx.Module:
    return nn.spectral_norm(published_network(dim, key))


def adam(updates: int) -> optax.GradientTransformation:
    del updates
    return optax.adam(2e-4, b1=0.0, b2=0.9)


def adam_with_momentum(updates: int) -> optax.GradientTransformation:
    del updates
    return optax.adam(2e-4)


def clipped_adam(updates: int) -> optax.GradientTransformation:
    return optax.chain(adam(updates), gan.keep_params_within(0.04, biases=False))


# The recipe. Nothing in it knows of funnels.


def decayed_adam(updates: int) -> optax.GradientTransformation:
    warm_up = min(200, updates // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warm_up, updates)
    return optax.adam(schedule, b1=0.9, b2=0.99)


def recipe_network(dim: int, key: Array) -> eqx.Module:
    if dim >= 8:
        return nn.MLPCritic(dim, key=key)
    # Where the samples have few dimensions, a network alone would learn the tips of a potential
    # last.
    key_features, key_critic = jr.split(key)
    features = nn.FourierFeatures(dim, scale=12 / dim, key=key_features)
    return nn.MLPCritic(dim, width=128, features=features, key=key_critic)


RELU = "ReLU, width max(2 D, 128), depth 2"
ADAM = "Adam 2e-4, betas (0, 0.9)"
SETTINGS = {
    "gp": Setting(
        published_network,
        gan.PenalisedWGAN(10.0),
        adam,
        60_000,
        text=f"{RELU}; two-sided penalty of weight 10 on segments; {ADAM}",
    ),
    "lp": Setting(
        published_network,
        gan.PenalisedWGAN(10.0, penalty=gan.OneSided()),
        adam,
        60_000,
        text=f"{RELU}; one-sided penalty of weight 10 on segments; {ADAM}",
    ),
    "orthogonal": Setting(
        sorting_network,
        gan.WGAN(),
        adam_with_momentum,
        25_000,
        text="orthogonal layers, full sort, width max(2 D, 128), depth 2; Adam 2e-4",
    ),
    "clip": Setting(
        published_network,
        gan.WGAN(),
        clipped_adam,
        5_000,
        text=f"{RELU}; weights clipped to 0.04; {ADAM}",
    ),
    "spectral": Setting(
        spectral_network,
        gan.WGAN(),
        adam,
        10_000,
        text=f"{RELU}; spectral normalisation; {ADAM}",
    ),
    "recipe": Setting(
        recipe_network,
        gan.PenalisedWGAN(30.0, penalty=gan.OneSided(), at=gan.Samples()),
        decayed_adam,
        60_000,
        batch=256,
        ema_decay=0.998,
        text="SiLU; widths (512, 128) or, below 8 dimensions, the sample beside 64 Fourier "
        "features and (128, 128); one-sided penalty of weight 30 at samples; Adam 3e-3, betas "
        "(0.9, 0.99), cosine decay; average of weights",
    ),
}
