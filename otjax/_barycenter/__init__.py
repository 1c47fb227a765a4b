from ._door import Barycenter as Barycenter, barycenter as barycenter
from ._objective import (
    AbstractBarycenterObjective as AbstractBarycenterObjective,
    Debiased as Debiased,
    Entropic as Entropic,
)
