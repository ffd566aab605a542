import assert from "node:assert/strict";
import { test } from "node:test";
import { HEAD_COLORS, headColor, headDash, luminance, massTop, rgb, sequential, stroke, weightRamp } from "../src/colors";

test("sixteen heads have sixteen colors, seen on white and on near black; more have broken lines", () => {
  const looks = Array.from({ length: 64 }, (_, head) => `${headColor(head)} ${headDash(head).join()}`);
  assert.equal(new Set(looks.slice(0, 16).map((look) => look.split(" ")[0])).size, 16);
  assert.equal(new Set(looks).size, 64);
  for (const color of HEAD_COLORS) {
    const light = luminance(rgb(parseInt(color.slice(1), 16)));
    assert.ok(1.05 / (light + 0.05) > 2.2, color);
    assert.ok((light + 0.05) / (luminance([28, 27, 32]) + 0.05) > 2.2, color);
  }
});

test("a line fades and thins with its weight, all the way to nothing", () => {
  for (const ofOne of [true, false]) {
    const shares = [0, 0.001, 0.01, 0.1, 0.5, 1].map((share) => stroke(share, ofOne));
    for (let i = 1; i < shares.length; i++) {
      assert.ok(shares[i].alpha > shares[i - 1].alpha && shares[i].width > shares[i - 1].width);
    }
    // What twelve heads' weights of a hundredth add up to where they lie upon each other.
    assert.ok(1 - (1 - shares[2].alpha * Math.min(1, shares[2].width)) ** 12 < 0.1);
    assert.ok(shares[5].alpha >= 0.9);
  }
});

test("the top of masses goes from that of the whole map to the largest weight", () => {
  assert.equal(massTop(0.5, 0.25, 0, 9), 0.5);
  assert.equal(massTop(0.5, 0.25, 9, 9), 0.25);
  assert.ok(Math.abs(massTop(1 / 256, 1 / 65536, 3, 8) - 1 / 2048) < 1e-12); // even attention
  assert.equal(massTop(0, 0, 2, 4), 0);
  assert.equal(massTop(1, 1, 0, 0), 1);
});

test("0 is the page, in light and in dark, and far ends stand out from it", () => {
  assert.deepEqual(sequential(0, false), [255, 255, 255]);
  assert.deepEqual(sequential(0, true), [22, 24, 29]);
  for (const dark of [false, true]) {
    const lights = Array.from({ length: 33 }, (_, i) => luminance(sequential(i / 32, dark)));
    for (let i = 1; i < lights.length; i++) assert.ok(dark ? lights[i] > lights[i - 1] : lights[i] < lights[i - 1]);
  }
});

test("a strength is the same in every head, unless it is asked for beside the largest", () => {
  assert.equal(weightRamp("linear", "absolute", 0.02, 100).share(0.02), 0.02);
  assert.equal(weightRamp("linear", "relative", 0.02, 100).share(0.02), 1);
  assert.equal(weightRamp("linear", "absolute", 7, 100).share(3.5), 0.5); // weights that were given
  const log = weightRamp("log", "absolute", null, 100);
  assert.deepEqual([log.share(0), log.share(log.low), log.share(1)], [0, 0, 1]);
});
