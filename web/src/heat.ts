/** The shade behind a token: from the page to a warm color, never so strong that the token cannot be read. */

import { type Rgb, css, mix, textOn } from "./colors";

const PAGE: Record<"light" | "dark", Rgb> = { light: [255, 255, 255], dark: [27, 27, 33] };
const WARM: Record<"light" | "dark", Rgb[]> = {
  light: [[253, 205, 182], [242, 96, 92], [140, 41, 129]],
  dark: [[81, 30, 92], [183, 55, 121], [252, 165, 118]],
};

/** Background and text colors for a share from 0 to 1. */
export function shade(share: number, dark: boolean): { background: string; color: string } {
  const theme = dark ? "dark" : "light";
  const stops = [PAGE[theme], ...WARM[theme]];
  const place = Math.max(0, Math.min(1, share || 0)) * (stops.length - 1);
  const at = Math.min(stops.length - 2, Math.floor(place));
  const color = mix(stops[at], stops[at + 1], place - at);
  return { background: css(color), color: textOn(color) };
}

/** The same as a CSS gradient, for a legend. */
export function shadeGradient(dark: boolean): string {
  const stops = Array.from({ length: 13 }, (_, i) => shade(i / 12, dark).background);
  return `linear-gradient(to right, ${stops.join()})`;
}
