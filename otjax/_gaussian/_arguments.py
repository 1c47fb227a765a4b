"""What counts as a Gaussian: a mean and a covariance."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array


def gaussian(
    mean: ArrayLike, cov: ArrayLike, side: str, batch: str = ""
) -> tuple[Float[Array, "*b d"], Float[Array, "*b d d"]]:
    """A mean and a covariance as arrays, or a batch of them if `batch` names an axis.

    **Raises:** `ValueError`, naming `mean{side}` or `cov{side}`, for shapes and dtypes that do not
    fit.
    """
    names = f"mean{side}", f"cov{side}"
    mean = float_array(mean, names[0], f"{batch} d")
    cov = float_array(cov, names[1], f"{batch} d d")
    if cov.shape != (*mean.shape, mean.shape[-1]):
        raise ValueError(
            f"`{names[1]}` must have shape {(*mean.shape, mean.shape[-1])} to go with "
            f"`{names[0]}`, got {cov.shape}."
        )
    if cov.dtype != mean.dtype:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have one dtype, got {mean.dtype} and {cov.dtype}; "
            "cast one of them."
        )
    return mean, cov


def two_gaussians(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Two Gaussians on one space, as arrays."""
    mean_a, cov_a = gaussian(mean_a, cov_a, "_a")
    mean_b, cov_b = gaussian(mean_b, cov_b, "_b")
    same_space(mean_a, mean_b, "mean_a", "mean_b")
    return mean_a, cov_a, mean_b, cov_b


def same_space(
    left: Float[Array, "..."], right: Float[Array, "..."], left_name: str, right_name: str
) -> None:
    """**Raises:** `ValueError` unless both are of one dimension (the last axis) and one dtype."""
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"`{left_name}` and `{right_name}` must be of the same space, got dimensions "
            f"{left.shape[-1]} and {right.shape[-1]}."
        )
    if left.dtype != right.dtype:
        raise ValueError(
            f"`{left_name}` and `{right_name}` must have one dtype, got {left.dtype} and "
            f"{right.dtype}; cast one of them."
        )


def valid_gaussian(
    mean: Float[Array, " d"], cov: Float[Array, "d d"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Bool[Array, ""], Bool[Array, ""]]:
    """A Gaussian to compute with; whether the given mean and covariance were finite, and whether
    the covariance was symmetric and positive semi-definite up to rounding."""
    finite = jnp.all(jnp.isfinite(mean)) & jnp.all(jnp.isfinite(cov))
    mean = jnp.where(finite, mean, 0)
    cov = jnp.where(finite, cov, jnp.eye(mean.shape[0], dtype=cov.dtype))
    size = jnp.max(jnp.abs(cov))
    rounding = 1e-4 if cov.dtype == jnp.float32 else 1e-8
    symmetric = jnp.max(jnp.abs(cov - cov.T)) <= rounding * size
    cov = (cov + cov.T) / 2
    least = jnp.linalg.eigvalsh(lax.stop_gradient(cov))[0]
    return mean, cov, finite, symmetric & (least >= -rounding * size)
