"""Convolutional generators and critics of square images, channels first."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._normalisation import group_norm
from ._shapes import check_sample, halvings, whole


class ConvGenerator(eqx.Module):
    """A generator of square images by transposed convolutions, each of which doubles the size.

    Like that of DCGAN (Radford, Metz and Chintala 2016, arXiv:1511.06434), with group norms in the
    place of batch norms: an image depends on its own latent vector alone.
    """

    project: eqx.nn.Linear
    norms: tuple[eqx.nn.GroupNorm, ...]
    convs: tuple[eqx.nn.ConvTranspose2d, ...]
    final_activation: Callable[[Array], Array]
    start: tuple[int, int, int] = eqx.field(static=True)

    def __init__(
        self,
        latent_size: int,
        channels: int,
        size: int,
        *,
        width: int = 64,
        final_activation: Callable[[Array], Array] = jax.nn.sigmoid,
        key: Array,
    ):
        """**Arguments:**

        - `latent_size`: the size of the latent vector.
        - `channels`, `size`: those of the images, of shape (channels, size, size); the size is 4,
            5, 6 or 7 times a power of two, at least 8.
        - `width`: the channels before the last layer; each layer earlier has twice as many.
        - `final_activation`: `jax.nn.sigmoid` for pixels in [0, 1], `jnp.tanh` for [-1, 1].
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        times, base = halvings(size)
        widths = [whole(width, "width") * 2**level for level in range(times - 1, -1, -1)]
        key_project, *keys = jr.split(key, 1 + times)
        self.start = (widths[0], base, base)
        self.project = eqx.nn.Linear(
            whole(latent_size, "latent_size"), math.prod(self.start), key=key_project
        )
        self.norms = tuple(group_norm(width) for width in widths)
        self.convs = tuple(
            eqx.nn.ConvTranspose2d(above, below, 4, 2, padding=1, key=key)
            for above, below, key in zip(
                widths, [*widths[1:], whole(channels, "channels")], keys, strict=True
            )
        )
        self.final_activation = final_activation

    def __call__(self, latent: Float[Array, " latent"]) -> Float[Array, "channels size size"]:
        """One image from one latent vector."""
        check_sample(latent, (int(self.project.in_features),))
        x = self.project(latent).reshape(self.start)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(jax.nn.relu(norm(x)))
        return self.final_activation(x)


class ConvCritic(eqx.Module):
    """A critic of square images by convolutions, each of which halves the size.

    Like that of DCGAN (Radford, Metz and Chintala 2016, arXiv:1511.06434), without norms: those of
    a batch would make the score of a sample depend on others, which a gradient penalty forbids. Its
    activation is smooth by default, so that a penalty has a curvature to act on.
    """

    convs: tuple[eqx.nn.Conv2d, ...]
    score: eqx.nn.Linear
    activation: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        width: int = 64,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: Array,
    ):
        """**Arguments:**

        - `channels`, `size`: those of the images, of shape (channels, size, size); the size is 4,
            5, 6 or 7 times a power of two, at least 8.
        - `width`: the channels after the first layer; each layer later has twice as many.
        - `activation`: after each convolution.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        times, base = halvings(size)
        widths = [whole(width, "width") * 2**level for level in range(times)]
        key_score, *keys = jr.split(key, 1 + times)
        self.shape = (whole(channels, "channels"), size, size)
        self.convs = tuple(
            eqx.nn.Conv2d(above, below, 4, 2, padding=1, key=key)
            for above, below, key in zip([channels, *widths[:-1]], widths, keys, strict=True)
        )
        self.score = eqx.nn.Linear(widths[-1] * base**2, "scalar", key=key_score)
        self.activation = activation

    def __call__(self, x: Float[Array, "channels size size"]) -> Float[Array, ""]:
        """The score of one image."""
        check_sample(x, self.shape)
        for conv in self.convs:
            x = self.activation(conv(x))
        return self.score(jnp.ravel(x))
