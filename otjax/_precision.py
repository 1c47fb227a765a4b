"""Double precision where JAX has none: told in words, not by an error from the compiler."""

from typing import Any

import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def needs_precision(dtype: jnp.dtype, what: str) -> None:
    """**Raises:** `ValueError` where `what` is in double precision, and JAX has none here."""
    if dtype == jnp.dtype("float64") and not _has_double():
        raise ValueError(
            f"{what} is of float64, and here JAX computes in float32. Do this within "
            "`with jax.enable_x64(True):`, put around whatever is under `jax.jit`, not inside it."
        )


def needs_precision_to_the_end(array: Array, name: str) -> Array:
    """Returns the array itself. Traced where JAX has double precision, it is looked at again when
    the program is lowered: a context that was entered inside `jax.jit` has ended by then.

    **Raises:** `ValueError`, then, where JAX has none any more.
    """
    traced = isinstance(array, jax.core.Tracer)
    return _lowered_p.bind(array, name=name) if traced and _has_double() else array


def _has_double() -> bool:
    return jnp.result_type(float) == jnp.dtype("float64")


def _lower(ctx: Any, array: Any, *, name: str) -> list[Any]:
    del ctx
    if not _has_double():
        raise ValueError(
            f"`{name}` was traced within `with jax.enable_x64(True):`, which had ended when the "
            "program was compiled: put the context around the call of what is under `jax.jit`, "
            "not inside it."
        )
    return [array]


# The identity, with a rule for lowering that looks at the precision.
_lowered_p = Primitive("otjax_needs_precision")
_lowered_p.def_impl(lambda array, *, name: array)
_lowered_p.def_abstract_eval(lambda array, *, name: array)
ad.deflinear2(_lowered_p, lambda cotangent, _, *, name: [cotangent])
batching.primitive_batchers[_lowered_p] = lambda args, axes, *, name: (
    _lowered_p.bind(*args, name=name),
    axes[0],
)
mlir.register_lowering(_lowered_p, _lower)
