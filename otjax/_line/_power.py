"""Powers of a distance on the line, with right derivatives of every order, at zero too."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_scalar, known_number


@jax.custom_jvp
def abs_power(d: Float[Array, "*s"], p: Float[Array, ""]) -> Float[Array, "*s"]:
    """$|d|^p$; at $d = 0$ it is 1 for $p = 0$, and 0 where it would be infinite."""
    positive = d != 0
    size = jnp.where(positive, jnp.abs(d), 1)
    return jnp.where(positive, jnp.power(size, p), (p == 0).astype(d.dtype))


@jax.custom_jvp
def signed_power(d: Float[Array, "*s"], p: Float[Array, ""]) -> Float[Array, "*s"]:
    """$sign(d) |d|^p$."""
    return jnp.sign(d) * abs_power(d, p)


def _log_abs(d: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.log(jnp.abs(jnp.where(d != 0, d, 1)))


# Each is p times the other at p - 1, so that the second derivative of |d|^2 is 2 at zero as well.
@abs_power.defjvp
def _abs_power_jvp(primals, tangents):
    (d, p), (t_d, t_p) = primals, tangents
    value = abs_power(d, p)
    return value, p * signed_power(d, p - 1) * t_d + value * _log_abs(d) * t_p


@signed_power.defjvp
def _signed_power_jvp(primals, tangents):
    (d, p), (t_d, t_p) = primals, tangents
    value = signed_power(d, p)
    return value, p * abs_power(d, p - 1) * t_d + value * _log_abs(d) * t_p


class Power(eqx.Module):
    r"""The ground cost $(|x - y| / s)^p$ on the line."""

    p: Float[Array, ""] | int
    scale: Float[Array, ""]

    def __call__(self, x: Float[Array, " 1"], y: Float[Array, " 1"]) -> Float[Array, ""]:
        d = (x[0] - y[0]) / self.scale
        if isinstance(self.p, int):
            return jnp.square(d) if self.p == 2 else jnp.abs(d)
        return abs_power(d, self.p)


def order(p: ArrayLike, dtype: jnp.dtype) -> Float[Array, ""] | int:
    """The order of a distance; 1 and 2 stay numbers that the compiler knows, as they are cheap.

    **Raises:** `ValueError` if it is not a number, or known not to be one of at least 1.
    """
    known = known_number(p) if jnp.ndim(p) == 0 else None
    if known is not None and not 1 <= known < float("inf"):
        raise ValueError(f"`p` must be a finite number of at least 1, got {p!r}.")
    return int(known) if known in (1.0, 2.0) else float_scalar(p, "p", dtype)


def valid_order(
    p: Float[Array, ""] | int, dtype: jnp.dtype
) -> tuple[Float[Array, ""] | int, Bool[Array, ""]]:
    """An order to compute with, and whether the given one was valid."""
    if isinstance(p, int):
        return p, jnp.array(True)
    valid = (p >= 1) & (p < jnp.inf)
    return jnp.where(valid, p, jnp.ones((), dtype)), valid


def root(value: Float[Array, ""], p: Float[Array, ""] | int) -> Float[Array, ""]:
    """The p-th root, which is 0 with derivatives 0 at 0."""
    if isinstance(p, int) and p == 1:
        return value
    positive = value > 0
    safe = jnp.where(positive, value, 1)
    power = jnp.sqrt(safe) if isinstance(p, int) else jnp.power(safe, 1 / p)
    return jnp.where(positive, power, 0)
