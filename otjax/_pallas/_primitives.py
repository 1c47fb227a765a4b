"""What kernels are made of: products that keep float32, elementwise functions, the call itself."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.lax as lax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jax.extend.core import jaxpr_as_fun, Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, BFloat16, Float32

from .._varying import as_constants, nowhere_varying
from ._blocks import Blocks


Carry = TypeVar("Carry")
Parts = tuple[BFloat16[Array, "..."], ...]  # three, from `split`

# Of what two sums of three parts multiply to, all but what is below the rounding of float32;
# the least first.
_PRODUCTS = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


def split(z: Float32[Array, "*s"]) -> tuple[BFloat16[Array, "*s"], ...]:
    """Three arrays of bfloat16 whose sum is `z`, up to the rounding of float32."""
    high = _leading_bits(z)
    middle = _leading_bits(z - high)
    return tuple(part.astype(jnp.bfloat16) for part in (high, middle, z - high - middle))


def _leading_bits(z: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
    """Rounds to the numbers of bfloat16. By bits: XLA takes a pair of conversions for none."""
    bits = lax.bitcast_convert_type(z, jnp.int32)
    return lax.bitcast_convert_type((bits + 0x8000) & -0x10000, jnp.float32)


def product(a: Parts, b: Parts, axes: tuple[int, int]) -> Float32[Array, "r c"]:
    """The matrix product of `a` and `b`, both split, over one axis of each.

    The units that multiply cut off what they add up, always towards zero. So it is for a few
    hundred terms at most: add up products, and not more terms.
    """
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    total = None
    for i, j in _PRODUCTS:
        term = lax.dot_general(a[i], b[j], dimensions, preferred_element_type=jnp.float32)
        total = term if total is None else total + term
    assert total is not None
    return total


def loop(rounds: int, body: Callable[[Array, Carry], Carry], start: Carry) -> Carry:
    """`lax.fori_loop` from zero, whose counter is of 32 bits also where JAX computes with 64."""
    step = lambda i, carry: body(lax.convert_element_type(i, jnp.int32), carry)
    return lax.fori_loop(0, rounds, step, start)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """Functions that are one instruction of the GPU each, and flush what is below 1e-38 to zero."""

    interpret: bool

    def exp2(self, z: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
        return jnp.exp2(z) if self.interpret else _instruction("ex2.approx.ftz.f32", z)

    def log2(self, z: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
        return jnp.log2(z) if self.interpret else _instruction("lg2.approx.ftz.f32", z)

    def divide(self, z: Float32[Array, "*s"], by: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
        """`z / by`, which is 0 if `by` exceeds 8e37."""
        return z / by if self.interpret else _instruction("div.approx.ftz.f32", z, by)

    def power(self, z: Float32[Array, "*s"], exponent: float | Array) -> Float32[Array, "*s"]:
        """`z ** exponent`, of positive `z`; also of zero if the exponent is positive."""
        if isinstance(exponent, float) and exponent == 1:
            return z
        if isinstance(exponent, float) and exponent == 0.5:
            return jnp.sqrt(z) if self.interpret else _instruction("sqrt.approx.ftz.f32", z)
        return self.exp2(exponent * self.log2(z))


def _instruction(instruction: str, *args: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
    registers = ", ".join(f"${i}" for i in range(len(args) + 1))
    (out,) = pltriton.elementwise_inline_asm(
        f"{instruction} {registers};",
        args=args,
        constraints=",".join(["=f"] + ["f"] * len(args)),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)],
    )
    return out


def call(
    kernel: Callable[..., None],
    *,
    grid: tuple[int, ...],
    in_specs: Any,
    out_specs: Any,
    out_shape: Any,
    blocks: Blocks,
    interpret: bool,
) -> Callable[..., Any]:
    """`pallas_call` by way of Triton, on any version of JAX, and without its warning about it."""
    function = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=nowhere_varying(out_shape),
        # Their type is what chooses Triton, from JAX 0.9 on.
        compiler_params=pltriton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
    )

    def run(*args: Any) -> Any:
        constants, restore = as_constants(args)
        out = _quietly(function, constants)
        return out if restore is None else restore(out)

    return run


def _quietly(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    out = _quiet.bind(*jax.tree.leaves(args), jaxpr=jaxpr)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


# The warning comes when the call is lowered, which is long after it was made. Only a primitive
# is there to hear it.
_quiet = Primitive("pallas_quietly")
_quiet.multiple_results = True


@_quiet.def_impl
def _(*args, jaxpr):
    return jax.jit(lambda *args: _quiet.bind(*args, jaxpr=jaxpr))(*args)


@_quiet.def_abstract_eval
def _(*avals, jaxpr):
    return jaxpr.out_avals


def _batch(args, axes, *, jaxpr):
    batched = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), axes))(*args)
    return _quiet.bind(*args, jaxpr=batched), [0] * len(batched.out_avals)


def _lower(ctx, *args, jaxpr):
    with warnings.catch_warnings():
        message = "The Pallas Triton backend is deprecated"
        warnings.filterwarnings("ignore", message, DeprecationWarning)
        return mlir.lower_fun(jaxpr_as_fun(jaxpr), multiple_results=True)(ctx, *args)


batching.primitive_batchers[_quiet] = _batch
mlir.register_lowering(_quiet, _lower)
