"""Spectral normalisation, without a state."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._varying import scan


Model = TypeVar("Model")

# The bound exceeds the spectral norm of n x m by at most min(n, m)^(1 / 2^11), 0.3 % at 1024.
_GRAM_STEPS = 10


def spectral_bound(matrix: Float[Array, "n m"]) -> Float[Array, ""]:
    """An upper bound of the spectral norm, by Gram iteration: a Schatten norm of high order.

    (Delattre et al. 2023, arXiv:2305.16173, algorithm 1.) Each step squares the matrix, so ten do
    what a thousand power iterations do, from no starting vector, and from above.
    """
    largest = jnp.max(jnp.abs(matrix))
    largest = lax.stop_gradient(jnp.where(largest > 0, largest, 1))  # lest squares overflow
    matrix = matrix / largest
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        gram, log_scale = carry
        norm = _frobenius(gram)
        return (_gram(gram / norm), 2 * (log_scale + jnp.log(norm))), None

    norm = _frobenius(tall)
    first = (_gram(tall / norm), 2 * jnp.log(norm))
    (gram, log_scale), _ = scan(step, first, length=_GRAM_STEPS - 1)
    return largest * jnp.exp((log_scale + jnp.log(_frobenius(gram))) / 2**_GRAM_STEPS)


def _gram(matrix: Float[Array, "n m"]) -> Float[Array, "m m"]:
    return jnp.matmul(matrix.T, matrix, precision=lax.Precision.HIGHEST)


def _frobenius(matrix: Float[Array, "n m"]) -> Float[Array, ""]:
    """The Frobenius norm, or 1 for a matrix of zeros."""
    squared = jnp.sum(jnp.square(matrix))
    return jnp.sqrt(jnp.where(squared > 0, squared, 1))


class SpectralNorm(eqx.Module):
    r"""A layer of Equinox whose weight is divided by its spectral norm at each call.

    (Miyato et al. 2018, arXiv:1802.05957.) The norm is computed afresh, as an upper bound at most
    some tenths of a percent too high, where `equinox.nn.SpectralNorm` carries the vectors of a
    power iteration as a state through every call: a critic stays a function of its sample. A linear
    layer becomes 1-Lipschitz. As in the source, a convolution is divided by the norm of its kernel
    as a matrix of shape (out, in * height * width); its own Lipschitz constant may exceed 1, by at
    most a factor of the square root of height * width.
    """

    layer: eqx.Module

    def __init__(self, layer: eqx.Module):
        """**Arguments:**

        - `layer`: has a `weight` whose first axis is that of its output: `equinox.nn.Linear`,
            `Conv` or `ConvTranspose`.

        **Raises:** `ValueError` otherwise.
        """
        if not isinstance(layer, _NORMALISED):
            raise ValueError(
                "`layer` must be an `equinox.nn.Linear`, `Conv` or `ConvTranspose`, got "
                f"{type(layer).__name__}."
            )
        self.layer = layer

    def __call__(self, x: Array, *, key: Array | None = None) -> Array:
        """Applies the layer, with its weight normalised, to what the layer takes; `key` is not used
        by these layers, and is there for `equinox.nn.Sequential`."""
        weight: Any = getattr(self.layer, "weight")  # noqa: B009
        normalised = weight / spectral_bound(weight.reshape(len(weight), -1))
        layer: Any = eqx.tree_at(lambda layer: layer.weight, self.layer, normalised)
        return layer(x, key=key)


_NORMALISED = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose)


def spectral_norm(model: Model) -> Model:
    """The model with each of its linear and convolutional layers of Equinox in a `SpectralNorm`.

    A fully connected model whose activations are 1-Lipschitz, such as `jax.nn.relu`, is so as a
    whole. The default of our critics, `jax.nn.silu`, has a slope of up to 1.1, once for each
    hidden layer, and convolutions may have more than one: see `SpectralNorm`.

    **Arguments:**

    - `model`: any pytree, such as `MLPCritic(...)` or a module of your own.

    **Raises:** `ValueError` if there is no such layer in it.
    """
    found = []

    def wrap(node: Any) -> Any:
        if not isinstance(node, _NORMALISED):
            return node
        found.append(node)
        return SpectralNorm(node)

    is_leaf = lambda node: isinstance(node, (*_NORMALISED, SpectralNorm))
    wrapped = jax.tree.map(wrap, model, is_leaf=is_leaf)
    if not found:
        raise ValueError("`model` must hold linear or convolutional layers of Equinox, found none.")
    return wrapped
