import assert from "node:assert/strict";
import { test } from "node:test";
import type { Blob, Description, Layer } from "../src/description";
import { Engine } from "../src/source/engine";

/** Arrays of a page, in one chunk. */
class Chunk {
  bytes: number[] = [];

  floats(shape: number[], values: number[]): Blob {
    return this.add("f32", shape, [...new Uint8Array(Float32Array.from(values).buffer)]);
  }

  bits(shape: number[], bytes: number[]): Blob {
    return this.add("bits", shape, bytes);
  }

  private add(dtype: Blob["dtype"], shape: number[], bytes: number[]): Blob {
    const offset = this.bytes.length;
    this.bytes.push(...bytes);
    return { chunk: 0, offset, length: bytes.length, deflate: false, dtype, shape };
  }
}

test("each head sees by its own bits, and distances are between positions", async () => {
  const chunk = new Chunk();
  const layer: Layer = {
    label: "0", heads: 2, kv_heads: 1, queries: 2, keys: 4, head_dim: 1, query_labels: null, key_labels: null,
    positions: { queries: [9, 0], keys: [5, 0, 1, 8] },
    accuracy: { weights: null, logs: [0, 0], logits: [0, 0], sides: [] }, pattern: "own mask", scale: 1, softcap: null, sinks: null, alibi: [0.5, 2], levels: 1,
    q: chunk.floats([2, 2, 1], [0, 0, 0, 0]),
    k: chunk.floats([1, 4, 1], [0, 0, 0, 0]),
    log_sum_exp: chunk.floats([2, 2], [0, 0, 0, NaN]),
    visible: { kind: "bits", blobs: [chunk.bits([2, 4], [0b11111001]), chunk.bits([2, 4], [0b00000010])] },
  };
  const run: Description = { format: 2, program: "", source: "", mode: "embedded", labels: [], layers: [layer] };
  const engine = new Engine(run, async () => Uint8Array.from(chunk.bytes));
  const ask = (kind: "weights" | "logits", head: number): Promise<Float32Array> =>
    engine.answer({ kind, layer: 0, head, rectangle: { queries: [0, 2], keys: [0, 4] } }, async () => {});
  const none = -Infinity;
  assert.deepEqual([...(await ask("logits", 0))], [-2, none, none, -0.5, -2.5, 0, -0.5, -4]);
  assert.deepEqual([...(await ask("logits", 1))], [none, -18, none, none, none, none, none, none]);
  const blank = [...(await ask("weights", 1))].slice(4);
  assert.ok(blank.every(Number.isNaN), `${blank}`);
});
