/** What the views' controls are made of. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Axis, bounds, extent, headName, indexAt, label, layersOf, position, visibleText } from "./description";
import { countText } from "./numbers";
import { useSession, useStore } from "./session";
import { WINDOW, clamp, longer, windowOf } from "./state";

/** A few choices, one of them taken. */
export function Segmented<T extends string>(props: {
  name: string;
  value: T;
  choices: readonly (readonly [T, string, string?])[]; // value, text, what it means
  onChange(value: T): void;
}) {
  return (
    <div class="segmented" role="group" aria-label={props.name}>
      {props.choices.map(([value, text, hint]) => (
        <button
          key={value}
          type="button"
          aria-pressed={value === props.value}
          title={hint}
          onClick={() => props.onChange(value)}
        >
          {text}
        </button>
      ))}
    </div>
  );
}

export function Field(props: { name: string; children: ComponentChildren }) {
  return (
    <label class="field">
      <span>{props.name}</span>
      {props.children}
    </label>
  );
}

function Stepper(props: {
  name: string;
  at: number;
  count: number;
  text(index: number): string;
  onChange(index: number): void;
}) {
  const step = (by: number) => props.onChange(clamp(props.at + by, 0, props.count - 1));
  return (
    <div class="stepper">
      <button type="button" aria-label={`Previous ${props.name}`} disabled={props.at === 0} onClick={() => step(-1)}>
        {"\u2039"}
      </button>
      <Field name={props.name}>
        <select
          value={`${props.at}`}
          onChange={({ currentTarget }) => props.onChange(Number(currentTarget.value))}
        >
          {Array.from({ length: props.count }, (_, index) => (
            <option key={index} value={`${index}`}>
              {props.text(index)}
            </option>
          ))}
        </select>
      </Field>
      <button
        type="button"
        aria-label={`Next ${props.name}`}
        disabled={props.at === props.count - 1}
        onClick={() => step(1)}
      >
        {"\u203a"}
      </button>
    </div>
  );
}

export function LayerPicker() {
  const { state, layer: shown, set } = useStore();
  const { description } = useSession();
  const { layers } = description;
  const own = layersOf(description, shown.text);
  return (
    <Stepper
      name="layer"
      at={own.indexOf(state.layer)}
      count={own.length}
      text={(place) => layers[own[place]].label}
      onChange={(place) => set({ layer: own[place] }, true)}
    />
  );
}

export function HeadPicker() {
  const { state, layer, set } = useStore();
  return (
    <Stepper
      name="head"
      at={state.head}
      count={layer.heads}
      text={(head) => headName(layer, head)}
      onChange={(head) => set({ head }, true)}
    />
  );
}

/** A query or key by its position, with its token beside it. */
export function PositionField(props: { axis: Axis }) {
  const { state, layer, set } = useStore();
  const { description } = useSession();
  const { axis } = props;
  const value = state[axis];
  const [typed, setTyped] = useState<string | null>(null);
  useEffect(() => setTyped(null), [value]);
  const token = value === null ? null : label(description, layer, axis, value);
  const labelled = (axis === "query" ? layer.query_labels : layer.key_labels) !== null;
  const [least, most] = bounds(layer, axis);
  const take = (text: string): void => {
    setTyped(null);
    if (/^-?\d+$/.test(text)) set({ [axis]: indexAt(layer, axis, Number(text)) }, true);
    else if (text === "") set({ [axis]: null }, true);
  };
  return (
    <label class={`field position ${axis}`}>
      <span>{axis}</span>
      <input
        type="number"
        inputMode="numeric"
        min={least}
        max={most}
        placeholder={"\u2013"}
        value={typed ?? (value === null ? "" : `${position(layer, axis, value)}`)}
        onInput={({ currentTarget }) => setTyped(currentTarget.value)}
        onChange={({ currentTarget }) => take(currentTarget.value)}
      />
      {labelled && <bdi class={`token-hint ${token === null ? "none" : ""}`}>{token === null ? "" : visibleText(token)}</bdi>}
    </label>
  );
}

/** Moves the windows of a view, where its axes are longer: one for both, and one of the keys' own. */
export function WindowControl(props: { usual: number }) {
  const { state, layer, set } = useStore();
  const { description } = useSession();
  const axis = longer(layer);
  const total = extent(layer, axis);
  const [least, most] = bounds(layer, axis);
  const [first, end] = windowOf(state, description, axis, props.usual);
  const count = end - first;
  if (count >= total && total <= 32) return null;
  const sizes = [32, 64, 128, 256, WINDOW].filter((size) => size < total);
  const whole = Math.min(total, WINDOW);
  const choices = [...new Set([...sizes, whole, count])].sort((a, b) => a - b);
  // The keys' own window has controls of its own; this one moves what is left.
  const here = state.keys !== null && axis === "key" ? windowOf({ ...state, keys: null }, description, axis, props.usual)[0] : first;
  return (
    <>
      <div class="stepper window">
        <button
          type="button"
          aria-label="Earlier tokens"
          disabled={here === 0}
          onClick={() => set({ first: Math.max(0, here - count) }, true)}
        >
          {"\u2039"}
        </button>
        <Field name={state.keys === null ? "from" : "queries from"}>
          <input
            type="number"
            inputMode="numeric"
            min={least}
            max={most}
            value={`${position(layer, axis, here)}`}
            onChange={({ currentTarget }) => set({ first: indexAt(layer, axis, Number(currentTarget.value) || 0) }, true)}
          />
        </Field>
        <Field name="show">
          <select value={`${count}`} onChange={({ currentTarget }) => set({ count: Number(currentTarget.value) }, true)}>
            {choices.map((size) => (
              <option key={size} value={`${size}`}>
                {size}
              </option>
            ))}
          </select>
        </Field>
        <span class="muted of">of {countText(total)}</span>
        <button
          type="button"
          aria-label="Later tokens"
          disabled={here + count >= total}
          onClick={() => set({ first: here + count }, true)}
        >
          {"\u203a"}
        </button>
      </div>
      {layer.keys > count && <KeyWindow usual={props.usual} />}
    </>
  );
}

/** The keys' own window: empty where it goes with that of the queries. */
function KeyWindow(props: { usual: number }) {
  const { state, layer, set } = useStore();
  const { description } = useSession();
  const [least, most] = bounds(layer, "key");
  const [first] = windowOf(state, description, "key", props.usual);
  return (
    <div class="stepper key-window">
      <Field name="keys from">
        <input
          type="number"
          inputMode="numeric"
          min={least}
          max={most}
          placeholder={`${position(layer, "key", first)}`}
          value={state.keys === null ? "" : `${position(layer, "key", first)}`}
          onChange={({ currentTarget: { value } }) =>
            set({ keys: /^-?\d+$/.test(value) ? indexAt(layer, "key", Number(value)) : null }, true)
          }
        />
      </Field>
      <button
        type="button"
        class="release"
        aria-label="Keys go with the queries"
        title="Keys go with the queries"
        disabled={state.keys === null}
        onClick={() => set({ keys: null }, true)}
      >
        {"\u00d7"}
      </button>
    </div>
  );
}

/** That a view of single weights has none. */
export function NoWeights() {
  return <p class="hint">These maps were reduced while the model ran: there are cells of them, and no single weights.</p>;
}
