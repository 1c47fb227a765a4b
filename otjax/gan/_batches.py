"""Where the trainer's batches and keys come from."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, UInt32

from ._samples import samples


# All samples, or a function that draws a batch of them.
Data: TypeAlias = ArrayLike | Callable[[Array], Array]


class Gaussian(eqx.Module):
    """A standard normal vector."""

    size: int = eqx.field(static=True)

    def __call__(self, key: Array) -> Float[Array, " size"]:
        return jr.normal(key, (self.size,))


def batch_of(data: Data, batch_size: int, key: Array) -> Float[Array, "n ..."]:
    """A batch drawn uniformly, with replacement; all data where they are just as many; or what a
    function draws.

    **Raises:** `ValueError` for data that are empty, or fewer than a batch.
    """
    if callable(data):
        return samples(data(key), "data")
    array = samples(data, "data")
    if len(array) < batch_size:
        raise ValueError(
            f"`data` must hold at least a batch, {batch_size} samples, got {len(array)}; "
            "lower `batch_size`."
        )
    if len(array) == batch_size:
        return array
    return array[jr.randint(key, (batch_size,), 0, len(array))]


def key_data(key: Array) -> tuple[UInt32[Array, " size"], Any]:
    """The numbers of one key and the name of its kind, which is JAX's default for plain numbers.

    **Raises:** `ValueError`, naming `key`, for what is no key, and for several of them.
    """
    if not isinstance(key, Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        try:
            key = jr.wrap_key_data(jnp.asarray(key))
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`key` must be from `jax.random.key`, or, from `jax.random.PRNGKey`, of JAX's "
                f"default kind, got {key!r}."
            ) from error
    if key.ndim != 0:
        raise ValueError(f"`key` must be one key, from `jax.random.key`, got shape {key.shape}.")
    return jr.key_data(key), jr.key_impl(key)
