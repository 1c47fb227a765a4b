"""How much memory a solve will need, told before it is made."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._geometry import AbstractCloud, AbstractGeometry, AbstractPlan
from ._problem import EntropicProblem
from ._reduction import device_memory, least_rows, Pairs, working_memory


# A solve holds the geometry, a plan, and what is made on the way to the next one; its gradient, and
# those of Newton's step, up to so many in all.
_PLANS_OF_SOLVE, _PLANS_OF_GRADIENT = 2, 5


class Memory(NamedTuple):
    """Bytes, beside the arrays of the problem itself.

    - `solve`: what a solve needs.
    - `gradient`: what it needs with a gradient, at most.
    - `device`: what the device has in all: JAX's default device, the host's memory for a CPU.
    """

    solve: int
    gradient: int
    device: int


def memory_needed(problem: EntropicProblem) -> Memory:
    """How much memory a solve of a problem will need, by its shapes alone: nothing is computed.

    It is that of the engine which the geometry has: to compare, ask for a problem with
    `PointCloud(..., engine=otjax.Streamed())`. Right to within a factor of about two. Under
    `jax.vmap` an accelerator needs it for each member of the batch, a CPU for one.

    **Arguments:**

    - `problem`: the problem, of any geometry. Its arrays are not looked at.

    **Returns:** the bytes of a solve, of one with its gradient, and of the device.

    **Raises:** `ValueError` if `problem` is no `EntropicProblem`.
    """
    if not isinstance(problem, EntropicProblem):
        raise ValueError(
            f"`problem` must be an `EntropicProblem`, got {type(problem).__name__}; pass "
            "`otjax.EntropicProblem(geometry)`."
        )

    geometry, plan = eqx.filter_eval_shape(_held, problem)
    held, made = _bytes(geometry), _bytes(plan)
    on_the_way = _made_on_the_way(problem.geometry)
    of = lambda plans: held + plans * made + on_the_way
    return Memory(of(_PLANS_OF_SOLVE), of(_PLANS_OF_GRADIENT), device_memory())


def _made_on_the_way(geometry: AbstractGeometry) -> int:
    """The bytes of a block of rows, which are more where points have many coordinates."""
    rows = 1
    if isinstance(geometry, AbstractCloud):
        rows = least_rows(Pairs(geometry.x, geometry.y, geometry.cost))
    return working_memory(geometry.shape, geometry.dtype, rows)


@eqx.filter_jit  # only for its cache of shapes
def _held(problem: EntropicProblem) -> tuple[AbstractGeometry, AbstractPlan]:
    """What a solve holds."""
    prepared, _ = problem.prepare()
    f, g = jnp.zeros_like(prepared.a), jnp.zeros_like(prepared.b)
    return prepared.geometry, prepared.geometry.plan(f, g, prepared.epsilon)


def check_memory(problem: EntropicProblem) -> None:
    """**Raises:** `ValueError` for a problem that cannot be solved in the memory of the device."""
    n, m = problem.geometry.shape
    known = isinstance(n, int) and isinstance(m, int)  # or else it is exported for any size
    if not known or n * m * problem.geometry.dtype.itemsize < device_memory() // 4:
        return  # whatever is held
    needed = memory_needed(problem)
    if needed.solve > needed.device:
        solve, device = (f"{number / 2**30:.3g} GiB" for number in (needed.solve, needed.device))
        raise ValueError(
            f"`problem` of shape {(n, m)} needs about {solve} of memory and the device has "
            f"{device}: hold no matrix, with `PointCloud(x, y, engine=otjax.Streamed())`, or take "
            "fewer points."
        )


def _bytes(tree: PyTree) -> int:
    """Those of all different arrays of a shape."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.ShapeDtypeStruct)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
