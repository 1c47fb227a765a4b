"""Generators and critics without structure."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._shapes import check_sample, sample_shape, whole


def identity(x: Array) -> Array:
    return x


class MLPGenerator(eqx.Module):
    """A generator made of fully connected layers: latent vector in, sample of any shape out."""

    mlp: eqx.nn.MLP
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        latent_size: int,
        shape: int | Sequence[int],
        *,
        width: int = 256,
        depth: int = 3,
        activation: Callable[[Array], Array] = jax.nn.relu,
        final_activation: Callable[[Array], Array] = identity,
        key: Array,
    ):
        """**Arguments:**

        - `latent_size`: the size of the latent vector.
        - `shape`: the shape of a sample, such as 2 or (1, 28, 28).
        - `width`, `depth`: the size of the hidden layers, and their number.
        - `activation`, `final_activation`: after each hidden layer, and after the last; for pixels
            in [0, 1] the last is `jax.nn.sigmoid`.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        self.shape = sample_shape(shape, "shape")
        self.mlp = eqx.nn.MLP(
            whole(latent_size, "latent_size"),
            math.prod(self.shape),
            whole(width, "width"),
            whole(depth, "depth"),
            activation,
            final_activation,
            key=key,
        )

    def __call__(self, latent: Float[Array, " latent"]) -> Float[Array, "..."]:
        """One sample, of shape `shape`, from one latent vector."""
        check_sample(latent, (int(self.mlp.in_size),))
        return self.mlp(latent).reshape(self.shape)


class FourierFeatures(eqx.Module):
    r"""A sample, and its sines and cosines at random frequencies: the first layer of a critic.

    $$x \mapsto \left(x, \sin(W x), \cos(W x)\right), \qquad W_{ij} \sim N(0, \mathrm{scale}^2)$$

    A network learns the coarse shape of a function first and its edges last; after these features,
    where samples have few dimensions, it learns both at once (Tancik et al. 2020,
    arXiv:2006.10739). The sample itself gives a critic its slope where nothing is near: without it
    a generator that has strayed is not called back. The frequencies are not trained: no gradient
    reaches them; keep them from an optimiser's weight decay by its mask. Their slope is about
    `scale`, so they are not for a critic that is bounded by its layers or by clipping.
    """

    frequencies: Float[Array, "num in"]

    def __init__(self, in_size: int, num: int = 64, *, scale: float, key: Array):
        """**Arguments:**

        - `in_size`: the size of a sample, as a vector.
        - `num`: how many frequencies, of two features each.
        - `scale`: the standard deviation of the frequencies, in radians per unit of the samples;
            1 / `scale` is about the length of the finest detail.
        - `key`: draws the frequencies.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, and a scale that is
        not positive.
        """
        if not 0 < scale < math.inf:
            raise ValueError(f"`scale` must be a positive number, got {scale!r}.")
        shape = whole(num, "num"), whole(in_size, "in_size")
        self.frequencies = scale * jr.normal(key, shape)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " features"]:
        """The features of one vector, in + 2 num of them."""
        check_sample(x, self.frequencies.shape[1:])
        phases = lax.stop_gradient(self.frequencies) @ x
        return jnp.concatenate([x, jnp.sin(phases), jnp.cos(phases)])


def _widths(width: int | Sequence[int], depth: int | None) -> tuple[int, ...]:
    """The sizes of the hidden layers."""
    if not isinstance(width, Sequence):
        return (whole(width, "width"),) * whole(2 if depth is None else depth, "depth")
    if depth is not None:
        raise ValueError(f"`depth` must be left out where `width` names each layer, {width}.")
    if not width:
        raise ValueError("`width` must name at least one layer, got none.")
    return tuple(whole(size, "width") for size in width)


class MLPCritic(eqx.Module):
    """A critic made of fully connected layers: sample of any shape in, scalar out.

    The defaults are what served best where the true distance is known (the page of the W1
    benchmark tells what was tried): a wide layer and a narrower one, and an activation that is
    smooth, so that a gradient penalty has a curvature to act on. To train such a critic on samples
    of a spread of about one, start from

    ```python
    gan = otjax.gan
    objective = gan.PenalisedWGAN(30.0, penalty=gan.OneSided(), at=gan.Samples())
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 200, decay_steps=5000)
    optimiser = optax.adam(schedule, b1=0.9, b2=0.99)
    ```

    and batches of 256. For samples of fewer than 8 dimensions add `FourierFeatures`, and two layers
    of 128 are enough.
    """

    features: FourierFeatures | None
    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        width: int | Sequence[int] = (512, 128),
        depth: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        features: FourierFeatures | None = None,
        key: Array,
    ):
        """**Arguments:**

        - `shape`: the shape of a sample, such as 2 or (1, 28, 28).
        - `width`: the sizes of the hidden layers, or one size for all of them.
        - `depth`: their number, where `width` is one size; 2 by default.
        - `activation`: after each hidden layer.
        - `features`: stand before the first layer; by default it reads the sample itself.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, features of samples
        of another size, and a depth beside a width for each layer.
        """
        self.shape = sample_shape(shape, "shape")
        self.features, self.activation = features, activation
        sizes = [math.prod(self.shape), *_widths(width, depth)]
        if features is not None:
            num, in_size = features.frequencies.shape
            if in_size != sizes[0]:
                raise ValueError(
                    f"`features` must be of samples of size {sizes[0]}, got size {in_size}."
                )
            sizes[0] = in_size + 2 * num
        *keys, key_score = jr.split(key, len(sizes))
        hidden = [
            eqx.nn.Linear(above, below, key=key)
            for above, below, key in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]
        self.layers = (*hidden, eqx.nn.Linear(sizes[-1], "scalar", key=key_score))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        """The score of one sample of shape `shape`."""
        check_sample(x, self.shape)
        x = jnp.ravel(x)
        if self.features is not None:
            x = self.features(x)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
