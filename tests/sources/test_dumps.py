"""Dumps: inputs saved and loaded, tensors by other names and in other files, layers."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.names import NAMES, named_pattern
from attnviz.attention.patterns import Causal, Local, Masked
from attnviz.base.errors import Note
from attnviz.sources.files import TensorFile, open_tensors, opened_once, write_tensors
from attnviz.sources.naming import TensorRef, layers_of
from attnviz.sources.packed import PACKED
from attnviz.sources.roles import LABELS, OF_WEIGHTS, ROLES, missing_roles, role_of
from attnviz.sources.saving import layer_metadata, tensors_of
from tests.cases import small

SUFFIXES = [".safetensors", ".npz", ".pt", ".pth"]
WORDS = ["[CLS]", "naïve", "日本", "[/b]", "$x$", "a\nb"]


def everything() -> AttentionInputs:
    """Inputs in which every role is played and every setting set."""
    inputs = small()
    return replace(
        inputs,
        key_padding_mask=torch.tensor([[True] * 6, [True] * 5 + [False]]),
        query_padding_mask=torch.tensor([[True] * 6, [False] + [True] * 5]),
        pattern=Masked(torch.eye(6, dtype=torch.bool)),
        q_global=inputs.q + 1,
        k_global=inputs.k + 1,
        v_global=inputs.v + 1,
        w_o=torch.rand(4, inputs.v.shape[3], 5),
        residual_norms=torch.rand(2, 6, 2),
        bias=torch.randn(4, 6, 6),
        alibi_slopes=torch.rand(4),
        sinks=torch.rand(4),
        scale=0.25,
        softcap=30.0,
        tokens=[WORDS, WORDS[::-1]],
        query_tokens=[WORDS[::-1], WORDS],
        query_positions=torch.arange(12).view(2, 6) + 3,
        key_positions=torch.arange(12).view(2, 6),
        documents=torch.tensor([[0, 0, 0, 1, 1, 1], [4, 4, 2, 2, 2, 2]]),
        query_documents=torch.tensor([[0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 3, 3]]),
        token_form="sentencepiece",
        word_ids=[[None, 0, 1, None, 2, 2], [0] * 6],
        query_word_ids=[[0] * 6, [None] * 6],
        special_tokens=[[0, 3], []],
        query_special_tokens=[[], [5]],
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_inputs_come_back_whole(tmp_path, suffix):
    inputs = everything()
    attnviz.save(tmp_path / f"dump{suffix}", inputs)
    back = attnviz.load(tmp_path / f"dump{suffix}")
    for role, tensor in tensors_of(inputs).items():
        assert torch.equal(tensors_of(back)[role], tensor), role
    for name in ("scale", "softcap", *LABELS):
        assert getattr(back, name) == getattr(inputs, name), name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("form", "version"), [(None, 1), ("plain", 1), ("byte-level", 2)])
def test_only_what_needs_format_2_is_written_in_it(tmp_path, suffix, form, version):
    changes = {} if form is None else {"token_form": form}
    attnviz.save(tmp_path / f"dump{suffix}", replace(small(), **changes))
    assert open_tensors(tmp_path / f"dump{suffix}").metadata["format"] == version
    assert attnviz.load(tmp_path / f"dump{suffix}").token_form == (form or "plain")


@pytest.mark.parametrize("form", ["utf-8", 3, ["plain"]])
def test_an_unknown_form_is_refused(tmp_path, form):
    path = tmp_path / "dump.npz"
    write_tensors(path, tensors_of(small()), {"tokens": [["a"] * 6] * 2, "token_form": form})
    with pytest.raises(InputError, match=r"^\S+dump.npz: token_form .* is not one of plain, byte-level"):
        attnviz.load(path)


@pytest.mark.parametrize(("layer", "known_as"), [(2, 2), ("2", 2), ("cross.0", "cross.0")])
def test_inputs_know_their_layer(tmp_path, layer, known_as):
    q = small(batch=1).q
    names = ("layers.2.q", "layers.2.k", "cross.layers.0.q", "cross.layers.0.k")
    write_tensors(tmp_path / "run.npz", dict.fromkeys(names, q))
    assert attnviz.load(tmp_path / "run.npz", layer=layer).layer == known_as


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_named_pattern_comes_back(tmp_path, name, causal):
    pattern = named_pattern(name, window=3 if "local" in name else None, causal=causal and name != "causal")
    attnviz.save(tmp_path / "dump.safetensors", replace(small(), pattern=pattern))
    assert attnviz.load(tmp_path / "dump.safetensors").pattern == pattern


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_dtype_comes_back(tmp_path, suffix, dtype):
    inputs = small(dtype=dtype)
    if suffix == ".npz" and dtype == "bfloat16":
        with pytest.raises(InputError, match=r"npz has no bfloat16"):
            attnviz.save(tmp_path / "dump.npz", inputs)
        return
    attnviz.save(tmp_path / f"dump{suffix}", inputs)
    back = attnviz.load(tmp_path / f"dump{suffix}")
    assert back.q.dtype == inputs.q.dtype
    assert torch.equal(back.q, inputs.q)


def test_a_view_in_another_layout_is_saved_in_the_standard_one(tmp_path):
    inputs = AttentionInputs(torch.randn(1, 5, 2, 3), torch.randn(1, 5, 2, 3), layout="bthd")
    attnviz.save(tmp_path / "dump.safetensors", inputs)
    assert torch.equal(attnviz.load(tmp_path / "dump.safetensors").q, inputs.q)


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("q", None, "q"),
        ("layers.3.q", None, "layers.3.q"),
        ("dump.npz:keys", Path("dump.npz"), "keys"),
        ("a:b.npz:keys", Path("a:b.npz"), "keys"),
        ("dump.npz", Path("dump.npz"), None),
        ("C:\\dumps\\k.npy", Path("C:\\dumps\\k.npy"), None),
        ("block:q", None, "block:q"),
        ("DUMP.NPZ:q", Path("DUMP.NPZ"), "q"),
    ],
)
def test_a_reference_is_a_name_a_file_or_both(text, path, name):
    assert TensorRef.parse(text) == TensorRef(path, name)


def test_roles_are_known_by_name_in_any_layer():
    assert [role_of(name) for name in ("q", "layers.11.k_global", "layers.x.q", "query", "q.weight")] == [
        "q",
        "k_global",
        None,
        None,
        None,
    ]


def test_layers_are_ascending_numbers():
    assert layers_of(["layers.10.q", "layers.2.q", "layers.2.k", "q", "layers.x.q"]) == [2, 10]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["q", "k", "global_mask"], []),
        (["layers.0.q", "layers.0.k"], ["global_mask"]),
        (["a"], ["q", "k", "global_mask"]),
        (["layers.0.weights", "v"], []),
    ],
)
def test_what_is_missing_is_what_score_needs(names, missing):
    assert missing_roles(names) == missing


@pytest.fixture
def parts(tmp_path, monkeypatch) -> AttentionInputs:
    """q, k and the mask of one item in files of their own, and under other names in ``other.npz``."""
    monkeypatch.chdir(tmp_path)
    inputs = small(batch=1)
    np.save("q.npy", inputs.q.numpy())
    np.save("k.npy", inputs.k.numpy())
    np.save("mask.npy", inputs.global_mask.numpy())
    np.savez("other.npz", queries=inputs.q.numpy(), keys=inputs.k.numpy(), globals=inputs.global_mask.numpy())
    return inputs


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (None, {"q": "q.npy", "k": "k.npy", "global_mask": "mask.npy"}),
        ("q.npy", {"k": "k.npy", "global_mask": "mask.npy"}),
        ("other.npz", {"q": "queries", "k": "keys", "global_mask": "globals"}),
        (None, {"q": "other.npz:queries", "k": "k.npy", "global_mask": "other.npz:globals"}),
        ("q.npy", {"k": "other.npz:keys", "global_mask": "mask.npy:mask"}),
    ],
)
def test_tensors_may_have_other_names_and_lie_in_several_files(parts, source, names):
    loaded = attnviz.load(source, names=names)
    assert torch.equal(loaded.q, parts.q)
    assert torch.equal(loaded.k, parts.k)
    assert torch.equal(loaded.global_mask, parts.global_mask)


def test_a_role_that_is_none_is_refused(parts):
    with pytest.raises(InputError, match="'query' is not a role; the roles are q, k, v"):
        attnviz.load("q.npy", names={"query": "q"})


@pytest.fixture
def layers(tmp_path) -> Path:
    """A dump of layers 0 and 3: the mask is said once, labels and scale differ."""
    path = tmp_path / "layers.safetensors"
    tensors = {"global_mask": small().global_mask}
    for layer in (0, 3):
        inputs = small(seed=layer)
        tensors |= {f"layers.{layer}.q": inputs.q, f"layers.{layer}.k": inputs.k}
    metadata = {"format": 1, "scale": 0.5, "layers": {"3": {"scale": 0.125}}}
    write_tensors(path, tensors, metadata)
    return path


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_is_loaded_by_its_number(layers, layer):
    assert torch.equal(attnviz.load(layers, layer=layer).q, small(seed=layer).q)


@pytest.mark.parametrize(("layer", "scale"), [(0, 0.5), (3, 0.125)])
def test_a_layers_own_settings_come_before_the_dumps(layers, layer, scale):
    assert attnviz.load(layers, layer=layer).scale == scale


def test_a_mask_may_be_said_once_for_all_layers(layers):
    assert torch.equal(attnviz.load(layers, layer=3).global_mask, small().global_mask)


def test_a_layer_is_named_in_errors(layers):
    with pytest.raises(InputError, match=r"layers.safetensors layer 3: batch item 9"):
        attnviz.load(layers, layer=3).item(9)


def test_naming_q_and_k_in_full_needs_no_layer(layers):
    loaded = attnviz.load(layers, names={"q": "layers.0.q", "k": "layers.3.k"})
    assert torch.equal(loaded.q, small(seed=0).q)
    assert torch.equal(loaded.k, small(seed=3).k)


def test_positions_replace_a_mask(tmp_path):
    attnviz.save(tmp_path / "dump.npz", small())
    assert (
        attnviz.load(tmp_path / "dump.npz", global_positions="1,4-5").global_mask.tolist()
        == [[False, True, False, False, True, True]] * 2
    )


def test_positions_replace_even_a_mask_that_does_not_fit(tmp_path):
    inputs = small()
    write_tensors(tmp_path / "dump.npz", {"q": inputs.q, "k": inputs.k, "global_mask": torch.ones(3)})
    assert attnviz.load(tmp_path / "dump.npz", global_positions="0").global_mask.sum() == 2


def test_a_dumps_own_layout_is_taken_unless_another_is_asked_for(tmp_path):
    inputs = small()
    tensors = {"q": inputs.q.transpose(1, 2), "k": inputs.k.transpose(1, 2)}
    write_tensors(tmp_path / "dump.npz", tensors, {"layout": "bthd"})
    assert torch.equal(attnviz.load(tmp_path / "dump.npz").q, inputs.q)
    assert attnviz.load(tmp_path / "dump.npz", names={"k": "q"}, layout="bhtd").H == 6


def test_a_dtype_converts_q_k_and_v(tmp_path):
    attnviz.save(tmp_path / "dump.npz", small())
    loaded = attnviz.load(tmp_path / "dump.npz", dtype="float64")
    assert {loaded.q.dtype, loaded.k.dtype, loaded.v.dtype} == {torch.float64}


def test_a_dtype_makes_unlike_dtypes_alike(tmp_path):
    inputs = small()
    write_tensors(tmp_path / "dump.npz", {"q": inputs.q, "k": inputs.k.double()})
    assert attnviz.load(tmp_path / "dump.npz", dtype="float32").k.dtype == torch.float32


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_only_what_is_wanted_is_read(tmp_path, monkeypatch, suffix):
    attnviz.save(tmp_path / f"dump{suffix}", everything())
    read: list[str] = []
    original = TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda self, name: (read.append(name), original(self, name))[1])
    attnviz.load(tmp_path / f"dump{suffix}", values=False, global_positions="0")
    assert sorted(read) == sorted(
        set(ROLES) - {"v", "v_global", "w_o", "residual_norms", "global_mask", *OF_WEIGHTS, *PACKED}
    )


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": 99}, "was written in dump format 99; this attnviz reads up to 2; update attnviz"),
        ({"format": "x"}, "was written in dump format x"),
        ({"scale": "big"}, "its metadata gives scale as 'big', wanted a number"),
        ({"softcap": [1]}, r"its metadata gives softcap as \[1\]"),
        ({"tokens": "abc"}, "its metadata gives tokens that are not lists of strings"),
        ({"tokens": [["a", 1]]}, "its metadata gives tokens that are not lists of strings"),
        ({"tokens": [["a"]] * 2}, "tokens of batch item 0 has 1 labels, wanted 6"),
        ({"layout": "xyz"}, "layout 'xyz' is not one of"),
        ({"scale": -1}, "scale is -1"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, metadata, says):
    inputs = small()
    write_tensors(tmp_path / "dump.npz", {"q": inputs.q, "k": inputs.k}, metadata)
    with pytest.raises(InputError, match=rf"dump.npz: {says}"):
        attnviz.load(tmp_path / "dump.npz")


def old(tmp_path: Path, inputs: AttentionInputs) -> Path:
    """A dump as format 1 wrote it, whatever is in it."""
    path = tmp_path / "old.safetensors"
    write_tensors(path, tensors_of(inputs), {"format": 1, **layer_metadata(inputs)})
    return path


def cut(inputs: AttentionInputs, T: int) -> AttentionInputs:
    """The last T queries alone."""
    return AttentionInputs(inputs.q[:, :, -T:], inputs.k, inputs.v, pattern=inputs.pattern, bias=inputs.bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_bias_that_hid_in_format_1_hides(tmp_path, dtype):
    least = torch.finfo(dtype).min
    bias = torch.zeros(1, 6, 6, dtype=dtype)
    bias[0, 1, 2], bias[0, 1, 3], bias[0, 1, 4], bias[0, 1, 5] = least, least / 2, least / 4, -torch.inf
    with pytest.warns(Note, match=r"dump format 1, where a bias of -\S+ or less hides a key; 2 of its numbers"):
        read = attnviz.load(old(tmp_path, replace(small(), bias=bias)))
    assert read.bias[0, 0, 1].isinf().tolist() == [False, False, True, True, False, True]
    assert read.bias[0, 0, 1, 4] == least / 4


@pytest.mark.parametrize(("T", "pattern", "noted"), [(6, Local(1), False), (2, Local(1), True), (2, Causal(), False)])
def test_a_window_of_format_1_over_a_part_of_the_queries_is_noted(tmp_path, T, pattern, noted):
    path = old(tmp_path, cut(replace(small(), pattern=pattern), T))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attnviz.load(path)
    assert [one.category for one in caught] == [Note] * noted


def test_what_format_1_understands_otherwise_is_written_as_format_2(tmp_path):
    inputs = small()
    heads = torch.ones(1, 4, 6, 6, dtype=torch.bool)
    written = {
        1: [
            inputs,
            replace(inputs, pattern=Local(1) & Causal()),
            replace(inputs, bias=torch.tensor([[[0.0, -torch.inf]]]).expand(1, 6, 2).repeat(1, 1, 3)),
            replace(inputs, pattern=Masked(heads[0, 0])),
        ],
        2: [
            replace(inputs, cross=True),
            replace(inputs, query_positions=torch.arange(6)),
            replace(inputs, key_positions=torch.arange(6) + 3),
            replace(inputs, pattern=Masked(heads)),
            replace(inputs, pattern=Local(1) | Masked(heads[0, 0])),
            cut(replace(inputs, pattern=Local(1)), 2),
            replace(inputs, bias=torch.full((1, 6, 6), torch.finfo(torch.float32).min)),
        ],
    }
    for version, several in written.items():
        for one in several:
            path = tmp_path / "dump.safetensors"
            attnviz.save(path, one)
            assert open_tensors(path).metadata["format"] == version
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                back = attnviz.load(path)
            assert back.pattern == one.pattern
            assert back.cross == one.cross


def test_an_attention_mask_written_as_numbers_hides_at_minus_10000_and_below(tmp_path):
    inputs = small()
    mask = torch.zeros(6, 6)
    mask[0, 1:5] = torch.tensor([-1e4, -9999.0, torch.finfo(torch.float32).min, -torch.inf])
    write_tensors(tmp_path / "dump.npz", {"q": inputs.q, "k": inputs.k, "attention_mask": mask})
    read = attnviz.load(tmp_path / "dump.npz")
    assert read.pattern.mask[0].tolist() == [True, False, True, False, False, True]
    assert read.bias[0, 0, 0].tolist() == [0, 0, -9999, 0, 0, 0]


def test_while_a_command_runs_a_file_is_opened_once(tmp_path, monkeypatch):
    path = tmp_path / "dump.pt"
    attnviz.save(path, small())
    with opened_once():
        assert open_tensors(path) is open_tensors(path)
        attnviz.save(path, small(batch=1))  # another file of that name
        assert open_tensors(path).read("q").shape[0] == 1
    assert open_tensors(path) is not open_tensors(path)


SIZES = {
    **dict.fromkeys(("q", "q_global"), (1, 2, 4, 2)),
    **dict.fromkeys(("k", "v", "k_global", "v_global"), (1, 1, 4, 2)),
    **dict.fromkeys(("global_mask", "key_padding_mask", "query_padding_mask"), (1, 4)),
    **dict.fromkeys(("query_positions", "key_positions", "documents", "query_documents"), (1, 4)),
    **dict.fromkeys(("alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k"), (2,)),
    **dict.fromkeys(("weights", "logits"), (1, 2, 4, 4)),
    **{"attention_mask": (4, 4), "bias": (2, 4, 4), "block_table": (1, 1), "cache_seqlens": (1,), "w_o": (2, 2, 3)},
    "residual_norms": (1, 4, 2),
}
KINDS = [
    "float8_e4m3fn",
    "float8_e5m2",
    "bits8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int64",
    "bool",
    "complex64",
    "bfloat16",
    "float64",
]


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("role", ROLES)
def test_a_tensor_of_any_dtype_is_computed_with_or_refused(tmp_path, role):
    for kind in KINDS:
        beside = {"weights": torch.full((1, 2, 4, 4), 0.25)} if role == "logits" else {}
        held = {name: torch.ones(SIZES[name]) for name in "qkv"} if not beside and role != "weights" else beside
        dtype = getattr(torch, kind)
        odd = (
            torch.ones(SIZES[role], dtype=torch.uint8).view(dtype)
            if "bits" in kind
            else torch.ones(SIZES[role]).to(dtype)
        )
        torch.save(held | {role: odd}, tmp_path / "dump.pt")
        with suppress(attnviz.InputError):
            found = attnviz.load(tmp_path / "dump.pt")
            attnviz.head_statistics(found, "full")
            attnviz.plot(found, 0, "full")


def test_pages_of_no_sequence_are_refused(tmp_path):
    table = {"block_table": torch.zeros(0, 4, dtype=torch.int64), "cache_seqlens": torch.zeros(0, dtype=torch.int64)}
    for blocks in ((0, 1, 4, 2), (1, 0, 4, 2)):
        torch.save({"q": torch.ones(0, 2, 4, 2), "k": torch.ones(blocks), **table}, tmp_path / "dump.pt")
        with pytest.raises(attnviz.InputError, match=r"wanted \(blocks, block size|q is empty"):
            attnviz.load(tmp_path / "dump.pt")
