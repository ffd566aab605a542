import assert from "node:assert/strict";
import { test } from "node:test";
import type { Description, Layer } from "../src/description";
import { type Matrix, SideSums, ThumbnailCells, cellsOf, difference, merged, together, without } from "../src/made/matrix";
import { type Make, MadeSource } from "../src/made/source";
import type { Source } from "../src/source/source";
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
    let all = 0;
    for (let t = 0; t < 7; t++) {
      let [out, rest] = [0, 0];
      for (let s = 0; s <= t; s++) [0, 3].includes(s) ? (out += at(of, t, s)) : (rest += at(of, t, s));
      all += t === 6 ? 0 : out;
      for (let s = 0; s < 7; s++) {
        const gone = s > t || s === 0 || s === 3 || t === 6;
        near(at(matrix, t, s), gone ? HIDDEN : at(of, t, s) / (again ? rest : 1));
      }
    }
    near(left.sum, all);
    assert.equal(left.count, 6);
  }
  assert.ok(Number.isNaN(at(without(of, new Set([0]), new Set(), true).matrix, 0, 0))); // nothing is left of it
  const later = { rows: 2, columns: 7, values: of.values.slice(5 * 7) };
  const { matrix, left } = without(later, new Set([0]), new Set([6]), false, 5); // rows 5 and 6 alone
  near(at(matrix, 0, 1), at(of, 5, 1));
  assert.ok(Number.isNaN(at(matrix, 1, 1)));
  assert.deepEqual(left, { sum: at(of, 5, 0), count: 1 });
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

/** A source of one made map, of rows of a matrix. */
function sourceOf(of: Matrix, signed = false, asked: number[] = []): MadeSource {
  const levels = Math.max(1, Math.ceil(Math.log2(Math.max(of.rows, of.columns) / 256)) + 1);
  const layer = { queries: of.rows, keys: of.columns, heads: 1, levels, signed } as unknown as Layer;
  const make: Make = async (_layer, _head, [first, end]) => {
    asked.push(end - first);
    const values = of.values.slice(first * of.columns, end * of.columns);
    return { matrix: { rows: end - first, columns: of.columns, values }, left: { sum: end - first, count: 2 * (end - first) } };
  };
  return new MadeSource({ layers: [layer] } as unknown as Description, {} as Source, make);
}

test("a map that is longer than a block of its rows is what it is in one", async () => {
  const of = causal(5000, 2500); // blocks of 1,024 rows, an overview of 8 x 8 weights a cell
  const asked: number[] = [];
  const source = sourceOf(of, false, asked);
  for (const level of [0, 1, 2, 3, 5]) {
    const size = 2 ** (5 - level);
    for (const how of ["max", "mass"] as const) {
      const [row, column] = [Math.floor(4600 / (256 * size)), Math.floor(600 / (256 * size))];
      const tile = await source.tile(0, 0, level, row, column, how);
      for (const [y, x] of [[0, 0], [7, 31], [100, 60], [255, 255]]) {
        const [t0, s0] = [(row * 256 + y) * size, (column * 256 + x) * size];
        let [far, sum, rows] = [HIDDEN, 0, 0];
        for (let t = t0; t < Math.min(5000, t0 + size); t++) {
          rows++;
          for (let s = s0; s < Math.min(2500, s0 + size); s++) {
            const weight = at(of, t, s);
            if (Number.isNaN(weight)) continue;
            [far, sum] = [far >= weight ? far : weight, sum + weight];
          }
        }
        near(tile[y * 256 + x], how === "max" || Number.isNaN(far) ? far : sum / rows);
      }
    }
  }
  assert.ok(Math.max(...asked) <= 1024);
  const [rectangle, column, row] = await Promise.all([
    source.weights(0, 0, { queries: [1000, 1100], keys: [5, 9] }), source.column(0, 0, 17), source.row(0, 0, 4999),
  ]);
  near(rectangle[50 * 4 + 2], at(of, 1050, 7));
  for (const t of [0, 17, 1024, 4999]) near(column[t], at(of, t, 17));
  near(row[2499], at(of, 4999, 2499));
  const { received, entropy, largest } = await source.sides(0, 0);
  let mean = 0;
  for (let t = 2000; t < 5000; t++) mean += at(of, t, 2000) / 3000;
  near(received[2000], mean);
  near(largest[3000], Math.max(...of.values.subarray(3000 * 2500, 3001 * 2500)));
  near(entropy[1], -[0, 1].reduce((nats, s) => nats + at(of, 1, s) * Math.log(at(of, 1, s)), 0));
  assert.deepEqual(await source.left(0, 0), { sum: 5000, count: 10000 });
  const fresh = sourceOf(of);
  const [some, every] = [await fresh.thumbnail(0, 0, false), await fresh.thumbnail(0, 0, true)];
  assert.deepEqual([some.queries, every.queries, some.rows], [64, null, 64]);
  assert.ok(some.values.every((value, i) => Number.isNaN(value) || value <= every.values[i]));
  assert.deepEqual(await fresh.thumbnail(0, 0, false), every); // now that it was made
});

test("a pass that nobody waits for ends", async () => {
  const asked: number[] = [];
  const source = sourceOf(causal(5000, 2500), false, asked);
  const stop = new AbortController();
  const tile = source.tile(0, 0, 0, 0, 0, "max", stop.signal);
  stop.abort();
  await assert.rejects(tile, { name: "AbortError" });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(asked.length <= 2);
  assert.deepEqual(source.passes.value, []);
});

test("tiles and thumbnails hold of each cell what is farthest from 0, or its mass", async () => {
  const of = difference(causal(600, 520), causal(600, 520, 9));
  const mass = causal(600, 520);
  const size = 2;
  for (const [row, column] of [[0, 0], [1, 1], [1, 0]]) {
    const found = await sourceOf(of, true).tile(0, 0, 1, row, column, "max"); // of three levels
    const masses = await sourceOf(mass).tile(0, 0, 1, row, column, "mass");
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
  const small = new ThumbnailCells(600, 520);
  for (const first of [0, 256, 512]) {
    const end = Math.min(600, first + 256);
    small.add({ rows: end - first, columns: 520, values: of.values.subarray(first * 520, end * 520) }, first);
  }
  assert.deepEqual([small.rows, small.columns], [64, 64]);
  for (const [y, x] of [[0, 0], [40, 3], [63, 63]]) {
    let far = HIDDEN;
    for (let t = Math.floor((y * 600) / 64); t < Math.floor(((y + 1) * 600) / 64); t++) {
      for (let s = Math.floor((x * 520) / 64); s < Math.floor(((x + 1) * 520) / 64); s++) {
        if (!Number.isNaN(at(of, t, s)) && !(Math.abs(far) >= Math.abs(at(of, t, s)))) far = at(of, t, s);
      }
    }
    near(small.found.values[y * 64 + x], far);
  }
  const part = cellsOf(of, 1, { row: 5, column: 2 }, 2, 3, "max");
  assert.deepEqual([...part.values], [0, 1, 2].map((s) => at(of, 5, s + 2)).concat([0, 1, 2].map((s) => at(of, 6, s + 2))));
});

test("at the sides a key has the mean of those that see it, a query its entropy and its largest", () => {
  const of = causal(4, 5);
  const sides = (signed: boolean) => {
    const sums = new SideSums(4, 5, signed);
    for (const first of [0, 3]) sums.add({ rows: first === 0 ? 3 : 1, columns: 5, values: of.values.slice(first * 5, first === 0 ? 15 : 20) }, first);
    return sums.made();
  };
  const { received, entropy, largest } = sides(false);
  near(received[3], at(of, 3, 3));
  near(received[1], (at(of, 1, 1) + at(of, 2, 1) + at(of, 3, 1)) / 3);
  assert.ok(Number.isNaN(received[4]));
  for (let t = 0; t < 4; t++) {
    const row = Array.from({ length: t + 1 }, (_, s) => at(of, t, s));
    near(entropy[t], -row.reduce((sum, weight) => sum + weight * Math.log(weight), 0));
    near(largest[t], Math.max(...row));
  }
  assert.ok(sides(true).entropy.every(Number.isNaN)); // a difference has none
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
