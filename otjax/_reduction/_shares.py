"""A kernel on several devices, each of which makes the rows that it has.

What is made of operations of JAX the compiler divides by itself. A kernel it does not see into, and
lets every device make all rows; here it is told that rows are made one by one.
"""

from collections.abc import Callable

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


def by_shares(kernel: Callable[..., Array], of_rows: tuple[bool, ...], *args: Array) -> Array:
    """`kernel(*args)`, whose result has the rows of those arguments that are `of_rows`."""
    if jax.device_count() == 1:
        return kernel(*args)
    result = jax.eval_shape(kernel, *args)
    factors = [
        ["rows" if k == 0 and has_rows else f"whole_{i}_{k}" for k in range(arg.ndim)]
        for i, (arg, has_rows) in enumerate(zip(args, of_rows, strict=True))
    ]
    factors.append(["rows", *(f"whole_out_{k}" for k in range(1, result.ndim))])
    *operands, out = (" ".join(names) for names in factors)
    whole = {name for names in factors for name in names} - {"rows"}

    def layout(mesh: Mesh, arg_shapes, _) -> tuple[NamedSharding, tuple[NamedSharding, ...]]:
        spec = arg_shapes[0].sharding.spec
        rows = NamedSharding(mesh, PartitionSpec(*spec[:1]))
        everywhere = NamedSharding(mesh, PartitionSpec())
        return rows, tuple(rows if has_rows else everywhere for has_rows in of_rows)

    divided = custom_partitioning(kernel)
    divided.def_partition(
        lambda *given: (given[0], kernel, *layout(*given)),
        infer_sharding_from_operands=lambda *given: layout(*given)[0],
        sharding_rule=f"{', '.join(operands)} -> {out}",
        need_replication_factors=tuple(sorted(whole)),
    )
    call = custom_vmap(divided)

    @call.def_vmap
    def _(size, in_batched, *args):
        # A batch is divided, if at all, by its members.
        del size
        return jax.vmap(kernel, [0 if batched else None for batched in in_batched])(*args), True

    return call(*args)
