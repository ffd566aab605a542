import assert from "node:assert/strict";
import { test } from "node:test";
import type { Description, Layer } from "../src/description";
import { type Matrix, cellsOf, difference, merged, sidesOf, thumbnailOf, tileOf, together, without } from "../src/made/matrix";
import { leftOut, rangesOf, sentencesOf } from "../src/made/rule";
import { madeDescription, wordOf } from "../src/made/description";

const HIDDEN = Number.NaN;

/** Causal rows that sum to 1, of any size. */
function causal(rows: number, columns: number, seed = 1): Matrix {
  const values = new Float32Array(rows * columns).fill(HIDDEN);
  let state = seed;
  for (let t = 0; t < rows; t++) {
    const row = Array.from({ length: Math.min(columns, t + 1) }, () => (state = (state * 16807) % 2147483647) / 2147483647);
    const sum = row.reduce((a, b) => a + b, 0);
    for (const [s, value] of row.entries()) values[t * columns + s] = value / sum;
  }
  return { rows, columns, values };
}

const at = ({ columns, values }: Matrix, t: number, s: number) => values[t * columns + s];
const near = (a: number, b: number) => assert.ok(Number.isNaN(a) ? Number.isNaN(b) : Math.abs(a - b) < 1e-6, `${a} is not ${b}`);

test("keys that are left out take their share with them, or what is left is made to sum to 1", () => {
  const of = causal(7, 7);
  for (const again of [false, true]) {
    const { matrix, left } = without(of, new Set([0, 3]), new Set([6]), again);
    for (let t = 0; t < 7; t++) {
      let [out, rest] = [0, 0];
      for (let s = 0; s <= t; s++) [0, 3].includes(s) ? (out += at(of, t, s)) : (rest += at(of, t, s));
      near(left[t], t === 6 ? 0 : out);
      for (let s = 0; s < 7; s++) {
        const gone = s > t || s === 0 || s === 3 || t === 6;
        near(at(matrix, t, s), gone ? HIDDEN : at(of, t, s) / (again ? rest : 1));
      }
    }
  }
  assert.ok(Number.isNaN(at(without(of, new Set([0]), new Set(), true).matrix, 0, 0))); // nothing is left of it
});

test("words have the sum of their keys and the mean of their queries that see anything", () => {
  const of = causal(5, 6);
  for (let s = 0; s < 6; s++) of.values[1 * 6 + s] = HIDDEN;
  const [queries, keys] = [[0, 2, 5], [0, 1, 4, 6]];
  const found = merged(of, queries, keys);
  for (let a = 0; a < 2; a++) {
    for (let b = 0; b < 3; b++) {
      let [sum, count, seen] = [0, 0, false];
      for (let t = queries[a]; t < queries[a + 1]; t++) {
        count += t === 1 ? 0 : 1;
        for (let s = keys[b]; s < keys[b + 1]; s++) if (!Number.isNaN(at(of, t, s))) [sum, seen] = [sum + at(of, t, s), true];
      }
      near(at(found, a, b), seen ? sum / count : HIDDEN);
    }
  }
});

test("a difference takes what one side alone sees as 0 on the other; heads together likewise", () => {
  const [a, b] = [causal(4, 4), causal(4, 4, 5)];
  b.values[2 * 4 + 1] = HIDDEN;
  near(at(difference(a, b), 3, 2), at(a, 3, 2) - at(b, 3, 2));
  near(at(difference(a, b), 2, 1), at(a, 2, 1));
  assert.ok(Number.isNaN(at(difference(a, b), 0, 3)));
  near(at(together([a, b], "mean"), 2, 1), at(a, 2, 1) / 2);
  near(at(together([a, b], "max"), 3, 2), Math.max(at(a, 3, 2), at(b, 3, 2)));
});

test("tiles and thumbnails hold of each cell what is farthest from 0, or its mass", () => {
  const of = difference(causal(600, 520), causal(600, 520, 9));
  const mass = causal(600, 520);
  const size = 2;
  for (const [row, column] of [[0, 0], [1, 1], [1, 0]]) {
    const found = tileOf(of, size, row, column, "max");
    const masses = tileOf(mass, size, row, column, "mass");
    for (const [y, x] of [[0, 0], [3, 1], [43, 3], [255, 7], [40, 255]]) {
      const [t0, s0] = [(row * 256 + y) * size, (column * 256 + x) * size];
      let [far, sum, seen] = [HIDDEN, 0, false];
      for (let t = t0; t < Math.min(600, t0 + size); t++) {
        for (let s = s0; s < Math.min(520, s0 + size); s++) {
          if (!Number.isNaN(at(of, t, s)) && !(Math.abs(far) >= Math.abs(at(of, t, s)))) far = at(of, t, s);
          if (!Number.isNaN(at(mass, t, s))) [sum, seen] = [sum + at(mass, t, s), true];
        }
      }
      near(found[y * 256 + x], far);
      near(masses[y * 256 + x], seen ? sum / Math.max(0, Math.min(600, t0 + size) - t0) : HIDDEN);
    }
  }
  const small = thumbnailOf(of);
  assert.deepEqual([small.rows, small.columns], [64, 64]);
  for (const [y, x] of [[0, 0], [40, 3], [63, 63]]) {
    let far = HIDDEN;
    for (let t = Math.floor((y * 600) / 64); t < Math.floor(((y + 1) * 600) / 64); t++) {
      for (let s = Math.floor((x * 520) / 64); s < Math.floor(((x + 1) * 520) / 64); s++) {
        if (!Number.isNaN(at(of, t, s)) && !(Math.abs(far) >= Math.abs(at(of, t, s)))) far = at(of, t, s);
      }
    }
    near(small.values[y * 64 + x], far);
  }
  const part = cellsOf(of, 1, { row: 5, column: 2 }, 2, 3, "max");
  assert.deepEqual([...part], [0, 1, 2].map((s) => at(of, 5, s + 2)).concat([0, 1, 2].map((s) => at(of, 6, s + 2))));
});

test("at the sides a key has the mean of those that see it, a query its entropy and its largest", () => {
  const of = causal(4, 5);
  const { received, entropy, largest } = sidesOf(of, false);
  near(received[3], at(of, 3, 3));
  near(received[1], (at(of, 1, 1) + at(of, 2, 1) + at(of, 3, 1)) / 3);
  assert.ok(Number.isNaN(received[4]));
  for (let t = 0; t < 4; t++) {
    const row = Array.from({ length: t + 1 }, (_, s) => at(of, t, s));
    near(entropy[t], -row.reduce((sum, weight) => sum + weight * Math.log(weight), 0));
    near(largest[t], Math.max(...row));
  }
  assert.ok(sidesOf(of, true).entropy.every(Number.isNaN)); // a difference has none
});

const TOKENS = ["[CLS]", "un", "##wise", "!", "[SEP]", "yes", ",", "[SEP]"];

function page(): Description {
  const layer = {
    queries: 8, keys: 8, query_labels: 0, key_labels: 0, positions: { queries: 0, keys: 0 }, pattern: "full", query_words: 0,
    key_words: 0, heads: 1, kv_heads: 1, levels: 1, accuracy: { weights: [1e-4], logs: [1e-3], logits: [0] },
    origin: { command: "dump.npz", inputs: "attnviz.load('dump.npz')", options: "", head: true, first: [0, 0], cropped: false },
  } as unknown as Layer;
  return { labels: [TOKENS], numbers: [[0, 1, 3, 4, 5, 6, 7, 8]], layers: [layer], statistics: [] } as unknown as Description;
}

test("what is left out is found by the tokens; sentences lie between special ones", () => {
  const description = page();
  const [layer] = description.layers;
  const none = { out: [], again: false, words: false, sides: null, together: null, logits: false };
  const keys = (rule: object) => [...leftOut({ ...none, ...rule }, description, layer).keys].sort((a, b) => a - b);
  assert.deepEqual(keys({ out: ["special"] }), [0, 4, 7]);
  assert.deepEqual(keys({ out: ["first", "punctuation"] }), [0, 3, 6]);
  assert.deepEqual(sentencesOf(description, layer), [[1, 4], [5, 7]]);
  assert.deepEqual(keys({ sides: [0, 1] }), [0, 1, 2, 3, 4, 7]);
  assert.deepEqual([...leftOut({ ...none, sides: [0, 1] }, description, layer).queries], [0, 4, 5, 6, 7]);
  assert.deepEqual(keys({ sides: [7, 9] }), []); // there are no such sentences
  assert.equal(rangesOf([7, 0, 3, 4, 5]), "0,3-5,7");
});

test("a description of words names them, and what makes them on the command line and in Python", () => {
  const rule = { out: ["special" as const], again: true, words: true, sides: null, together: null, logits: false };
  const made = madeDescription(page(), () => rule);
  const [layer] = made.layers;
  assert.deepEqual([layer.queries, layer.keys, layer.given, layer.levels], [7, 7, true, 1]);
  assert.deepEqual(made.labels[layer.key_labels!], ["[CLS]", "unwise", "!", "[SEP]", "yes", ",", "[SEP]"]);
  assert.equal(layer.pattern, "full, words, 3 keys left out, renormalized");
  assert.equal(layer.origin!.command, "dump.npz --merge words --hide 0,4,7 --renormalize");
  assert.equal(layer.origin!.options, 'merge="words", hide="0,4,7", renormalize=True');
  const again = page();
  again.layers[0].origin!.command = "dump.npz --hide 3";
  assert.equal(madeDescription(again, () => rule).layers[0].origin!.command, null);
  assert.equal(wordOf([" un", "believ", "##able"]), " unbelievable");
});
