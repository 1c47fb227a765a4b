"""A drift that is followed for several steps."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Float

from .._arrays import constant, positive_number
from .._results import RESULTS
from .._varying import scan
from ._batches import two_batches
from ._drift import AbstractDrift, Drift, DriftSolutions


def _is_none(leaf: Any) -> bool:
    return leaf is None


class Followed(AbstractDrift):
    r"""The way that samples go when they follow a drift for several steps,
    $x \leftarrow x + h V(x)$, each from the solutions of the one before.

    `drift_loss` with it compresses a stretch of the flow into the generator: with
    `Followed(SplitSinkhornDrift(epsilon))` one of the Wasserstein gradient flow of
    the Sinkhorn divergence (Han et al. 2026, arXiv:2605.11755). The more steps, the further a
    generator is told to go at once.
    """

    drift: AbstractDrift
    num_steps: int = eqx.field(static=True)
    step_size: Float[Array, ""]

    def __init__(self, drift: AbstractDrift, *, num_steps: int = 4, step_size: ArrayLike = 0.5):
        """**Arguments:**

        - `drift`: the one that is followed, such as `SinkhornDrift(epsilon)`.
        - `num_steps`: how many steps.
        - `step_size`: the share h of the drift that a step goes, positive. The drift of the
            Sinkhorn divergence goes all the way at 1.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        if not isinstance(drift, AbstractDrift):
            raise ValueError(f"`drift` must be one such as `SinkhornDrift(0.1)`, got {drift!r}.")
        if not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"`num_steps` must be a whole number, at least 1, got {num_steps!r}.")
        self.drift, self.num_steps = drift, num_steps
        self.step_size = positive_number(step_size, "step_size")

    @eqx.filter_jit
    def __call__(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "n ..."]:
        return self.evaluate(x, y).field

    @eqx.filter_jit
    def evaluate(self, x: ArrayLike, y: ArrayLike, init: Drift | None = None) -> Drift:
        """As of any drift: `field` is the whole way, `size` and `w2` are those at the start."""
        samples, data = constant(two_batches(x, y, ("x", "y")))
        step = constant(self.step_size).astype(samples.dtype)
        first = self.drift.evaluate(samples, data, init)

        def follow(state: tuple[Array, DriftSolutions | None], _):
            here, solutions = state
            known = eqx.tree_at(lambda d: d.solutions, first, solutions, is_leaf=_is_none)
            found = self.drift.evaluate(here, data, known)
            return (here + step * found.field, found.solutions), found.result

        state = samples + step * first.field, first.solutions
        (end, solutions), results = scan(follow, state, None, length=self.num_steps - 1)
        worst = first.result
        for k in range(self.num_steps - 1):
            one = jax.tree.map(lambda leaf, k=k: leaf[k], results)
            worst = RESULTS.where(worst == RESULTS.successful, one, worst)
        return Drift(
            field=end - samples,
            size=first.size,
            w2=first.w2,
            solutions=solutions,
            result=worst,
        )
