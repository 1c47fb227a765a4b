"""Densities, momenta and sources on a grid of space and time, and the continuity equation there.

Faces carry densities between the cells of time, and momenta between the cells of space; centres
carry all of them. Momenta at the walls are zero, and the densities at both ends are given.
"""

import math
from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
from jax.scipy.fft import dctn, idctn
from jaxtyping import Array, Bool, Float


class Fields(NamedTuple):
    """What moves mass, on faces or at centres; `source` is None where mass is conserved.

    On inner faces: density (T - 1, n_1, ...), momentum k with one cell less along axis k. At
    centres: all of shape (T, n_1, ...). A source lies at centres in any case.
    """

    density: Float[Array, "..."]
    momenta: tuple[Float[Array, "..."], ...]
    source: Float[Array, "..."] | None


class StaggeredGrid(NamedTuple):
    """The grid with the densities at its two ends, on which all else depends.

    `growth` is the length of the source: it is carried as that times the rate of mass.
    """

    a: Float[Array, "..."]
    b: Float[Array, "..."]
    num_intervals: int
    growth: Float[Array, ""] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The numbers of cells, time first."""
        return self.num_intervals, *self.a.shape

    def at_rest(self) -> Fields:
        """The fields of a density that is mixed of its ends, without momenta."""
        t = jnp.arange(1, self.num_intervals).astype(self.a.dtype) / self.num_intervals
        t = t.reshape(-1, *(1 for _ in self.a.shape))
        momenta = tuple(
            jnp.zeros((*self.shape[:axis], self.shape[axis] - 1, *self.shape[axis + 1 :]), t.dtype)
            for axis in range(1, len(self.shape))
        )
        source = None if self.growth is None else jnp.zeros(self.shape, t.dtype)
        return Fields((1 - t) * self.a[None] + t * self.b[None], momenta, source)

    def to_centres(self, faces: Fields) -> Fields:
        """The means of opposite faces."""
        momenta = tuple(_mean(_walled(m, k), k) for k, m in enumerate(faces.momenta, 1))
        return Fields(_mean(self._with_ends(faces.density), 0), momenta, faces.source)

    def to_faces(self, centres: Fields) -> Fields:
        """The transpose of the linear part of `to_centres`: the means of cells on both sides."""
        momenta = tuple(_mean(m, k) for k, m in enumerate(centres.momenta, 1))
        return Fields(_mean(centres.density, 0), momenta, centres.source)

    def imbalance(self, faces: Fields) -> Float[Array, "..."]:
        """What the continuity equation lacks in each cell."""
        return self._divergence(self._with_ends(faces.density), faces)

    def flux(self, cells: Float[Array, "..."]) -> Fields:
        """The transpose of the linear part of `imbalance`."""
        momenta = tuple(
            -cells.shape[k] * jnp.diff(cells, axis=k) for k in range(1, len(cells.shape))
        )
        source = None if self.growth is None else -cells / self.growth
        return Fields(-self.num_intervals * jnp.diff(cells, axis=0), momenta, source)

    def poisson(self, cells: Float[Array, "..."]) -> Float[Array, "..."]:
        """Solves for what `imbalance` makes of a `flux`, which cosines diagonalise; the mean is 0
        where mass is conserved."""
        values = jnp.zeros((1,) * cells.ndim, cells.dtype)
        for axis, size in enumerate(cells.shape):
            angles = (0.5 * math.pi / size) * jnp.arange(size).astype(cells.dtype)
            along = jnp.square(2 * size * jnp.sin(angles))
            values = values + along.reshape([-1 if k == axis else 1 for k in range(cells.ndim)])
        if self.growth is not None:
            values = values + 1 / jnp.square(self.growth)
        inverse = jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
        return idctn(dctn(cells, norm="ortho") * inverse, norm="ortho")

    def multiplier(self, faces: Fields) -> Float[Array, "..."]:
        r"""The $\lambda$ whose flux is nearest to the fields, whose ends count as zero."""
        ends = jnp.zeros((1, *self.a.shape), self.a.dtype)
        whole = jnp.concatenate([ends, faces.density, ends])
        return self.poisson(self._divergence(whole, faces))

    def conserving(self, faces: Fields) -> Fields:
        """The nearest fields that satisfy the continuity equation."""
        correction = self.flux(self.poisson(self.imbalance(faces)))
        momenta = tuple(m - c for m, c in zip(faces.momenta, correction.momenta, strict=True))
        source = None
        if faces.source is not None and correction.source is not None:
            source = faces.source - correction.source
        return Fields(faces.density - correction.density, momenta, source)

    def densities(self, faces: Fields, closed: Bool[Array, "..."] | None) -> Float[Array, "..."]:
        """The densities at all times, those of the ends included: not negative, nothing in closed
        cells, and of the same masses."""
        whole = self._with_ends(faces.density)
        allowed = whole > 0 if closed is None else (whole > 0) & ~closed[None]
        positive = jnp.where(allowed, whole, 0)
        axes = tuple(range(1, whole.ndim))
        masses, with_excess = (
            jnp.sum(density, axis=axes, keepdims=True) for density in (whole, positive)
        )
        return positive * (masses / with_excess)

    def _with_ends(self, density: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.concatenate([self.a[None], density, self.b[None]])

    def _divergence(self, whole: Float[Array, "..."], faces: Fields) -> Float[Array, "..."]:
        total = self.num_intervals * jnp.diff(whole, axis=0)
        for axis, momentum in enumerate(faces.momenta, 1):
            total = total + self.shape[axis] * jnp.diff(_walled(momentum, axis), axis=axis)
        if faces.source is None or self.growth is None:
            return total
        return total - faces.source / self.growth


def _walled(momentum: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """With the walls, through which nothing goes."""
    widths = [(1, 1) if k == axis else (0, 0) for k in range(momentum.ndim)]
    return jnp.pad(momentum, widths)


def _mean(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The means of neighbours along an axis."""
    size = values.shape[axis]
    left, right = (lax.slice_in_dim(values, k, size - 1 + k, axis=axis) for k in (0, 1))
    return 0.5 * (left + right)
