/** The colors of values, those of attnviz's figures (magma, and RdBu_r around 0), and of heads. */

import type { Scale } from "./state";

export type Rgb = [number, number, number]; // 0 to 255

const MAGMA = [
  0x000004, 0x030312, 0x0a0822, 0x130d34, 0x1d1147, 0x29115a, 0x36106b, 0x440f76, 0x51127c, 0x5d177f, 0x6a1c81,
  0x762181, 0x832681, 0x902a81, 0x9c2e7f, 0xaa337d, 0xb73779, 0xc43c75, 0xd0416f, 0xdc4869, 0xe75263, 0xef5d5e,
  0xf56b5c, 0xf9795d, 0xfc8961, 0xfd9869, 0xfea772, 0xfeb67c, 0xfec488, 0xfed395, 0xfde2a3, 0xfcf0b2, 0xfcfdbf,
];

const RDBU = [
  0x053061, 0x0e4179, 0x175290, 0x1f63a8, 0x2a71b2, 0x3480b9, 0x3f8ec0, 0x529dc8, 0x6bacd1, 0x84bcd9, 0x9bc9e0,
  0xaed3e6, 0xc2ddec, 0xd4e6f1, 0xe0ecf3, 0xecf2f5, 0xf7f6f6, 0xf9eee7, 0xfbe5d8, 0xfddcc9, 0xfbccb4, 0xf8bb9e,
  0xf5aa89, 0xee9677, 0xe48066, 0xdb6b55, 0xd05548, 0xc53e3d, 0xba2832, 0xab162a, 0x930e26, 0x7c0722, 0x67001f,
];

/** Twelve, as many as most layers have heads: far apart in OKLab, and a light page and a dark one both carry them. */
export const HEAD_COLORS = [
  "#0080c8", "#e07b00", "#009e73", "#d4519f", "#7a5cd6", "#c9382b", "#5f9a0c", "#19b5cc", "#a0703c", "#8a8f98", "#b490fc",
  "#903c78",
];

export function headColor(head: number): string {
  return HEAD_COLORS[head % HEAD_COLORS.length];
}

/**
 * How a line of a share of the largest weight is drawn, among those of one token or those of all. Hundreds of weights
 * near 0 would add up to a gray fog: a line fades and thins all the way.
 */
export function stroke(share: number, ofOne: boolean): { alpha: number; width: number } {
  return ofOne
    ? { alpha: share, width: 0.4 + 3.1 * Math.sqrt(share) }
    : { alpha: 0.9 * share ** 1.4, width: 0.4 + 1.8 * Math.sqrt(share) };
}

/** A color of the sequential palette, from 0 (dark) to 1. */
export function sequential(share: number): Rgb {
  return between(MAGMA, share);
}

/** A color of the diverging palette, from -1 (blue) over 0 to 1 (red). */
export function diverging(share: number): Rgb {
  return between(RDBU, (share + 1) / 2);
}

export function css([red, green, blue]: Rgb): string {
  return `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)})`;
}

/** WCAG's relative luminance, 0 to 1. */
export function luminance(color: Rgb): number {
  const [red, green, blue] = color.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Black or white, whichever is easier to read on a color. */
export function textOn(color: Rgb): string {
  return luminance(color) > 0.179 ? "#000" : "#fff";
}

export function mix(from: Rgb, to: Rgb, share: number): Rgb {
  return [0, 1, 2].map((i) => from[i] + (to[i] - from[i]) * share) as Rgb;
}

/** What share of the color scale a value takes. */
export interface Ramp {
  scale: Scale;
  low: number; // the value at the dark end
  top: number; // the value at the bright end
  share(value: number): number; // 0 to 1
}

/** A scale from 0, or where it is logarithmic from the decade below what an even spread would give, to `top`. */
export function ramp(scale: Scale, top: number, keys: number): Ramp {
  const high = top > 0 ? top : 1;
  if (scale === "linear") {
    return { scale, low: 0, top: high, share: (value) => Math.max(0, Math.min(1, value / high)) };
  }
  const low = 10 ** Math.floor(Math.log10(Math.min(high / 100, 0.5 / keys)));
  const width = Math.log(high / low);
  return { scale, low, top: high, share: (value) => Math.max(0, Math.min(1, Math.log(value / low) / width)) };
}

/**
 * About the largest mass of a level's cells, before they are seen, from what the largest cell of the whole map (level
 * 0) and the largest weight (level `finest`) are: even attention halves it each level, a lone key or diagonal keeps it.
 */
export function massTop(whole: number, weight: number, level: number, finest: number): number {
  if (!(whole > 0 && weight > 0)) return Math.max(whole, weight);
  return finest === 0 ? whole : whole * (weight / whole) ** (level / finest);
}

/** Colors of a canvas: a table from share to a pixel, little endian RGBA. */
export function paint(values: Float32Array, ramp: Ramp, pixels: Uint32Array, hidden: number): void {
  for (let i = 0; i < pixels.length; i++) {
    const value = values[i];
    pixels[i] = Number.isNaN(value) ? hidden : TABLE[Math.round(ramp.share(value) * 255)];
  }
}

const TABLE = Uint32Array.from({ length: 256 }, (_, i) => pixel(sequential(i / 255)));

export function pixel([red, green, blue]: Rgb): number {
  return ((255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
}

function between(colors: readonly number[], share: number): Rgb {
  const place = Math.max(0, Math.min(1, share || 0)) * (colors.length - 1);
  const at = Math.min(colors.length - 2, Math.floor(place));
  return mix(rgb(colors[at]), rgb(colors[at + 1]), place - at);
}

export function rgb(code: number): Rgb {
  return [code >> 16, (code >> 8) & 255, code & 255];
}
