"""Control flow that stays cheap under `jax.vmap`."""

from collections.abc import Callable
from typing import TypeVar

import equinox.internal as eqxi
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


Out = TypeVar("Out", bound=PyTree[Array])


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

    return lax.cond(eqxi.unvmap_any(condition), chosen, lambda: otherwise)
