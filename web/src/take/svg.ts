/** Vector drawings, a shape at a time. */

import { type Rgb, css } from "../colors";

const FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif";

export interface Ink {
  background: string;
  text: string;
  muted: string;
  line: string;
  accent: string;
}

/** The page's colors, as its style has them. */
export function ink(dark: boolean): Ink {
  return dark
    ? { background: "#16181d", text: "#ececf1", muted: "#a2a2b0", line: "#35353f", accent: "#f0a3dc" }
    : { background: "#ffffff", text: "#1b1b20", muted: "#5c5d66", line: "#c9c9d2", accent: "#8b2a80" };
}

let scales = 0; // drawings can lie in one file

export class Drawing {
  private readonly parts: string[] = [];
  private readonly defs: string[] = [];

  constructor(
    readonly title: string,
    readonly ink: Ink,
  ) {}

  text(
    x: number,
    y: number,
    said: string,
    how: { anchor?: "start" | "middle" | "end"; size?: number; color?: string; bold?: boolean; turned?: boolean } = {},
  ): void {
    const { anchor = "start", size = 12, color = this.ink.text, bold = false, turned = false } = how;
    const at = turned ? `transform="translate(${n(x)} ${n(y)}) rotate(-90)"` : `x="${n(x)}" y="${n(y)}"`;
    const look = `${size === 12 ? "" : ` font-size="${size}"`}${bold ? ' font-weight="600"' : ""}`;
    this.parts.push(`<text ${at} fill="${color}" text-anchor="${anchor}"${look} xml:space="preserve">${escaped(said)}</text>`);
  }

  rect(x: number, y: number, width: number, height: number, fill: string, how: { said?: string; stroke?: string; radius?: number; alpha?: number } = {}): void {
    const round = how.radius ? ` rx="${how.radius}"` : "";
    const edge = how.stroke ? ` stroke="${how.stroke}"` : "";
    const alpha = how.alpha === undefined ? "" : ` fill-opacity="${n(how.alpha)}"`;
    const head = `<rect x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" fill="${fill}"${alpha}${round}${edge}`;
    this.parts.push(how.said === undefined ? `${head}/>` : `${head}><title>${escaped(how.said)}</title></rect>`);
  }

  line(x1: number, y1: number, x2: number, y2: number, stroke: string, width = 1): void {
    this.parts.push(`<line x1="${n(x1)}" y1="${n(y1)}" x2="${n(x2)}" y2="${n(y2)}" stroke="${stroke}" stroke-width="${n(width)}"/>`);
  }

  path(d: string, stroke: string, how: { width: number; alpha: number; dash?: number[]; said?: string }): void {
    const dash = how.dash && how.dash.length > 0 ? ` stroke-dasharray="${how.dash.join(" ")}"` : "";
    const head = `<path d="${d}" fill="none" stroke="${stroke}" stroke-width="${n(how.width)}" stroke-opacity="${n(how.alpha)}"${dash}`;
    this.parts.push(how.said === undefined ? `${head}/>` : `${head}><title>${escaped(how.said)}</title></path>`);
  }

  image(x: number, y: number, width: number, height: number, href: string): void {
    this.parts.push(
      `<image x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" preserveAspectRatio="none" style="image-rendering:pixelated" href="${href}"/>`,
    );
  }

  /** A bar of colors with what its ends mean under it; gives how tall it is. */
  legend(x: number, y: number, width: number, unit: string, color: (share: number) => Rgb, ticks: [string, string, string]): number {
    const name = `scale${scales++}`;
    const stops = Array.from({ length: 17 }, (_, i) => `<stop offset="${n(i / 16)}" stop-color="${css(color(i / 16))}"/>`);
    this.defs.push(`<linearGradient id="${name}">${stops.join("")}</linearGradient>`);
    this.text(x, y + 11, unit, { color: this.ink.muted });
    this.rect(x, y + 18, width, 10, `url(#${name})`, { stroke: this.ink.line });
    for (const [i, anchor] of (["start", "middle", "end"] as const).entries()) {
      this.text(x + (width * i) / 2, y + 42, ticks[i], { anchor, size: 11, color: this.ink.muted });
    }
    return 50;
  }

  svg(width: number, height: number): string {
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${n(width)}" height="${n(height)}" viewBox="0 0 ${n(width)} ${n(height)}" ` +
      `font-family="${escaped(FONT)}" font-size="12" role="img"><title>${escaped(this.title)}</title>` +
      `${this.defs.length > 0 ? `<defs>${this.defs.join("")}</defs>` : ""}` +
      `<rect width="100%" height="100%" fill="${this.ink.background}"/>${this.parts.join("")}</svg>\n`
    );
  }
}

/** Two drawings beside each other. */
export function beside(one: string, other: string): string {
  const size = (svg: string): number[] => /width="([\d.]+)" height="([\d.]+)"/.exec(svg)!.slice(1).map(Number);
  const [[left, tall], [right, other_tall]] = [size(one), size(other)];
  const placed = other.replace("<svg ", `<svg x="${left}" `);
  const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${left + right}" height="${Math.max(tall, other_tall)}">`;
  return `${head}${one}${placed}</svg>\n`;
}

/** About how wide a text is; no letter of the fonts that systems have is wider than an em but for a few scripts'. */
export function widthOf(text: string, size = 12): number {
  let width = 0;
  for (const letter of text) width += letter.codePointAt(0)! > 0x2e7f ? 1.02 : /[ilj.,:;'|!\s]/.test(letter) ? 0.32 : /[mwMW@%]/.test(letter) ? 0.92 : 0.6;
  return width * size;
}

/** A text cut to a width. */
export function fitted(text: string, room: number, size = 12): string {
  if (widthOf(text, size) <= room) return text;
  const letters = [...text];
  while (letters.length > 1 && widthOf(letters.join(""), size) + size > room) letters.pop();
  return `${letters.join("")}\u2026`;
}

function n(value: number): string {
  return `${Math.round(value * 100) / 100}`;
}

/** Text as XML has it: what it can't carry is left out. */
export function escaped(text: string): string {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
