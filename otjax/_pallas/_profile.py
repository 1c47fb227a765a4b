"""How a cost depends on the squared distance."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float32


@dataclasses.dataclass(frozen=True)
class Profile:
    r"""The cost $s^{power}$ of a squared distance $s$. Static: each is a program of its own.

    $1 - \cos$ is the squared distance of the two normalised vectors over the square root of two.
    """

    power: float

    def __post_init__(self):
        if not self.power > 0:
            raise ValueError(f"`power` must be positive, got {self.power!r}.")

    @property
    def is_linear(self) -> bool:
        """Whether sums of squares may be added to what they are subtracted from."""
        return self.power == 1

    def stretch(self, rate: Float32[Array, ""]) -> Float32[Array, ""]:
        """The factor on all points that multiplies their costs by `rate`."""
        return jnp.power(rate, 0.5 / self.power)


SQUARED = Profile(1.0)
DISTANCE = Profile(0.5)
