/** The colors of values, those of attnviz's figures (seaborn's rocket and vlag), and of heads. */

import type { Scale } from "./state";

export type Rgb = [number, number, number]; // 0 to 255

const ROCKET = [
  0x03051a, 0x0d0a21, 0x180f29, 0x241432, 0x30173a, 0x3c1a42, 0x481c48, 0x541e4e, 0x611f53, 0x6e1f57, 0x7b1f59,
  0x891e5b, 0x971c5b, 0xa4195b, 0xb21758, 0xbf1654, 0xcb1b4f, 0xd62449, 0xdf2f44, 0xe73d3f, 0xec4c3e, 0xf05c42,
  0xf26b49, 0xf47a54, 0xf58860, 0xf5966c, 0xf6a37a, 0xf6b089, 0xf6bc99, 0xf7c9aa, 0xf8d4bc, 0xf9e0cd, 0xfaebdd,
];

const VLAG = [
  0x2369bd, 0x3972bc, 0x4a7bbc, 0x5983bd, 0x678bbe, 0x7594c0, 0x829cc3, 0x8fa5c7, 0x9baecb, 0xa8b7cf, 0xb5c0d4,
  0xc2cada, 0xcfd4e0, 0xdcdee6, 0xe9e9ed, 0xf5f2f4, 0xfaf5f4, 0xf9eeed, 0xf3e2e0, 0xedd5d3, 0xe7c8c6, 0xe2bcb9,
  0xddafad, 0xd8a3a0, 0xd39794, 0xce8b88, 0xc97f7d, 0xc47371, 0xbf6765, 0xb95b5a, 0xb44f4f, 0xae4244, 0xa9373b,
];

/** Okabe and Ito's, which color-blind readers tell apart, and two more; a light page and a dark one both carry them. */
export const HEAD_COLORS = [
  "#0080c8", "#e07b00", "#009e73", "#d4519f", "#7a5cd6", "#c9382b", "#5f9a0c", "#00a3a8", "#a0703c", "#8a8f98",
];

export function headColor(head: number): string {
  return HEAD_COLORS[head % HEAD_COLORS.length];
}

/** A color of the sequential palette, from 0 (dark) to 1. */
export function sequential(share: number): Rgb {
  return between(ROCKET, share);
}

/** A color of the diverging palette, from -1 (blue) over 0 to 1 (red). */
export function diverging(share: number): Rgb {
  return between(VLAG, (share + 1) / 2);
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
