import assert from "node:assert/strict";
import { test } from "node:test";
import type { Description, Layer } from "../src/description";
import { initial } from "../src/state";
import { commandOf, pythonOf } from "../src/take/commands";
import { csv } from "../src/take/csv";
import { partOfMap } from "../src/take/part";
import { escaped, fitted, widthOf } from "../src/take/svg";
import { ranked, rangeOf } from "../src/statistics";

function page(origin: object = {}): Description {
  const layer = (label: string) =>
    ({
      label, heads: 4, head_labels: [0, 2, 4, 6], queries: 9, keys: 12, positions: { queries: 0, keys: 0 }, pattern: "causal",
      query_labels: null, key_labels: null,
      origin: {
        command: `'my dump.npz' --layer ${label} --pattern causal`, inputs: `attnviz.load('my dump.npz', layer=${label})`,
        options: "pattern='causal'", head: true, first: [0, 0], cropped: false, ...origin,
      },
    }) as unknown as Layer;
  return { layers: [layer("0"), layer("5")], labels: [], source: "my dump.npz" } as unknown as Description;
}

const WHOLE = { queries: [0, 9] as const, keys: [0, 12] as const };

test("the command and the Python of each view", () => {
  const description = page();
  const state = { ...initial(description), strength: "relative" as const, layer: 1, head: 2 };
  const both = (patch: object, part: { queries: readonly [number, number]; keys: readonly [number, number] } = WHOLE) => {
    const seen = { ...state, ...patch };
    const python = pythonOf(seen, description, part, false)!;
    assert.ok(python.startsWith("import attnviz\n\n"));
    return [commandOf(seen, description, part, false), python.trim().split("\n").pop()];
  };
  const base = "'my dump.npz' --layer 5 --pattern causal";
  const load = "attnviz.load('my dump.npz', layer=5)";
  assert.deepEqual(both({ view: "map" }), [
    `attnviz plot ${base} --head 4 -o attention.png`,
    `attnviz.plot(${load}, head=4, pattern='causal')`,
  ]);
  assert.deepEqual(both({ view: "map", scale: "log", reduce: "mass", strength: "absolute" }, { queries: [2, 5], keys: [0, 12] }), [
    `attnviz plot ${base} --head 4 --queries 2:5 --keys 0:12 --reduce mass --norm log -o attention.png`,
    `attnviz.plot(${load}, head=4, pattern='causal', queries=range(2, 5), keys=range(0, 12), reduce="mass", norm="log")`,
  ]);
  assert.deepEqual(both({ view: "heads", heads: [0, 3] }), [
    `attnviz plot ${base} --head 0,6 -o attention.png`,
    `attnviz.plot_heads(${load}, heads=[0, 6], pattern='causal')`,
  ]);
  assert.deepEqual(both({ view: "text", query: 3 }), [
    `attnviz plot ${base} --head 4 --strip 3 -o attention.png`,
    `attnviz.plot_strip(${load}, query=3, heads=[4], pattern='causal')`,
  ]);
  assert.deepEqual(both({ view: "text" }), [
    `attnviz plot ${base} --head 4 --detail -o attention.png`,
    `attnviz.plot_detail(${load}, head=4, pattern='causal')`,
  ]);
  assert.deepEqual(both({ view: "query-key", query: 3, key: 1 }), [
    `attnviz explain ${base} --head 4 --token 3 --key 1`,
    `attnviz.explain(${load}, query=3, key=1, head=4, pattern='causal')`,
  ]);
  assert.deepEqual(both({ view: "model" }), [
    "attnviz overview 'my dump.npz' --pattern causal --layer 0,5 -o attention.png",
    `attnviz.plot_overview([attnviz.load('my dump.npz', layer=0), ${load}], pattern='causal')`,
  ]);
});

test("what is cropped names its part; what nothing names has no command", () => {
  const cropped = page({ first: [3, 100], cropped: true });
  const state = { ...initial(cropped), view: "map" as const, strength: "relative" as const };
  assert.match(commandOf(state, cropped, WHOLE, true)!, /--queries 3:12 --keys 100:112 --theme dark/);
  const unnamed = page({ command: null, inputs: "inputs['a'][0]", head: false });
  assert.equal(commandOf(state, unnamed, WHOLE, false), null);
  assert.equal(
    pythonOf(state, unnamed, WHOLE, false),
    "import attnviz\n\n# inputs: what the page was made of\nattnviz.plot(inputs['a'][0], pattern='causal')\n",
  );
  assert.equal(pythonOf(state, page({ options: null }), WHOLE, false), null);
});

test("what a map has in sight", () => {
  const description = page();
  const [layer] = description.layers;
  const state = initial(description);
  assert.deepEqual(partOfMap(state, layer, 300, 300), WHOLE);
  const zoomed = { ...state, x: 6, y: 4, zoom: 5 }; // 32 pixels a weight
  assert.deepEqual(partOfMap(zoomed, layer, 128, 64), { queries: [3, 5], keys: [4, 8] });
  assert.deepEqual(partOfMap({ ...zoomed, x: 6.5 }, layer, 128, 64).keys, [4, 9]); // a part of a cell counts
  assert.deepEqual(partOfMap({ ...zoomed, x: 0, y: 9 }, layer, 128, 64), { queries: [8, 9], keys: [0, 2] });
});

test("CSV quotes what it must, and numbers are those they were", () => {
  assert.equal(csv([["a", 'say "hi"'], [null, "x,y\n"], [Math.fround(0.1), Number.NaN], [1e-9, 3]]), 'a,"say ""hi"""\r\n,"x,y\n"\r\n0.1,\r\n1e-9,3\r\n');
  for (const value of [1 / 3, 2 ** -40 / 3, 0.99999994, 123456.7]) {
    assert.equal(Math.fround(Number(csv([[Math.fround(value)]]))), Math.fround(value));
  }
});

test("texts of a drawing are XML whatever tokens hold, and are cut to their room", () => {
  assert.equal(escaped('<&">\u0000\ud800x\ud83d\ude00'), "&lt;&amp;&quot;&gt;\ufffd\ufffdx\ud83d\ude00");
  assert.ok(widthOf(fitted("a".repeat(100), 60)) <= 60 + 12);
  assert.equal(fitted("short", 100), "short");
});

test("heads in the order of a number, and by what they are", () => {
  const heads = [[0.2, "sink", 0.2], [null, "mixed", null], [0.9, "sink", 0.9], [0.5, "local", 0.5]].map(([score, tag, tag_score], head) => ({
    layer: 0, head, numbers: { entropy: score, tag, tag_score } as Record<string, number | string | null>,
  }));
  const order = (rank: "order" | "most" | "least" | "role") =>
    ranked(heads, { rank, stat: "entropy", tags: ["local", "sink", "mixed"] }).map(({ name, heads }) => [name, heads.map(({ head }) => head)]);
  assert.deepEqual(order("order"), [[null, [0, 1, 2, 3]]]);
  assert.deepEqual(order("most"), [[null, [2, 3, 0, 1]]]);
  assert.deepEqual(order("least"), [[null, [0, 3, 2, 1]]]);
  assert.deepEqual(order("role"), [["local", [3]], ["sink", [2, 0]], ["mixed", [1]]]);
  assert.deepEqual(rangeOf(heads, "entropy"), [0.2, 0.9]);
  assert.equal(rangeOf(heads, "nothing"), null);
});
