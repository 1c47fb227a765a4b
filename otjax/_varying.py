"""Control flow within `jax.shard_map`, where JAX keeps track of what differs between devices.

There the type of an array names the axes of the mesh over which it varies, a constant varies over
none, and the state of a loop must keep its type. States that begin as constants are told here to
vary as what is made of them. Elsewhere these are the functions of `jax.lax`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.extend.core
import jax.interpreters.batching as batching
import jax.interpreters.mlir as mlir
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree


_NOWHERE = jax.core.ShapedArray((), "int32").manual_axis_type

Tree = TypeVar("Tree")
Steps = TypeVar("Steps")


def while_loop(
    unfinished: Callable[[Tree], Bool[Array, ""]], step: Callable[[Tree], Tree], start: Tree
) -> Tree:
    """`jax.lax.while_loop`."""
    axes = _axes_of_loop(step, start)
    varying = lambda state: _vary(step(state), axes)
    return lax.while_loop(unfinished, varying if axes else step, _vary(start, axes))


def fori_loop(num_steps: int, step: Callable[[Int[Array, ""], Tree], Tree], start: Tree) -> Tree:
    """`jax.lax.fori_loop` from 0."""
    axes = _axes_of_loop(lambda state: step(lax.full((), 0, "int32"), state), start)
    varying = lambda count, state: _vary(step(count, state), axes)
    return lax.fori_loop(0, num_steps, varying if axes else step, _vary(start, axes))


def scan(
    step: Callable[[Tree, Steps], tuple[Tree, PyTree[Array]]],
    start: Tree,
    steps: Steps = None,
    length: int | None = None,
) -> tuple[Tree, PyTree[Array]]:
    """`jax.lax.scan`."""
    first = jax.tree.map(lambda leaf: leaf[0], steps)
    axes = _axes_of_loop(lambda state: step(state, first)[0], start)

    def varying(state: Tree, one: Steps) -> tuple[Tree, PyTree[Array]]:
        state, out = step(state, one)
        return _vary(state, axes), out

    return lax.scan(varying if axes else step, _vary(start, axes), steps, length)


def cond(condition: Bool[Array, ""], first: Callable[[], Tree], second: Callable[[], Tree]) -> Tree:
    """`jax.lax.cond`, of branches without operands."""
    axes = _axes_of(lambda: (first(), second()))
    if not axes:
        return lax.cond(condition, first, second)
    return lax.cond(condition, lambda: _vary(first(), axes), lambda: _vary(second(), axes))


def alike(tree: Tree) -> Tree:
    """The same, whose arrays vary over the axes over which any of them does."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(_vary(arrays, _axes_of(lambda: arrays)), rest)


def as_constants(tree: Tree) -> tuple[Tree, Callable[[Any], Any] | None]:
    """The tree with arrays that do not vary for all that JAX knows, so that loops of others may
    begin as constants; and what gives what was made of them its type back, or None where nothing
    varies.

    What is made of them in between may not be differentiated, nor exchanged between devices.
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    axes = _axes_of(lambda: arrays)
    if not axes:
        return tree, None
    forgetful = jax.tree.map(_forget_p.bind, lax.stop_gradient(arrays))
    return eqx.combine(forgetful, rest), lambda made: _vary(made, axes)


_forget_p = jax.extend.core.Primitive("otjax_forget_axes")
_forget_p.def_impl(lambda array: array)
_forget_p.def_abstract_eval(lambda kind: kind.update(manual_axis_type=_NOWHERE))
batching.primitive_batchers[_forget_p] = lambda arrays, axes: (_forget_p.bind(*arrays), *axes)
mlir.register_lowering(_forget_p, lambda _, array: [array])


def nowhere_varying(shapes: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
    """The same shapes, of arrays that do not vary, which within `jax.shard_map` is to be said."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return shapes
    said = lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, manual_axis_type=_NOWHERE)
    return jax.tree.map(said, shapes)


def error_if(tree: Any, result: Any, failed: Bool[Array, ""]) -> Any:
    """`result.error_if(tree, failed)`."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if not _axes_of(lambda: (arrays, failed)):
        return result.error_if(tree, failed)
    # Equinox takes what it passes on for constants: it is given one, on which the rest depends.
    passed = result.error_if(lax.full((), 0, "int32"), failed) == 0
    depends = lambda leaf: jnp.where(passed, leaf, jnp.zeros_like(leaf))
    return eqx.combine(jax.tree.map(depends, arrays), rest)


def _axes_of_loop(step: Callable[[Tree], Tree], start: Tree) -> tuple[str, ...]:
    return _axes_of(lambda: (start, step(start)))


def _axes_of(make: Callable[[], PyTree[Array]]) -> tuple[str, ...]:
    """The axes over which any array of what `make` returns varies."""
    # Outside of `jax.shard_map` nothing does, and nothing need be traced to know that.
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if not manual:
        return ()
    made = jax.tree.leaves(jax.eval_shape(make))
    return tuple(axis for axis in manual if any(axis in _varies_over(leaf) for leaf in made))


def _vary(tree: Tree, axes: tuple[str, ...]) -> Tree:
    """The same tree, whose arrays are taken to vary over more axes of the mesh."""

    def one(leaf: Array) -> Array:
        missing = tuple(axis for axis in axes if axis not in _varies_over(jax.typeof(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree) if axes else tree


def _varies_over(kind: jax.core.ShapedArray | jax.ShapeDtypeStruct) -> frozenset[str]:
    manual = kind.manual_axis_type
    return frozenset() if manual is None else manual.varying
