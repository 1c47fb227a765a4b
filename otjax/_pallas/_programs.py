"""A function of small arrays, for each member of a batch by one program of one kernel."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, PyTree

from ._blocks import Blocks, power_of_two
from ._primitives import call
from ._spelling import spell, unknown


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """A function, to be computed for each member of a batch by one program of a kernel: what it
    makes stays in the program's registers, and its loops end when this member is done."""

    function: ClosedJaxpr
    ins: tuple[jax.ShapeDtypeStruct, ...]
    outs: PyTree[jax.ShapeDtypeStruct]

    @classmethod
    def of(cls, function: Callable[..., PyTree[Array]], *args: Any) -> "Programs | None":
        """`None` where a program cannot compute the function: in other operations than a program
        has, or with arrays whose sizes are not powers of two.

        **Arguments:**

        - `function`: of arrays, to a tree of them.
        - `args`: of one member, or their shapes and dtypes.
        """
        traced, outs = jax.make_jaxpr(function, return_shape=True)(*args)
        ins = tuple(jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in args)
        if unknown(traced.jaxpr) or any(jnp.size(const) > 1 for const in traced.consts):
            return None
        return cls(traced, ins, outs)

    def __call__(
        self, count: int, *args: Array, batched: tuple[bool, ...], warps: int, interpret: bool
    ) -> PyTree[Array]:
        """The results, with a first axis.

        **Arguments:**

        - `count`: the number of members.
        - `args`: the arrays, of which those that are `batched` have one more axis, their first.
        - `warps`: of 32 threads, for each program.
        - `interpret`: run on any device, slowly.
        """
        outs, tree = jax.tree.flatten(self.outs)
        shapes = [jax.ShapeDtypeStruct((count, *_held(out.shape)), out.dtype) for out in outs]
        args = tuple(
            arg.reshape(count if is_batched else 1, *_held(one.shape))
            for arg, one, is_batched in zip(args, self.ins, batched, strict=True)
        )

        def kernel(*refs):
            read, written = refs[: len(args)], refs[len(args) :]
            values = [
                ref[...] if one.shape else jnp.sum(ref[...])
                for ref, one in zip(read, self.ins, strict=True)
            ]
            for ref, value in zip(written, spell(self.function, values), strict=True):
                ref[...] = jnp.broadcast_to(value, ref.shape)

        results = call(
            kernel,
            grid=(count,),
            in_specs=[_block(arg, one) for arg, one in zip(args, batched, strict=True)],
            out_specs=[_block(shape, True) for shape in shapes],
            out_shape=shapes,
            blocks=Blocks(rows=1, columns=1, warps=warps, stages=1),
            interpret=interpret,
        )(*args)
        results = [one.reshape(count, *out.shape) for one, out in zip(results, outs, strict=True)]
        return jax.tree.unflatten(tree, results)


def _held(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in memory, where a number is a vector of one."""
    assert math.prod(shape) == power_of_two(math.prod(shape)), shape
    return shape or (1,)


def _block(array: Any, is_batched: bool) -> pl.BlockSpec:
    """The part of a program, or the one that is everybody's."""
    rest = array.shape[1:]
    return pl.BlockSpec((None, *rest), lambda i: (i if is_batched else 0,) + (0,) * len(rest))
