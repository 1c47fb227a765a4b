"""The dynamic picture: velocities, flows and particles that carry one measure to another."""

from ._coupling import (
    AbstractCoupling as AbstractCoupling,
    Conditional as Conditional,
    Independent as Independent,
    Minibatch as Minibatch,
    Paired as Paired,
)
from ._interpolant import (
    AbstractInterpolant as AbstractInterpolant,
    BrownianBridge as BrownianBridge,
    Linear as Linear,
    Trigonometric as Trigonometric,
)
from ._matching import velocity_loss as velocity_loss
from ._pairs import (
    AbstractDraw as AbstractDraw,
    Assignment as Assignment,
    Pairs as Pairs,
    Rows as Rows,
)
