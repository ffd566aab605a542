"""How commands read files: each opened once, each tensor read once, and old ones with a word about what they meant."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Local
from attnviz.sources.files import SafetensorsFile, TensorFile, write_tensors
from attnviz.sources.saving import layer_metadata, tensors_of
from tests.cases import small

COMMANDS = [
    ("score", "--layer", 0),
    ("stats",),
    ("plot", "--layer", 1, "-o", "map.npz"),
    ("overview", "-o", "overview.png"),
    ("html", "-o", "page.html"),
    ("context", "--layer", 0, "-o", "context.npz"),
    ("inspect",),
]


@pytest.fixture
def old(folder) -> str:
    """A dump of format 1: two layers of two queries on six keys, with a window."""
    inputs = replace(small(), pattern=Local(2))
    short = AttentionInputs(inputs.q[:, :, -2:], inputs.k, inputs.v, pattern=inputs.pattern)
    tensors = {f"layers.{n}.{role}": tensor for n in range(2) for role, tensor in tensors_of(short).items()}
    write_tensors(folder / "old.safetensors", tensors, {"format": 1, **layer_metadata(short)})
    return "old.safetensors"


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_opens_a_dump_once_and_reads_no_tensor_twice(run, old, monkeypatch, command):
    opened: list[str] = []
    read: list[str] = []
    contents, reading = SafetensorsFile._contents, TensorFile.read
    monkeypatch.setattr(SafetensorsFile, "_contents", lambda self: (opened.append(self.path.name), contents(self))[1])
    monkeypatch.setattr(TensorFile, "read", lambda self, name: (read.append(name), reading(self, name))[1])
    result = run(command[0], old, *command[1:])
    assert result.code == 0, result.err
    assert opened == [old]
    assert len(read) == len(set(read))


@pytest.mark.parametrize("command", COMMANDS[:-1], ids=lambda command: command[0])
def test_what_format_1_meant_is_said_once(run, old, command):
    result = run(command[0], old, *command[1:])
    notes = [line for line in result.err.splitlines() if "format 1" in line]
    assert len(notes) == 1
    assert notes[0].startswith("attnviz: old.safetensors: written in dump format 1, whose windows counted queries from")
    assert "Warning" not in result.err


def test_a_dump_of_today_is_read_without_a_word(run, folder):
    inputs = small()
    write_tensors(folder / "new.safetensors", {"q": inputs.q[:, :, -2:], "k": inputs.k}, {"format": 2})
    assert run("stats", "new.safetensors", "--pattern", "local", "--window", 2).err == ""


def test_packed_sequences_are_batch_items(run, folder):
    """FlashAttention's own shapes, from the file to the numbers of the second sequence."""
    inputs = attnviz.synthesize(heads=2, tokens=6)
    q, k = (torch.cat([tensor[0].transpose(0, 1)[:2], tensor[0].transpose(0, 1)]) for tensor in (inputs.q, inputs.k))
    write_tensors(folder / "held.npz", {"q": q, "k": k, "cu_seqlens": torch.tensor([0, 2, 8])})
    refused = run("stats", "held.npz", "--pattern", "causal")
    assert "several sequences, packed; say so: --cu-seqlens-q cu_seqlens" in refused.err
    asked = ["stats", "held.npz", "--cu-seqlens-q", "cu_seqlens", "--batch", "1", "--pattern", "causal"]
    rows = json.loads(run(*asked, "--format", "json").out)["heads"]
    wanted = attnviz.head_statistics(AttentionInputs(inputs.q, inputs.k), "causal")
    for row, one in zip(rows, wanted, strict=True):
        assert row["entropy"] == pytest.approx(one.entropy, abs=1e-5)
