"""How the sums over all pairs are carried out: what an engine supplies."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from ._pairs import Pairs


class AbstractEngine(eqx.Module):
    r"""Carries out the two reductions over all pairs of points.

    An engine computes values. It need not be differentiable, nor know how to transpose itself: the
    derivatives of both, in both modes and at any order, are made of them one level above. It is
    batched by `jax.vmap` of its own operations. Points of mass zero come with a potential of
    $-\infty$ or a column of zeros.
    """

    holds: eqx.AbstractClassVar[bool]
    """Whether a solve is to make the matrix of costs once, and to hold it."""

    @abc.abstractmethod
    def softmin(
        self, pairs: Pairs, h: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        r"""For each row $i$, $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""

    @abc.abstractmethod
    def apply(
        self,
        pairs: Pairs,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        columns: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        r"""For each row $i$ and column $k$, $\sum_j \exp((f_i + g_j - C_{ij}) / \epsilon) V_{jk}$.

        Exponentials, sums and result are of the dtype of `columns`; exponents are made in that of
        the points.
        """
