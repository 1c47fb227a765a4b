"""Generators and critics without structure."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
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


class MLPCritic(eqx.Module):
    """A critic made of fully connected layers: sample of any shape in, scalar out.

    Its activation is smooth by default, so that a gradient penalty has a curvature to act on.
    """

    mlp: eqx.nn.MLP
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        width: int = 256,
        depth: int = 2,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: Array,
    ):
        """**Arguments:**

        - `shape`: the shape of a sample, such as 2 or (1, 28, 28).
        - `width`, `depth`: the size of the hidden layers, and their number.
        - `activation`: after each hidden layer.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        self.shape = sample_shape(shape, "shape")
        self.mlp = eqx.nn.MLP(
            math.prod(self.shape),
            "scalar",
            whole(width, "width"),
            whole(depth, "depth"),
            activation,
            key=key,
        )

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        """The score of one sample of shape `shape`."""
        check_sample(x, self.shape)
        return self.mlp(jnp.ravel(x))
