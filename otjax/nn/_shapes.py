"""Shapes of samples and sizes of layers, checked."""

import operator
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array


def whole(value: Any, name: str) -> int:
    """Returns a positive whole number as an `int`.

    **Raises:** `ValueError`, naming the argument.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"`{name}` must be a positive whole number, got {value!r}.")
    return number


def sample_shape(shape: int | Sequence[int], name: str) -> tuple[int, ...]:
    """Returns the shape of one sample as a tuple; a number is the size of a vector.

    **Raises:** `ValueError`, naming the argument.
    """
    sizes = shape if isinstance(shape, Sequence) else (shape,)
    return tuple(whole(size, name) for size in sizes)


def check_sample(x: Array, shape: tuple[int, ...]) -> None:
    """**Raises:** `ValueError` if `x` is not one sample of this shape."""
    if x.shape != shape:
        raise ValueError(
            f"`x` must be one sample of shape {shape}, got shape {x.shape}; for a batch of samples "
            "use `jax.vmap`."
        )


def halvings(size: int) -> tuple[int, int]:
    """How often an image of this size is halved, and the size of 4 to 7 that remains.

    **Raises:** `ValueError` for sizes at which this does not come out even.
    """
    base, times = whole(size, "size"), 0
    while base > 7 and base % 2 == 0:
        base, times = base // 2, times + 1
    if times == 0 or not 4 <= base <= 7:
        raise ValueError(
            "`size` must be 4, 5, 6 or 7 times a power of two, and at least 8, such as 8, 16, 28, "
            f"32 or 64, got {size!r}; pad or crop the images to such a size."
        )
    return times, base
