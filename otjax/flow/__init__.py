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
from ._gaussian_bridge import GaussianBridge as GaussianBridge
from ._integrate import (
    AbstractTrace as AbstractTrace,
    ExactTrace as ExactTrace,
    Flow as Flow,
    Hutchinson as Hutchinson,
    integrate as integrate,
    reflow as reflow,
)
from ._runge_kutta import (
    AbstractRungeKutta as AbstractRungeKutta,
    Euler as Euler,
    Heun as Heun,
    RK4 as RK4,
)
