"""Any tree of dicts and arrays is read from a torch.save file as it was written."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from avjax.weights.torch_file import load_torch_file
from tests.torch_files import save

ARRAYS = arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64]),
    array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
TREES = st.recursive(
    ARRAYS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=4,
)


@given(TREES, st.booleans())
def test_any_tree_is_read_back(tmp_path_factory, tree, legacy):
    path = save(tmp_path_factory.mktemp("tree") / "x.pth", tree, legacy)
    jax.tree.map(np.testing.assert_array_equal, load_torch_file(path), tree)
