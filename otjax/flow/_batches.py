"""What counts as a batch of samples, as a velocity and as a generator: checked here."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import single_at_least


# (t, x) or (t, x, condition) -> the velocity of one sample, of the shape of x.
Velocity: TypeAlias = Callable[..., Array]


def batch(value: ArrayLike, name: str) -> Float[Array, "n ..."]:
    """Returns a batch of samples as an array of float32 or float64; half precision is promoted.

    **Raises:** `ValueError`, naming the argument, if it is empty or holds no floating numbers.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array with axes (n, ...), got {type(value).__name__}."
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be of a floating dtype, got {array.dtype}; pass `{name}.astype(float)`."
        )
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"`{name}` must be a batch of at least one sample with axes (n, ...), got shape "
            f"{array.shape}."
        )
    return array.astype(single_at_least(array.dtype))


def two_batches(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str]
) -> tuple[Float[Array, "n ..."], Float[Array, "m ..."]]:
    """Returns two batches of samples of one shape and dtype; they may differ in size.

    **Raises:** `ValueError`, naming the argument.
    """
    x, y = batch(first, names[0]), batch(second, names[1])
    if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype:
        raise ValueError(
            f"`{names[1]}` must hold samples like those of `{names[0]}`, of shape {x.shape[1:]} "
            f"and dtype {x.dtype}, got shape {y.shape[1:]} and dtype {y.dtype}."
        )
    return x, y


def vectors(samples: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    """The samples as vectors, as transport sees them."""
    return samples.reshape(len(samples), -1)


def checked_velocity(velocity: Velocity, name: str = "velocity") -> Velocity:
    """The velocity, with a check of what it returns.

    **Raises:** `ValueError`, naming the argument, if it cannot be called, and when called, if it
    does not return an array like its sample.
    """
    if not callable(velocity):
        raise ValueError(f"`{name}` must be a callable (t, x) of one sample, got {velocity!r}.")

    def checked(t: Float[Array, ""], x: Float[Array, "..."], *condition: Array) -> Array:
        out = velocity(t, x, *condition)
        shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
        if shape != x.shape or dtype != x.dtype:
            raise ValueError(
                f"`{name}` must map a time and one sample, of shape {x.shape} and dtype {x.dtype}, "
                f"to an array like the sample, got shape {shape} and dtype {dtype}."
            )
        return out

    return checked


def all_finite(*arrays: Array) -> Bool[Array, ""]:
    """Whether every number of the floating arrays is one."""
    finite = jnp.array(True)
    for array in arrays:
        if jnp.issubdtype(array.dtype, jnp.floating):
            finite = finite & jnp.all(jnp.isfinite(array))
    return finite


def cleaned(array: Array, valid: Bool[Array, ""]) -> Array:
    """The array, or zeros without derivatives where the input is not valid."""
    return jax.tree.map(lambda leaf: jnp.where(valid, leaf, jnp.zeros_like(leaf)), array)


def nan_unless(valid: Bool[Array, ""], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The value; for invalid input NaN, which every log sees, with gradient zero."""
    return jnp.where(valid, value, lax.stop_gradient(jnp.full_like(value, jnp.nan)))
