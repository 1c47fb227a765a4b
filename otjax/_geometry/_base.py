"""What a solver sees of the supports and their cost."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._ground_cost import GroundCost


class AbstractPlan(eqx.Module):
    r"""The matrix $\exp((f_i + g_j - C_{ij}) / \epsilon)$, n x m, to be applied to vectors.

    It may be held or made anew at each product; nobody who uses it can tell.
    """

    @abc.abstractmethod
    def mv(self, vectors: Float[Array, " m *k"]) -> Float[Array, " n *k"]:
        """The product with a vector, shape (m,), or with several as columns, shape (m, k)."""

    @abc.abstractmethod
    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        """The product of the matrix of squared entries with a vector."""

    @abc.abstractmethod
    def as_matrix(self) -> Float[Array, "n m"]:
        """The matrix itself, which is formed here if nowhere else."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractPlan":
        """The transpose."""


class Partners(NamedTuple):
    """Which points have an allowed partner that has a mass."""

    rows: Bool[Array, " n"]
    columns: Bool[Array, " m"]


class Prepared(NamedTuple):
    r"""A geometry of valid numbers, and what a look at all costs tells.

    - `geometry`: what a solver works on.
    - `finite`: whether the given numbers were finite.
    - `mean`: the mean cost of allowed pairs, $\sum_{ij} a_i b_j C_{ij} / \sum_{ij} a_i b_j$.
    - `least`: the least cost of an allowed pair.
    - `unit`: what costs were divided by: those of `geometry`, `mean` and `least` are in this unit.
    - `partners`: which points have one; `None` where no pair is forbidden. Points that have none
      count no more than points of mass zero do.

    `finite`, `mean` and `least` carry no derivative.
    """

    geometry: "AbstractGeometry"
    finite: Bool[Array, ""]
    mean: Float[Array, ""]
    least: Float[Array, ""]
    unit: Float[Array, ""] | float = 1.0
    partners: Partners | None = None


class AbstractGeometry(eqx.Module):
    """Two supports and the cost $C$ between them, n x m.

    All that is used of a geometry stands here: solvers, derivatives, certificates and losses know
    nothing else of it. `otjax.testing.check_geometry` tells whether one keeps the contract.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers n and m of points."""

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """float32 or float64."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractGeometry":
        """The same geometry with the two sides exchanged."""

    @abc.abstractmethod
    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        """The geometry that a solver works on, for masses `a` and `b` that are valid.

        What belongs to points of mass zero, and what is not a number, is replaced by what belongs
        to others or by zero, with derivatives zero. What is used again and again is computed once.
        A forbidden pair gets a finite cost so large that its entry of every plan is 0. Costs that
        are very large or small are brought nearer to 1, by a `unit` that is a power of two.
        """

    @abc.abstractmethod
    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        r"""For each row $i$, $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$, where `h` may
        be $-\infty$, but not everywhere."""

    @abc.abstractmethod
    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> AbstractPlan:
        r"""The operator $\exp((f_i + g_j - C_{ij}) / \epsilon)$, n x m, on vectors of `dtype`.

        `None` is the geometry's own dtype; the exponents are made in that in any case.
        """


class AbstractPointGeometry(AbstractGeometry):
    """A geometry between points, that can be asked about points which are not among them."""

    y: eqx.AbstractVar[Float[Array, "m d"]]

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractPointGeometry":
        """The same geometry with the two sides exchanged."""

    @abc.abstractmethod
    def seen_from(
        self, x: Float[Array, "k d"], b: Float[Array, " m"], unit: Float[Array, ""]
    ) -> "AbstractPointGeometry":
        """The geometry between any points `x` and the second support, of masses `b`, with costs in
        the `unit` that `prepare` found."""


class AbstractCloud(AbstractPointGeometry):
    """A geometry of two sets of points and the cost of any two points."""

    x: eqx.AbstractVar[Float[Array, "n d"]]
    cost: eqx.AbstractVar[GroundCost]

    @abc.abstractmethod
    def seen_from(
        self, x: Float[Array, "k d"], b: Float[Array, " m"], unit: Float[Array, ""]
    ) -> "AbstractCloud":
        """As of any geometry between points, with the cost of two points in that unit."""


class AbstractCostGeometry(AbstractGeometry):
    """A geometry that tells what single pairs cost, which exact transport asks for."""

    @property
    @abc.abstractmethod
    def holds_costs(self) -> bool:
        """Whether all costs are at hand."""

    @property
    @abc.abstractmethod
    def may_forbid(self) -> bool:
        """Whether some pairs may be forbidden."""

    @abc.abstractmethod
    def costs(
        self, rows: Int[Array, " k"], columns: Int[Array, " k"], valid: Bool[Array, ""]
    ) -> Float[Array, " k"]:
        """What some pairs cost, each for itself: more exact than a row of the matrix at a time;
        where `valid` is false, something that is finite."""

    @abc.abstractmethod
    def all_costs(self) -> Float[Array, "n m"]:
        """What all pairs cost, those that are forbidden as `prepare` has them."""


class Coarse(NamedTuple):
    """A geometry between cells of points, and those that lead back to the points.

    - `geometry`: between the k cells of the first side and the l cells of the second.
    - `a`, `b`: the masses of the cells, which may be zero.
    - `from_rows`: between the points of the first side and the cells of the second, n x l.
    - `from_columns`: between the cells of the first side and the points of the second, k x m.
    """

    geometry: AbstractGeometry
    a: Float[Array, " k"]
    b: Float[Array, " l"]
    from_rows: AbstractGeometry
    from_columns: AbstractGeometry


class AbstractSpatialGeometry(AbstractGeometry):
    """A geometry that knows which points are near each other."""

    @abc.abstractmethod
    def coarsened(self, a: Float[Array, " n"], b: Float[Array, " m"], cells: int) -> Coarse:
        """The geometry between at most so many cells of points on each side; asked of a prepared
        one."""
