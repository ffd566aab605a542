/** The heads view: queries on the left, keys on the right, a line for each weight, in the color of its head. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { headColor, stroke } from "../colors";
import { LayerPicker, WindowControl } from "../controls";
import { type Axis, headName, label, position, positionName, visibleText } from "../description";
import { positionText, tickText, weightText } from "../numbers";
import { useAnswer, usePinnedInSight, useSession, useSize, useStore } from "../session";
import { USUAL_WINDOW, windowOf } from "../state";

const ROW = 24; // CSS pixels a token
const MOST_LINES = 5000; // of one picture

interface Place {
  axis: Axis;
  index: number;
}

export function HeadsControls() {
  const { state, layer, set } = useStore();
  const toggle = (head: number): void => {
    const heads = state.heads.includes(head)
      ? state.heads.filter((other) => other !== head)
      : [...state.heads, head].sort((a, b) => a - b);
    set({ heads, head: heads.includes(head) ? head : (heads[0] ?? state.head) }, true);
  };
  const all = Array.from({ length: layer.heads }, (_, head) => head);
  return (
    <>
      <LayerPicker />
      <WindowControl usual={USUAL_WINDOW.heads} />
      <div class="chips" role="group" aria-label="Heads shown">
        {all.map((head) => (
          <button
            key={head}
            type="button"
            class="chip"
            style={{ "--head": headColor(head) }}
            aria-pressed={state.heads.includes(head)}
            aria-label={`Head ${headName(layer, head)}`}
            title={`Head ${headName(layer, head)}; double click: this one alone`}
            onClick={() => toggle(head)}
            onDblClick={() => set({ heads: [head], head }, true)}
          >
            {headName(layer, head)}
          </button>
        ))}
        <button type="button" class="link" onClick={() => set({ heads: all }, true)}>
          all
        </button>
        <button type="button" class="link" onClick={() => set({ heads: [] }, true)}>
          none
        </button>
      </div>
    </>
  );
}

/** One head's weights over the window. */
interface HeadWeights {
  head: number;
  values: Float32Array; // (queries, keys) of the window
}

export function HeadsView(props: { dark: boolean }) {
  const { source, description, announce } = useSession();
  const { state, layer, set } = useStore();
  const queries = windowOf(state, description, "query", USUAL_WINDOW.heads);
  const keys = windowOf(state, description, "key", USUAL_WINDOW.heads);
  const [hover, setHover] = useState<Place | null>(null);
  const [scroll, frame] = useSize<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [top, setTop] = useState(0);

  const { value: heads } = useAnswer(
    (signal) =>
      Promise.all(
        state.heads.map(async (head) => ({
          head,
          values: await source.weights(state.layer, head, { queries, keys }, signal),
        })),
      ).then((found) => ({ found, queries, keys })),
    [state.layer, state.heads.join(), ...queries, ...keys],
  );

  const pinned: Place | null =
    state.query !== null && within(state.query, queries)
      ? { axis: "query", index: state.query }
      : state.query === null && state.key !== null && within(state.key, keys)
        ? { axis: "key", index: state.key }
        : null;
  const shown = hover ?? pinned;
  const lines = useMemo(
    () => (heads ? strongest(heads.found, heads.queries, heads.keys, shown) : { top: 0, lines: [] }),
    [heads, shown?.axis, shown?.index],
  );

  const rows = Math.max(queries[1] - queries[0], keys[1] - keys[0]);
  const width = frame.width;
  const gap = width < 500 ? 0.4 : 0.3; // the tokens' share of the width, each side
  const bars = Math.min(width < 500 ? 24 : 96, 11 * state.heads.length); // pixels between a token and its lines

  useEffect(() => {
    const element = canvas.current!;
    const sharp = devicePixelRatio || 1;
    element.width = Math.round(width * sharp);
    element.height = Math.round(frame.height * sharp);
    const context = element.getContext("2d")!;
    context.scale(sharp, sharp);
    const middle = (index: number, first: number): number => (index - first + 0.5) * ROW - top;
    const [left, right] = [width * gap, width * (1 - gap)];
    const spread = shown ? ROW - 10 : 6; // heads side by side where their lines meet
    for (const { head, query, key, weight } of lines.lines) {
      const lane = ((state.heads.indexOf(head) + 0.5) / state.heads.length - 0.5) * spread;
      const from = middle(query, queries[0]) + (shown?.axis === "query" ? 0 : lane);
      const to = middle(key, keys[0]) + (shown?.axis === "key" ? 0 : lane);
      if (Math.max(from, to) < -ROW || Math.min(from, to) > frame.height + ROW) continue;
      const share = weight / lines.top;
      context.strokeStyle = headColor(head);
      const { alpha, width: thick } = stroke(share, shown !== null);
      context.globalAlpha = alpha;
      context.lineWidth = thick;
      context.beginPath();
      context.moveTo(left, from);
      context.bezierCurveTo(left + (right - left) * 0.35, from, right - (right - left) * 0.35, to, right, to);
      context.stroke();
    }
    if (shown && heads) {
      // A bar for each head behind each token of the other side.
      const other: Axis = shown.axis === "query" ? "key" : "query";
      const start = other === "query" ? queries[0] : keys[0];
      const list = heads.found;
      for (const { head, query, key, weight } of lines.lines) {
        const y = middle(other === "query" ? query : key, start) - ROW / 2 + 2;
        if (y < -ROW || y > frame.height) continue;
        const room = bars / list.length;
        const place = list.findIndex((one) => one.head === head);
        const x = (other === "key" ? right : left - bars) + place * room;
        context.globalAlpha = weight / lines.top;
        context.fillStyle = headColor(head);
        context.fillRect(x, y, Math.max(1, room - 1), ROW - 4);
      }
    }
  }, [lines, width, frame.height, top, props.dark]);

  const say = (place: Place): void => {
    if (!heads) return;
    const one = strongest(heads.found, heads.queries, heads.keys, place).lines.slice(-3).reverse();
    const other: Axis = place.axis === "query" ? "key" : "query";
    const named = one.map(
      ({ head, query, key, weight }) =>
        `head ${headName(layer, head)}: ${other} ${positionName(description, layer, other, other === "key" ? key : query)}, ${weightText(weight)}`,
    );
    announce(`${place.axis} ${positionName(description, layer, place.axis, place.index)}. Strongest: ${named.join("; ")}`);
  };
  const pin = (place: Place): void => {
    const same = pinned?.axis === place.axis && pinned.index === place.index;
    const { axis, index } = place;
    const other = axis === "query" ? "key" : "query";
    set(same ? { query: null, key: null } : { [axis]: index, [other]: null }, true);
  };

  const column = (axis: Axis, [first, end]: [number, number]) => (
    <Column axis={axis} first={first} end={end} shown={shown} pinned={pinned} onHover={setHover} onFocus={say} onPin={pin} />
  );
  return (
    <div class="heads-view">
      <div class="heads-titles" aria-hidden="true">
        <span style={{ width: `${gap * 100}%`, paddingRight: bars + 8 }}>query</span>
        <span class="muted">
          {state.heads.length === 0
            ? "Pick a head above"
            : shown
              ? `weight, 0 to ${tickText(lines.top)}`
              : "hover or pin a token"}
        </span>
        <span style={{ width: `${gap * 100}%`, paddingLeft: bars + 8 }}>key</span>
      </div>
      <div class="heads-scroll" ref={scroll} onScroll={({ currentTarget }) => setTop(currentTarget.scrollTop)} onPointerLeave={() => setHover(null)}>
        <canvas ref={canvas} aria-hidden="true" style={{ height: frame.height }} />
        <div class="heads-columns" style={{ height: rows * ROW, marginTop: -frame.height, "--gap": gap, "--bars": `${bars}px` }}>
          {column("query", queries)}
          {column("key", keys)}
        </div>
      </div>
    </div>
  );
}

function Column(props: {
  axis: Axis;
  first: number;
  end: number;
  shown: Place | null;
  pinned: Place | null;
  onHover(place: Place | null): void;
  onFocus(place: Place): void;
  onPin(place: Place): void;
}) {
  const { description } = useSession();
  const { layer } = useStore();
  const { axis, first, end } = props;
  const [at, setAt] = useState(first);
  const list = useRef<HTMLDivElement>(null);
  const focusable = within(at, [first, end]) ? at : first;
  usePinnedInSight(list, [props.pinned?.axis, props.pinned?.index, first, end]);
  const onKeyDown = (event: KeyboardEvent): void => {
    const to: Record<string, number> = {
      ArrowUp: focusable - 1, ArrowDown: focusable + 1, Home: first, End: end - 1, PageUp: focusable - 10, PageDown: focusable + 10,
    };
    if (!(event.key in to)) return;
    event.preventDefault();
    const next = Math.max(first, Math.min(end - 1, to[event.key]));
    setAt(next);
    list.current!.querySelector<HTMLElement>(`[data-position="${next}"]`)?.focus();
  };
  return (
    <div
      class={`heads-column ${axis}`}
      role="group"
      aria-label={axis === "query" ? "Queries" : "Keys"}
      ref={list}
      onKeyDown={onKeyDown}
    >
      {Array.from({ length: end - first }, (_, i) => {
        const index = first + i;
        const token = label(description, layer, axis, index);
        const place = { axis, index };
        const is = (other: Place | null) => other?.axis === axis && other.index === index;
        return (
          <button
            key={index}
            type="button"
            class={`heads-token ${is(props.shown) ? "shown" : ""}`}
            style={{ height: ROW }}
            data-position={index}
            aria-pressed={is(props.pinned)}
            aria-label={`${axis} ${positionName(description, layer, axis, index)}`}
            tabIndex={index === focusable ? 0 : -1}
            onPointerEnter={(event) => event.pointerType !== "touch" && props.onHover(place)}
            onFocus={({ currentTarget }) => {
              setAt(index);
              props.onFocus(place);
              if (currentTarget.matches(":focus-visible")) props.onHover(place);
            }}
            onBlur={() => props.onHover(null)}
            onClick={() => props.onPin(place)}
          >
            <span class="number">{positionText(position(layer, axis, index))}</span>
            {token !== null && <bdi>{visibleText(token)}</bdi>}
          </button>
        );
      })}
    </div>
  );
}

interface Line {
  head: number;
  query: number;
  key: number;
  weight: number;
}

/** The strongest lines, the strongest last; with a place, those that start or end there. */
export function strongest(
  heads: HeadWeights[],
  queries: [number, number],
  keys: [number, number],
  place: Place | null,
): { top: number; lines: Line[] } {
  const width = keys[1] - keys[0];
  const from = place?.axis === "query" ? place.index : queries[0];
  const to = place?.axis === "query" ? place.index + 1 : queries[1];
  const left = place?.axis === "key" ? place.index : keys[0];
  const right = place?.axis === "key" ? place.index + 1 : keys[1];
  let top = 0;
  for (const { values } of heads) {
    for (let t = from; t < to; t++) {
      for (let s = left; s < right; s++) {
        const weight = values[(t - queries[0]) * width + s - keys[0]];
        if (weight > top) top = weight;
      }
    }
  }
  // Counted in bins first: a window of 512 x 512 in 16 heads has four million weights, and a few thousand lines are seen.
  const bins = new Float64Array(256);
  const bin = (weight: number): number => Math.min(255, Math.floor((weight / top) * 256));
  const each = (use: (head: number, query: number, key: number, weight: number) => void): void => {
    for (const { head, values } of heads) {
      for (let t = from; t < to; t++) {
        for (let s = left; s < right; s++) {
          const weight = values[(t - queries[0]) * width + s - keys[0]];
          if (weight > 0) use(head, t, s, weight);
        }
      }
    }
  };
  each((_head, _query, _key, weight) => bins[bin(weight)]++);
  let least = 255;
  for (let count = bins[255]; least > (place ? 0 : 3) && count + bins[least - 1] <= MOST_LINES; least--) count += bins[least - 1];
  const lines: Line[] = [];
  each((head, query, key, weight) => {
    if (bin(weight) >= least && lines.length < 4 * MOST_LINES) lines.push({ head, query, key, weight });
  });
  return { top, lines: lines.sort((a, b) => a.weight - b.weight) }; // the strongest are drawn last
}

function within(index: number, [first, end]: [number, number]): boolean {
  return index >= first && index < end;
}

