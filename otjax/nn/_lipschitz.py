"""Critics that are 1-Lipschitz by construction: orthogonal layers and sorts."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._group_sort import GroupSort
from ._orthogonal import OrthogonalConv, OrthogonalLinear
from ._shapes import check_sample, halvings, sample_shape, whole


class LipschitzMLP(eqx.Module):
    """A 1-Lipschitz critic of fully connected layers, with respect to Euclidean norms.

    Orthogonal weights and GroupSort (Anil, Lucas and Grosse 2019, arXiv:1811.05381): the norm of
    its gradient is at most 1 up to rounding, for any values of its parameters, without a penalty.
    """

    layers: tuple[OrthogonalLinear, ...]
    activation: GroupSort
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        width: int = 128,
        depth: int = 2,
        group_size: int = 2,
        key: Array,
    ):
        """**Arguments:**

        - `shape`: the shape of a sample, such as 2 or (1, 28, 28).
        - `width`, `depth`: the size of the hidden layers, and their number.
        - `group_size`: how many features are sorted together, a divisor of `width`; `width` itself
            sorts the whole layer.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        self.shape = sample_shape(shape, "shape")
        sizes = [math.prod(self.shape), *[whole(width, "width")] * whole(depth, "depth"), 1]
        self.activation = _group_sort(group_size, width)
        keys = jr.split(key, len(sizes) - 1)
        self.layers = tuple(
            OrthogonalLinear(*pair, key=key)
            for *pair, key in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        """The score of one sample of shape `shape`."""
        check_sample(x, self.shape)
        features = jnp.ravel(x)
        for layer in self.layers[:-1]:
            features = self.activation(layer(features))
        return self.layers[-1](features)[0]


def _group_sort(group_size: int, width: int) -> GroupSort:
    sort = GroupSort(group_size)
    if width % group_size:
        raise ValueError(f"`group_size` must divide `width`={width}, got {group_size!r}.")
    return sort


def space_to_depth(x: Float[Array, "c h w"]) -> Float[Array, "4*c h/2 w/2"]:
    """Each square of two by two pixels becomes one pixel of four times the channels."""
    c, h, w = x.shape
    squares = x.reshape(c, h // 2, 2, w // 2, 2)
    return jnp.transpose(squares, (0, 2, 4, 1, 3)).reshape(4 * c, h // 2, w // 2)


class LipschitzConv(eqx.Module):
    """A 1-Lipschitz convolutional critic of square images, with respect to Euclidean norms.

    Orthogonal convolutions and GroupSort, each halving of the image a rearrangement of its pixels
    (Trockman and Kolter 2021, arXiv:2104.07167); a `LipschitzMLP` with one hidden layer reads the
    last image.
    """

    first: OrthogonalConv
    convs: tuple[OrthogonalConv, ...]
    activation: GroupSort
    head: LipschitzMLP
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, channels: int, size: int, *, width: int = 32, group_size: int = 2, key: Array
    ):
        """**Arguments:**

        - `channels`, `size`: those of the images, of shape (channels, size, size).
        - `width`: the channels of the first layer; each halving of the image doubles them.
        - `group_size`: how many channels are sorted together, a divisor of `width`.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, or do not fit.
        """
        times, base = halvings(size)
        self.shape = (whole(channels, "channels"), size, size)
        self.activation = _group_sort(group_size, whole(width, "width"))
        widths = [width * 2**level for level in range(times + 1)]
        key_first, key_head, *keys = jr.split(key, 2 + times)
        self.first = OrthogonalConv(channels, width, key=key_first)
        self.convs = tuple(
            OrthogonalConv(4 * above, below, key=key)
            for above, below, key in zip(widths[:-1], widths[1:], keys, strict=True)
        )
        self.head = LipschitzMLP(
            (widths[-1], base, base),
            width=widths[-1],
            depth=1,
            group_size=group_size,
            key=key_head,
        )

    def __call__(self, x: Float[Array, "channels size size"]) -> Float[Array, ""]:
        """The score of one image."""
        check_sample(x, self.shape)
        x = self.activation(self.first(x))
        for conv in self.convs:
            x = self.activation(conv(space_to_depth(x)))
        return self.head(x)
