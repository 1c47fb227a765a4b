from ._blocks import (
    least_rows as least_rows,
    map_pairs as map_pairs,
    map_pairs_with_sums as map_pairs_with_sums,
    nearest_columns as nearest_columns,
)
from ._choice import default_engine as default_engine, device_memory as device_memory
from ._engine import AbstractEngine as AbstractEngine
from ._kernel import apply as apply, softmin as softmin
from ._pairs import (
    is_allowed as is_allowed,
    Pairs as Pairs,
    without_infinities as without_infinities,
)
from ._pallas import Pallas as Pallas
from ._rows import (
    by_platform as by_platform,
    by_rows as by_rows,
    fold_rows as fold_rows,
    working_memory as working_memory,
)
from ._streamed import Dense as Dense, softmin_rows as softmin_rows, Streamed as Streamed
