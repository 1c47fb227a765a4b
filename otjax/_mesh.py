"""Meshes whose axes are explicit, of which JAX asks how each result is to be laid out.

`jax.make_mesh` makes such meshes. Within a function of this library, as within most, there is no
need to ask: the compiler lays out what comes between, as on a mesh of automatic axes.
"""

import functools as ft
from collections.abc import Callable
from typing import cast, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.core
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree


Arguments = ParamSpec("Arguments")
Out = TypeVar("Out")


def on_explicit_mesh(tree: PyTree) -> bool:
    """Whether some array is on a mesh whose axes are explicit."""
    meshes = (
        jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)
    )
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)


def on_any_mesh(function: Callable[Arguments, Out]) -> Callable[Arguments, Out]:
    """The same function, for arrays on explicit meshes too.

    An array that it returns with as many rows as an argument whose rows are on several devices has
    its rows there as well; all others are on every device.
    """

    @ft.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Out:
        arrays, static = eqx.partition((args, kwargs), eqx.is_array)
        leaves = jax.tree.leaves(arrays)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        shardings = [jax.typeof(leaf).sharding for leaf in leaves]
        meshes = [one.mesh for one in shardings if AxisType.Explicit in one.mesh.axis_types]
        if not traced or not meshes:
            return function(*args, **kwargs)
        if all(axis is None for one in shardings for axis in one.spec):
            # A batch of problems, each of which is on one device.
            with jax.sharding.use_abstract_mesh(meshes[0]):
                return function(*args, **kwargs)

        def call(arrays: PyTree[Array]) -> tuple[PyTree[Array], PyTree]:
            args, kwargs = eqx.combine(arrays, static)
            return eqx.partition(cast(Callable[..., Out], function)(*args, **kwargs), eqx.is_array)

        rest = []

        def of_arrays(arrays: PyTree[Array]) -> PyTree[Array]:
            out, other = call(arrays)
            rest.append(other)
            return out

        return eqx.combine(_automatically(of_arrays, meshes[0], arrays), rest[-1])

    return wrapped


def on_their_devices(
    function: Callable[[PyTree[Array], PyTree[Array]], Out],
    members: PyTree[Array],
    shared: PyTree[Array],
) -> Out:
    """`function(members, shared)` of a batch; where its first axis is on several devices of an
    explicit mesh, each of them treats its own members, without a word to the others."""
    specs = [jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(members)]
    axes = {spec[0] for spec in specs} - {None}
    if not axes:
        return function(members, shared)
    (axis,) = axes
    each, everywhere = PartitionSpec(axis), PartitionSpec()
    names = {axis} if isinstance(axis, str) else set(axis)
    return jax.shard_map(
        function,
        in_specs=(each, everywhere),
        out_specs=each,
        axis_names=names,
        check_vma=False,
    )(jax.sharding.reshard(members, each), shared)


def _automatically(
    function: Callable[[PyTree[Array]], PyTree[Array]], mesh: AbstractMesh, arrays: PyTree[Array]
) -> PyTree[Array]:
    """`function(arrays)`, laid out by the compiler."""
    specs = [(leaf.shape, jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves(arrays)]
    rows = {shape[0]: spec[0] for shape, spec in specs if shape and spec[0] is not None}

    def layout(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        first = (rows.get(size) if axis == 0 else None for axis, size in enumerate(leaf.shape))
        return NamedSharding(mesh, PartitionSpec(*first))

    by_compiler = ft.partial(jax.sharding.auto_axes, function, axes=mesh.explicit_axes)
    with jax.sharding.use_abstract_mesh(mesh):
        nowhere = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)
        shapes = jax.eval_shape(function, nowhere)
        return by_compiler(out_sharding=jax.tree.map(layout, shapes))(arrays)
