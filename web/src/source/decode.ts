/** Bytes of the page to numbers: base64, zlib, and the dtypes of FORMAT.md. */

import type { Blob as Stored } from "../description";

const CODES = new Uint8Array(128);
for (const [code, letter] of [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"].entries()) {
  CODES[letter.charCodeAt(0)] = code;
}

/** Padded base64 without line breaks, to bytes. */
export function base64(text: string): Uint8Array {
  const letters = new TextEncoder().encode(text.trim());
  let padding = 0;
  while (padding < 2 && letters[letters.length - 1 - padding] === 61) padding++;
  const bytes = new Uint8Array((letters.length / 4) * 3 - padding);
  for (let from = 0, to = 0; from < letters.length; from += 4) {
    const word =
      (CODES[letters[from]] << 18) |
      (CODES[letters[from + 1]] << 12) |
      (CODES[letters[from + 2]] << 6) |
      CODES[letters[from + 3]];
    bytes[to++] = word >> 16; // what is past the end of a typed array is dropped
    bytes[to++] = word >> 8;
    bytes[to++] = word;
  }
  return bytes;
}

/** The bytes of a stored blob, out of its decoded chunk. */
export async function unpack(blob: Stored, chunk: Uint8Array): Promise<Uint8Array> {
  const part = chunk.subarray(blob.offset, blob.offset + blob.length);
  if (part.length !== blob.length) throw new Error(`chunk ${blob.chunk} ends before its data does: a damaged file`);
  if (!blob.deflate) return part;
  const stream = new Blob([part as BlobPart]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Elements `start` to `end` of a blob's numbers. `steps` are those of all its rows, for q12 and q16. */
export function numbers(
  blob: Stored,
  bytes: Uint8Array,
  start: number,
  end: number,
  steps: Float32Array | null = null,
): Float64Array {
  const out = new Float64Array(end - start);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const row = blob.shape[blob.shape.length - 1];
  const step = (index: number): number => steps![Math.floor(index / row)];
  switch (blob.dtype) {
    case "f32":
      for (let i = start; i < end; i++) out[i - start] = view.getFloat32(4 * i, true);
      break;
    case "f16":
      for (let i = start; i < end; i++) out[i - start] = float16(view.getUint16(2 * i, true));
      break;
    case "q16":
      for (let i = start; i < end; i++) out[i - start] = (view.getUint16(2 * i, true) - 32768) * step(i);
      break;
    case "q12":
      for (let i = start; i < end; i++) {
        const at = 3 * (i >> 1);
        const code =
          i & 1 ? (bytes[at + 1] >> 4) | (bytes[at + 2] << 4) : bytes[at] | ((bytes[at + 1] & 15) << 8);
        out[i - start] = (code - 2048) * step(i);
      }
      break;
    default:
      throw new Error(`a blob of dtype ${blob.dtype} holds no plain numbers`);
  }
  return out;
}

/** A blob of f32 (log-sum-exp, steps) as it stands. */
export function floats(bytes: Uint8Array): Float32Array {
  const copy = bytes.slice(); // its own buffer: aligned
  return new Float32Array(copy.buffer, 0, copy.length >> 2);
}

/** The cells of one head of a map; NaN where nothing is visible. */
export function cells(blob: Stored, bytes: Uint8Array, head: number): Float32Array {
  const size = blob.shape[1] * blob.shape[2];
  const top = blob.tops![head];
  const out = new Float32Array(size);
  const wide = blob.dtype === "u16map";
  const most = wide ? 65534 : 254;
  for (let i = 0, at = head * size; i < size; i++, at++) {
    const code = wide ? bytes[2 * at] | (bytes[2 * at + 1] << 8) : bytes[at];
    out[i] = code === 0 ? Number.NaN : ((code - 1) / most) * top;
  }
  return out;
}

/** Bit `index` of a blob of bits. */
export function bit(bytes: Uint8Array, index: number): boolean {
  return ((bytes[index >> 3] >> (index & 7)) & 1) === 1;
}

function float16(code: number): number {
  const sign = code & 0x8000 ? -1 : 1;
  const exponent = (code >> 10) & 31;
  const fraction = code & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
