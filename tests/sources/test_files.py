"""One reader a format, one writer: what goes in comes out, and only what is asked for is read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnviz.base.errors import InputError
from attnviz.sources.files import METADATA, TensorFile, TensorInfo, describe, open_tensors, write_tensors

WRITTEN = [".safetensors", ".npz", ".pt", ".pth"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int64, torch.uint8]
EXAMPLE = {"q": torch.arange(24.0).reshape(1, 2, 3, 4), "mask": torch.tensor([[True, False, True]])}
METADATA_EXAMPLE = {"scale": 0.5, "tokens": [["naïve", "日本", "[/b]", "$x$", "\n"]]}


@pytest.fixture(params=WRITTEN)
def written(request, tmp_path) -> TensorFile:
    write_tensors(tmp_path / f"x{request.param}", EXAMPLE, METADATA_EXAMPLE)
    return open_tensors(tmp_path / f"x{request.param}")


def test_contents_have_names_shapes_and_dtypes(written):
    assert dict(written.contents) == {
        "q": TensorInfo((1, 2, 3, 4), "float32"),
        "mask": TensorInfo((1, 3), "bool"),
    }


def test_tensors_come_back(written):
    assert {name: written.read(name).tolist() for name in EXAMPLE} == {n: t.tolist() for n, t in EXAMPLE.items()}


def test_a_name_that_is_not_utf_8_is_a_name(written):
    odd = written.path.with_stem("x\udcff")
    written.path.rename(odd)
    back = open_tensors(odd)
    assert {name: back.read(name).tolist() for name in EXAMPLE} == {n: t.tolist() for n, t in EXAMPLE.items()}
    write_tensors(odd, EXAMPLE, {"tokens": [["a\udcff", "\ud800"]]})
    assert open_tensors(odd).metadata == {"tokens": [["a\udcff", "\ud800"]]}


def test_metadata_comes_back(written):
    assert written.metadata == METADATA_EXAMPLE


def test_a_tensor_that_is_not_there_says_what_is(written):
    with pytest.raises(InputError, match=r"there is no tensor 'k'; the file holds .*q \(1, 2, 3, 4\)"):
        written.read("k")


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", WRITTEN)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 2**32 - 1),
    transposed=st.booleans(),
)
def test_any_tensor_comes_back_bit_by_bit(tmp_path_factory, suffix, dtype, shape, seed, transposed):
    if suffix == ".npz" and dtype == torch.bfloat16:
        return  # refused, which a test below sees to
    tensor = torch.from_numpy(np.asarray(np.random.default_rng(seed).standard_normal(shape) * 50)).to(dtype)
    if transposed and tensor.ndim > 1:
        tensor = tensor.transpose(0, -1)
    path = tmp_path_factory.getbasetemp() / f"round-trip{suffix}"
    write_tensors(path, {"x": tensor})
    back = open_tensors(path).read("x")
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_file_without_metadata_has_none(tmp_path, suffix):
    write_tensors(tmp_path / f"x{suffix}", EXAMPLE)
    assert open_tensors(tmp_path / f"x{suffix}").metadata == {}


def test_bfloat16_in_an_npz_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"x.npz: .npz has no bfloat16, the dtype of q; write .safetensors or .pt"):
        write_tensors(tmp_path / "x.npz", {"q": torch.ones(2, dtype=torch.bfloat16)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".npy", ".txt", ""])
def test_other_suffixes_are_not_written(tmp_path, suffix):
    with pytest.raises(InputError, match="unknown suffix"):
        write_tensors(tmp_path / f"x{suffix}", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


def test_a_npy_is_one_tensor_called_by_its_stem(tmp_path):
    np.save(tmp_path / "keys.npy", np.arange(6.0).reshape(2, 3))
    file = open_tensors(tmp_path / "keys.npy")
    assert dict(file.contents) == {"keys": TensorInfo((2, 3), "float64")}
    assert file.read("keys").tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", ">i8", "?"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_either_byte_order_and_layout_are_read(tmp_path, suffix, kind, order):
    array = np.asarray(np.arange(6).reshape(2, 3) % 4, dtype=kind, order=order)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, x=array)
    assert open_tensors(path).read("x").tolist() == array.tolist()


def test_changing_a_tensor_does_not_change_its_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    open_tensors(tmp_path / "x.npy").read("x").fill_(1)
    assert np.load(tmp_path / "x.npy").tolist() == [0, 0, 0]


def test_a_compressed_npz_is_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", q=np.ones((2, 3)))
    assert open_tensors(tmp_path / "x.npz").read("q").tolist() == [[1.0] * 3] * 2


def test_a_bare_tensor_in_a_pt_is_called_by_the_files_stem(tmp_path):
    torch.save(torch.ones(2), tmp_path / "keys.pt")
    assert open_tensors(tmp_path / "keys.pt").read("keys").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("zipped", [True, False])
def test_both_of_torchs_own_formats_are_read(tmp_path, zipped):
    torch.save({"q": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert open_tensors(tmp_path / "x.pt").read("q").tolist() == [1.0, 1.0]


def test_what_is_no_tensor_in_a_pt_is_passed_over(tmp_path):
    torch.save({"q": torch.ones(2), "step": 3, "note": "x"}, tmp_path / "x.pt")
    assert list(open_tensors(tmp_path / "x.pt").contents) == ["q"]


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("text", ["[1, 2]", "3", '"x"'])
def test_metadata_that_is_no_object_is_refused(tmp_path, suffix, text):
    path = foreign(tmp_path / f"x{suffix}", text)
    with pytest.raises(InputError, match="metadata is not a JSON object"):
        _ = open_tensors(path).metadata


@pytest.mark.parametrize("suffix", WRITTEN)
def test_metadata_that_is_no_json_is_refused(tmp_path, suffix):
    path = foreign(tmp_path / f"x{suffix}", "{not json")
    with pytest.raises(InputError, match=f"x{suffix}: is not a readable {suffix} file"):
        _ = open_tensors(path).metadata


def foreign(path: Path, text: str) -> Path:
    """A file whose metadata attnviz did not write."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(EXAMPLE, path, metadata={METADATA: text})
    elif path.suffix == ".npz":
        np.savez(path, q=np.ones(2), **{METADATA: np.array(text)})
    else:
        torch.save({**EXAMPLE, METADATA: text}, path)
    return path


def test_safetensors_metadata_of_others_is_left_alone(tmp_path):
    from safetensors.torch import save_file

    save_file(EXAMPLE, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert open_tensors(tmp_path / "x.safetensors").metadata == {}


@pytest.mark.parametrize(
    ("info", "size"),
    [
        (TensorInfo((2, 3), "float32"), 24),
        (TensorInfo((2, 3), "bfloat16"), 12),
        (TensorInfo((5,), "bool"), 5),
        (TensorInfo((), "float64"), 8),
        (TensorInfo((4, 0), "int64"), 0),
        (TensorInfo((5,), "uint8"), 5),
        (TensorInfo((5,), "float8_e4m3fn"), 5),
    ],
)
def test_sizes_are_in_bytes(info, size):
    assert info.bytes == size


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.uint8, "uint8"), (torch.int16, "int16"), (torch.float8_e4m3fn, "float8_e4m3")]
)
def test_safetensors_dtypes_have_torchs_names(tmp_path, dtype, name):
    write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(4, dtype=dtype)})
    info = open_tensors(tmp_path / "x.safetensors").contents["x"]
    assert info.dtype.lower().startswith(name)
    assert info.bytes == 4 * dtype.itemsize


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
def test_contents_are_known_without_reading_data(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"q{suffix}"
    if suffix == ".npy":
        np.save(path, EXAMPLE["q"].numpy())
    else:
        write_tensors(path, EXAMPLE)
    monkeypatch.setattr(type(open_tensors(path)), "_read", never)
    monkeypatch.setattr(np, "load", never)
    assert open_tensors(path).contents["q"].shape == (1, 2, 3, 4)


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("the data was read")


def test_a_description_stays_short():
    contents = {f"layers.{n}.q": TensorInfo((1, 2), "float32") for n in range(100)}
    assert describe(contents).endswith("layers.11.q (1, 2) and 88 more")
    assert describe({}) == "the file holds no tensors"


def test_metadata_is_json_under_one_name(tmp_path):
    write_tensors(tmp_path / "x.npz", EXAMPLE, METADATA_EXAMPLE)
    with np.load(tmp_path / "x.npz") as archive:
        assert json.loads(str(archive["attnviz"])) == METADATA_EXAMPLE


def test_a_list_that_holds_itself_is_gone_into_once(tmp_path):
    inner: list[object] = [torch.zeros(2)]
    inner.append(inner)
    torch.save({"a": inner, "b": inner, "c": {"d": (torch.ones(3),)}}, tmp_path / "loop.pt")
    assert {*open_tensors(tmp_path / "loop.pt").contents} == {"a.0", "c.d.0"}


@pytest.mark.parametrize(
    "shape", ["(1, 2, -4, 2)", f"({'9' * 400}, 2)", f"({1 << 62}, {1 << 62})", f"({1 << 62}, 4)", f"(0, {'9' * 30})"]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_says_what_no_tensor_is_is_damage(tmp_path, suffix, shape):
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    said += b" " * (64 - (len(said) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + bytes(64)
    path = tmp_path / f"odd{suffix}"
    if suffix == ".npy":
        path.write_bytes(array)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("q.npy", array)
    with pytest.raises(InputError, match=r"has a shape that no tensor has|: truncated: \d+ bytes of"):
        open_tensors(path)
