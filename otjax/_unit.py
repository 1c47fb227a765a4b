"""A unit for numbers of any size, a power of two, in which products neither over- nor underflow.

Multiplication by it is exact, and numbers that are in range already stay what they are.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


Out = TypeVar("Out", bound=PyTree[Array])

# Costs come to lie between these powers of two. In range products of an epsilon, however small it
# is against them, stay finite; and the nearer costs are to where they were, the less room do
# derivatives take of the 250 binary orders of single precision, on the way back.
_LEAST, _LARGEST = -40, 30


def excess_exponent(size: Float[Array, ""], power: int = 1) -> Int[Array, ""]:
    """By how many binary orders numbers of this `size`, whose `power` is a cost, are out of
    range."""
    size = lax.stop_gradient(size)
    usable = jnp.isfinite(size) & (size > 0)
    _, exponent = jnp.frexp(jnp.where(usable, size, 1))
    return exponent - jnp.clip(exponent, _LEAST // power, _LARGEST // power)


def power_of_two(exponent: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """Exactly."""
    return jnp.ldexp(jnp.ones((), dtype), exponent)


def times_unit(function: Callable[..., Out], unit: Float[Array, ""], *args: PyTree) -> Out:
    """`unit * function(*args)`, whose derivatives are multiplied by the unit last in reverse mode:
    after the sums over all pairs have been made, whose terms might underflow in that unit."""
    return _times_unit(function, unit, args)


@eqx.filter_custom_jvp
def _times_unit(function, unit, args):
    return jax.tree.map(lambda out: unit * out, function(*args))


@_times_unit.def_jvp
def _times_unit_jvp(primals, tangents):
    function, unit, args = primals
    _, t_unit, t_args = tangents
    out = _times_unit(function, unit, args)
    t_args = jax.tree.map(lambda tangent: unit.astype(tangent.dtype) * tangent, t_args)
    _, t_out = eqx.filter_jvp(lambda *args: function(*args), args, t_args)
    if t_unit is not None:
        t_out = jax.tree.map(
            lambda tangent, value: t_unit / unit * value + (0 if tangent is None else tangent),
            t_out,
            out,
            is_leaf=lambda leaf: leaf is None,
        )
    return out, t_out


@jax.custom_jvp
def over(numerator: Float[Array, "..."], epsilon: Float[Array, ""]) -> Float[Array, "..."]:
    """`numerator / epsilon`, whose derivatives have no powers of `epsilon`: those overflow."""
    return numerator / epsilon


@over.defjvp
def _over_jvp(primals, tangents):
    (numerator, epsilon), (t_numerator, t_epsilon) = primals, tangents
    quotient = over(numerator, epsilon)
    return quotient, over(t_numerator, epsilon) - quotient * over(t_epsilon, epsilon)
