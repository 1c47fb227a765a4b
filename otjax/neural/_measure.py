"""What counts as a measure to draw from: points, or a function that draws batches of them."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._arrays import float_array


# Points of shape (n, d), or a function of a key that returns a batch of them.
Measure: TypeAlias = ArrayLike | Callable[[PRNGKeyArray], Array]


class Cloud(eqx.Module):
    """Draws some of its points, each as likely as the others, with replacement."""

    points: Float[Array, "n d"]
    size: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Float[Array, "size d"]:
        return self.points[jr.randint(key, (self.size,), 0, len(self.points))]


def sampler(measure: Measure, name: str, batch_size: int) -> Callable[[PRNGKeyArray], Array]:
    """A function of a key that draws a batch; a measure that is one already draws its own size.

    **Raises:** `ValueError`, naming the argument, if it is neither that nor points.
    """
    if not callable(measure):
        return Cloud(float_array(measure, name, "n d"), batch_size)
    batch = jax.eval_shape(measure, jr.key(0))
    shape, dtype = getattr(batch, "shape", ()), getattr(batch, "dtype", None)
    if len(shape) != 2 or 0 in shape or dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"`{name}` must be points of shape (n, d), or a function of a key that returns such "
            f"points in float32 or float64, got one that returns {batch}."
        )
    return measure


def samplers(
    source: Measure, target: Measure, batch_size: int
) -> tuple[Callable[[PRNGKeyArray], Array], Callable[[PRNGKeyArray], Array], jax.ShapeDtypeStruct]:
    """Both, and what a batch of the second is.

    **Raises:** `ValueError` if their points are not of one space and dtype.
    """
    source, target = sampler(source, "source", batch_size), sampler(target, "target", batch_size)
    one, other = (jax.eval_shape(draw, jr.key(0)) for draw in (source, target))
    if one.shape[1] != other.shape[1] or one.dtype != other.dtype:
        raise ValueError(
            f"`target` must draw points like those of `source`, of {one.shape[1]} dimensions and "
            f"dtype {one.dtype}, got {other.shape[1]} and {other.dtype}."
        )
    return source, target, other
