"""The table of what is in a file: layers that are alike are one row, and no name is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attnviz.show.terminal.tables import _alike
from attnviz.sources.files import TensorInfo


def info(shape: tuple[int, ...] = (1, 4, 8, 16)) -> TensorInfo:
    return TensorInfo(shape, "float32")


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["", "cross."]), st.integers(0, 6)),
        st.tuples(st.sampled_from([("k", "q"), ("k", "q", "v"), ("weights",)]), st.integers(1, 2)),
        max_size=8,
    )
)
def test_each_tensor_is_in_one_row_and_rows_are_of_layers_that_follow_each_other(layers):
    contents = {"global_mask": info((1, 8))}
    for (group, number), (roles, heads) in layers.items():
        contents |= {f"{group}layers.{number}.{role}": info((1, heads, 8, 16)) for role in roles}
    found = _alike(contents)
    told = []
    for name, one, count in found:
        assert one.shape == contents.get(name, one).shape
        if count == 1:
            told.append(name)
            continue
        before, _, after = name.partition("layers.")
        numbers, _, role = after.partition(".")
        first, last = map(int, numbers.split("–"))
        assert last - first + 1 == count
        told += [f"{before}layers.{number}.{role}" for number in range(first, last + 1)]
        assert all(contents[each].shape == one.shape for each in told[-count:])
    assert sorted(told) == sorted(contents)
