/** The model view by numbers: heads in the order of one, or by what they are in a word; and all numbers of a head. */

import type { ComponentType } from "preact";
import { known } from "../answers";
import { css, sequential, textOn } from "../colors";
import { Field } from "../controls";
import { type Statistic, headName, layersOf } from "../description";
import { type OfHead } from "../questions";
import { useAnswer, useAnswers, useSession, useSignal, useStore } from "../session";
import type { Rank } from "../state";
import type { Signal } from "../signal";
import { type Counted, LAYER_NUMBERS, NUMBERS, askedFor, numberText, rangeOf, ranked, statisticName, unitOf } from "../statistics";

/** Which number heads are colored by, and in which order and of which role they are shown. */
export function NumberControls() {
  const { description } = useSession();
  const { state, set } = useStore();
  const { statistics = [], tags = [] } = description;
  if (statistics.length === 0) return null;
  return (
    <>
      <Field name="number">
        <select value={state.stat ?? ""} onChange={({ currentTarget }) => set({ stat: currentTarget.value || null }, true)}>
          <option value="">none</option>
          {statistics.map((one) => (
            <option key={one.name} value={one.name} title={one.about}>
              {statisticName(one.name)}
            </option>
          ))}
        </select>
      </Field>
      <Field name="order">
        <select value={state.rank} onChange={({ currentTarget }) => set({ rank: currentTarget.value as Rank, stat: state.stat ?? statistics[0].name }, true)}>
          <option value="order">layers</option>
          <option value="most">most first</option>
          <option value="least">least first</option>
          <option value="role">by role</option>
        </select>
      </Field>
      <Field name="role">
        <select value={state.role ?? ""} onChange={({ currentTarget }) => set({ role: currentTarget.value || null }, true)}>
          <option value="">all</option>
          {tags.map((tag) => (
            <option key={tag} value={tag}>
              {tag}
            </option>
          ))}
        </select>
      </Field>
    </>
  );
}

/** The numbers of all heads of the text that is shown, where something asks for them. */
export function useCounted(): { heads: Counted[]; range: [number, number] | null } {
  const { description } = useSession();
  const { state } = useStore();
  const { stat, rank, role } = askedFor(description, state);
  const wanted = stat !== null || rank !== "order" || role !== null;
  const all = layersOf(description, description.layers[state.layer].text);
  const asked = useAnswers(LAYER_NUMBERS, wanted ? all.map((layer) => ({ layer })) : []);
  const heads = all.flatMap((layer, i) => {
    const numbers = wanted ? known(asked[i]) : null;
    return Array.from({ length: description.layers[layer].heads }, (_, head) => ({ layer, head, numbers: numbers?.[head] ?? null }));
  });
  return { heads, range: stat === null ? null : rangeOf(heads, stat) };
}

/** Whether a head is of the role that is asked for; nobody is while that is not known. */
export function isOfRole({ numbers }: Counted, role: string | null): boolean {
  return role === null || numbers?.tag === role;
}

/** A head's number, on the color of its place between the least and the most. */
export function NumberChip(props: { of: Counted; range: [number, number] | null; dark: boolean }) {
  const { description } = useSession();
  const { stat, rank, role: wanted } = askedFor(description, useStore().state);
  const { numbers } = props.of;
  if (stat === null && wanted === null && rank !== "role") return null;
  const value = stat === null ? null : (numbers?.[stat] ?? null);
  const [least, most] = props.range ?? [0, 0];
  const share = typeof value === "number" && most > least ? (value - least) / (most - least) : null;
  const color = share === null ? null : sequential(share, props.dark);
  const role = numbers?.tag === undefined ? "" : ` ${numbers.tag}`;
  return (
    <span class="number-chip" style={color ? { background: css(color), color: textOn(color) } : undefined}>
      {stat === null ? role.trim() : numberText(value)}
      {stat !== null && rank === "role" ? role : ""}
    </span>
  );
}

/** A small map of a head, which opens it. */
export interface ThumbProps extends OfHead {
  dark: boolean;
  current: boolean;
  beside?: boolean; // whether it stands beside a map, without its number
  stop: { "data-stop": string | number; tabIndex: number };
  onFocus(): void;
  onOpen(): void;
}

/** Heads in the order of a number, or in groups of one role, a thumbnail each. */
export function Ranked(props: {
  counted: { heads: Counted[]; range: [number, number] | null };
  dark: boolean;
  thumb: ComponentType<ThumbProps>;
  onLook(head: OfHead): void;
  onOpen(head: OfHead): void;
}) {
  const { description } = useSession();
  const { state } = useStore();
  const { stat, rank, role } = askedFor(description, state);
  const { tags = [] } = description;
  const Thumb = props.thumb;
  const shown = props.counted.heads.filter((one) => isOfRole(one, role));
  const groups = ranked(shown, { rank, stat: stat ?? "", tags });
  return (
    <div class="ranked">
      {shown.length === 0 && <p class="hint">No head is {role}.</p>}
      {groups.map(({ name, heads }) => (
        <section key={name} aria-label={name ?? "Heads"}>
          {name !== null && (
            <h2>
              {name} <span class="muted">{heads.length}</span>
            </h2>
          )}
          <div class="ranked-heads">
            {heads.map((one) => {
              const layer = description.layers[one.layer];
              return (
                <div key={`${one.layer} ${one.head}`} class="ranked-head" onPointerEnter={() => props.onLook(one)}>
                  <Thumb
                    layer={one.layer}
                    head={one.head}
                    dark={props.dark}
                    current={one.layer === state.layer && one.head === state.head}
                    stop={{ "data-stop": `${one.layer} ${one.head}`, tabIndex: 0 }}
                    onFocus={() => props.onLook(one)}
                    onOpen={() => props.onOpen(one)}
                  />
                  <span class="ranked-name">
                    {layer.label}.{headName(layer, one.head)}
                  </span>
                  <NumberChip of={one} range={props.counted.range} dark={props.dark} />
                </div>
              );
            })}
          </div>
        </section>
      ))}
    </div>
  );
}

/** Every number of the head that is looked at, else of the one that is chosen, in a row. */
export function LookedAt(props: { looked: Signal<OfHead | null> }) {
  const { state } = useStore();
  const { layer, head } = useSignal(props.looked) ?? state;
  return <NumbersRow layer={layer} head={head} />;
}

function NumbersRow(props: OfHead) {
  const { description } = useSession();
  const asked = useAnswer(NUMBERS, description.statistics ? { layer: props.layer, head: props.head } : null);
  const { statistics = [] } = description;
  if (asked.state === "nothing") return null;
  const layer = description.layers[props.layer];
  const numbers = known(asked);
  return (
    <section class="numbers-row" tabIndex={0} aria-label={`Numbers of layer ${layer.label}, head ${headName(layer, props.head)}`}>
      <span class="numbers-name">
        layer {layer.label}, head {headName(layer, props.head)}
        {numbers && <b> {numbers.tag}</b>}
      </span>
      {asked.state === "waiting" && <span class="muted">{"\u2026"}</span>}
      {asked.state === "known" && numbers === null && <span class="muted">its numbers are not counted here: attnviz stats</span>}
      <dl>
        {numbers &&
          statistics
            .filter(({ name }) => typeof numbers[name] === "number")
            .map((one: Statistic) => (
              <div key={one.name} title={one.about}>
                <dt>{statisticName(one.name)}</dt>
                <dd>
                  {numberText(numbers[one.name])} <span class="muted">{unitOf(one)}</span>
                </dd>
              </div>
            ))}
      </dl>
    </section>
  );
}
