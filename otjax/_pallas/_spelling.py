"""Functions spelled in the operations that Triton has, for what it has under another name."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.core
import jax.lax as lax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


# What lowers to Triton as it stands.
_KNOWN = frozenset(
    "abs add and broadcast_in_dim clamp convert_element_type copy div eq exp exp2 expm1 ge gt "
    "integer_pow iota is_finite le log log1p lt max min mul ne neg or pow reduce_min "
    "reduce_sum rem select_n shift_left shift_right_arithmetic shift_right_logical "
    "sign sqrt square rsqrt stop_gradient sub transpose xor".split()
)


def spell(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """What a traced function returns, computed in operations that Triton has."""
    jaxpr, values = closed.jaxpr, {}

    def read(var):
        # With its own dtype, or Triton would give it that of what it meets, a condition's as well.
        if not isinstance(var, Literal):
            return values[var]
        return cast(jax.core.ShapedArray, var.aval).dtype.type(var.val)

    values.update(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        ins = [read(var) for var in equation.invars]
        if name in _SPELLINGS:
            outs = _SPELLINGS[name](*ins, **params)
        else:
            outs = equation.primitive.bind(*ins, **params)
            outs = outs if equation.primitive.multiple_results else [outs]
        values.update(zip(equation.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def unknown(jaxpr: Jaxpr) -> set[str]:
    """The names of the operations that cannot be spelled, or not of arrays of these sizes."""
    found = set()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        arrays = [cast(jax.core.ShapedArray, var.aval) for var in equation.outvars]
        sizes = [size for array in arrays for size in array.shape]
        if (
            (name not in _KNOWN and name not in _SPELLINGS)
            or (name in _ONLY and not _ONLY[name](equation))
            or any(size & (size - 1) for size in sizes)
        ):
            found.add(name)
        for inner in _inner(equation.params):
            found |= unknown(inner)
    return found


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if isinstance(one, Jaxpr):
                yield one


def _call(*args, **params) -> list[Any]:
    closed = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    closed = closed if isinstance(closed, ClosedJaxpr) else ClosedJaxpr(closed, ())
    return spell(closed, args)


def _while(*args, cond_nconsts, cond_jaxpr, body_nconsts, body_jaxpr) -> list[Any]:
    of_cond, rest = args[:cond_nconsts], args[cond_nconsts:]
    of_body, start = rest[:body_nconsts], rest[body_nconsts:]
    return lax.while_loop(
        lambda carry: spell(cond_jaxpr, (*of_cond, *carry))[0],
        lambda carry: spell(body_jaxpr, (*of_body, *carry)),
        [jnp.asarray(one, var.aval.dtype) for one, var in
         zip(start, body_jaxpr.jaxpr.invars[body_nconsts:], strict=True)],
    )  # fmt: skip


def _cond(index, *args, branches, **_) -> list[Any]:
    return lax.switch(index, [lambda *args, b=branch: spell(b, args) for branch in branches], *args)


def _not(x) -> list[Any]:
    """Also of what is known."""
    return [lax.bitwise_not(x) if isinstance(x, jax.core.Tracer) else not x]


def _max(x, *, axes, **_) -> list[Any]:
    """With NaN where one is among them, which Triton passes over."""
    has_nan = _any(x != x, axes=axes)[0]
    return [jnp.where(has_nan, jnp.nan, jnp.max(x, axis=axes))]


def _any(x, *, axes=None, **_) -> list[Any]:
    if jnp.ndim(x) == 0:
        return [x]
    return [jnp.max(x.astype(jnp.int32), axis=axes) > 0]


def _all(x, *, axes, **_) -> list[Any]:
    return [jnp.min(x.astype(jnp.int32), axis=axes) > 0]


def _dot(a, b, *, dimension_numbers, **_) -> list[Any]:
    """A product with a vector, as a sum."""
    ((axis_a,), (axis_b,)), _ = dimension_numbers
    if b.ndim == 1:
        vector = b[None, :] if axis_a == 1 else b[:, None]
        return [jnp.sum(a * (b if a.ndim == 1 else vector), axis=axis_a)]
    vector = a[None, :] if axis_b == 1 else a[:, None]
    return [jnp.sum(vector * b, axis=axis_b)]


def _is_of_a_vector(equation: Any) -> bool:
    (_, batch), shapes = (
        equation.params["dimension_numbers"],
        [var.aval.shape for var in equation.invars],
    )
    return batch == ((), ()) and min(map(len, shapes)) == 1 and max(map(len, shapes)) <= 2


def _entry(x, *, start_indices, limit_indices, strides=None) -> list[Any]:
    """One entry, as a sum in which all others are zero; it keeps its axes, of size one."""
    del limit_indices, strides
    here = True
    for axis, start in enumerate(start_indices):
        here = here & (lax.broadcasted_iota(jnp.int32, x.shape, axis) == start)
    return [jnp.sum(jnp.where(here, x, 0))]


def _is_one(equation: Any) -> bool:
    """Whether what comes out is one number, which is kept without axes."""
    return equation.outvars[0].aval.size == 1


_SPELLINGS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "custom_jvp_call", "checkpoint", "remat2"), _call
    ),
    "while": _while,
    "cond": _cond,
    "unvmap_any": _any,
    "not": _not,
    "reduce_max": _max,
    "reduce_or": _any,
    "reduce_and": _all,
    "dot_general": _dot,
    "slice": _entry,
    "squeeze": lambda x, **_: [x],
}

# What can be spelled of some of them only.
_ONLY: dict[str, Callable[[Any], bool]] = {
    "dot_general": _is_of_a_vector,
    "slice": _is_one,
    "squeeze": _is_one,
}
