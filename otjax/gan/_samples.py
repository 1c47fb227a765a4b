"""What counts as a batch of samples, and as a critic: checked here, or told why it does not."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


# Any callable pytree: an Equinox module, or `jax.tree_util.Partial(flax_model.apply, parameters)`.
Critic: TypeAlias = Callable[[Array], Array]


def samples(value: ArrayLike, name: str) -> Float[Array, "n ..."]:
    """Returns a batch of samples as an array, in its own floating dtype.

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
            f"`{name}` must be of a floating dtype, got {array.dtype}; scale it and pass "
            f"`{name}.astype(jnp.float32)`."
        )
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"`{name}` must be a batch of at least one sample with axes (n, ...), got shape "
            f"{array.shape}."
        )
    return array


def real_and_fake(
    real: ArrayLike, fake: ArrayLike
) -> tuple[Float[Array, "n ..."], Float[Array, "m ..."]]:
    """Returns two batches of samples of one shape and dtype; the batches may differ in size.

    **Raises:** `ValueError`, naming the argument.
    """
    real, fake = samples(real, "real"), samples(fake, "fake")
    if fake.shape[1:] != real.shape[1:] or fake.dtype != real.dtype:
        raise ValueError(
            f"`fake` must hold samples like those of `real`, of shape {real.shape[1:]} and dtype "
            f"{real.dtype}, got shape {fake.shape[1:]} and dtype {fake.dtype}."
        )
    return real, fake


def scalar_output(critic: Critic, name: str) -> Critic:
    """The critic, with a check of what it returns.

    **Raises:** `ValueError`, naming the argument, if it cannot be called, and when called, if it
    does not return a floating scalar.
    """
    if not callable(critic):
        raise ValueError(f"`{name}` must be a callable of one sample, got {critic!r}.")

    def checked(sample: Array) -> Array:
        score = jnp.asarray(critic(sample))
        if score.shape != () or not jnp.issubdtype(score.dtype, jnp.floating):
            raise ValueError(
                f"`{name}` must map one sample, of shape {sample.shape}, to a scalar of shape () "
                f"and a floating dtype, got shape {score.shape} and dtype {score.dtype}; end it "
                "with `.squeeze()`, or with `out_size='scalar'` in Equinox."
            )
        return score

    return checked


def scores(critic: Critic, points: Float[Array, "n ..."], name: str) -> Float[Array, " n"]:
    """The critic at each sample of a batch."""
    return jax.vmap(scalar_output(critic, name))(points)
