"""Residual generators and critics of square images, channels first."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._normalisation import group_norm
from ._shapes import check_sample, halvings, whole


def _doubled(x: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
    """Each pixel becomes a square of two by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _halved(x: Float[Array, "c h w"]) -> Float[Array, "c h/2 w/2"]:
    """Each square of two by two becomes a pixel, its mean."""
    c, h, w = x.shape
    return jnp.mean(x.reshape(c, h // 2, 2, w // 2, 2), axis=(2, 4))


class _Up(eqx.Module):
    """A residual block that doubles the size."""

    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]
    convs: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    shortcut: eqx.nn.Conv2d

    def __init__(self, width: int, key: Array):
        first, second, third = jr.split(key, 3)
        self.norms = (group_norm(width), group_norm(width))
        self.convs = (
            eqx.nn.Conv2d(width, width, 3, padding=1, key=first),
            eqx.nn.Conv2d(width, width, 3, padding=1, key=second),
        )
        self.shortcut = eqx.nn.Conv2d(width, width, 1, key=third)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
        y = self.convs[0](_doubled(jax.nn.relu(self.norms[0](x))))
        y = self.convs[1](jax.nn.relu(self.norms[1](y)))
        return y + _doubled(self.shortcut(x))


class _Down(eqx.Module):
    """A residual block that halves the size."""

    convs: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    shortcut: eqx.nn.Conv2d

    def __init__(self, width: int, key: Array):
        first, second, third = jr.split(key, 3)
        self.convs = (
            eqx.nn.Conv2d(width, width, 3, padding=1, key=first),
            eqx.nn.Conv2d(width, width, 3, padding=1, key=second),
        )
        self.shortcut = eqx.nn.Conv2d(width, width, 1, key=third)

    def __call__(
        self, x: Float[Array, "c h w"], activation: Callable[[Array], Array]
    ) -> Float[Array, "c h/2 w/2"]:
        y = self.convs[1](activation(self.convs[0](activation(x))))
        return _halved(y) + self.shortcut(_halved(x))


class ResidualGenerator(eqx.Module):
    """A generator of square images by residual blocks, each of which doubles the size.

    Like that of Gulrajani et al. (2017, arXiv:1704.00028, appendix on architectures), with group
    norms in the place of batch norms: an image depends on its own latent vector alone.
    """

    project: eqx.nn.Linear
    blocks: tuple[_Up, ...]
    norm: eqx.nn.GroupNorm
    last: eqx.nn.Conv2d
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
        - `width`: the channels of each block.
        - `final_activation`: `jax.nn.sigmoid` for pixels in [0, 1], `jnp.tanh` for [-1, 1].
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        times, base = halvings(size)
        key_project, key_last, *keys = jr.split(key, 2 + times)
        self.start = (whole(width, "width"), base, base)
        self.project = eqx.nn.Linear(
            whole(latent_size, "latent_size"), math.prod(self.start), key=key_project
        )
        self.blocks = tuple(_Up(width, key) for key in keys)
        self.norm = group_norm(width)
        self.last = eqx.nn.Conv2d(width, whole(channels, "channels"), 3, padding=1, key=key_last)
        self.final_activation = final_activation

    def __call__(self, latent: Float[Array, " latent"]) -> Float[Array, "channels size size"]:
        """One image from one latent vector."""
        check_sample(latent, (int(self.project.in_features),))
        x = self.project(latent).reshape(self.start)
        for block in self.blocks:
            x = block(x)
        return self.final_activation(self.last(jax.nn.relu(self.norm(x))))


class ResidualCritic(eqx.Module):
    """A critic of square images by residual blocks, each of which halves the size.

    Like that of Gulrajani et al. (2017, arXiv:1704.00028, appendix on architectures), without norms
    and with a smooth activation by default; the score is linear in the means of the last image.
    """

    first: eqx.nn.Conv2d
    blocks: tuple[_Down, ...]
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
        - `width`: the channels of each block.
        - `activation`: before each convolution but the first.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        times, _ = halvings(size)
        key_first, key_score, *keys = jr.split(key, 2 + times)
        self.shape = (whole(channels, "channels"), size, size)
        self.first = eqx.nn.Conv2d(channels, whole(width, "width"), 3, padding=1, key=key_first)
        self.blocks = tuple(_Down(width, key) for key in keys)
        self.score = eqx.nn.Linear(width, "scalar", key=key_score)
        self.activation = activation

    def __call__(self, x: Float[Array, "channels size size"]) -> Float[Array, ""]:
        """The score of one image."""
        check_sample(x, self.shape)
        x = self.first(x)
        for block in self.blocks:
            x = block(x, self.activation)
        return self.score(jnp.mean(self.activation(x), axis=(1, 2)))
