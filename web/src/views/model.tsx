/** Every head of every layer at a glance; a click opens its map. */

import { useEffect, useRef, useState } from "preact/hooks";
import { ScaleSwitch } from "../controls";
import { paint, pixel, ramp, rgb } from "../colors";
import { type Layer, headName } from "../description";
import { weightText } from "../numbers";
import { largest } from "../map/tiles";
import { type Thumbnail, isAbort } from "../source/source";
import { useSession, useStore } from "../session";

export function ModelControls() {
  return (
    <>
      <ScaleSwitch />
      <span class="muted note">
        Rows are layers, columns heads. Each map from 0 (dark) to its own largest weight (bright); queries down, keys
        across.
      </span>
    </>
  );
}

export function ModelView(props: { dark: boolean }) {
  const { description } = useSession();
  const { state, set } = useStore();
  const [focus, setFocus] = useState<[number, number]>([state.layer, state.head]);
  const grid = useRef<HTMLDivElement>(null);
  const heads = Math.max(...description.layers.map((layer) => layer.heads));

  const onKeyDown = (event: KeyboardEvent): void => {
    const steps: Record<string, [number, number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const layer = Math.max(0, Math.min(description.layers.length - 1, focus[0] + step[0]));
    const head = Math.max(0, Math.min(description.layers[layer].heads - 1, focus[1] + step[1]));
    setFocus([layer, head]);
    grid.current!.querySelector<HTMLElement>(`[data-place="${layer} ${head}"]`)?.focus();
  };

  return (
    <div class="model-view">
      <div
        class="model-grid"
        role="grid"
        aria-label="Heads of all layers"
        ref={grid}
        onKeyDown={onKeyDown}
        style={{ "--heads": heads }}
      >
        <div role="row" class="model-row model-top">
          <span role="columnheader" class="model-corner">
            layer
          </span>
          {Array.from({ length: heads }, (_, head) => (
            <span key={head} role="columnheader">
              {columnName(description.layers, head)}
            </span>
          ))}
        </div>
        {description.layers.map((layer, index) => (
          <div role="row" class="model-row" key={index}>
            <span role="rowheader" title={`${layer.pattern}, ${layer.queries} queries, ${layer.keys} keys`}>
              {layer.label}
            </span>
            {Array.from({ length: layer.heads }, (_, head) => (
              <div role="gridcell" key={head}>
                <button
                  type="button"
                  class="thumb"
                  data-place={`${index} ${head}`}
                  aria-current={index === state.layer && head === state.head ? "true" : undefined}
                  aria-label={`Layer ${layer.label}, head ${headName(layer, head)}: open its map`}
                  title={`Layer ${layer.label}, head ${headName(layer, head)}`}
                  tabIndex={focus[0] === index && focus[1] === head ? 0 : -1}
                  onFocus={() => setFocus([index, head])}
                  onClick={() => set({ view: "map", layer: index, head, x: null, y: null, zoom: null }, true)}
                >
                  <Thumb layer={index} head={head} dark={props.dark} />
                </button>
              </div>
            ))}
          </div>
        ))}
      </div>
    </div>
  );
}

/** What a column's heads are called, where all layers agree; else each thumbnail says it alone. */
function columnName(layers: Layer[], head: number): string {
  const names = new Set(layers.filter(({ heads }) => head < heads).map((layer) => headName(layer, head)));
  return names.size === 1 ? [...names][0] : "";
}

function Thumb(props: { layer: number; head: number; dark: boolean }) {
  const session = useSession();
  const { scale } = useStore();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [found, setFound] = useState<Thumbnail | "none" | null>(null);

  // Asked for when it comes into sight: a model can have a thousand heads.
  useEffect(() => {
    const stop = new AbortController();
    const watcher = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      watcher.disconnect();
      session.source.thumbnail(props.layer, props.head, stop.signal).then(
        (thumbnail) => setFound(thumbnail ?? "none"),
        (error: unknown) => {
          if (!isAbort(error)) session.fail((error as Error).message);
        },
      );
    });
    watcher.observe(canvas.current!);
    return () => {
      watcher.disconnect();
      stop.abort();
    };
  }, [session.source, props.layer, props.head]);

  useEffect(() => {
    if (!found || found === "none") return;
    const { rows, columns, values } = found;
    const element = canvas.current!;
    element.width = columns;
    element.height = rows;
    const image = new ImageData(columns, rows);
    const { keys } = session.description.layers[props.layer];
    const hidden = pixel(rgb(props.dark ? 0x33343c : 0xdfe0e4));
    paint(values, ramp(scale, largest(values), keys), new Uint32Array(image.data.buffer), hidden);
    element.getContext("2d")!.putImageData(image, 0, 0);
    element.title = `largest weight ${weightText(largest(values))}`;
  }, [found, scale, props.dark]);

  return (
    <>
      <canvas ref={canvas} width={1} height={1} aria-hidden="true" />
      {found === "none" && <span class="thumb-later">click to read</span>}
    </>
  );
}
