import assert from "node:assert/strict";
import { test } from "node:test";
import type { Description, Layer } from "../src/description";
import { LEAST_ZOOM, MAX_ZOOM, bringing, changed, format, holds, initial, opening, parse, scaleOf, windowOf } from "../src/state";

const layer = (fields: Partial<Layer>): Layer => ({
  label: "0", heads: 4, kv_heads: 4, queries: 100, keys: 120, head_dim: 8, query_labels: null, key_labels: null,
  pattern: "full", scale: 1, softcap: null, sinks: null, alibi: null, levels: 1, positions: null,
  accuracy: { weights: null, logs: [], logits: [], sides: [] }, ...fields,
});
const RUN: Description = {
  format: 2, program: "attnviz", source: "x", mode: "embedded", labels: [],
  layers: [layer({}), layer({ label: "1", heads: 2, queries: 50, keys: 50 })],
};

test("a written state reads as itself", () => {
  const state = {
    ...initial(RUN), view: "map" as const, layer: 1, head: 1, query: 12, key: 4, reduce: "mass" as const,
    strength: "relative" as const, keys: 9, all: true, scale: "log" as const, x: 3.25, y: 40, zoom: -1.5, theme: "dark" as const, heads: [0], first: 7, count: 20,
  };
  assert.deepEqual(parse(format(state, RUN), RUN), state);
  assert.deepEqual(parse(`#${format(initial(RUN), RUN)}`, RUN), initial(RUN));
});

test("the fragment of the contract", () => {
  const state = parse("#view=map&layer=0&head=3&query=12&key=4&reduce=max&scale=log&x=1&y=2&zoom=3&theme=dark&heads=0,3&first=0&count=64", RUN);
  assert.equal(state.head, 3);
  assert.equal(state.scale, "log");
  assert.deepEqual(state.heads, [0, 3]);
  assert.equal(state.count, 64);
});

test("a long map is logarithmic where nothing else is said", () => {
  const long: Description = { ...RUN, layers: [layer({ queries: 3000, keys: 3000 })] };
  const scale = (fragment: string, run: Description): string => scaleOf(parse(fragment, run), run);
  assert.equal(scale("view=map", RUN), "linear");
  assert.equal(scale("view=map", long), "log");
  assert.equal(scale("view=text", long), "linear"); // its top is the window's
  assert.equal(scale("view=map&scale=linear", long), "linear");
  assert.equal(scale("view=text&scale=log", RUN), "log");
  assert.match(format({ ...initial(long), scale: "linear" }, long), /scale=linear/);
});

test("what is out of range or makes no sense does no harm", () => {
  const state = parse("view=<script>&layer=99&head=-5&query=1e9&key=99999&zoom=NaN&x=&heads=9,1,1,x,-1&count=0&first=1000000&theme=%F0", RUN);
  assert.equal(state.view, "model");
  assert.equal(state.layer, 1);
  assert.equal(state.head, 0);
  assert.equal(state.query, null);
  assert.equal(state.key, 49);
  assert.equal(state.zoom, null);
  assert.equal(state.x, null);
  assert.deepEqual(state.heads, [1]);
  assert.equal(state.count, null);
  assert.equal(state.first, 49);
});

test("another layer brings what is chosen into its range", () => {
  const state = { ...initial(RUN), head: 3, query: 99, key: 110, zoom: 2, x: 1, y: 1 };
  const next = changed(state, { layer: 1 }, RUN);
  assert.deepEqual([next.head, next.query, next.key, next.zoom], [1, 49, 49, null]);
  assert.deepEqual(next.heads, [0, 1]);
});

test("a window stays within its axis", () => {
  const state = { ...initial(RUN), first: 90 };
  assert.deepEqual(windowOf(state, RUN, "query", 64), [36, 100]);
  assert.deepEqual(windowOf(state, RUN, "key", 64), [56, 120]);
  assert.deepEqual(windowOf({ ...state, count: 10 }, RUN, "query", 64), [90, 100]);
});

test("a view opens where the chosen token is", () => {
  const state = { ...initial(RUN), query: 90, count: 20 };
  assert.deepEqual(opening(state, RUN, "heads"), { view: "heads", first: 80 });
  assert.deepEqual(opening({ ...state, query: 5 }, RUN, "heads"), { view: "heads" });
  assert.deepEqual(opening(state, RUN, "map"), { view: "map" });
});

test("a link to a token opens the window it is in", () => {
  const long: Description = { ...RUN, layers: [layer({ queries: 3000, keys: 3000 })] };
  assert.equal(parse("view=text&query=2000", long).first, 2000 - 256);
  assert.equal(parse("view=text&query=2000&first=10", long).first, 10);
  assert.equal(parse("view=map&query=2000", long).first, 0);
  for (const first of [0, 7, 1744]) {
    const state = { ...initial(long), view: "text" as const, query: 2000, first };
    assert.deepEqual(parse(format(state, long), long), state);
  }
});

test("windows of both axes are at the same positions", () => {
  const last = layer({ queries: 100, keys: 1000, positions: { queries: 900, keys: 0 } });
  const run: Description = { ...RUN, layers: [last] };
  const windows = (first: number): [number, number][] =>
    (["query", "key"] as const).map((axis) => windowOf({ ...initial(run), first, count: 64 }, run, axis, 64));
  assert.deepEqual(windows(0), [[0, 64], [0, 64]]); // no query stands there
  assert.deepEqual(windows(910), [[10, 74], [910, 974]]);
  assert.deepEqual(windows(999), [[36, 100], [936, 1000]]);
  // What is chosen comes into the window with the keys around its own position.
  assert.equal(opening({ ...initial(run), query: 50 }, run, "heads").first, 950 - 32);
  assert.equal(opening({ ...initial(run), key: 500 }, run, "heads").first, 500 - 32);
  const cross: Description = { ...RUN, layers: [{ ...last, positions: null }] };
  assert.deepEqual(windowOf({ ...initial(cross), first: 910 }, cross, "query", 64), [36, 100]);
});

/** A fragment of anything: names that mean something, values that may not. */
function nonsense(seed: number): string {
  let state = seed + 1;
  const next = (most: number): number => (state = (state * 48271) % 2147483647) % most;
  const names = ["view", "layer", "head", "query", "key", "reduce", "scale", "x", "y", "zoom", "theme", "heads", "first", "keys", "count", "flow", "sort", "strength", "all", "no", "margins", "find", "findAxis", "stat", "rank", "role", "with", "how", "out", "again", "words", "together", "logits", "sides", "pairs"];
  const values = ["0", "-1", "1e308", "-1e308", "1e-320", "NaN", "Infinity", "99999999999999999999999", "0x10", "", " 3 ", "3.7", "map", "text", "query-key", "log", "relative", "0,1,2", "9,9,-1,x", "%E0%A4", "<b>", "null", "\u0663", "1", "5", "__proto__", "constructor", "dark", "robust", "row", "0.1", "99.99", "special,first", "mean-heads", "difference", "most", "a b&c"];
  return Array.from({ length: next(12) }, () => `${names[next(names.length)]}=${values[next(values.length)]}`).join("&");
}

test("whatever a fragment says, a state is in range, and written again it reads as itself", () => {
  for (let seed = 0; seed < 5000; seed++) {
    const state = parse(`#${nonsense(seed)}`, RUN);
    const { heads, queries, keys } = RUN.layers[state.layer];
    const within = (value: number | null, most: number): boolean => value === null || (value >= 0 && value <= most);
    assert.ok(Number.isInteger(state.head) && within(state.head, heads - 1));
    assert.ok(within(state.query, queries - 1) && within(state.key, keys - 1) && within(state.keys, keys - 1));
    assert.ok(within(state.x, keys) && within(state.y, queries) && within(state.first, Math.max(queries, keys) - 1));
    assert.ok(state.zoom === null || (state.zoom >= LEAST_ZOOM && state.zoom <= MAX_ZOOM));
    assert.ok(state.heads.every((head) => Number.isInteger(head) && within(head, heads - 1)));
    const again = parse(format(state, RUN), RUN);
    const kept = state.view === "map" ? state : { ...state, x: null, y: null, zoom: null };
    const rounded = (value: number | null): number | null => (value === null ? null : Math.round(value * 1000) / 1000);
    assert.deepEqual(again, { ...kept, x: rounded(kept.x), y: rounded(kept.y), zoom: rounded(kept.zoom) }, nonsense(seed));
  }
});

test("what is brought into a window is in it, whichever axis is the longer", () => {
  for (const sizes of [{ queries: 200, keys: 300, positions: { queries: 100, keys: 0 } }, { queries: 300, keys: 200, positions: { queries: 0, keys: 100 } }]) {
    const run = { ...RUN, layers: [{ ...RUN.layers[0], ...sizes }] } as typeof RUN;
    for (const axis of ["query", "key"] as const) {
      for (const index of [0, 90, 150, 199]) {
        const state = { ...initial(run), view: "heads" as const, count: 64 };
        const brought = bringing(state, run, axis, index, windowOf(state, run, axis, 64));
        assert.ok(holds(windowOf({ ...state, ...brought }, run, axis, 64), index), `${axis} ${index}`);
      }
    }
  }
});
