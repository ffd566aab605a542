/** The heads view: queries on the left, keys on the right, a line for each weight, in the color of its head. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Asked, known, part } from "../answers";
import { headColor, headDash, mix, rgb } from "../colors";
import { LayerPicker, NoWeights, WindowControl } from "../controls";
import { type Axis, beginsGroup, extent, hasWeights, headName, isCheap, keyHeadText, label, position, positionName, visibleText, withinOf } from "../description";
import { useFound } from "../find/find";
import { type Place, samePlace, usePlace, useRoving } from "../focus";
import { Legend, StrengthSwitch } from "../legend";
import { hasSides } from "../map/sides";
import { positionText, tickText, weightText } from "../numbers";
import { PassNote } from "../pass";
import { COLUMN, type OfHead, ROW, SIDES, WEIGHTS, type Window } from "../questions";
import { useAnswers, useGlobal, useInSight, useSession, useSize, useStore } from "../session";
import { USUAL_WINDOW, bringing, holds, windowOf } from "../state";
import { Strongest } from "../whole";
import { type HeadWeights, type Line, draw, lineShare, rampOfLines, rowHeight, strokeUnit, strongest } from "./lines";


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
      <StrengthSwitch />
      <div class="chips" role="group" aria-label="Heads shown">
        {all.map((head) => (
          <button
            key={head}
            type="button"
            class={`chip dash-${headDash(head).length} ${beginsGroup(layer, head) ? "begins-group" : ""}`}
            style={{ "--head": headColor(head) }}
            aria-pressed={state.heads.includes(head)}
            aria-label={`Head ${headName(layer, head)}`}
            title={[`Head ${headName(layer, head)}`, keyHeadText(layer, head), "double click: this one alone"].filter(Boolean).join("; ")}
            onClick={({ detail }) => detail < 2 && toggle(head)}
            onDblClick={() => set({ heads: [head], head })}
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

/** Those that are known, each under its own question's head. */
function there(asked: Asked<OfHead, Float32Array>[]): HeadWeights[] {
  return asked.flatMap((one) => (one.state === "known" ? [{ head: one.question.head, values: one.value }] : []));
}

export function HeadsView(props: { dark: boolean }) {
  const { layer } = useStore();
  return hasWeights(layer) ? <Lines dark={props.dark} /> : <NoWeights />;
}

function Lines(props: { dark: boolean }) {
  const { description, announce } = useSession();
  const { state, layer, strength: wanted, set } = useStore();
  const queries = windowOf(state, description, "query", USUAL_WINDOW.heads);
  const keys = windowOf(state, description, "key", USUAL_WINDOW.heads);
  const windows = { query: queries, key: keys };
  const [scroll, frame] = useSize<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [top, setTop] = useState(0);
  const { pinned, hovered, sought, hover, seek, pin } = usePlace([state.layer, ...queries, ...keys]);

  const asked = useAnswers(
    WEIGHTS,
    state.heads.map((head) => ({ layer: state.layer, head, queries, keys })),
  );
  const heads = useMemo(() => there(asked), asked.map(known)); // the answers themselves: nothing else can stand for them

  const inWindow = (place: Place | null): Place | null => (place && holds(windows[place.axis], place.index) ? place : null);
  const shown = inWindow(hovered) ?? inWindow(pinned);
  const found = useMemo(() => strongest(heads, queries, keys, shown), [heads, shown?.axis, shown?.index]);
  const tops = useLargest();
  const strength = wanted === "row" && tops === null ? "relative" : wanted;
  const ramp = useMemo(() => rampOfLines(layer, strength, heads, found.top), [layer, strength, heads, found.top]);
  const shareOf = ({ head, query, weight }: Line): number => lineShare(ramp, tops?.get(head) ?? null, query, weight);

  const received = useReceived(shown === null);
  const rows = Math.max(queries[1] - queries[0], keys[1] - keys[0]);
  const width = frame.width;
  const row = rowHeight(rows, frame);
  const gap = width < 500 ? 0.4 : 0.3; // the tokens' share of the width, each side
  const bars = Math.min(width < 500 ? 24 : 96, 11 * state.heads.length); // pixels between a token and its lines

  useEffect(() => {
    draw(
      canvas.current!,
      { layer, heads: state.heads, windows, place: shown, width, height: frame.height, row, gap, bars, scrolled: top, dark: props.dark, shareOf },
      found.lines,
      strength === "row" ? [] : received.flatMap((one) => (one.state === "known" ? [{ head: one.question.head, values: one.value }] : [])),
    );
  }, [found, ramp.top, strength, tops, ...received.map(known), width, frame.height, row, top, props.dark]);

  const say = (place: Place): void => {
    const one = strongest(heads, queries, keys, place).lines.slice(-3).reverse();
    const other: Axis = place.axis === "query" ? "key" : "query";
    const all = windows[other][1] - windows[other][0] === extent(layer, other);
    const named = one.map(
      ({ head, query, key, weight }) =>
        `head ${headName(layer, head)}: ${other} ${positionName(description, layer, other, other === "key" ? key : query)}, ${weightText(weight, withinOf(layer, head))}`,
    );
    announce(`${place.axis} ${positionName(description, layer, place.axis, place.index)}. Strongest${all ? "" : " shown"}: ${named.join("; ")}`);
  };

  const go = (axis: Axis, index: number): void => {
    seek({ axis, index });
    const brought = bringing(state, description, axis, index, windows[axis]);
    if (brought) set(brought, true);
  };
  const column = (axis: Axis) => (
    <Column axis={axis} window={windows[axis]} shown={shown} pinned={pinned} sought={sought} onHover={hover} onFocus={say} onPin={pin} />
  );
  return (
    <div class="heads-view">
      <div class="heads-top" style={{ "--rows": Math.min(4, state.heads.length) }}>
        <Legend
          ramp={ramp}
          unit={layer.signed || strength === "row" ? strokeUnit(layer, strength) : `weight, 0 to ${tickText(ramp.top)}${ramp.open ? " and more" : ""}`}
          color={(share) => mix(rgb(props.dark ? 0x16181d : 0xffffff), rgb(props.dark ? 0xececf1 : 0x1b1b20), share)}
          dark={props.dark}
          layer={null}
          said="largest shown"
          largest={heads.length === 0 ? null : weightText(found.most, withinOf(layer, found.head))}
        />
        <div class="heads-whole">
          {(pinned === null || state.heads.length === 0) && (
            <span class="muted">
              {state.heads.length === 0 ? "Pick a head above" : "Hover a token to see its lines alone; click to pin it."}
            </span>
          )}
          {pinned === null ? (
            <Receiving received={received} window={keys} go={(index) => go("key", index)} />
          ) : (
            <Wholes place={pinned} window={windows[otherThan(pinned.axis)]} go={(index) => go(otherThan(pinned.axis), index)} />
          )}
        </div>
      </div>
      <div class="heads-titles" aria-hidden="true">
        <span style={{ width: `${gap * 100}%`, paddingRight: bars + 8 }}>query</span>
        <span style={{ width: `${gap * 100}%`, paddingLeft: bars + 8 }}>
          key{shown === null && strength !== "row" && received.some(({ state: of }) => of === "known") ? ": bars are what it receives" : ""}
        </span>
      </div>
      <div class="heads-scroll" ref={scroll} onScroll={({ currentTarget }) => setTop(currentTarget.scrollTop)} onPointerLeave={() => hover(null)}>
        <canvas ref={canvas} aria-hidden="true" style={{ height: frame.height }} />
        <div class="heads-columns" style={{ height: rows * row, marginTop: -frame.height, "--gap": gap, "--bars": `${bars}px`, "--row": `${row}px` }}>
          {column("query")}
          {column("key")}
        </div>
      </div>
    </div>
  );
}

/** Of each head that is shown each query's largest weight, where colors are by row; null until all are known. */
function useLargest(): ReadonlyMap<number, Float32Array> | null {
  const { state, strength } = useStore();
  const asked = useAnswers(SIDES, strength === "row" ? state.heads.map((head) => ({ layer: state.layer, head })) : []);
  const all = asked.map(known);
  return useMemo(
    () => (strength === "row" && all.every((one) => one !== null) ? new Map(state.heads.map((head, i) => [head, all[i]!.largest])) : null),
    [strength, ...all],
  );
}

function otherThan(axis: Axis): Axis {
  return axis === "query" ? "key" : "query";
}

/** What keys receive of all queries, of each head that is shown; nothing where that would take long. */
function useReceived(wanted: boolean): Asked<OfHead, Float32Array>[] {
  const { description } = useSession();
  const { state, layer } = useStore();
  const there = wanted && hasSides(layer) && isCheap(description, layer);
  const asked = useAnswers(SIDES, there ? state.heads.slice(0, MOST_WHOLE).map((head) => ({ layer: state.layer, head })) : []);
  return asked.map((one) => part(one, ({ received }) => received));
}

/** The keys that receive most of all queries, of each head, wherever they are. */
function Receiving(props: { received: Asked<OfHead, Float32Array>[]; window: Window; go(index: number): void }) {
  return (
    <>
      {props.received.map((one) =>
        one.state === "nothing" ? null : (
          <div key={one.question.head} class="heads-row" style={{ "--head": headColor(one.question.head) }}>
            <Strongest row={one} axis="key" window={props.window} chosen={null} named received listed={4} onGo={props.go} />
          </div>
        ),
      )}
    </>
  );
}

const MOST_WHOLE = 16; // heads whose whole rows are listed

/** The whole row of the pinned query, or column of the pinned key, of each head shown: its strongest wherever they are. */
function Wholes(props: { place: Place; window: Window; go(index: number): void }) {
  const { state } = useStore();
  const { axis, index } = props.place;
  const heads = state.heads.slice(0, MOST_WHOLE);
  const of = (head: number) => ({ layer: state.layer, head });
  const rows = useAnswers(ROW, axis === "query" ? heads.map((head) => ({ ...of(head), query: index })) : []);
  const columns = useAnswers(COLUMN, axis === "key" ? heads.map((head) => ({ ...of(head), key: index })) : []);
  const asked: Asked<OfHead, Float32Array>[] = axis === "query" ? rows : columns;
  return (
    <>
      {asked.map((one, i) => (
        <div key={heads[i]} class="heads-row" style={{ "--head": headColor(heads[i]) }}>
          <Strongest row={one} axis={axis === "query" ? "key" : "query"} window={props.window} chosen={null} named listed={4} onGo={props.go} />
          {known(one) === null && <PassNote what="map" layer={state.layer} head={heads[i]} />}
        </div>
      ))}
      {state.heads.length > MOST_WHOLE && <span class="muted">the first {MOST_WHOLE} of {state.heads.length} heads</span>}
    </>
  );
}

function Column(props: {
  axis: Axis;
  window: Window;
  shown: Place | null;
  pinned: Place | null;
  sought: Place | null;
  onHover(place: Place | null): void;
  onFocus(place: Place): void;
  onPin(place: Place, event: MouseEvent): void;
}) {
  const { description } = useSession();
  const { layer } = useStore();
  const { axis, window: [first, end] } = props;
  const roving = useRoving<number>(
    first,
    (index) => index >= first && index < end,
    (key, from) => {
      const to: Record<string, number> = {
        ArrowUp: from - 1, ArrowDown: from + 1, Home: first, End: end - 1,
        PageUp: Math.max(first, from - 10), PageDown: Math.min(end - 1, from + 10),
      };
      return to[key] ?? null;
    },
  );
  const found = useFound(axis);
  const marked = useGlobal(axis);
  const here = (place: Place | null): number | null => (place?.axis === axis ? place.index : null);
  useInSight(roving.group, here(props.pinned), [first, end]);
  useInSight(roving.group, here(props.sought), [first, end]);
  return (
    <div
      class={`heads-column ${axis}`}
      role="group"
      aria-label={axis === "query" ? "Queries" : "Keys"}
      ref={roving.group}
      onKeyDown={roving.onKeyDown}
    >
      {Array.from({ length: end - first }, (_, i) => {
        const index = first + i;
        const token = label(description, layer, axis, index);
        const place = { axis, index };
        return (
          <button
            key={index}
            type="button"
            class={`heads-token ${samePlace(props.shown, place) ? "shown" : ""} ${here(props.sought) === index ? "sought" : ""} ${found.has(index) ? "found" : ""} ${marked.has(index) ? "global" : ""}`}
            data-position={index}
            {...roving.stop(index)}
            aria-pressed={samePlace(props.pinned, place)}
            aria-label={`${axis} ${positionName(description, layer, axis, index)}`}
            onPointerEnter={(event) => event.pointerType !== "touch" && props.onHover(place)}
            onFocus={({ currentTarget }) => {
              roving.came(index);
              props.onFocus(place);
              if (currentTarget.matches(":focus-visible")) props.onHover(place);
            }}
            onBlur={() => props.onHover(null)}
            onClick={(event) => props.onPin(place, event)}
          >
            <span class="number">{positionText(position(layer, axis, index))}</span>
            {token !== null && <bdi>{visibleText(token)}</bdi>}
          </button>
        );
      })}
    </div>
  );
}
