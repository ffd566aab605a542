/** Tiles of a head's map for Leaflet: fetched once, painted again when only their colors change. */

import L from "leaflet";
import { type Ramp, colorOf, luminance, paint } from "../colors";
import { type Layer, type Reduce, cellsWithin, withinOf } from "../description";
import { type Within, weightText } from "../numbers";
import { largest } from "../questions";
import { sharesOfRows } from "../rows";
import { TILE } from "../source/math";
import { type Source, isAbort } from "../source/source";
import { MAX_ZOOM } from "../state";

const KEPT = 96; // tiles, 256 KiB each

export interface Shown {
  layerIndex: number;
  layer: Layer;
  head: number;
  reduce: Reduce;
}

/** A cell of the map: the half-open ranges of positions that it stands for. */
export interface Cell {
  queries: [number, number];
  keys: [number, number];
  value: number | null; // null: not here yet
  within: Within; // how far it may be from the formula's
}

/** The tiles of one map, as the source gives them, the latest used kept. */
export class Tiles {
  private readonly values = new Map<string, Float32Array>();

  constructor(
    private readonly source: Source,
    readonly shown: Shown,
  ) {}

  get finest(): number {
    return this.shown.layer.levels - 1;
  }

  /** The finest level whose tiles there are. */
  get deepest(): number {
    return this.shown.layer.kept ?? this.finest;
  }

  /** The level that a zoom shows: log2 of CSS pixels a weight. */
  level(zoom: number): number {
    return Math.max(0, Math.min(this.deepest, Math.round(zoom) + this.finest));
  }

  known(level: number, row: number, column: number): Float32Array | null {
    return this.values.get(`${level}/${row}/${column}`) ?? null;
  }

  async get(level: number, row: number, column: number, signal: AbortSignal): Promise<Float32Array> {
    const name = `${level}/${row}/${column}`;
    const known = this.values.get(name);
    if (known) {
      this.values.delete(name);
      this.values.set(name, known);
      return known;
    }
    const { layerIndex, head, reduce } = this.shown;
    const values = await this.source.tile(layerIndex, head, level, row, column, reduce, signal);
    this.keep(name, values);
    return values;
  }

  /** The cell that holds a weight, at the level of a zoom. */
  cell(query: number, key: number, zoom: number): Cell {
    const level = this.level(zoom);
    const size = 2 ** (this.finest - level);
    const row = Math.floor(query / size);
    const column = Math.floor(key / size);
    const tile = this.known(level, Math.floor(row / TILE), Math.floor(column / TILE));
    const { layer } = this.shown;
    return {
      queries: [row * size, Math.min(layer.queries, (row + 1) * size)],
      keys: [column * size, Math.min(layer.keys, (column + 1) * size)],
      value: tile ? tile[(row % TILE) * TILE + (column % TILE)] : null,
      within: cellsWithin(layer, this.shown.head, this.shown.reduce, size),
    };
  }

  private keep(name: string, values: Float32Array): void {
    this.values.set(name, values);
    if (this.values.size > KEPT) this.values.delete(this.values.keys().next().value as string);
  }
}

interface Painting {
  coords: L.Coords;
  stop: AbortController;
  values: Float32Array | null;
}

/** The layer of tiles. `top` tells of the largest value seen at a level; `failed` of what went wrong. */
export class MapLayer extends L.GridLayer {
  private readonly paintings = new Map<HTMLCanvasElement, Painting>();
  ramp: Ramp;
  dark: boolean;

  constructor(
    readonly tiles: Tiles,
    ramp: Ramp,
    dark: boolean,
    private readonly heard: { value(level: number, top: number): void; failed(message: string): void },
  ) {
    const { layer } = tiles.shown;
    super({
      tileSize: TILE,
      noWrap: true,
      bounds: [
        [-layer.queries, 0],
        [0, layer.keys],
      ],
      minZoom: -tiles.finest - 3,
      maxZoom: MAX_ZOOM + 1,
      minNativeZoom: -tiles.finest,
      maxNativeZoom: MAX_ZOOM,
      updateWhenZooming: false,
      keepBuffer: 1,
    });
    this.ramp = ramp;
    this.dark = dark;
    // At a zoom between two levels tiles end between two pixels, and what is behind them would shine through.
    this.on("tileloadstart", ({ tile }: L.TileEvent) => {
      tile.style.width = tile.style.height = `${TILE + 1}px`;
    });
    this.on("tileunload", ({ tile }: L.TileEvent) => {
      this.paintings.get(tile as HTMLElement as HTMLCanvasElement)?.stop.abort();
      this.paintings.delete(tile as HTMLElement as HTMLCanvasElement);
    });
  }

  override createTile(coords: L.Coords, done: L.DoneCallback): HTMLElement {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const painting: Painting = { coords, stop: new AbortController(), values: null };
    this.paintings.set(canvas, painting);
    const { level, row, column } = this.place(coords);
    this.tiles.get(level, row, column, painting.stop.signal).then(
      (values) => {
        painting.values = values;
        this.heard.value(level, largest(values));
        this.paint(canvas, painting);
        done(undefined, canvas);
      },
      (error: unknown) => {
        if (!isAbort(error)) this.heard.failed((error as Error).message);
        done(error as Error, canvas);
      },
    );
    return canvas;
  }

  /** Paints what is there in other colors. */
  recolor(ramp: Ramp, dark: boolean): void {
    this.ramp = ramp;
    this.dark = dark;
    for (const [canvas, painting] of this.paintings) this.paint(canvas, painting);
  }

  /** Which tile of the pyramid a tile of the screen comes from, and which part of it, in cells. */
  private place({ x, y, z }: L.Coords) {
    const beyond = Math.max(0, z + this.tiles.finest - this.tiles.deepest);
    const within = 2 ** beyond; // tiles of the screen along one of the pyramid
    return {
      level: z + this.tiles.finest - beyond,
      row: Math.floor(y / within),
      column: Math.floor(x / within),
      side: TILE / within,
      top: ((y % within) * TILE) / within,
      left: ((x % within) * TILE) / within,
    };
  }

  private paint(canvas: HTMLCanvasElement, { coords, values }: Painting): void {
    if (!values) return;
    const { level, row, column, side, top, left } = this.place(coords);
    const { layer } = this.tiles.shown;
    const size = 2 ** (this.tiles.finest - level);
    const width = Math.min(side, Math.ceil(layer.keys / size) - column * TILE - left);
    const height = Math.min(side, Math.ceil(layer.queries / size) - row * TILE - top);
    const part = new Float32Array(width * height);
    for (let y = 0; y < height; y++) {
      const from = (top + y) * TILE + left;
      part.set(values.subarray(from, from + width), y * width);
    }
    const image = new ImageData(width, height);
    const { rows } = this.ramp;
    const painted = rows ? sharesOfRows(part, width, rows, row * TILE + top, size) : part;
    paint(painted, this.ramp, new Uint32Array(image.data.buffer), this.dark);
    const zoom = TILE / side;
    const sharp = zoom >= 32 ? Math.ceil(devicePixelRatio) : 1; // where there are numbers to read
    canvas.width = canvas.height = TILE * sharp;
    const context = canvas.getContext("2d")!;
    if (zoom === 1) {
      context.putImageData(image, 0, 0);
      return;
    }
    const small = document.createElement("canvas");
    small.width = width;
    small.height = height;
    small.getContext("2d")!.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.scale(sharp, sharp);
    context.drawImage(small, 0, 0, width * zoom, height * zoom);
    if (zoom >= 64) this.write(context, part, painted, width, zoom);
  }

  private write(context: CanvasRenderingContext2D, part: Float32Array, painted: Float32Array, width: number, zoom: number): void {
    context.font = `${zoom / 4.6}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const within = withinOf(this.tiles.shown.layer, this.tiles.shown.head);
    for (const [i, value] of part.entries()) {
      if (Number.isNaN(value)) continue;
      context.fillStyle = luminance(colorOf(this.ramp, painted[i], this.dark)) > 0.179 ? "#000d" : "#fffd";
      context.fillText(weightText(value, within), ((i % width) + 0.5) * zoom, (Math.floor(i / width) + 0.5) * zoom);
    }
  }
}
