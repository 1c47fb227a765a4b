"""Activations that lose no slope: they permute their input."""

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
        groups = x.reshape(-1, self.group_size, *x.shape[1:])
        if self.group_size == 2:  # a sort of two costs many times as much
            low, high = groups[:, 0], groups[:, 1]
            ordered = jnp.stack([jnp.minimum(low, high), jnp.maximum(low, high)], axis=1)
        else:
            ordered = jnp.sort(groups, axis=1)
        return ordered.reshape(x.shape)


def max_min(x: Float[Array, "features ..."]) -> Float[Array, "features ..."]:
    """The MaxMin activation: puts each pair of neighbouring features into ascending order.

    That is `GroupSort(2)` (Anil, Lucas and Grosse 2019, arXiv:1811.05381, section 4.2).

    **Raises:** `ValueError` if the number of features is odd.
    """
    return GroupSort(2)(x)
