import assert from "node:assert/strict";
import { test } from "node:test";
import { endsOf } from "../src/map/sides";
import { robust, topOf } from "../src/questions";
import { largestOfRows, sharesOfRows } from "../src/rows";

const nan = Number.NaN;

test("a robust scale ends at numpy's percentile of what is visible", () => {
  const values = Float32Array.from({ length: 202 }, (_, i) => (i === 7 ? nan : (i * 37) % 211));
  const sorted = [...values].filter((one) => !Number.isNaN(one)).sort((a, b) => a - b);
  assert.equal(sorted.length, 201); // so that 1 % of the steps is two
  assert.equal(robust(values), sorted[198]);
  assert.equal(robust(values.map((one) => one - 100), true), Math.max(100 - sorted[4], sorted[196] - 100));
  assert.equal(robust(Float32Array.of(nan)), 0);
  assert.equal(topOf(Float32Array.of(0, 0, 3), "relative"), 3);
  assert.equal(topOf(new Float32Array(400).fill(3, 0, 1), "robust"), 3); // all but one are 0: the largest
});

test("rows of cells are shares of the largest weight of their queries", () => {
  const values = Float32Array.of(1, 2, nan, 3, 8, -4);
  const shares = sharesOfRows(values, 3, Float32Array.of(9, 9, 4, 2, 1, 16), 1, 2); // rows of two queries, from the third on
  assert.deepEqual([...shares], [0.25, 0.5, nan, 3 / 16, 0.5, -0.25]);
  assert.deepEqual([...largestOfRows(values, 3)], [2, 8]);
  assert.deepEqual([...sharesOfRows(Float32Array.of(0, 0), 2, Float32Array.of(nan))], [0, 0]);
});

test("a part of an axis has the ends of its numbers", () => {
  const numbers = Float32Array.of(3, nan, 1, 2);
  assert.deepEqual(endsOf(numbers, [0, 4]), [1, 3]);
  assert.deepEqual(endsOf(numbers, [3, 9]), [2, 2]);
  assert.equal(endsOf(numbers, [1, 2]), null);
});
