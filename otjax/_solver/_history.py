"""The history of Anderson's extrapolation: the last images, to be combined.

It is held in two ways, which say the same up to rounding. `Stacked` leaves the work to products of
matrices, the fastest on a CPU. `Window` is for accelerators, where every operation costs a launch:
it updates what it knows, and what is made of single numbers is one kernel.
"""

import abc
from typing import cast

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._control import launches_cost


# Up to so many images the small system is solved by formulas of single numbers, which compile to
# one kernel.
MOST_IMAGES = 8


class AbstractHistory(eqx.Module):
    """The last images of an iteration, and how far each was from its point."""

    @abc.abstractmethod
    def begun_anew(self, anew: Bool[Array, ""]) -> "AbstractHistory":
        """The same, or an empty one."""

    @abc.abstractmethod
    def extended(
        self, image: Float[Array, " m"], residual: Float[Array, " m"], forget: Bool[Array, ""]
    ) -> "AbstractHistory":
        """With one more image in place of the oldest; or forgotten with all the others."""

    @abc.abstractmethod
    def combination(self) -> Float[Array, " m"]:
        """The images combined as makes their residuals least, with coefficients of sum one."""


def empty_history(memory: int, g: Float[Array, " m"]) -> AbstractHistory:
    """One of so many images like `g`, held as the device likes it."""
    by_numbers = launches_cost() and memory <= MOST_IMAGES
    return (Window if by_numbers else Stacked).empty(memory, g)


class Stacked(AbstractHistory):
    """The last images and their residuals, a row for each."""

    images: Float[Array, "memory m"]
    residuals: Float[Array, "memory m"]
    count: Int[Array, ""]

    @classmethod
    def empty(cls, memory: int, g: Float[Array, " m"]) -> "Stacked":
        rows = jnp.zeros((memory, g.shape[0]), g.dtype)
        return cls(rows, rows, jnp.zeros((), jnp.int32))

    def begun_anew(self, anew: Bool[Array, ""]) -> "Stacked":
        return Stacked(self.images, self.residuals, jnp.where(anew, 0, self.count))

    def extended(
        self, image: Float[Array, " m"], residual: Float[Array, " m"], forget: Bool[Array, ""]
    ) -> "Stacked":
        slot = self.count % self.images.shape[0]
        images = self.images.at[slot].set(image)
        residuals = self.residuals.at[slot].set(residual)
        return Stacked(images, residuals, jnp.where(forget, 0, self.count + 1))

    def combination(self) -> Float[Array, " m"]:
        images, residuals, count = self.images, self.residuals, self.count
        memory = images.shape[0]
        slots = jnp.arange(memory, dtype=jnp.int32)
        used = (slots < count).astype(images.dtype)
        gram = jnp.matmul(residuals, residuals.T, precision=lax.Precision.HIGHEST)
        gram *= used[:, None] * used[None, :]
        diagonal = slots[:, None] == slots[None, :]
        trace = jnp.sum(jnp.where(diagonal, gram, 0))
        ridge = 8 * jnp.finfo(gram.dtype).eps * trace + jnp.finfo(gram.dtype).tiny
        gram += jnp.where(diagonal, ridge + (1 - used), 0)
        # By elimination: a library's solve is a call of its own in each step, and to be loaded.
        both = jnp.append(gram, used[:, None], axis=1)
        for pivot in range(memory):
            size = both[pivot, pivot]
            row = both[pivot] / jnp.where(size > 0, size, jnp.nan)
            column = both[:, pivot] - (slots == pivot).astype(both.dtype)
            both -= column[:, None] * row[None, :]
        solved = both[:, -1]
        coefficients = solved / jnp.where(count > 0, jnp.sum(solved), 1)
        return jnp.matmul(coefficients, images, precision=lax.Precision.HIGHEST)


class Window(AbstractHistory):
    """The last images, their residuals, and the products of all pairs of these.

    Rows beyond the memory fill up a power of two, and stay empty. The products are single numbers,
    by rows of their lower half: each step makes those with one residual.
    """

    images: Float[Array, "rows m"]
    residuals: Float[Array, "rows m"]
    products: list[list[Float[Array, ""]]]
    count: Int[Array, ""]

    @classmethod
    def empty(cls, memory: int, g: Float[Array, " m"]) -> "Window":
        rows = 1 << (memory - 1).bit_length()
        vectors, zero = jnp.zeros((rows, g.shape[0]), g.dtype), jnp.zeros((), g.dtype)
        products = [[zero] * (i + 1) for i in range(memory)]
        return cls(vectors, vectors, products, jnp.zeros((), jnp.int32))

    def begun_anew(self, anew: Bool[Array, ""]) -> "Window":
        count = jnp.where(anew, 0, self.count)
        return Window(self.images, self.residuals, self.products, count)

    def extended(
        self, image: Float[Array, " m"], residual: Float[Array, " m"], forget: Bool[Array, ""]
    ) -> "Window":
        memory = len(self.products)
        slot = self.count % memory
        here = (jnp.arange(self.images.shape[0], dtype=jnp.int32) == slot)[:, None]
        images = jnp.where(here, image[None, :], self.images)
        residuals = jnp.where(here, residual[None, :], self.residuals)
        row = jnp.sum(residuals * residual[None, :], axis=1)
        new = [lax.squeeze(lax.slice(row, (i,), (i + 1,)), (0,)) for i in range(memory)]
        products = [
            [
                jnp.where(slot == i, new[j], jnp.where(slot == j, new[i], old))
                for j, old in enumerate(of_row)
            ]
            for i, of_row in enumerate(self.products)
        ]
        return Window(images, residuals, products, jnp.where(forget, 0, self.count + 1))

    def combination(self) -> Float[Array, " m"]:
        memory, finfo = len(self.products), jnp.finfo(self.images.dtype)
        used = [i < self.count for i in range(memory)]
        gram = [
            [jnp.where(used[i] & used[j], product, 0) for j, product in enumerate(of_row)]
            for i, of_row in enumerate(self.products)
        ]
        diagonal = sum(gram[i][i] for i in range(memory))
        ridge = cast(Array, 8 * finfo.eps * diagonal + finfo.tiny)
        for i in range(memory):
            gram[i][i] = gram[i][i] + jnp.where(used[i], ridge, 1)
        solved = _solved(gram, [one.astype(ridge.dtype) for one in used], ridge)
        total = jnp.where(self.count > 0, sum(solved), 1)
        rows = jnp.arange(self.images.shape[0], dtype=jnp.int32)
        coefficients = sum(jnp.where(rows == i, one / total, 0) for i, one in enumerate(solved))
        return jnp.sum(cast(Array, coefficients)[:, None] * self.images, axis=0)


def _solved(
    matrix: list[list[Array]], right: list[Array], least: Float[Array, ""]
) -> list[Float[Array, ""]]:
    """The solution of a positive definite system, given by its lower half, as single numbers:
    by $L D L^T$, where no pivot is below `least` but by rounding."""
    size = len(right)
    lower: list[list[Array]] = [[] for _ in right]
    pivots: list[Array] = []
    for j in range(size):
        pivot = matrix[j][j] - sum(lower[j][k] ** 2 * pivots[k] for k in range(j))
        pivots.append(jnp.maximum(pivot, least))
        for i in range(j + 1, size):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] * pivots[k] for k in range(j))
            lower[i].append(rest / pivots[j])
    solved: list[Array] = []
    for i in range(size):
        solved.append(right[i] - sum(lower[i][k] * solved[k] for k in range(i)))
    solved = [one / pivot for one, pivot in zip(solved, pivots, strict=True)]
    for i in reversed(range(size)):
        solved[i] = solved[i] - sum(lower[k][i] * solved[k] for k in range(i + 1, size))
    return solved
