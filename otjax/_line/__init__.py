"""Transport on the line and on the circle: exact, by sorting."""

from ._circle import wasserstein_circle as wasserstein_circle
from ._distance import wasserstein_1d as wasserstein_1d
from ._quantile import quantile as quantile
from ._transport import LineSolution as LineSolution, transport_1d as transport_1d
