"""The reductions as kernels for NVIDIA GPUs, that never hold the matrix."""

import functools as ft
from typing import ClassVar

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _pallas
from .._ground_cost import Euclidean, SqEuclidean
from ._engine import AbstractEngine
from ._pairs import Pairs
from ._shares import by_shares
from ._streamed import apply_by_rows, softmin_by_rows


# The costs that kernels know, by how they depend on the squared distance.
_PROFILES = {SqEuclidean: _pallas.SQUARED, Euclidean: _pallas.DISTANCE}


class Pallas(AbstractEngine):
    """Kernels for NVIDIA GPUs: every reduction makes the matrix anew, in registers.

    For `SqEuclidean` and `Euclidean`, in single precision; double precision, and any other device,
    go by XLA a block of rows at a time, as with `Streamed()`.
    """

    holds: ClassVar[bool] = False
    interpret: bool = eqx.field(static=True)

    def __init__(self, *, interpret: bool = False):
        """**Arguments:**

        - `interpret`: run the kernels on any device, slowly, to test them.
        """
        self.interpret = interpret

    def softmin(
        self, pairs: Pairs, h: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        profile = _profile(pairs)

        def by_kernel(x, y, h, epsilon):
            return _pallas.softmin(x, y, h, epsilon, profile=profile, interpret=self.interpret)

        def by_rows(x, y, h, epsilon):
            return softmin_by_rows(Pairs(x, y, pairs.cost), h, epsilon, None)

        single = pairs.x.dtype == h.dtype == jnp.float32
        shared = ft.partial(by_shares, by_kernel, (True, False, False, False))
        return self._by_platform(single, shared, by_rows, pairs.x, pairs.y, h, epsilon)

    def apply(
        self,
        pairs: Pairs,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        columns: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        profile = _profile(pairs)

        def by_kernel(x, y, f, g, epsilon, columns):
            return _pallas.apply(
                x, y, f, g, epsilon, columns, profile=profile, interpret=self.interpret
            )

        def by_rows(x, y, f, g, epsilon, columns):
            return apply_by_rows(Pairs(x, y, pairs.cost), f, g, epsilon, columns, None)

        single = pairs.x.dtype == columns.dtype == jnp.float32
        shared = ft.partial(by_shares, by_kernel, (True, False, True, False, False, False))
        return self._by_platform(single, shared, by_rows, pairs.x, pairs.y, f, g, epsilon, columns)

    def _by_platform(self, single: bool, by_kernel, by_rows, *args):
        if not single:
            return by_rows(*args)
        if self.interpret:
            return by_kernel(*args)
        return lax.platform_dependent(*args, cuda=by_kernel, default=by_rows)


def knows(pairs_cost: object) -> bool:
    """Whether there is a kernel for a ground cost."""
    return type(pairs_cost) in _PROFILES


def _profile(pairs: Pairs) -> _pallas.Profile:
    if not knows(pairs.cost):
        known = ", ".join(f"`{cost.__name__}`" for cost in _PROFILES)
        raise ValueError(
            f"`engine=Pallas()` has kernels for {known}, got the cost {pairs.cost!r}; pass "
            "`engine=Streamed()` or `Dense()`, or no `engine`."
        )
    return _PROFILES[type(pairs.cost)]
