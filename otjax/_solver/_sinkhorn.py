"""Sinkhorn's algorithm."""

from jaxtyping import Array, ArrayLike, Float

from .._arrays import optional_positive_number
from ._absorbed import AbstractStep, Alternating, Averaging
from ._acceleration import AbstractAcceleration, Anderson
from ._annealing import AbstractAnnealing, annealing_or_default, NoAnnealing
from ._loop import AbstractAbsorbedSolver


class Sinkhorn(AbstractAbsorbedSolver):
    """Sinkhorn's algorithm (Cuturi 2013), stabilised, annealed and accelerated.

    Log-sum-exps are taken until the plan at the potentials can be represented; from there on a
    step is two products with that plan.
    """

    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    acceleration: AbstractAcceleration

    def __init__(
        self,
        *,
        tolerance: ArrayLike | None = None,
        annealing: AbstractAnnealing | None = None,
        acceleration: AbstractAcceleration = Anderson(),
    ):
        """**Arguments:**

        - `tolerance`: the L1 errors of the two marginals together, relative to the total mass, at
            which to stop. `None` is 1e-4 in float32 and 1e-9 in float64, or what rounding allows
            at the problem's epsilon, if that is more.
        - `annealing`: `GeometricAnnealing(...)` (the default) or `NoAnnealing()`; a warm start
            skips it.
        - `acceleration`: `Anderson(...)`, `Overrelaxation(...)` or `Plain()`.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")
        self.annealing = annealing_or_default(annealing)
        if not isinstance(acceleration, AbstractAcceleration):
            raise ValueError(
                "`acceleration` must be `Anderson(...)`, `Overrelaxation(...)` or `Plain()`, got "
                f"{acceleration!r}."
            )
        self.acceleration = acceleration

    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        return Alternating(), self.annealing, self.acceleration


class SymmetricSinkhorn(AbstractAbsorbedSolver):
    """The averaged iteration for a measure against itself (Feydy et al. 2019, arXiv:1810.08278).

    The problem must have one measure and one marginal constraint on both sides, and a symmetric
    cost; the two potentials are one. A step is one product with the plan, and the iteration
    contracts by about a half where the kernel is positive definite. Of another problem the result
    is `RESULTS.not_symmetric`, or a `ValueError` where its shape tells.
    """

    tolerance: Float[Array, ""] | None

    def __init__(self, *, tolerance: ArrayLike | None = None):
        """**Arguments:**

        - `tolerance`: as for `Sinkhorn`.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")

    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        return Averaging(), NoAnnealing(), Anderson()
