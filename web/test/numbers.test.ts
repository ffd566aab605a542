import assert from "node:assert/strict";
import { test } from "node:test";
import { logitText, shareText, weightText } from "../src/numbers";
import { largest } from "../src/questions";
import { strongest, sums } from "../src/rows";

/** Numbers that come again. */
function* drawn(count: number): Generator<number> {
  let state = 1;
  for (let i = 0; i < count; i++) {
    state = (state * 48271) % 2147483647;
    yield state / 2147483647;
  }
}

test("every digit of a weight is right, wherever within its span the true one is", () => {
  const draw = drawn(60_000);
  const next = (): number => draw.next().value as number;
  for (let i = 0; i < 6000; i++) {
    const truth = 10 ** (-8 * next());
    const [by, share] = [10 ** (-7 * next()), 10 ** (-7 * next())];
    const apart = Math.min(by, truth * (1 - Math.exp(-share)));
    const value = truth + (2 * next() - 1) * apart;
    const text = weightText(value, { by, share });
    if (text.startsWith("<")) {
      assert.ok(truth < Number(text.slice(1)), `${truth} ${text}`);
      continue;
    }
    const [digits, power] = text.split("e-");
    const unit = 10 ** -(Number(power ?? 0) + (digits.split(".")[1] ?? "").length);
    assert.ok(Math.abs(Number(text) - truth) <= unit * (0.5 + 1e-9), `${truth} is shown as ${text}`);
  }
});

test("what is exact has four decimals, or three digits", () => {
  const exact = { by: 0, share: 0 };
  assert.deepEqual([0.12345, 1, 0.001, 0.00012345, Number.NaN, 0].map((value) => weightText(value, exact)), [
    "0.1235", "1.0000", "0.0010", "1.23e-4", "hidden", "0",
  ]);
  assert.equal(weightText(0.2, { by: 1e-3, share: 1 }), "0.20");
  assert.equal(weightText(2e-5, { by: 1e-3, share: 10 }), "< 0.002");
  assert.equal(weightText(0, { by: 7e-6, share: Number.POSITIVE_INFINITY }), "< 0.000008");
});

test("logits and shares", () => {
  assert.deepEqual([logitText(-1.23456), logitText(1.2345, 0.01), logitText(-0.0001, 0), logitText(-Infinity)], [
    "\u22121.235", "1.2", "0.000", "hidden",
  ]);
  assert.deepEqual([0, 0.0001, 0.25, 0.9999, 1].map(shareText), ["0 %", "< 0.1 %", "25.0 %", "> 99.9 %", "100 %"]);
});

test("the strongest of a row, wherever they are, and what a window leaves out", () => {
  const row = Float32Array.from({ length: 1000 }, () => 0.01 / 998);
  row[5] = 0.97;
  row[990] = 0.02;
  row[7] = Number.NaN;
  assert.deepEqual(strongest(row, 2).map(({ index }) => index), [5, 990]);
  const { inside, all } = sums(row, [400, 912]);
  assert.ok(Math.abs(all - 1) < 1e-4 && inside < 0.006);
  assert.equal(strongest(new Float32Array(4), 3).length, 0);
  assert.equal(largest(row), row[5]);
  const draw = drawn(500);
  const noise = Float32Array.from(draw);
  assert.deepEqual(strongest(noise, 20).map(({ weight }) => weight), [...noise].sort((a, b) => b - a).slice(0, 20));
});
