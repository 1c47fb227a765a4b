"""Transport of many dimensions through projections on lines."""

from ._directions import random_directions as random_directions
from ._distance import sliced_wasserstein as sliced_wasserstein
from ._max import (
    max_sliced_wasserstein as max_sliced_wasserstein,
    MaxSlice as MaxSlice,
    SphereAscent as SphereAscent,
)
from ._plan import sliced_plan as sliced_plan, SlicedPlan as SlicedPlan
