"""Where the trainer's batches and keys come from."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, UInt32

from ._samples import samples


class Ends(eqx.Module):
    """Data that belong together, one of each to a sample.

    - `x1`: the samples, shape (n, ...).
    - `x0`: where each of them comes from, shape (n, ...), such as `otjax.flow.reflow` makes; None
      where starts are drawn.
    - `condition`: what each comes with, such as its label, axes (n, ...); None without.
    """

    x1: Array
    x0: Array | None = None
    condition: Array | None = None


# All samples, or a function that draws a batch of them.
Data: TypeAlias = ArrayLike | Ends | Callable[[Array], Array | Ends]


class Gaussian(eqx.Module):
    """A standard normal vector."""

    size: int = eqx.field(static=True)

    def __call__(self, key: Array) -> Float[Array, " size"]:
        return jr.normal(key, (self.size,))


def batch_of(data: Data, batch_size: int, key: Array) -> Any:
    """A batch drawn uniformly, with replacement; all data where they are just as many; or what a
    function draws.

    **Raises:** `ValueError` for data that are empty, or fewer than a batch.
    """
    if callable(data):
        return _checked(data(key))
    whole = _checked(data)
    num = len(whole.x1 if isinstance(whole, Ends) else whole)
    if num < batch_size:
        raise ValueError(
            f"`data` must hold at least a batch, {batch_size} samples, got {num}; "
            "lower `batch_size`."
        )
    if num == batch_size:
        return whole
    places = jr.randint(key, (batch_size,), 0, num)
    return jax.tree.map(lambda leaf: leaf[places], whole)


def _checked(data: ArrayLike | Ends) -> Array | Ends:
    if not isinstance(data, Ends):
        return samples(data, "data")
    x1 = samples(data.x1, "data.x1")
    x0 = None if data.x0 is None else samples(data.x0, "data.x0")
    condition = None if data.condition is None else jnp.asarray(data.condition)
    for name, part in (("x0", x0), ("condition", condition)):
        if part is not None and (part.ndim == 0 or len(part) != len(x1)):
            raise ValueError(
                f"`data.{name}` must have one entry for each of `data.x1`, {len(x1)}, got shape "
                f"{part.shape}."
            )
    return Ends(x1, x0, condition)


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
