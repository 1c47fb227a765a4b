"""Random directions, and what is done for each of them a chunk at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.lax as lax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


Out = TypeVar("Out", bound=PyTree[Array])

# At once so many projected coordinates, unless the user says how many projections.
_COORDINATES = 2**22


def random_directions(
    key: PRNGKeyArray, num_projections: int, d: int, dtype: DTypeLike | None = None
) -> Float[Array, "k d"]:
    """Directions that are independent and uniform on the unit sphere.

    **Arguments:**

    - `key`: a key of `jax.random`.
    - `num_projections`: how many.
    - `d`: the dimension of the space.
    - `dtype`: of the directions; `None` is JAX's floating one.

    **Returns:** unit vectors, shape (num_projections, d): those of `sliced_wasserstein` with the
    same key and dtype.

    **Raises:** `ValueError` for numbers that are not positive.
    """
    for name, number in (("num_projections", num_projections), ("d", d)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {number!r}.")
    if not isinstance(key, Array):
        raise ValueError(f"`key` must be a key such as `jax.random.key(0)`, got {key!r}.")
    dtype = jnp.result_type(float) if dtype is None else dtype
    return unit(jax.random.normal(key, (num_projections, d), dtype))


def unit(v: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """The vectors at length 1; a zero vector becomes the first axis."""
    length = jnp.linalg.norm(v, axis=1, keepdims=True)
    first = jnp.zeros_like(v).at[:, 0].set(1)
    return jnp.where(length > 0, v / jnp.where(length > 0, length, 1), first)


def project(x: Float[Array, "n d"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
    """The coordinates of points along a direction."""
    return jnp.matmul(x, direction, precision=lax.Precision.HIGHEST)


def chunk_size(chunk: int | None, num_projections: int, points: int) -> int:
    """How many projections of `points` points are held at once.

    **Raises:** `ValueError` if `chunk` is not a positive number.
    """
    if chunk is None:
        chunk = max(1, _COORDINATES // points)
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"`chunk` must be a positive integer, got {chunk!r}.")
    return min(chunk, num_projections)


def for_each(
    function: Callable[[Float[Array, " d"]], Out], directions: Float[Array, "k d"], chunk: int
) -> Out:
    """`jax.vmap(function)(directions)`, with the memory of one chunk, in gradients too."""
    if chunk >= directions.shape[0]:
        return jax.vmap(function)(directions)
    return lax.map(jax.checkpoint(function), directions, batch_size=chunk)  # pyright: ignore
