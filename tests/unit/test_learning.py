"""What src/learn.py keeps of recordings: rows of memory that grow."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unlabeledasd.detection.learning import Rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_rows_are_the_concatenated_arrays(lengths):
    rng, rows = np.random.default_rng(0), Rows()
    parts = [rng.standard_normal((n, 2, 3)).astype(np.float32) for n in lengths]
    for part in parts:
        mine = part.copy()
        rows.add(mine)
        mine[:] = 0  # rows are copies
    np.testing.assert_array_equal(rows.array, np.concatenate(parts))
    assert rows.array.dtype == np.float32
    assert len(rows.memory) <= 2 * sum(lengths)
