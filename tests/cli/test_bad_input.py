"""Every way in which a user's input is wrong: one line that names it, exit code 2, nothing written.

All cases go through the program's own entry point. What each must say is a pattern that the line must match.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz.base.errors import InputError
from attnviz.sources.files import open_tensors, write_tensors
from tests.cases import arrays, small

FORMATS = (".safetensors", ".npz", ".npy", ".pt", ".pth")


@cache
def valid(suffix: str) -> bytes:
    """A small valid file of a format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"q{suffix}")
        if suffix == ".npy":
            np.save(path, arrays()["q"])
        else:
            attnviz.save(path, small(batch=1, head_dim=2, tokens=4))
        return path.read_bytes()


# Files


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("command", ["score", "inspect"])
def test_a_missing_file(refused, command, suffix):
    refused(command, f"gone{suffix}", says=rf"gone{suffix}: there is no such file")


def test_a_missing_file_of_a_plot(refused):
    refused("plot", "gone.npz", "-o", "heads.png", says="gone.npz: there is no such file")


def test_a_missing_file_of_one_tensor(refused, dump):
    refused("score", dump, "--k", "gone.npz:k", says="gone.npz: there is no such file")


def test_a_name_longer_than_any_file_can_have(refused):
    refused("score", "x" * 300 + ".npz", says="xxx.npz: there is no such file")


@pytest.mark.parametrize("command", ["score", "inspect"])
def test_a_directory(refused, folder, command):
    (folder / "dump.npz").mkdir()
    refused(command, "dump.npz", says="dump.npz: is a directory; name a file")


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file(refused, folder, suffix):
    (folder / f"q{suffix}").touch()
    refused("score", f"q{suffix}", says=rf"q{suffix}: is empty \(0 bytes\)")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("command", ["score", "inspect"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file(refused, folder, command, suffix, kept):
    whole = valid(suffix)
    (folder / f"q{suffix}").write_bytes(whole[: int(len(whole) * kept)])
    refused(command, f"q{suffix}", says=rf"q{suffix}: is not a readable {suffix} file \(damaged, truncated")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("command", ["score", "inspect"])
def test_a_file_of_another_format(refused, folder, command, suffix):
    (folder / f"q{suffix}").write_text("These are not the tensors you are looking for.\n" * 100)
    refused(command, f"q{suffix}", says=rf"q{suffix}: is not a readable {suffix} file")


def test_an_npz_whose_table_of_contents_is_damaged(refused, folder):
    whole = bytearray(valid(".npz"))
    end = whole.rindex(b"PK\x05\x06")  # the end of a zip's table of contents
    whole[end + 16 : end + 20] = b"\xff\xff\xff\x7f"  # where that table begins
    (folder / "dump.npz").write_bytes(whole)
    refused("score", "dump.npz", says=r"dump\.npz: is not a readable \.npz file")


def test_a_pt_whose_pickle_is_damaged(refused, folder):
    whole = bytearray(valid(".pt"))
    whole[whole.index(b"\x80\x02}") + 2] = 0xFF  # protocol 2, then an empty dict: now an opcode that is none
    (folder / "dump.pt").write_bytes(whole)
    refused("score", "dump.pt", says=r"dump\.pt: is not a readable \.pt file .*(pickle cannot be read|crc)")


def test_a_safetensors_whose_header_is_damaged(refused, folder):
    whole = bytearray(valid(".safetensors"))
    whole[whole.index(b'"F32"') + 1] = ord("X")
    (folder / "dump.safetensors").write_bytes(whole)
    refused(
        "score",
        "dump.safetensors",
        says=r"dump\.safetensors: is not a readable \.safetensors file .*(X32|InvalidHeader)",
    )


def test_an_npz_whose_checksum_is_wrong(refused, folder):
    whole = bytearray(valid(".npz"))
    # The last byte of q's data: before the second member's header.
    whole[whole.index(b"PK\x03\x04", 10) - 1] ^= 0xFF
    (folder / "dump.npz").write_bytes(whole)
    refused("score", "dump.npz", says=r"dump\.npz: is not a readable \.npz file .*CRC")


@pytest.mark.parametrize("suffix", [".txt", ".bin", ".h5", ""])
@pytest.mark.parametrize("command", ["score", "inspect"])
def test_a_suffix_that_attnviz_does_not_read(refused, folder, command, suffix):
    (folder / f"dump{suffix}").write_text("x")
    refused(command, f"dump{suffix}", says=rf"dump{suffix}: unknown suffix '{suffix}'; attnviz reads .safetensors")


class Malice:
    """Unpickled, it makes a file called ``ran``."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def malicious(kind: str) -> tuple[str, bytes]:
    stream = io.BytesIO()
    if kind == "torch zip":
        torch.save({"q": Malice()}, stream)
    elif kind == "torch legacy":
        torch.save({"q": Malice()}, stream, _use_new_zipfile_serialization=False)
    elif kind == "bare pickle":
        pickle.dump({"q": Malice()}, stream, protocol=2)
    elif kind == "npz":
        np.savez(stream, q=np.array([Malice()], dtype=object), k=arrays()["k"])
    elif kind == "npz metadata":
        np.savez(stream, attnviz=np.array([Malice()], dtype=object), **arrays())
    else:
        np.save(stream, np.array([Malice()], dtype=object))
    suffix = ".npy" if kind == "npy" else ".npz" if kind.startswith("npz") else ".pt"
    return suffix, stream.getvalue()


KINDS = ["torch zip", "torch legacy", "bare pickle", "npz", "npz metadata", "npy"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_that_would_run_code_does_not(refused, folder, kind):
    suffix, data = malicious(kind)
    (folder / f"q{suffix}").write_bytes(data)
    said = "pickled posix.mkdir.*could run code" if suffix == ".pt" else "q holds object|readable .npz file.*pickle"
    refused("score", f"q{suffix}", says=rf"q\{suffix}: .*({said})")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_inspecting_a_pickle_does_not_run_it(run, folder, kind):
    suffix, data = malicious(kind)
    (folder / f"q{suffix}").write_bytes(data)
    run("inspect", f"q{suffix}")
    assert not (folder / "ran").exists()


def test_the_pickle_of_these_tests_would_run_code(folder):
    _, data = malicious("torch zip")
    torch.load(io.BytesIO(data), weights_only=False)
    assert (folder / "ran").exists()


def test_a_pt_that_is_no_dict(refused, folder):
    torch.save([torch.ones(1, 2, 3), 1], folder / "dump.pt")
    refused("score", "dump.pt", says="dump.pt: holds a list, wanted a dict of tensors, or a tuple or list of them")


# Tensors


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("missing", ["q", "k"])
def test_a_missing_tensor_says_what_is_there(refused, folder, suffix, missing):
    named = {name: torch.from_numpy(array) for name, array in arrays(**{missing: None}).items()}
    write_tensors(folder / f"dump{suffix}", named)
    other = "k (2, 6, 8)" if missing == "q" else "q (4, 6, 8)"
    line = refused("score", f"dump{suffix}", says=f"dump{suffix}: there is no tensor '{missing}'; the file holds ")
    assert other in line
    assert f"--{missing} NAME" in line


def test_a_missing_mask_says_how_to_give_one(refused, folder):
    np.savez(folder / "dump.npz", **arrays(global_mask=None))
    refused("score", "dump.npz", says=r"dump.npz: there is no global_mask.*--mask NAME.*--global")


@pytest.mark.parametrize("option", ["--q", "--k", "--mask", "--padding"])
def test_a_named_tensor_that_is_not_there(refused, dump, option):
    refused("score", dump, option, "nope", says=r"dump.safetensors: there is no tensor 'nope'; the file holds .*q \(2")


def test_a_file_of_several_tensors_without_a_name(refused, dump, folder):
    np.savez(folder / "two.npz", a=np.ones(2), b=np.ones(3))
    refused("score", dump, "--k", "two.npz", says=r"two.npz: the file holds a \(2,\), b \(3,\).*two.npz:NAME")


WRONG_TENSORS = {
    "q of rank 2": ({"q": np.ones((6, 8), "f4")}, r"q has rank 2, shape \(6, 8\)"),
    "k of rank 5": ({"k": np.ones((1, 1, 2, 6, 8), "f4")}, r"k has rank 5, shape \(1, 1, 2, 6, 8\)"),
    "q without heads": ({"q": np.ones((0, 6, 8), "f4")}, r"q is empty, shape \(0, 6, 8\)"),
    "head_dim": (
        {"q": np.ones((4, 6, 5), "f4")},
        r"k has head_dim 8 but q has 5.*q \(1, 4, 6, 5\), k \(1, 2, 6, 8\)",
    ),
    "heads": ({"q": np.ones((3, 6, 8), "f4")}, r"q has 3 heads.*not a multiple of the 2 heads of k.*\(1, 3, 6, 8\)"),
    "fewer query heads": ({"q": np.ones((1, 6, 8), "f4")}, r"q has 1 heads.*not a multiple of the 2 heads of k"),
    "batch": ({"q": np.ones((2, 4, 6, 8), "f4")}, r"k has 1 batch items but q has 2"),
    "dtypes": ({"k": np.ones((2, 6, 8), "f8")}, r"k is float64 but q is float32"),
    "int q": ({"q": np.ones((4, 6, 8), "i4")}, r"q has dtype int32, wanted one of float16, bfloat16, float32, float64"),
    "int k": ({"k": np.ones((2, 6, 8), "i8")}, r"k has dtype int64"),
    "bool q": ({"q": np.ones((4, 6, 8), "?")}, r"q has dtype bool"),
    "complex q": ({"q": np.ones((4, 6, 8), "c8")}, r"q has dtype complex64"),
    "mask length": ({"global_mask": np.ones(5, "?")}, r"global_mask has shape \(1, 5\), wanted \(B, S\) = \(1, 6\)"),
    "mask rank": ({"global_mask": np.ones((1, 1, 6), "?")}, r"global_mask has shape \(1, 1, 6\), wanted"),
    "mask batch": ({"global_mask": np.ones((3, 6), "?")}, r"global_mask has shape \(3, 6\), wanted"),
    "mask of ints": ({"global_mask": np.ones(6, "i8")}, r"global_mask has dtype int64, wanted bool"),
    "mask of bytes": ({"global_mask": np.ones(6, "u1")}, r"global_mask has dtype uint8, wanted bool"),
    "mask of floats": ({"global_mask": np.ones(6, "f4")}, r"global_mask has dtype float32, wanted bool"),
    "mask of nothing": ({"global_mask": np.zeros(6, "?")}, r"global_mask of batch item 0 selects nothing"),
    "padding of ints": ({"key_padding_mask": np.ones(6, "i8")}, r"key_padding_mask has dtype int64, wanted bool"),
    "padding length": ({"key_padding_mask": np.ones(7, "?")}, r"key_padding_mask has shape \(1, 7\), wanted"),
    "padded global": (
        {"key_padding_mask": np.arange(6) != 3},
        r"position 3 of batch item 0 is padding .*global.* a padded position can't be global",
    ),
    "one NaN": (
        {"q": np.where(np.arange(192).reshape(4, 6, 8) == 100, np.nan, np.float32(1)).astype("f4")},
        r"q has 1 value that is NaN or Inf.*first at index \(0, 2, 0, 4\)",
    ),
    "Inf in k": ({"k": np.full((2, 6, 8), -np.inf, "f4")}, r"k has 48 values that are NaN or Inf.*\(0, 0, 0, 0\)"),
    "text for q": ({"q": np.array(["a", "b"])}, r"q holds str32, not numbers"),
}


@pytest.mark.sweep(keep=8)
@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_that_does_not_fit(refused, folder, case):
    changes, says = WRONG_TENSORS[case]
    np.savez(folder / "dump.npz", **arrays(**changes))
    refused("score", "dump.npz", says=r"dump\.npz: " + says)


@pytest.mark.sweep(keep=8)
@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_that_does_not_fit_is_not_drawn(refused, folder, case):
    changes, says = WRONG_TENSORS[case]
    np.savez(folder / "dump.npz", **arrays(**changes))
    refused("plot", "dump.npz", "-o", "heads.png", says=r"dump\.npz: " + says)


def test_numbers_too_large_for_the_dtype_asked_for(refused, folder):
    q = arrays()["q"].copy()
    q[1, 2, 3] = 1e6
    np.savez(folder / "dump.npz", **arrays(q=q))
    refused("score", "dump.npz", "--dtype", "float16", says=r"q as float16 has 1 values too large.*\(1, 2, 3\)")


# Options

BAD_OPTIONS = {
    "--global out of range": (
        ["--global", "0,6"],
        r"--global '0,6': position 6 is out of range; there are 6 \(0 to 5\)",
    ),
    "--global range past the end": (["--global", "4-9"], r"--global '4-9': position 9 is out of range"),
    "--global repeated": (["--global", "0,3,0"], r"--global '0,3,0': position 0 is given more than once"),
    "--global overlapping": (["--global", "0-3,2"], r"--global '0-3,2': position 2 is given more than once"),
    "--global malformed": (["--global", "0;3"], r"--global '0;3': '0;3' is not a position"),
    "--global negative": (["--global=-1"], r"--global '-1': '-1' is not a position"),
    "--global empty": (["--global", ""], r"--global ''"),
    "--global dangling comma": (["--global", "0,"], r"--global '0,': '' is not a position"),
    "--global backwards": (["--global", "3-1"], r"--global '3-1': the range 3-1 runs backwards; write 1-3"),
    "--global other rule": (["--global", "first:3"], r"--global 'first:3': write positions like"),
    "--global every 0": (["--global", "every:0"], r"--global 'every:0'"),
    "--global random of too many": (["--global", "random:7"], r"'random:7': 7 positions .* only 6"),
    "--head out of range": (["--head", "4"], r"--head '4': head 4 is out of range; there are 4 \(0 to 3\)"),
    "--head malformed": (["--head", "first"], r"--head 'first': 'first' is not a head"),
    "--head repeated": (["--head", "1,1"], r"--head '1,1': head 1 is given more than once"),
    "--head negative": (["--head=-1"], r"--head '-1'"),
    "--batch out of range": (["--batch", "2"], r"--batch '2': batch item 2 is out of range; there are 2 \(0 to 1\)"),
    "--batch malformed": (["--batch", "x"], r"--batch 'x': 'x' is not a batch item"),
    "--layer without layers": (["--layer", "0"], r"dump.safetensors: --layer 0: the file has no layers"),
    "--layer not a number": (["--layer", "top"], r"--layer"),
    "--layout unknown": (["--layout", "bdht"], r"layout 'bdht' is not one of bhtd, bthd, htd, thd"),
    "--layout of another rank": (["--layout", "htd"], r"q has rank 4, shape \(2, 4, 6, 8\); layout htd wants rank 3"),
    "--scale 0": (["--scale", "0"], r"scale is 0.0, wanted a finite number above 0"),
    "--scale nan": (["--scale", "nan"], r"scale is nan"),
    "--device unknown": (["--device", "tpu"], r"--device 'tpu' is not a device"),
    "--dtype unknown": (["--dtype", "int8"], r"--dtype 'int8' is not one of float16"),
    "--values unknown": (["--values", "scores"], r"--values 'scores' is not one of weights, logits"),
    "an option there is not": (["--hed", "3"], r"--hed"),
    "two sources": (["other.npz"], r"other.npz"),
    "--global and --mask": (["--global", "0", "--mask", "global_mask"], r"--global and --mask both say"),
}


@pytest.mark.sweep(keep=9)
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_option_that_cannot_be_used(refused, dump, case):
    arguments, says = BAD_OPTIONS[case]
    refused("score", dump, *arguments, says=says)


@pytest.mark.sweep(keep=9)
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_option_that_cannot_be_used_draws_nothing(refused, dump, case):
    arguments, says = BAD_OPTIONS[case]
    refused("plot", dump, *arguments, "-o", "heads.png", says=says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_where_there_is_none(refused, dump, device):
    refused("score", dump, "--device", device, says=rf"--device {device}: torch .* finds none here")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device here")
def test_mps_where_there_is_none(refused, dump):
    refused("score", dump, "--device", "mps", says="--device mps: this machine has no MPS device")


def test_an_unknown_format(refused, dump):
    refused("score", dump, "--format", "xml", says="--format 'xml' is not one of table, json, csv, markdown")


def test_an_unknown_format_of_inspect(refused, dump):
    refused("inspect", dump, "--format", "csv", says="--format 'csv' is not one of table, json")


def test_an_unknown_command(refused):
    refused("scores", says="scores")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cmap", "rainbowish"], "--cmap 'rainbowish' is not a palette"),
        (["--cmap", "deep"], "--cmap 'deep'"),
        (["--vmin", "1", "--vmax", "0"], "--vmin must be below --vmax"),
        (["--vmin", "0.5", "--vmax", "0.5"], "--vmin must be below --vmax"),
        (["--dpi", "1"], "--dpi"),
        (["--pixels", "0"], "--pixels"),
        (["--batch", "all"], "--batch 'all': one batch item is wanted here, 2 are given"),
    ],
)
def test_an_option_of_plot_that_cannot_be_used(refused, dump, arguments, says):
    refused("plot", dump, "-o", "heads.png", *arguments, says=says)


def test_annotations_of_a_map_too_large_for_them(refused):
    attnviz.save("long.npz", small(tokens=2000))
    refused("plot", "long.npz", "--head", "0", "--annot", "-o", "x.png", says="--annot: 1008 x 2|--annot: 2000 x 2")


def test_plot_without_an_output(refused, dump):
    refused("plot", dump, says="--out")


@pytest.mark.parametrize("layer", ["1", "4", "-1"])
def test_a_layer_that_is_not_there(refused, folder, layer):
    layered()
    refused("score", "layers.npz", f"--layer={layer}", says=rf"--layer {layer} is out of range; .*layers 0, 3")


def test_a_dump_of_layers_without_a_choice(refused, folder):
    layered()
    refused("score", "layers.npz", says=r"layers.npz: holds 2 layers \(0, 3\); choose one with --layer")


def layered() -> None:
    named = {f"layers.{layer}.{name}": array for layer in (0, 3) for name, array in arrays().items()}
    np.savez("layers.npz", **named)


@pytest.mark.parametrize(
    "arguments",
    [["--q", "q"], ["--k", "k"], ["--mask", "m"], ["--padding", "p"], ["--layer", "3"], ["--layout", "bthd"]],
    ids=lambda arguments: arguments[0],
)
def test_an_option_that_speaks_of_a_file_where_there_is_none(refused, arguments):
    refused("score", *arguments, says=f"{arguments[0]} .*no SOURCE is given")


@pytest.mark.parametrize("option", ["--bias", "--alibi", "--sinks", "--q-global"])
def test_a_score_modifier_that_speaks_of_a_file_where_there_is_none(refused, option):
    refused("score", option, "x", says=f"{option} x: it speaks of a file, and no SOURCE is given")


def test_q_from_a_file_without_k(refused, folder):
    np.save(folder / "q.npy", arrays()["q"])
    refused("score", "--q", "q.npy", says="there is no tensor 'k'.*--k NAME")


# Outputs


@pytest.mark.parametrize("out", ["scores.txt", "scores", "scores.pt"])
def test_an_output_suffix_that_score_does_not_write(refused, dump, out):
    refused("score", dump, "--out", out, says=f"{out}: unknown suffix .*write one of .safetensors, .npz, .csv, .json")


@pytest.mark.parametrize("out", ["heads.jpg", "heads", "heads.csv"])
def test_an_output_suffix_that_plot_does_not_write(refused, dump, out):
    refused("plot", dump, "-o", out, says=f"{out}: unknown suffix .*write one of .png, .pdf, .svg")


@pytest.mark.parametrize("out", ["dump.npy", "dump.txt", "dump"])
def test_an_output_suffix_that_synth_does_not_write(refused, out):
    refused("synth", out, says=f"{out}: unknown suffix .*write one of .safetensors, .npz, .pt, .pth")


WRITERS = {
    "synth": (["synth"], ".safetensors"),
    "score to tensors": (["score", "dump.safetensors", "--out"], ".npz"),
    "score to text": (["score", "dump.safetensors", "--out"], ".json"),
    "plot": (["plot", "dump.safetensors", "-o"], ".png"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_in_a_directory_that_is_not_there(refused, dump, writer):
    arguments, suffix = WRITERS[writer]
    refused(*arguments, f"gone/out{suffix}", says=rf"gone/out{suffix}: the directory gone does not exist")


@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_below_a_file(refused, dump, folder, writer):
    (folder / "file").touch()
    arguments, suffix = WRITERS[writer]
    refused(*arguments, f"file/out{suffix}", says=rf"file/out{suffix}: the directory file is not a directory")


@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_that_is_a_directory(refused, dump, folder, writer):
    arguments, suffix = WRITERS[writer]
    (folder / f"out{suffix}").mkdir()
    refused(*arguments, f"out{suffix}", says=rf"out{suffix}: is a directory")


@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_whose_name_is_too_long(refused, dump, writer):
    arguments, suffix = WRITERS[writer]
    refused(*arguments, "x" * 300 + suffix, says="cannot be written: File name too long")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_in_a_directory_that_is_read_only(refused, dump, folder, writer):
    arguments, suffix = WRITERS[writer]
    (folder / "locked").mkdir(mode=0o500)
    refused(*arguments, f"locked/out{suffix}", says="cannot be written: Permission denied")


def as_it_is(path: Path) -> Path:
    return path


def by_a_detour(path: Path) -> Path:
    return Path("..", path.absolute().parent.name, path)


def in_full(path: Path) -> Path:
    return path.absolute()


def by_a_symlink(path: Path) -> Path:
    link = Path("link" + path.suffix)
    link.symlink_to(path)
    return link


def by_a_hard_link(path: Path) -> Path:
    link = Path("hard" + path.suffix)
    link.hardlink_to(path)
    return link


@pytest.mark.parametrize("spelling", [as_it_is, by_a_detour, in_full, by_a_symlink, by_a_hard_link])
def test_an_output_that_is_the_source(refused, dump, spelling):
    refused("score", dump, "--out", spelling(dump), says="is an input of this command and would be overwritten")


@pytest.mark.parametrize("spelling", [as_it_is, by_a_detour, in_full, by_a_symlink, by_a_hard_link])
@pytest.mark.parametrize("reference", ["keys.npz:k", "keys.npz"])
def test_an_output_that_is_the_file_of_one_tensor(refused, dump, folder, spelling, reference):
    np.savez(folder / "keys.npz", k=small().k.numpy())
    out = spelling(Path("keys.npz"))
    refused("score", dump, "--k", reference, "--out", out, says="is an input of this command and would be overwritten")


@pytest.mark.parametrize("command", [["score", "--out"], ["plot", "-o"]], ids=["score", "plot"])
def test_an_output_that_is_the_file_of_the_pattern(refused, dump, folder, command):
    # A picture's suffix is no tensor file's, unless a link makes it one.
    np.save(folder / "sees.npy", np.ones((6, 6), dtype=bool))
    out = Path("out.npz" if command[0] == "score" else "out.png")
    out.symlink_to("sees.npy")
    refused(command[0], dump, "--mask-file", "sees.npy", command[1], out, says="is an input of this command")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--heads", "0"], "heads is 0, wanted at least 1"),
        (["--tokens", "0", "--global", "every:1"], "tokens is 0, wanted at least 1"),
        (["--head-dim", "0"], "head_dim is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--batch", "-1"], "batch is -1"),
        (["--kv-heads", "0"], "kv_heads is 0"),
        (["--heads", "8", "--kv-heads", "3"], "q has 8 heads, which is not a multiple of the 3 heads of k"),
        (["--global", "10"], r"--global '10': position 10 is out of range; there are 10 \(0 to 9\)"),
        (["--global", "3,3"], "position 3 is given more than once"),
        (["--dtype", "int8"], "--dtype 'int8' is not one of"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "one"], "--seed"),
        (["--dtype", "bfloat16"], "dump.npz: .npz has no bfloat16, the dtype of q; write .safetensors or .pt"),
    ],
)
def test_a_synthetic_case_that_cannot_be(refused, arguments, says):
    refused("synth", "dump.npz", *arguments, says=says)


def test_synth_without_an_output(refused):
    refused("synth", says="OUT|out")


# Damage of any kind: a file is read, or refused in a sentence.


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy", ".pt"])
@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, suffix, data):
    whole = bytearray(valid(suffix))
    for _ in range(data.draw(st.integers(0, 4), label="flips")):
        place = data.draw(st.integers(0, len(whole) - 1), label="place")
        whole[place] ^= data.draw(st.integers(1, 255), label="flip")
    kept = data.draw(st.just(len(whole)) | st.integers(0, len(whole)), label="kept")
    path = tmp_path_factory.getbasetemp() / f"q{suffix}"
    path.write_bytes(whole[:kept])
    try:
        file = open_tensors(path)
        _ = file.metadata
        for name in file.contents:
            file.read(name)
    except InputError as error:
        said = str(error)
    else:
        return
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
