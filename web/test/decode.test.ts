import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";
import type { Blob } from "../src/description";
import { base64, bit, cells, floats, numbers, unpack } from "../src/source/decode";

const blob = (fields: Partial<Blob>): Blob => ({
  chunk: 0, offset: 0, length: 0, deflate: false, dtype: "f32", shape: [1], ...fields,
});

test("base64 of every length and every byte", () => {
  const bytes = Uint8Array.from({ length: 259 }, (_, i) => (i * 37) % 256);
  for (const length of [0, 1, 2, 3, 4, 5, 256, 257, 258, 259]) {
    const part = bytes.subarray(0, length);
    assert.deepEqual(base64(Buffer.from(part).toString("base64")), new Uint8Array(part));
  }
});

test("a deflated blob in the middle of a chunk", async () => {
  const plain = new TextEncoder().encode("attention ".repeat(100));
  const packed = deflateSync(plain);
  const chunk = new Uint8Array([1, 2, 3, ...packed, 9]);
  const stored = blob({ offset: 3, length: packed.length, deflate: true });
  assert.deepEqual(await unpack(stored, chunk), plain);
  await assert.rejects(unpack({ ...stored, length: 9999 }, chunk), /damaged/);
});

test("q12: two codes in three bytes, a step a row, from any element on", () => {
  const codes = [0, 4095, 2048, 1, 2049, 1234]; // (2, 3)
  const bytes: number[] = [];
  for (let i = 0; i < codes.length; i += 2) {
    const [a, b] = [codes[i], codes[i + 1]];
    bytes.push(a & 255, (a >> 8) | ((b & 15) << 4), b >> 4);
  }
  const steps = Float32Array.of(0.5, 2);
  const stored = blob({ dtype: "q12", shape: [2, 3] });
  const wanted = codes.map((code, i) => (code - 2048) * (i < 3 ? 0.5 : 2));
  assert.deepEqual([...numbers(stored, Uint8Array.from(bytes), 0, 6, steps)], wanted);
  assert.deepEqual([...numbers(stored, Uint8Array.from(bytes), 3, 6, steps)], wanted.slice(3));
});

test("q16, f32 and f16 are little endian", () => {
  const q16 = Uint8Array.from([0x00, 0x80, 0x01, 0x80]); // 32768, 32769
  assert.deepEqual([...numbers(blob({ dtype: "q16", shape: [1, 2] }), q16, 0, 2, Float32Array.of(0.25))], [0, 0.25]);
  const f32 = new Uint8Array(Float32Array.of(1.5, -2).buffer);
  assert.deepEqual([...numbers(blob({ dtype: "f32", shape: [2] }), f32, 0, 2)], [1.5, -2]);
  const f16 = Uint8Array.from([0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0x00, 0x7c]); // 1, -2, 2^-24, inf
  assert.deepEqual([...numbers(blob({ dtype: "f16", shape: [4] }), f16, 0, 4)], [1, -2, 2 ** -24, Infinity]);
  assert.deepEqual([...floats(new Uint8Array([9, ...f32]).subarray(1))], [1.5, -2]); // not aligned
});

test("maps: code 0 is nothing, the last code is the top", () => {
  const stored = blob({ dtype: "u8map", shape: [2, 1, 3], tops: [1, 0.5] });
  assert.deepEqual([...cells(stored, Uint8Array.from([0, 0, 0, 0, 1, 255]), 1)], [NaN, 0, 0.5]);
  const wide = blob({ dtype: "u16map", shape: [1, 1, 2], tops: [2] });
  assert.deepEqual([...cells(wide, Uint8Array.from([0xff, 0xff, 0, 0]), 0)], [2, NaN]);
});

test("bits: least significant first", () => {
  const bits = Uint8Array.from([0b00000101, 0b00000010]);
  assert.deepEqual([0, 1, 2, 8, 9].map((i) => bit(bits, i)), [true, false, true, false, true]);
});
