import assert from "node:assert/strict";
import { test } from "node:test";
import { type Layer, FORMAT, bounds, indexAt, isOneText, offset, position, positionName, read } from "../src/description";

const layer = (positions: Layer["positions"], fields: Partial<Layer> = {}): Layer => ({
  label: "0", heads: 1, kv_heads: 1, queries: 3, keys: 5, head_dim: 1, query_labels: null, key_labels: null, positions,
  pattern: "full", scale: 1, softcap: null, sinks: null, alibi: null, levels: 1,
  accuracy: { weights: null, logs: [0], logits: [0], sides: [] }, ...fields,
});
const all = (of: Layer, axis: "query" | "key"): number[] =>
  Array.from({ length: axis === "query" ? of.queries : of.keys }, (_, index) => position(of, axis, index));

test("positions that follow each other are written by their first", () => {
  const last = layer({ queries: 2, keys: 0 });
  assert.deepEqual(all(last, "query"), [2, 3, 4]);
  assert.deepEqual(all(last, "key"), [0, 1, 2, 3, 4]);
  assert.equal(offset(last), 2);
  assert.deepEqual([-9, 2, 4, 99].map((wanted) => indexAt(last, "query", wanted)), [0, 0, 2, 2]);
  assert.deepEqual(bounds(last, "query"), [2, 4]);
});

test("positions that do not are written one by one", () => {
  const jumping = layer({ queries: 7, keys: [9, 2, 7, 30, -1] });
  assert.deepEqual(all(jumping, "key"), [9, 2, 7, 30, -1]);
  assert.equal(offset(jumping), null);
  assert.deepEqual([-9, 2, 8, 99].map((wanted) => indexAt(jumping, "key", wanted)), [4, 1, 0, 3]);
  assert.deepEqual(bounds(jumping, "key"), [-1, 30]);
  const named = { format: FORMAT, program: "", source: "", mode: "live" as const, labels: [], layers: [jumping] };
  assert.equal(positionName(named, jumping, "key", 4), "\u22121");
});

test("keys of another sequence have no order with queries, and are called by their indices", () => {
  const cross = layer(null);
  assert.deepEqual(all(cross, "query"), [0, 1, 2]);
  assert.equal(offset(cross), null);
});

test("one text shows both where queries and keys are the same tokens", () => {
  const square = { queries: 3, keys: 3 };
  assert.ok(isOneText(layer({ queries: 0, keys: 0 }, square)));
  assert.ok(isOneText(layer({ queries: [4, 2, 9], keys: [4, 2, 9] }, square)));
  assert.ok(!isOneText(layer({ queries: 4, keys: 0 }, square)));
  assert.ok(!isOneText(layer(null, square)));
  assert.ok(!isOneText(layer({ queries: 0, keys: 0 }, { ...square, key_labels: 0 })));
  assert.ok(!isOneText(layer({ queries: 0, keys: 0 })));
});

test("a page of another format is refused", () => {
  assert.equal(read(`{"format": ${FORMAT}}`).format, FORMAT);
  assert.throws(() => read('{"format": 1}'), /format 1 is not one this page can read/);
});
