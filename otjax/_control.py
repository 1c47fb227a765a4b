"""Control flow that stays cheap under `jax.vmap`."""

import functools as ft
from collections.abc import Callable
from typing import cast, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.lax as lax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from ._mesh import on_their_devices
from ._varying import as_constants, cond


Out = TypeVar("Out", bound=PyTree[Array])


class Way(NamedTuple):
    """How a platform computes a whole batch."""

    platform: str
    compute: Callable[[tuple[PyTree, ...]], PyTree[Array]]


# Finds a way to compute a function for a batch of its arguments, from the size of the batch, the
# arguments, and for each array whether the batch is its first axis; or none.
AtOnce: TypeAlias = Callable[[int, tuple[PyTree, ...], PyTree], Way | None]


def launches_cost() -> bool:
    """Whether JAX computes on a device where each operation waits for its launch, so that few
    operations are worth more than little work; not a CPU."""
    return jax.default_backend() != "cpu"


def cond_any(
    condition: Bool[Array, ""], costly: Callable[[], Out], cheap: Callable[[], Out]
) -> Out:
    """`lax.cond`, but a batch computes `costly` only when some member of it asks for it.

    `lax.cond` on a batch of conditions computes both branches for all members, always. `cheap` is
    computed in any case.
    """
    otherwise = cheap()

    def chosen() -> Out:
        choose = lambda new, old: jnp.where(condition, new, old)
        return jax.tree.map(choose, costly(), otherwise)

    return cond(eqxi.unvmap_any(condition), chosen, lambda: otherwise)


def in_turn(
    function: Callable[..., Out], *args: PyTree, at_once: AtOnce | None = None
) -> Callable[[], Out]:
    """The call `function(*args)`, to be made, of which a CPU computes a batch one member after
    another.

    A loop over a whole batch goes on until its last member is done and moves every member through
    memory in each step; on a CPU it is faster to take the members one by one, each in cache and
    for its own number of steps. Accelerators take the batch as a whole, or have a way of their own,
    `at_once`. The function may close over nothing that is batched, and is not differentiated.
    """
    args, restore = as_constants(args)
    arrays, static = eqx.partition(args, eqx.is_array)

    @custom_vmap
    def call(arrays):
        return function(*eqx.combine(arrays, static))

    @call.def_vmap
    def _(axis_size, in_batched, arrays):
        def members(batched, shared):
            ways = {
                "cpu": lambda batched: lax.map(lambda one: call(eqx.combine(one, shared)), batched),
                "default": jax.vmap(lambda one: function(*eqx.combine(one, shared, static))),
            }
            way = None
            if at_once is not None:
                # Of these there may be fewer than in all: those that are on one device.
                size = jax.tree.leaves(batched)[0].shape[0]
                way = at_once(size, eqx.combine(batched, shared, static), in_batched[0])
            if way is not None:
                compute = way.compute
                ways[way.platform] = lambda batched: compute(eqx.combine(batched, shared, static))
            return lax.platform_dependent(batched, **ways)

        out = on_their_devices(members, *eqx.partition(arrays, in_batched[0]))
        return out, jax.tree.map(lambda _: True, out)

    if restore is None:
        return ft.partial(call, arrays)
    return lambda: cast(Out, restore(call(arrays)))
