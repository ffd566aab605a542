/** The text view: tokens shaded by what one query gives them, or by what they give to one key. */

import { useMemo, useRef, useState } from "preact/hooks";
import { ramp } from "../colors";
import { HeadPicker, LayerPicker, ScaleSwitch, Segmented, WindowControl } from "../controls";
import { type Axis, isOneText, label, position, positionName, visibleText } from "../description";
import { shade, shadeGradient } from "../heat";
import { Legend } from "../legend";
import { positionText, weightText } from "../numbers";
import { useAnswer, usePinnedInSight, useSession, useStore } from "../session";
import { type Flow, WINDOW, windowOf } from "../state";

export function TextControls() {
  const { state, set } = useStore();
  return (
    <>
      <LayerPicker />
      <HeadPicker />
      <Segmented
        name="Direction"
        value={state.flow}
        choices={[
          ["gives", "what it attends to", "Pick a query: keys are shaded by the weight it gives them"],
          ["receives", "what attends to it", "Pick a key: queries are shaded by the weight they give it"],
        ]}
        onChange={(flow) => set({ flow, query: null, key: null }, true)}
      />
      <ScaleSwitch />
      <WindowControl usual={WINDOW} />
    </>
  );
}

export function TextView(props: { dark: boolean }) {
  const { source, description, announce } = useSession();
  const { state, layer, scale, set } = useStore();
  const [hover, setHover] = useState<number | null>(null);
  const [over, setOver] = useState<number | null>(null); // a token of the shaded text
  const queries = windowOf(state, description, "query", WINDOW);
  const keys = windowOf(state, description, "key", WINDOW);
  const { value: found } = useAnswer(
    (signal) =>
      source
        .weights(state.layer, state.head, { queries, keys }, signal)
        .then((values) => ({ values, queries, keys })),
    [state.layer, state.head, ...queries, ...keys],
  );

  const picks: Axis = state.flow === "gives" ? "query" : "key";
  const shades: Axis = picks === "query" ? "key" : "query";
  const pinned = state[picks];
  const picked = pinned ?? hover;
  const one = isOneText(layer);
  const values = useMemo(() => (found ? along(found, state.flow, picked) : null), [found, state.flow, picked]);
  const top = values ? values.reduce((most, value) => (value > most ? value : most), 0) : 1;
  const colors = ramp(scale, top, layer.keys);
  const first = shades === "key" ? keys[0] : queries[0];
  const valueOf = (index: number): number => values?.[index - first] ?? Number.NaN;

  const pin = (index: number): void => set({ [picks]: pinned === index ? null : index, [shades]: null }, true);
  const text = (axis: Axis, role: { shaded: boolean; picks: boolean }) => (
    <Tokens
      axis={axis}
      window={axis === "query" ? queries : keys}
      shadeOf={
        role.shaded
          ? (index) => (Number.isNaN(valueOf(index)) ? null : shade(colors.share(valueOf(index)), props.dark))
          : () => null
      }
      picked={role.picks ? picked : null}
      pinned={role.picks ? pinned : null}
      onEnter={(index) => {
        if (role.picks && pinned === null) setHover(index);
        if (role.shaded) setOver(index);
      }}
      onLeave={() => {
        setHover(null);
        setOver(null);
      }}
      onSay={(index) => {
        if (role.shaded && picked !== null && picked !== index) announce(sentence(index));
        else announce(`${axis} ${positionName(description, layer, axis, index)}`);
      }}
      onPin={role.picks ? pin : null}
    />
  );

  const sentence = (index: number): string => {
    const value = valueOf(index);
    const weight = values ? weightText(value) : "\u2026";
    const name = positionName(description, layer, shades, index);
    if (picked === null) return `${name}: ${weight} of an average query that sees it`;
    const own = positionName(description, layer, picks, picked);
    return picks === "query" ? `query ${own} \u2192 key ${name}: ${weight}` : `query ${name} \u2192 key ${own}: ${weight}`;
  };
  const unit =
    picked === null ? "mean weight received" : picks === "query" ? "weight it gives to a key" : "weight a query gives it";
  return (
    <div class="text-view" onKeyDown={(event) => event.key === "Escape" && set({ query: null, key: null }, true)}>
      <div class="text-top">
        <Legend ramp={colors} unit={unit} gradient={shadeGradient(props.dark)} />
        <p class="readout" data-role="text-readout">
          {over !== null && !(one && over === picked) ? (
            sentence(over)
          ) : picked !== null ? (
            <span>
              {picks} <bdi>{positionName(description, layer, picks, picked)}</bdi>
              {pinned === null ? "" : " (pinned; click it again or press Esc to let go)"}
            </span>
          ) : (
            <span class="muted">
              Hover a token to see {picks === "query" ? "what it attends to" : "what attends to it"}; click to pin it.
            </span>
          )}
        </p>
      </div>
      {one ? (
        text(shades, { shaded: true, picks: true })
      ) : (
        <>
          <h2>{picks === "query" ? "Queries: pick one" : "Keys: pick one"}</h2>
          {text(picks, { shaded: false, picks: true })}
          <h2>{shades === "key" ? "Keys" : "Queries"}</h2>
          {text(shades, { shaded: true, picks: false })}
        </>
      )}
    </div>
  );
}

function Tokens(props: {
  axis: Axis;
  window: [number, number];
  shadeOf(index: number): { background: string; color: string } | null;
  picked: number | null;
  pinned: number | null;
  onEnter(index: number): void;
  onLeave(): void;
  onSay(index: number): void;
  onPin: ((index: number) => void) | null;
}) {
  const { description } = useSession();
  const { layer } = useStore();
  const [first, end] = props.window;
  const [at, setAt] = useState(first);
  const list = useRef<HTMLDivElement>(null);
  const focusable = at >= first && at < end ? at : first;
  usePinnedInSight(list, [props.pinned, first, end]);
  const onKeyDown = (event: KeyboardEvent): void => {
    const to: Record<string, number> = { ArrowLeft: focusable - 1, ArrowRight: focusable + 1, Home: first, End: end - 1 };
    if (event.key === "ArrowUp" || event.key === "ArrowDown") to[event.key] = neighbor(list.current!, focusable, event.key === "ArrowDown");
    if (!(event.key in to)) return;
    event.preventDefault();
    const next = Math.max(first, Math.min(end - 1, to[event.key]));
    setAt(next);
    list.current!.querySelector<HTMLElement>(`[data-position="${next}"]`)?.focus();
  };
  return (
    <div class="text" role="group" aria-label={props.axis === "query" ? "Queries" : "Keys"} ref={list} onKeyDown={onKeyDown} onPointerLeave={props.onLeave}>
      {Array.from({ length: end - first }, (_, i) => {
        const index = first + i;
        const token = label(description, layer, props.axis, index);
        const colors = props.shadeOf(index);
        return (
          <>
            <button
              key={index}
              type="button"
              class={`text-token ${colors === null ? "bare" : ""} ${props.picked === index ? "picked" : ""}`}
              style={colors ?? undefined}
              data-position={index}
              aria-pressed={props.onPin ? props.pinned === index : undefined}
              aria-label={positionName(description, layer, props.axis, index)}
              tabIndex={index === focusable ? 0 : -1}
              onPointerEnter={() => props.onEnter(index)}
              onFocus={({ currentTarget }) => {
                setAt(index);
                props.onSay(index);
                if (currentTarget.matches(":focus-visible")) props.onEnter(index);
              }}
              onBlur={props.onLeave}
              onClick={() => props.onPin?.(index)}
            >
              <bdi>{token === null ? positionText(position(layer, props.axis, index)) : visibleText(token)}</bdi>
            </button>
            {token !== null && /\n/.test(token) && <br />}
          </>
        );
      })}
    </div>
  );
}

/** The token below or above another. */
function neighbor(list: HTMLElement, index: number, below: boolean): number {
  const own = list.querySelector(`[data-position="${index}"]`)!.getBoundingClientRect();
  let best = index;
  let least = Number.POSITIVE_INFINITY;
  for (const other of list.querySelectorAll<HTMLElement>("[data-position]")) {
    const box = other.getBoundingClientRect();
    const down = below ? box.top - own.top : own.top - box.top;
    if (down < own.height / 2) continue;
    const away = 50 * down + Math.abs(box.left + box.width / 2 - own.left - own.width / 2);
    if (away < least) {
      least = away;
      best = Number(other.dataset.position);
    }
  }
  return best;
}

/**
 * A value for each token of the shaded text: the picked query's row, the picked key's column, or without one the mean of
 * what a key receives from the queries that see it. NaN: hidden.
 */
export function along(
  found: { values: Float32Array; queries: [number, number]; keys: [number, number] },
  flow: Flow,
  picked: number | null,
): Float64Array {
  const rows = found.queries[1] - found.queries[0];
  const columns = found.keys[1] - found.keys[0];
  if (picked !== null && flow === "gives") {
    const row = picked - found.queries[0];
    return Float64Array.from({ length: columns }, (_, s) => found.values[row * columns + s] ?? Number.NaN);
  }
  if (picked !== null) {
    const column = picked - found.keys[0];
    if (column < 0 || column >= columns) return new Float64Array(rows).fill(Number.NaN);
    return Float64Array.from({ length: rows }, (_, t) => found.values[t * columns + column]);
  }
  const sums = new Float64Array(columns);
  const counts = new Float64Array(columns);
  for (let t = 0; t < rows; t++) {
    for (let s = 0; s < columns; s++) {
      const weight = found.values[t * columns + s];
      if (Number.isNaN(weight)) continue;
      sums[s] += weight;
      counts[s]++;
    }
  }
  const means = sums.map((sum, s) => (counts[s] ? sum / counts[s] : Number.NaN));
  return flow === "gives" || rows === columns ? means : new Float64Array(rows).fill(Number.NaN);
}
