"""The critics that are compared: networks, objectives, optimisers and budgets."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float

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

INPUT_SCALE = 1.44  # the standard deviation of samples of q
GAIN = 1.7  # of SiLU, such that the mean square of a standard normal stays about one


class FourierCritic(eqx.Module):
    """A smooth critic: fixed random Fourier features, then layers with SiLU.

    Without the features a network learns the coarse shape of a potential first and its tips last
    (Tancik et al. 2020, arXiv:2006.10739). Where the samples have many dimensions that does not
    hold, and the samples themselves are the features.
    """

    frequencies: Float[Array, "dim features"] | None
    weights: tuple[Float[Array, "in out"], ...]
    biases: tuple[Float[Array, " out"], ...]

    def __init__(
        self, dim: int, widths: tuple[int, ...], frequencies: int, scale: float, *, key: Array
    ):
        """`frequencies` features, normal of standard deviation `scale`; none if that is 0."""
        key_frequencies, key_bias, *keys = jr.split(key, len(widths) + 3)
        self.frequencies = scale * jr.normal(key_frequencies, (dim, frequencies)) if scale else None
        sizes = (2 * frequencies if scale else dim, *widths, 1)
        # Inputs of mean square one to each layer, as far as that is known beforehand.
        self.weights = tuple(
            jr.normal(key, shape) / math.sqrt(shape[0])
            for key, shape in zip(keys, zip(sizes[:-1], sizes[1:], strict=True), strict=True)
        )
        first = jr.uniform(key_bias, (sizes[1],), minval=-1, maxval=1)
        self.biases = (first, *(jnp.zeros(size) for size in sizes[2:]))

    def __call__(self, x: Float[Array, " dim"]) -> Float[Array, ""]:
        if self.frequencies is None:
            x = x / INPUT_SCALE
        else:
            phases = x @ lax.stop_gradient(self.frequencies)
            x = jnp.concatenate([jnp.sin(phases), jnp.cos(phases)])
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = GAIN * jax.nn.silu(x @ weight + bias)
        return x @ self.weights[-1][:, 0] + self.biases[-1][0]


def decayed_adam(updates: int) -> optax.GradientTransformation:
    warm_up = min(200, updates // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warm_up, updates)
    return optax.adam(schedule, b1=0.9, b2=0.99)


def recipe_network(dim: int, key: Array) -> eqx.Module:
    if dim < 8:
        return FourierCritic(dim, (128, 128), 64, 12 / dim, key=key)
    return FourierCritic(dim, (512, 128), 0, 0.0, key=key)


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
        gan.PenalisedWGAN(10.0, one_sided=True),
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
        gan.PenalisedWGAN(30.0, one_sided=True, at="samples"),
        decayed_adam,
        60_000,
        batch=256,
        ema_decay=0.998,
        text="SiLU; widths (512, 128) or, below 8 dimensions, 64 Fourier features and (128, 128); "
        "one-sided penalty of weight 30 at samples; Adam 3e-3, betas (0.9, 0.99), cosine decay; "
        "average of weights",
    ),
}
