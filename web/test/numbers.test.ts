import assert from "node:assert/strict";
import { test } from "node:test";
import { logitText, shareSpan, shareText, weightText } from "../src/numbers";
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
  assert.deepEqual([logitText(2.55, 0.06), logitText(-7.5, 3)], ["\u2248 2.5", "\u2248 \u22128"]); // no digit is sure
  assert.deepEqual([0, 0.0001, 0.25, 0.9999, 1].map((share) => shareText(share)), ["0 %", "< 0.1 %", "25.0 %", "> 99.9 %", "100 %"]);
});

test("a share shows the digits that are right wherever its weights are", () => {
  const draw = [...drawn(60)];
  for (const within of [{ by: 1e-3, share: 4e-3 }, { by: Infinity, share: 2e-2 }, { by: 1e-4, share: Infinity }]) {
    for (let n = 0; n < 40; n++) {
      const rows = [draw.slice(n, n + 9), draw.slice(n + 9, n + 12)].map((row) => row.map(Math.abs));
      const said = (values: number[]) => ({ sum: values.reduce((a, b) => a + b, 0), count: values.length });
      const shown = (one: number[], other: number[]) => said(one).sum / (said(one).sum + said(other).sum);
      const [low, high] = shareSpan(said(rows[0]), said(rows[1]), within);
      const text = shareText(shown(rows[0], rows[1]), [low, high]);
      for (const sign of [-1, 1]) {
        // Off the one way on one side, and the other way on the other: nothing is farther.
        const off = (values: number[], to: number) => values.map((one) => Math.max(0, one + to * Math.min(within.by, one * Math.abs(Math.expm1(to * within.share)))));
        const truth = shown(off(rows[0], sign), off(rows[1], -sign));
        assert.ok(truth >= low - 1e-12 && truth <= high + 1e-12, `${truth} not in ${low} to ${high}`);
        const single = /^([\d.]+) %$/.exec(text);
        if (single) {
          const digits = single[1].split(".")[1]?.length ?? 0;
          assert.ok(Math.abs(100 * truth - Number(single[1])) <= 0.5 * 10 ** -digits + 1e-9, `${text} for ${truth}`);
        }
      }
    }
  }
  assert.equal(shareText(0.25, [0.2491, 0.2504]), "25 %");
  assert.equal(shareText(0.256, [0.24, 0.266]), "24\u201327 %");
});

test("the strongest of a row, wherever they are, and what a window leaves out", () => {
  const row = Float32Array.from({ length: 1000 }, () => 0.01 / 998);
  row[5] = 0.97;
  row[990] = 0.02;
  row[7] = Number.NaN;
  assert.deepEqual(strongest(row, 2).map(({ index }) => index), [5, 990]);
  const { inside, outside } = sums(row, [400, 912]);
  assert.deepEqual([inside.count, outside.count], [512, 487]);
  assert.ok(Math.abs(inside.sum + outside.sum - 1) < 1e-4 && inside.sum < 0.006);
  assert.equal(strongest(new Float32Array(4), 3).length, 0);
  assert.equal(largest(row), row[5]);
  const draw = drawn(500);
  const noise = Float32Array.from(draw);
  assert.deepEqual(strongest(noise, 20).map(({ weight }) => weight), [...noise].sort((a, b) => b - a).slice(0, 20));
});
