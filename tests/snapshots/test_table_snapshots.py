"""What the commands print, as files in ``__snapshots__/test_table_snapshots/``."""

from __future__ import annotations

import json

import pytest
import torch

TOKENS = [
    "[CLS]",  # not rich markup
    "注意",
    "ヘッド",
    "한국어",
    "naïve",
    "a|b",
    "line\nbreak\tand tab",
    "supercalifragilistic",
    "長いトークンは切り詰める",
    " Ġthe",
    "\x1b[31mred",  # never an escape sequence
    "",
]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("values", ["weights", "logits"])
def test_a_small_table(attnviz_says, dump, snapshot_of, values, width):
    name = dump(tokens=8, global_positions=(0, 3, 5, 7))  # whose headers fit on one line in 100 cells, not in 80
    assert attnviz_says("score", name, "--head", "0,3", "--values", values, width=width) == snapshot_of("txt")


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_table_leaves_out_the_middle(attnviz_says, dump, snapshot_of, width):
    name = dump(heads=2, tokens=5000, head_dim=8, global_positions=range(0, 5000, 400))
    said = attnviz_says("score", name, "--head", "1", "--rows", "8", width=width)
    assert max(map(len, said.splitlines())) <= width
    assert said == snapshot_of("txt")


def test_tokens_of_many_scripts_stay_in_their_columns(attnviz_says, dump, snapshot_of):
    name = dump(heads=1, tokens=12, head_dim=8, global_positions=(0, 1, 7), changes={"tokens": [TOKENS]})
    assert attnviz_says("score", name) == snapshot_of("txt")


def test_padded_queries_are_blank(attnviz_says, dump, snapshot_of):
    exists = torch.arange(6) < 4
    name = dump(heads=1, tokens=6, head_dim=8, global_positions=(0, 2), changes={"key_padding_mask": exists[None]})
    assert attnviz_says("score", name) == snapshot_of("txt")


def test_several_batch_items(attnviz_says, dump, snapshot_of):
    mask = torch.tensor([[True, False, False], [False, True, True]])
    name = dump(heads=1, tokens=3, head_dim=8, batch=2, global_positions=(0,), changes={"global_mask": mask})
    assert attnviz_says("score", name, "--batch", "all") == snapshot_of("txt")


def test_markdown(attnviz_says, dump, snapshot_of):
    name = dump(heads=1, tokens=12, head_dim=8, global_positions=(0, 1, 5), changes={"tokens": [TOKENS]})
    assert attnviz_says("score", name, "--format", "markdown") == snapshot_of("md")


def test_json(attnviz_says, dump, snapshot_of):
    name = dump(heads=2, kv_heads=1, tokens=4, head_dim=8, global_positions=(0, 2))
    assert readable(attnviz_says("score", name, "--format", "json")) == snapshot_of("json")


def test_csv(attnviz_says, dump, snapshot_of):
    name = dump(heads=2, tokens=3, head_dim=8, global_positions=(0, 2), changes={"tokens": [["a", "b, c", '"注意"']]})
    assert attnviz_says("score", name, "--format", "csv") == snapshot_of("csv")


def test_inspect(attnviz_says, dump, snapshot_of):
    assert attnviz_says("inspect", dump(kv_heads=2)) == snapshot_of("txt")


def test_inspect_json(attnviz_says, dump, snapshot_of):
    name = dump(heads=2, tokens=3, global_positions=(0,))
    assert readable(attnviz_says("inspect", name, "--format", "json")) == snapshot_of("json")


def test_inspect_layers_and_what_is_missing(attnviz_says, tmp_path, snapshot_of):
    from safetensors.torch import save_file

    tensors = {f"layers.{layer}.{role}": torch.zeros(4, 16, 8) for layer in range(2) for role in ("q", "keys")}
    save_file({**tensors, "embedding": torch.zeros(16, 32, dtype=torch.bfloat16)}, tmp_path / "layers.safetensors")
    assert attnviz_says("inspect", "layers.safetensors") == snapshot_of("txt")


def readable(line: str) -> str:
    """A document that came as one line, in lines that a reviewer can compare: a row of numbers each."""
    document = json.loads(line)
    assert line.count("\n") == 1

    def lines(value: object, indent: str) -> str:
        deeper = indent + "  "
        flat = json.dumps(value, ensure_ascii=False)
        if len(indent + flat) <= 100 or not isinstance(value, dict | list):
            return flat
        if isinstance(value, dict):
            parts = [f"{json.dumps(key)}: {lines(part, deeper)}" for key, part in value.items()]
        else:
            parts = [lines(part, deeper) for part in value]
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return opening + "\n" + ",\n".join(deeper + part for part in parts) + "\n" + indent + closing

    return lines(document, "") + "\n"
