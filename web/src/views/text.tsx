/** The text view: tokens shaded by what one query gives them, or by what they give to one key. */

import { known, part, pending } from "../answers";
import { colorOf, css, legendColor, rampOf, textOn } from "../colors";
import { HeadPicker, LayerPicker, NoWeights, Segmented, WindowControl } from "../controls";
import { type Axis, hasWeights, isOneText, label, position, positionName, sidesWithin, visibleText, withinOf } from "../description";
import { useFound } from "../find/find";
import { usePlace, useRoving } from "../focus";
import { Legend, ScaleSwitches } from "../legend";
import { countText, positionText, weightText } from "../numbers";
import { PassNote } from "../pass";
import { COLUMN, ROW, SIDES, type Window, farthest, topOf } from "../questions";
import { useAnswer, useGlobal, useInSight, useSession, useStore } from "../session";
import { WINDOW, bringing, windowOf } from "../state";
import { Strongest } from "../whole";
import { useMemo, useState } from "preact/hooks";

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
      <ScaleSwitches />
      <WindowControl usual={WINDOW} />
    </>
  );
}

export function TextView(props: { dark: boolean }) {
  const { layer } = useStore();
  return hasWeights(layer) ? <Text dark={props.dark} /> : <NoWeights />;
}

function Text(props: { dark: boolean }) {
  const { description, announce } = useSession();
  const { state, layer, set } = useStore();
  const queries = windowOf(state, description, "query", WINDOW);
  const keys = windowOf(state, description, "key", WINDOW);
  const picks: Axis = state.flow === "gives" ? "query" : "key";
  const shades: Axis = picks === "query" ? "key" : "query";
  const windows = { query: queries, key: keys };
  const { hovered, sought, hover, seek, pin } = usePlace([state.layer, picks, ...queries, ...keys]);
  const [over, setOver] = useState<number | null>(null); // a token of the shaded text
  const pinned = state[picks];
  const picked = pinned ?? (hovered?.axis === picks ? hovered.index : null);
  const one = isOneText(layer) && queries.join() === keys.join();

  const { row, column, asked, values, most, within, rows, colors, shade } = useShades(picks, picked, one, props.dark);

  const text = (axis: Axis, role: { shaded: boolean; picks: boolean }) => (
    <Tokens
      axis={axis}
      window={windows[axis]}
      shadeOf={role.shaded ? shade : () => null}
      picked={role.picks ? picked : null}
      pinned={role.picks ? pinned : null}
      sought={role.shaded && sought?.axis === shades ? sought.index : null}
      onEnter={(index) => {
        if (role.picks && pinned === null) hover({ axis: picks, index });
        if (role.shaded) setOver(index);
      }}
      onLeave={() => {
        hover(null);
        setOver(null);
      }}
      onSay={(index) => {
        if (role.shaded && picked !== null && picked !== index) announce(sentence(index));
        else announce(`${axis} ${positionName(description, layer, axis, index)}`);
      }}
      onPin={role.picks ? (index, event) => pin({ axis: picks, index }, event) : null}
    />
  );

  const sentence = (index: number): string => {
    const weight = values ? weightText(values[index], within) : pending(asked);
    const name = positionName(description, layer, shades, index);
    if (picked === null) return `${name}: ${weight} of an average query that sees it`;
    const own = positionName(description, layer, picks, picked);
    return picks === "query" ? `query ${own} \u2192 key ${name}: ${weight}` : `query ${name} \u2192 key ${own}: ${weight}`;
  };
  const go = (index: number): void => {
    seek({ axis: shades, index });
    const brought = bringing(state, description, shades, index, windows[shades]);
    if (brought) set(brought, true);
  };
  const unit =
    picked !== null
      ? picks === "query" ? "weight it gives to a key" : `weight a query gives it${rows ? ", as a share of the query\u2019s largest" : ""}`
      : `mean ${layer.unit ?? "weight"} received from all ${countText(layer.queries)} queries`;
  return (
    <div class="text-view">
      <div class="text-top">
        <Legend
          ramp={colors}
          unit={unit}
          color={legendColor(colors, props.dark)}
          dark={props.dark}
          layer={layer}
          largest={most === null ? null : weightText(most, within)}
        />
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
      <div class="text-whole">
        {pinned !== null && (
          <Strongest row={picks === "query" ? row : column} axis={shades} window={windows[shades]} chosen={null} onGo={go} />
        )}
      </div>
      <PassNote what={picked === null ? "sides" : "map"} layer={state.layer} head={state.head} />
      {one ? (
        text(shades, { shaded: true, picks: true })
      ) : (
        <div class="text-two">
          <section>
            <h2>{picks === "query" ? "Queries: pick one" : "Keys: pick one"}</h2>
            {text(picks, { shaded: false, picks: true })}
          </section>
          <section>
            <h2>{shades === "key" ? "Keys" : "Queries"}</h2>
            {text(shades, { shaded: true, picks: false })}
          </section>
        </div>
      )}
    </div>
  );
}

/** What shades a text: of a picked query its row, of a picked key its column, of none what keys receive. */
function useShades(picks: Axis, picked: number | null, one: boolean, dark: boolean) {
  const { state, layer, scale, strength: wanted } = useStore();
  const of = { layer: state.layer, head: state.head };
  // Whole rows and columns: a window never passes for all of one.
  const row = useAnswer(ROW, picks === "query" && picked !== null ? { ...of, query: picked } : null);
  const column = useAnswer(COLUMN, picks === "key" && picked !== null ? { ...of, key: picked } : null);
  const receives = layer.kept === undefined && picked === null && (picks === "query" || one);
  const sides = useAnswer(SIDES, receives || (picks === "key" && wanted === "row") ? of : null);
  const received = part(receives ? sides : { state: "nothing" as const }, ({ received }) => received);
  const asked = picked === null ? received : picks === "query" ? row : column;
  const values = known<object, Float32Array>(asked);
  const most = useMemo(() => (values ? farthest(values) : null), [values]);
  const within = picked === null ? sidesWithin(layer, state.head) : withinOf(layer, state.head);
  // A query's row is all that is shown; of a key's column each weight is of a row of its own.
  const rows = picks === "key" && picked !== null && wanted === "row" ? known(part(sides, ({ largest }) => largest)) : null;
  const strength = wanted === "row" && rows === null ? "relative" : wanted;
  const colors = useMemo(
    () => rampOf(layer, scale, strength, values && topOf(values, strength, layer.signed)),
    [layer, scale, strength, values],
  );
  const shade = (index: number): { background: string; color: string } | null => {
    const value = values?.[index] ?? Number.NaN;
    if (Number.isNaN(value)) return null;
    const color = colorOf(colors, rows ? value / (rows[index] || 1) : value, dark);
    return { background: css(color), color: textOn(color) };
  };
  return { row, column, asked, values, most, within, rows, colors, shade };
}

function Tokens(props: {
  axis: Axis;
  window: Window;
  shadeOf(index: number): { background: string; color: string } | null;
  picked: number | null;
  pinned: number | null;
  sought: number | null;
  onEnter(index: number): void;
  onLeave(): void;
  onSay(index: number): void;
  onPin: ((index: number, event: MouseEvent) => void) | null;
}) {
  const { description } = useSession();
  const { layer } = useStore();
  const { axis, window: [first, end] } = props;
  const roving = useRoving<number>(
    first,
    (index) => index >= first && index < end,
    (key, from, group) => {
      const to: Record<string, number> = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: first, End: end - 1 };
      if (key === "ArrowUp" || key === "ArrowDown") return neighbor(group, from, key === "ArrowDown");
      return to[key] ?? null;
    },
  );
  const found = useFound(axis);
  const marked = useGlobal(axis);
  const letters = useMemo(() => {
    let sum = 0;
    for (let index = first; index < end; index++) sum += 2 + (label(description, layer, axis, index)?.length ?? 3);
    return sum;
  }, [description, layer, axis, first, end]);
  useInSight(roving.group, props.pinned, [first, end]);
  useInSight(roving.group, props.sought, [first, end]);
  return (
    <div
      class="text"
      style={{ "--across": Math.sqrt(letters).toFixed(1) }}
      role="group"
      aria-label={axis === "query" ? "Queries" : "Keys"}
      ref={roving.group}
      onKeyDown={roving.onKeyDown}
      onPointerLeave={props.onLeave}
    >
      {Array.from({ length: end - first }, (_, i) => {
        const index = first + i;
        const token = label(description, layer, axis, index);
        const colors = props.shadeOf(index);
        return (
          <>
            <button
              key={index}
              type="button"
              class={`text-token ${colors === null ? "bare" : ""} ${props.picked === index ? "picked" : ""} ${props.sought === index ? "sought" : ""} ${found.has(index) ? "found" : ""} ${marked.has(index) ? "global" : ""}`}
              style={colors ?? undefined}
              data-position={index}
              {...roving.stop(index)}
              aria-pressed={props.onPin ? props.pinned === index : undefined}
              aria-label={positionName(description, layer, axis, index)}
              title={marked.has(index) ? `a global ${axis}` : undefined}
              onPointerEnter={(event) => event.pointerType !== "touch" && props.onEnter(index)}
              onFocus={({ currentTarget }) => {
                roving.came(index);
                props.onSay(index);
                if (currentTarget.matches(":focus-visible")) props.onEnter(index);
              }}
              onBlur={props.onLeave}
              onClick={(event) => props.onPin?.(index, event)}
            >
              <bdi>{token === null ? positionText(position(layer, axis, index)) : visibleText(token)}</bdi>
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
