"""Devices and dtypes by the names a user gives."""

from __future__ import annotations

import pytest
import torch

import attnviz
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.base.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """Makes torch say which accelerators there are."""

    def machine(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return machine


@pytest.mark.parametrize(
    ("has", "chosen"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1}, "cuda"), ({"cuda": 2, "mps": True}, "cuda")],
    ids=["nothing", "mps", "cuda", "both"],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, has, chosen):
    machine(**has)
    assert parse_device("auto") == torch.device(chosen)


@pytest.mark.parametrize(("name", "device"), [("cuda", "cuda"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")])
def test_cuda_can_be_named_with_an_index(machine, name, device):
    machine(cuda=2)
    assert parse_device(name) == torch.device(device)


def test_an_index_beyond_the_last_cuda_device_says_how_many_there_are(machine):
    machine(cuda=2)
    with pytest.raises(InputError, match=r"--device cuda:2: torch .* finds only 2 here; choose cpu or auto"):
        parse_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_is_refused_where_there_is_none(machine, name):
    machine()
    with pytest.raises(InputError, match=rf"--device {name}: torch .* finds none here"):
        parse_device(name)


def test_mps_is_refused_where_there_is_none(machine):
    machine()
    with pytest.raises(InputError, match="--device mps: this machine has no MPS device"):
        parse_device("mps")


def test_mps_is_taken_where_there_is_one(machine):
    machine(mps=True)
    assert parse_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["gpu", "cpu:0x", "cuda:", "cuda:-1", "CUDA", "meta", ""])
def test_other_names_are_no_devices(name):
    with pytest.raises(InputError, match=f"--device '{name}' is not a device; choose auto, cpu, cuda, cuda:N or mps"):
        parse_device(name)


def test_a_device_of_torch_is_taken_as_it_is():
    assert parse_device(torch.device("meta")) == torch.device("meta")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes_are_called_as_torch_calls_them(name):
    assert parse_dtype(name) is getattr(torch, name)


def test_no_dtype_stays_none():
    assert parse_dtype(None) is None


@pytest.mark.parametrize("name", ["int8", "half", "float8_e4m3fn", ""])
def test_other_names_are_no_dtypes(name):
    with pytest.raises(InputError, match=f"--dtype '{name}' is not one of float16, bfloat16, float32, float64"):
        parse_dtype(name)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
        pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_an_accelerator_gives_the_numbers_of_the_cpu(device, dtype):
    inputs = attnviz.synthesize(dtype=dtype, kv_heads=2)
    there, here = attnviz.score(inputs, device=device), attnviz.score(inputs, device="cpu")
    assert there.weights.device.type == device
    torch.testing.assert_close(there.weights.cpu(), here.weights, rtol=0, atol=1e-5)
