"""What counts as an array argument: input is turned into arrays here, or told why it cannot."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.core
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ._precision import needs_precision, needs_precision_to_the_end


Tree = TypeVar("Tree")

_ACCEPTED = (jnp.dtype("float32"), jnp.dtype("float64"))
_BATCH = "for a batch of problems use `jax.vmap`"
_TOO_MANY_AXES = {  # what is probably meant, by the axes that are wanted
    "points": f"flatten it by `.ravel()`; {_BATCH}",
    "k n": "flatten each by `.reshape(k, -1)`",
}


def float_array(value: ArrayLike, name: str, axes: str) -> Float[Array, "..."]:
    """Returns `value` as a float32 or float64 array with one axis per word of `axes`.

    Half precisions are promoted to float32, since potentials need more than eleven bits.

    **Raises:** `ValueError`, naming the argument, for other dtypes and numbers of axes.
    """
    if isinstance(value, (list, tuple)) or value is None:
        raise ValueError(
            f"`{name}` must be an array with axes ({axes}), got {type(value).__name__}; "
            f"pass `jnp.asarray({name})`."
        )
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array with axes ({axes}), got {type(value).__name__}."
        ) from error
    needs_precision(array.dtype, f"`{name}`")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be of a floating dtype, got {array.dtype}; pass `{name}.astype(float)`."
        )
    ndim = len(axes.split())
    if array.ndim != ndim:
        advice = _BATCH
        if array.ndim > ndim:
            advice = _TOO_MANY_AXES.get(axes, _BATCH)
        elif axes.endswith(" d"):
            advice = "one number for each point is an axis of length 1, `[:, None]`"
        raise ValueError(f"`{name}` must have axes ({axes}), got shape {array.shape}; {advice}.")
    if 0 in array.shape:
        raise ValueError(f"`{name}` must not be empty, got shape {array.shape}.")
    array = array if array.dtype in _ACCEPTED else array.astype(jnp.float32)
    return needs_precision_to_the_end(array, name)


def points_like(
    value: ArrayLike, name: str, dimension: int, dtype: jnp.dtype
) -> Float[Array, "k d"]:
    """Returns new points of a known space, shape (k, d), for what was made of others of `dtype`.

    **Raises:** `ValueError`, naming the argument: what is of another dimension would be broadcast.
    """
    points = float_array(value, name, "k d").astype(dtype)
    if points.shape[1] != dimension:
        raise ValueError(
            f"`{name}` must hold points of {dimension} coordinates, got shape {points.shape}."
        )
    return points


def float_scalar(value: ArrayLike, name: str, dtype: jnp.dtype) -> Float[Array, ""]:
    """Returns the real number `value` as a scalar array of `dtype`.

    **Raises:** `ValueError`, naming the argument, if it is not one real number.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be a real number, got {value!r}.") from error
    if array.ndim != 0 or not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise ValueError(
            f"`{name}` must be one real number, got dtype {array.dtype} and shape "
            f"{array.shape}; to sweep it use `jax.vmap`."
        )
    return array.astype(dtype)


def single_at_least(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype, or float32 in place of half precision."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def positive_number(
    value: ArrayLike, name: str, dtype: jnp.dtype | None = None
) -> Float[Array, ""]:
    """Returns a setting, a positive number, as a scalar array of `dtype`, or of JAX's floating one.
    Traced numbers are not checked.

    **Raises:** `ValueError`, naming the setting, also where it rounds to zero.
    """
    number = float_scalar(value, name, dtype or jnp.result_type(float))
    known = known_number(value)
    if known is not None and not known >= float(jnp.finfo(number.dtype).tiny):
        raise ValueError(f"`{name}` must be positive in {number.dtype}, got {value!r}.")
    return number


def optional_positive_number(value: ArrayLike | None, name: str) -> Float[Array, ""] | None:
    """The same for a setting that may be left open."""
    return None if value is None else positive_number(value, name)


def known_number(value: ArrayLike) -> float | None:
    """The value of a number, if it is known while tracing."""
    # On the host, as even constants are traced when JAX computes with them under `jit`.
    return None if isinstance(value, jax.core.Tracer) else float(jax.device_get(value))


def count(value: int | Array, name: str) -> Int[Array, ""]:
    """Returns a number of things, that may be traced, as an int32 scalar.

    **Raises:** `ValueError`, naming the argument.
    """
    whole = isinstance(value, int) or (
        isinstance(value, Array) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    )
    known = known_number(value) if whole else None
    if not whole or (known is not None and known < 0):
        raise ValueError(f"`{name}` must be a whole number, not negative, got {value!r}.")
    return jnp.asarray(value, jnp.int32)


def inner(u: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, ""]:
    """The inner product of two vectors: one operation, where a sum of products is three."""
    return lax.dot(u, v, precision=lax.Precision.HIGHEST)


def constant(tree: Tree) -> Tree:
    """The same tree, whose arrays carry no derivative."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(lax.stop_gradient(arrays), rest)
