"""Activations that lose no slope: they permute their input."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._shapes import whole


class GroupSort(eqx.Module):
    """Sorts groups of neighbouring features, in ascending order.

    A permutation of its input, hence 1-Lipschitz, and its Jacobian preserves the norm of gradients;
    with orthogonal weights it can represent every 1-Lipschitz function (Anil, Lucas and Grosse
    2019, arXiv:1811.05381). Groups of two are MaxMin, one group is the full sort.
    """

    group_size: int = eqx.field(static=True)

    def __init__(self, group_size: int = 2):
        """**Arguments:**

        - `group_size`: the features of a group, at least 2.

        **Raises:** `ValueError` otherwise.
        """
        if whole(group_size, "group_size") < 2:
            raise ValueError(f"`group_size` must be at least 2, got {group_size!r}.")
        self.group_size = whole(group_size, "group_size")

    def __call__(self, x: Float[Array, "features ..."]) -> Float[Array, "features ..."]:
        """Sorts along the first axis, of features or channels.

        **Raises:** `ValueError` if their number is not a multiple of the group size.
        """
        if x.ndim == 0 or x.shape[0] % self.group_size:
            raise ValueError(
                f"`x` must have a first axis that is a multiple of {self.group_size}, the group "
                f"size, got shape {x.shape}."
            )
        return _sorted(x.reshape(-1, self.group_size, *x.shape[1:])).reshape(x.shape)


def _sorted(groups: Float[Array, "groups size ..."]) -> Float[Array, "groups size ..."]:
    """Sorts each group by a bitonic network (Batcher 1968): the same few exchanges for all of them,
    at a tenth of the time of a general sort on a CPU."""
    size = groups.shape[1]
    padding = [(0, 0)] * groups.ndim
    padding[1] = (0, 2 ** math.ceil(math.log2(size)) - size)
    x = jnp.pad(groups, padding, constant_values=jnp.inf)
    run = 2  # the length of the sorted runs that are made
    while run <= x.shape[1]:
        x = _exchange(x, run, mirrored=True)
        block = run // 2
        while block > 1:
            x = _exchange(x, block, mirrored=False)
            block //= 2
        run *= 2
    return x[:, :size]


def _exchange(x: Float[Array, "groups size ..."], block: int, *, mirrored: bool) -> Array:
    """Puts each entry of the first half of a block into order with its partner in the second."""
    blocks = x.reshape(x.shape[0], -1, block, *x.shape[2:])
    low, high = jnp.split(blocks, 2, axis=2)
    high = jnp.flip(high, axis=2) if mirrored else high
    swap = low > high
    low, high = jnp.where(swap, high, low), jnp.where(swap, low, high)
    high = jnp.flip(high, axis=2) if mirrored else high
    return jnp.concatenate([low, high], axis=2).reshape(x.shape)


def max_min(x: Float[Array, "features ..."]) -> Float[Array, "features ..."]:
    """The MaxMin activation: puts each pair of neighbouring features into ascending order.

    That is `GroupSort(2)` (Anil, Lucas and Grosse 2019, arXiv:1811.05381, section 4.2).

    **Raises:** `ValueError` if the number of features is odd.
    """
    return GroupSort(2)(x)
