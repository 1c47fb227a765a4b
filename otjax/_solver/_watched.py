"""A solver that says how far it is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from ._absorbed import AbstractStep
from ._acceleration import AbstractAcceleration
from ._annealing import AbstractAnnealing
from ._loop import AbstractAbsorbedSolver


class Watched(AbstractAbsorbedSolver):
    """A solver that reports how far it is, while it runs: for a progress bar, a log, or a picture.

    Its steps and numbers are those of the solver within. A report comes with each look at the
    plan: at each `epsilon` of the annealing, and whenever potentials are absorbed.
    """

    solver: AbstractAbsorbedSolver
    report: Callable[[Any, Any, Any], None] = eqx.field(static=True)

    def __init__(self, solver: AbstractAbsorbedSolver, report: Callable[[Any, Any, Any], None]):
        """**Arguments:**

        - `solver`: `Sinkhorn(...)`, `SymmetricSinkhorn(...)`, `DualNewton(...)` or `Adaptive(...)`.
        - `report`: is called with numbers of NumPy: the steps so far, the marginal error, and by
            how many times the `epsilon` of this stage is the problem's own, 1 at the end. Another
            function is another compilation, so name it once. Under `jax.vmap` it is called for
            each problem. Reports may still be on their way when a solve returns:
            `jax.effects_barrier()` waits for them.

        **Raises:** `ValueError` for another kind of solver, and unless `report` is callable.
        """
        if not isinstance(solver, AbstractAbsorbedSolver):
            raise ValueError(
                "`solver` must be `Sinkhorn(...)`, `SymmetricSinkhorn(...)`, `DualNewton(...)` or "
                f"`Adaptive(...)`, got {type(solver).__name__}; a `CoarseToFine` takes a `Watched` "
                "solver within."
            )
        if not callable(report):
            raise ValueError(
                "`report` must be callable, `report(num_steps, error, epsilon)`, got "
                f"{type(report).__name__}."
            )
        self.solver = solver
        self.report = report

    @property
    def tolerance(self) -> Float[Array, ""] | None:
        return self.solver.tolerance

    def parts(self) -> tuple[AbstractStep, AbstractAnnealing, AbstractAcceleration]:
        return self.solver.parts()

    def on_look(
        self, num_steps: Int[Array, ""], error: Float[Array, ""], epsilon: Float[Array, ""]
    ) -> None:
        self.solver.on_look(num_steps, error, epsilon)
        jax.debug.callback(self.report, num_steps, error, epsilon)
