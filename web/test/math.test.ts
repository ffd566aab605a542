import assert from "node:assert/strict";
import { test } from "node:test";
import type { Reduce } from "../src/description";
import { type Head, TILE, halve, logits, reduce, seen, tileOf, weights } from "../src/source/math";

/** Numbers that look random and are the same everywhere. */
function* noise(seed: number): Generator<number, never, void> {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 31 - 1;
  }
}

const T = 13;
const S = 17;
const D = 6;

const between = (t: number, s: number): number => Math.abs(t + 4 - s);

/** A head, and its logits by the formula in plain loops. */
function made(change: Partial<Head>, sink: number | null = null): { head: Head; reference: number[][] } {
  const random = noise(7);
  const draw = (size: number): Float64Array => Float64Array.from({ length: size }, () => 2 * random.next().value);
  const head: Head = {
    queries: T, keys: S, dim: D, q: draw(T * D), k: draw(S * D), globalK: null, globalRows: new Set(), scale: 0.4,
    softcap: null, slope: 0, distance: between, bias: null, logSumExp: new Float32Array(T), band: { low: -Infinity, high: Infinity },
    sees: null, ...change,
  };
  if (head.globalRows.size) head.globalK = draw(S * D);
  const reference: number[][] = [];
  for (let t = 0; t < T; t++) {
    reference.push([]);
    for (let s = 0; s < S; s++) {
      const keys = head.globalRows.has(t) ? head.globalK! : head.k;
      let logit = 0;
      for (let d = 0; d < D; d++) logit += head.q[t * D + d] * keys[s * D + d];
      logit *= head.scale;
      if (head.softcap) logit = head.softcap * Math.tanh(logit / head.softcap);
      if (head.bias) logit += head.bias[t * S + s];
      logit -= head.slope * head.distance(t, s);
      const hidden = s - t < head.band.low || s - t > head.band.high || (head.sees && !head.sees(t, s));
      reference[t].push(hidden ? -Infinity : logit);
    }
    const visible = reference[t].filter((logit) => logit > -Infinity);
    const total = visible.reduce((sum, logit) => sum + Math.exp(logit), sink === null ? 0 : Math.exp(sink));
    head.logSumExp[t] = visible.length ? Math.log(total) : NaN;
  }
  return { head, reference };
}

const CASES: Record<string, { head: Head; reference: number[][] }> = {
  full: made({}),
  causal: made({ band: { low: -Infinity, high: S - T } }),
  window: made({ band: { low: -2, high: 2 } }),
  "window far from some queries": made({ band: { low: 12, high: 14 } }),
  "padded keys and queries": made({ sees: (t, s) => s < 11 && t !== 3 }),
  "softcap, bias, ALiBi": made({ softcap: 0.7, bias: Float64Array.from({ length: T * S }, (_, i) => Math.sin(i)), slope: 0.2 }),
  "ALiBi between positions that jump": made({ slope: 0.2, distance: (t, s) => Math.abs(((t * 7) % 13) - ((s * 5) % 17)) }),
  sink: made({}, 1.5),
  "global queries with their own keys": made({ globalRows: new Set([0, 5]) }),
};

const close = (a: number, b: number, within = 1e-6): boolean =>
  Number.isNaN(b) ? Number.isNaN(a) : a === b || Math.abs(a - b) <= within;

function wanted({ head, reference }: (typeof CASES)[string], t: number, s: number): number {
  return reference[t][s] === -Infinity ? NaN : Math.exp(reference[t][s] - head.logSumExp[t]);
}

for (const [name, known] of Object.entries(CASES)) {
  test(`logits and weights of a rectangle: ${name}`, () => {
    const rectangle = { queries: [2, 11] as [number, number], keys: [3, 16] as [number, number] };
    const found = logits(known.head, rectangle);
    const shares = weights(known.head, rectangle);
    for (let t = 2; t < 11; t++) {
      for (let s = 3; s < 16; s++) {
        const at = (t - 2) * 13 + s - 3;
        assert.ok(close(found[at], known.reference[t][s]), `logit ${t} ${s}: ${found[at]}`);
        assert.ok(close(shares[at], wanted(known, t, s)), `weight ${t} ${s}: ${shares[at]}`);
      }
    }
  });

  for (const how of ["max", "mass"] as Reduce[]) {
    for (const size of [1, 2, 4]) {
      test(`cells of ${size}, ${how}: ${name}`, () => {
        const found = finish(reduce(known.head, { queries: [0, T], keys: [0, S], size }, how));
        const columns = Math.ceil(S / size);
        for (let r = 0; r < Math.ceil(T / size); r++) {
          for (let c = 0; c < columns; c++) {
            const value = found[r * columns + c];
            assert.ok(close(value, cell(known, r, c, size, how)), `${r} ${c}: ${value}`);
          }
        }
      });
    }

    test(`halving cells of 2 gives cells of 4, ${how}: ${name}`, () => {
      const make = (size: number): Float32Array =>
        finish(reduce(known.head, { queries: [0, T], keys: [0, S], size }, how));
      const fine = { rows: 7, columns: 9, values: make(2), counts: seen(known.head.logSumExp, 2) };
      const coarse = halve(fine, how);
      const direct = make(4);
      assert.equal(coarse.values.length, direct.length);
      for (const [i, value] of coarse.values.entries()) assert.ok(close(value, direct[i]), `${i}: ${value}`);
    });
  }
}

/** A cell by its definition: the largest weight, or the mean over queries that see anything of their sums. */
function cell(known: (typeof CASES)[string], row: number, column: number, size: number, how: Reduce): number {
  let found = NaN;
  let queries = 0;
  for (let t = row * size; t < Math.min(T, (row + 1) * size); t++) {
    if (known.reference[t].some((logit) => logit > -Infinity)) queries++;
    for (let s = column * size; s < Math.min(S, (column + 1) * size); s++) {
      const weight = wanted(known, t, s);
      if (Number.isNaN(weight)) continue;
      if (how === "max") found = Number.isNaN(found) ? weight : Math.max(found, weight);
      else found = (Number.isNaN(found) ? 0 : found) + weight;
    }
  }
  return how === "max" ? found : found / Math.max(queries, 1);
}

function finish(steps: Generator<void, Float32Array, void>): Float32Array {
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

test("a tile is cut out of a map, with nothing past the map's end", () => {
  const columns = TILE + 3;
  const values = Float32Array.from({ length: 2 * columns }, (_, i) => i);
  const tile = tileOf({ rows: 2, columns, values }, 0, 1);
  assert.deepEqual([...tile.subarray(0, 4)], [TILE, TILE + 1, TILE + 2, NaN]);
  assert.equal(tile[TILE], columns + TILE);
  assert.ok(Number.isNaN(tile[2 * TILE]));
});
