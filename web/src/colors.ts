/** The colors of values, those of attnviz's figures, and of heads. */

import type { Layer } from "./description";
import { tickText } from "./numbers";
import type { Scale, Strength } from "./state";

export type Rgb = [number, number, number]; // 0 to 255

/** From 0, which is the page, to what stands out from it most: `ink` of attnviz/show/scale/colors.py. */
const INK = [
  0xffffff, 0xf6ede1, 0xedd8bf, 0xe4c19c, 0xdfaa7b, 0xde9461, 0xde7d50, 0xdd6748, 0xd75248, 0xcd3f4c, 0xbe2f52,
  0xab2259, 0x921b5e, 0x75185f, 0x57185c, 0x371856, 0x15164b,
];
const INK_ON_DARK = [
  0x16181d, 0x1e2334, 0x2c2e4d, 0x453966, 0x644079, 0x864584, 0xa74788, 0xc64a85, 0xde517d, 0xf05f74, 0xfa726e,
  0xff866b, 0xff9b6e, 0xffb076, 0xffc686, 0xfcdba1, 0xfbedc4,
];

/** To both sides of 0, which is the page: `poles` of the same. */
const POLES = [
  0x1d2559, 0x1e2e6c, 0x1d387e, 0x1b438f, 0x1b4e9e, 0x1e5bac, 0x2169b8, 0x2577c5, 0x2c85d0, 0x3995d9, 0x51a4dd,
  0x6eb3df, 0x8ac2e2, 0xa6d1e8, 0xc3e0ef, 0xe0f0f6, 0xffffff, 0xfae9e3, 0xf6d3c8, 0xf2bdaf, 0xeea898, 0xec9181,
  0xeb796a, 0xe66157, 0xdc4e4a, 0xcc3f41, 0xbd3039, 0xad2132, 0x9e112b, 0x8e0325, 0x7c0121, 0x69061d, 0x560b1a,
];
const POLES_ON_DARK = [
  0xc6ebf9, 0xb1e2f8, 0x9cd7f6, 0x88ccf3, 0x75c0ee, 0x60b4e9, 0x48a7e4, 0x2f99dc, 0x1e8bd1, 0x227cc1, 0x2b6db0,
  0x2e5d9c, 0x294f87, 0x25416d, 0x24334f, 0x1e2635, 0x16181d, 0x332020, 0x492928, 0x62302d, 0x7b3731, 0x943f33,
  0xab4735, 0xbf5238, 0xcf603d, 0xdb7047, 0xe58055, 0xec9164, 0xf3a274, 0xf8b285, 0xfbc298, 0xfcd2ad, 0xfde1c5,
];

/** What is not visible: no value's color, and near to the page. */
export function hiddenColor(dark: boolean): Rgb {
  return rgb(dark ? 0x26282e : 0xf0f0f0);
}

/** Sixteen: far apart in OKLab, and a light page and a dark one both carry them. */
export const HEAD_COLORS = [
  "#0080c8", "#e07b00", "#009e73", "#d4519f", "#7a5cd6", "#c9382b", "#5f9a0c", "#19b5cc", "#a0703c", "#8a8f98", "#b490fc",
  "#903c78", "#c7a500", "#4f6d8f", "#f58f83", "#2f7d4f",
];

/** A head's color. */
export function headColor(head: number): string {
  return HEAD_COLORS[head % HEAD_COLORS.length];
}

/** How a head's lines are broken, in CSS pixels, so that heads of one color are told apart: the first sixteen are whole. */
export function headDash(head: number): number[] {
  const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
  return dashes[Math.floor(head / HEAD_COLORS.length) % dashes.length];
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

/** A color of the sequential palette, from 0 (the page) to 1. */
export function sequential(share: number, dark: boolean): Rgb {
  return between(dark ? INK_ON_DARK : INK, share);
}

/** A color of the diverging palette, from -1 (blue) over 0 (the page) to 1 (red). */
export function diverging(share: number, dark: boolean): Rgb {
  return between(dark ? POLES_ON_DARK : POLES, (share + 1) / 2);
}

/** A palette as a CSS gradient, for a legend. */
export function gradient(color: (share: number) => Rgb): string {
  return `linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => css(color(i / 16))).join()})`;
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
  low: number; // the largest value that looks like 0
  top: number; // the value at the far end
  share(value: number): number; // 0 to 1, and from -1 where it is signed
  signed?: boolean; // to both sides of 0: a difference
  open?: boolean; // some values are beyond the far end
  rows?: Float32Array; // each query's largest: of what values are shares
}

/** What stands at both ends of a scale, and in its middle. */
export function ticksOf({ scale, low, top, signed, open }: Ramp): [string, string, string] {
  const most = `${open ? "\u2265 " : ""}${tickText(top)}`;
  if (signed) return [`${open ? "\u2264 " : ""}\u2212${tickText(top)}`, scale === "log" ? `\u00b1${tickText(low)}` : "0", most];
  const middle = scale === "log" ? Math.sqrt(low * top) : (low + top) / 2;
  return [scale === "log" ? `0 to ${tickText(low)}` : tickText(low), tickText(middle), most];
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
 * The scale of weights, or of masses. Absolute: to 1, so that heads, layers and pages compare (to the largest, where
 * weights that were given are larger). By row: of shares of each row's largest, to 1. Else to what `largest` says.
 */
export function weightRamp(scale: Scale, strength: Strength, largest: number | null, keys: number): Ramp {
  const most = largest ?? 1;
  const made = ramp(scale, strength === "row" ? 1 : strength === "absolute" ? Math.max(1, most) : most, keys);
  return strength === "robust" ? { ...made, open: true } : made;
}

/** The scale of a layer's weights; of a difference, to both sides of 0 as far as the largest of what is shown. */
export function rampOf(layer: Layer, scale: Scale, strength: Strength, largest: number | null): Ramp {
  if (!layer.signed) return weightRamp(scale, strength, largest, layer.keys);
  const { low, top, share, ...made } = ramp(scale, strength === "row" || (strength === "absolute" && layer.unit !== "score") ? 1 : (largest ?? 1), layer.keys);
  return { ...made, low, top, signed: true, ...(strength === "robust" ? { open: true } : {}), share: (value) => Math.sign(value) * share(Math.abs(value)) };
}

/** The color of a value. */
export function colorOf(ramp: Ramp, value: number, dark: boolean): Rgb {
  return ramp.signed ? diverging(ramp.share(value), dark) : sequential(ramp.share(value), dark);
}

/** The colors of a scale from its low end to its far one, 0 to 1. */
export function legendColor(ramp: Ramp, dark: boolean): (share: number) => Rgb {
  return ramp.signed ? (share) => diverging(2 * share - 1, dark) : (share) => sequential(share, dark);
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
export function paint(values: Float32Array, ramp: Ramp, pixels: Uint32Array, dark: boolean): void {
  const table = (ramp.signed ? SIGNED : TABLES)[dark ? 1 : 0];
  const hidden = pixel(hiddenColor(dark));
  for (let i = 0; i < pixels.length; i++) {
    const value = values[i];
    pixels[i] = Number.isNaN(value) ? hidden : table[Math.round((ramp.signed ? (ramp.share(value) + 1) / 2 : ramp.share(value)) * 255)];
  }
}

const TABLES = [false, true].map((dark) =>
  Uint32Array.from({ length: 256 }, (_, i) => pixel(sequential(i / 255, dark))),
);

const SIGNED = [false, true].map((dark) =>
  Uint32Array.from({ length: 256 }, (_, i) => pixel(diverging(i / 127.5 - 1, dark))),
);

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
