/** The session of maps that are made of the page's: everything inside sees them as it sees any. */

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { Answers, type Kind, known } from "../answers";
import { Segmented } from "../controls";
import { type Description, hasWeights } from "../description";
import { type Session, SessionContext, useAnswer, useSession, useStore } from "../session";
import { countText, shareText, sumSpan } from "../numbers";
import { OUT, type Out, type State, type Together, changed } from "../state";
import type { Store } from "../store";
import { madeDescription, partsOf } from "./description";
import { type Matrix, merged, together, without } from "./matrix";
import { type Rule, canBeMade, edgesOf, leftOut, ruleOf, sentenceName, sentencesOf } from "./rule";
import { MOST_MADE, type Made, MadeSource, type Make, rowsOf } from "./source";
import type { OfHead, Window } from "../questions";
import type { Source } from "../source/source";

/** A store that shows another's state, changed, and gives back what is set. */
export function derivedStore(store: Store, description: Description, shown: (state: State) => State, back: (patch: Partial<State>) => Partial<State>): Store {
  const made = Object.create(store) as Store;
  let last: { of: State; state: State } | null = null;
  Object.defineProperties(made, {
    state: {
      get: () => {
        if (last?.of !== store.state) last = { of: store.state, state: shown(store.state) };
        return last.state;
      },
    },
    untouched: { get: () => store.untouched },
    description: { value: description },
    set: { value: (patch: Partial<State>, push?: boolean) => store.set(back(patch), push) },
    subscribe: { value: (listener: () => void) => store.subscribe(listener) },
  });
  return made;
}

/** The rows of a map that a rule makes of a head's. */
async function makeOf(source: Source, description: Description, rule: Rule | null, layer: number, head: number, [first, end]: Window): Promise<Made> {
  const of = description.layers[layer];
  const nothing = { sum: 0, count: 0 };
  if (rule === null) return { matrix: await rowsOf(source, layer, head, [first, end]), left: nothing };
  if (rule.logits) return { matrix: await rowsOf(source, layer, head, [first, end], "logits"), left: nothing };
  const edges = edgesOf("query", rule, description, of).slice(first, end + 1);
  const rows: Window = [edges[0], edges[edges.length - 1]];
  const out = leftOut(rule, description, of);
  const { matrix, left } = without(await togetherOf(source, description, rule, layer, head, rows), out.keys, out.queries, rule.again, rows[0]);
  if (!rule.words) return { matrix, left };
  return { matrix: merged(matrix, edges.map((edge) => edge - rows[0]), edgesOf("key", rule, description, of)), left };
}

/** Rows of the map of a head, or of the one of several that a rule sees as one. */
async function togetherOf(source: Source, description: Description, rule: Rule, layer: number, head: number, rows: Window): Promise<Matrix> {
  if (rule.together === null) return rowsOf(source, layer, head, rows);
  const all = partsOf(rule.together, description, layer, head);
  return together(await Promise.all(all.map((one) => rowsOf(source, one.layer, one.head, rows))), rule.together.startsWith("mean") ? "mean" : "max");
}

/** What a session becomes where something is left out or seen as one. */
export function MadeSession(props: { children: ComponentChildren }) {
  const session = useSession();
  const { state, layer } = useStore();
  const rule = ruleOf(state, layer);
  const made = useMemo<Session>(() => {
    if (rule === null) return session;
    const { source, description } = session;
    const of = (one: typeof layer): Rule | null => ruleOf(state, one);
    const described = madeDescription(description, of);
    const parts = (index: number): number => {
      const together = of(description.layers[index])?.together ?? null;
      return together === null ? 1 : partsOf(together, description, index, 0).length;
    };
    const make: Make = (index, head, rows) => makeOf(source, description, of(description.layers[index]), index, head, rows);
    const made = new MadeSource(described, source, make, parts);
    // Scores don't add up: of several in a cell the one farthest from 0.
    const shown = (one: State): State => ({ ...changed(one, {}, described), ...(rule.logits ? { reduce: "max" } : {}) });
    const store = derivedStore(session.store, described, shown, (patch) => patch);
    return { ...session, description: described, source: made, answers: new Answers(made), store, base: session };
  }, [session, JSON.stringify(rule)]);
  return <SessionContext.Provider value={made}>{props.children}</SessionContext.Provider>;
}

interface Left {
  share: number;
  span: readonly [number, number]; // the least and the most that it may be
}

/** The mean share of a query's weight that is left out, of a head of maps that are made. */
const LEFT: Kind<OfHead, Left> = {
  name: "left out",
  bytes: () => 24,
  async ask(source, { layer, head }, signal) {
    if (!(source instanceof MadeSource)) return { share: 0, span: [0, 0] };
    const { sum, count } = await source.left(layer, head, signal);
    const mean = (of: number): number => (count > 0 ? of / count : 0);
    const { keys, accuracy } = source.description.layers[layer];
    const within = { by: accuracy.weights?.[head] ?? Number.POSITIVE_INFINITY, share: accuracy.logs[head] };
    const [low, high] = sumSpan({ sum, count: count * keys }, within);
    return { share: mean(sum), span: [mean(low), Math.min(1, mean(high))] };
  },
};

const NAMES: Record<Out, [string, string]> = {
  special: ["special", "Leave special tokens out of the keys"],
  first: ["first key", "Leave the first key out: many heads give it what they have to spare"],
  punctuation: ["punctuation", "Leave punctuation out of the keys"],
};

/** What can be left out and seen as one; inside of the session that is made. */
export function MadeControls() {
  const session = useSession();
  const base = session.base ?? session;
  const { state, set } = useStore();
  const { description } = base;
  const layer = description.layers[state.layer];
  const sentences = useMemo(() => sentencesOf(description, layer), [description, layer]);
  const rule = ruleOf(state, layer);
  const ofLayers = partsOf("mean-layers", description, state.layer, 0).length > 1;
  const toggle = (kind: Out): void => {
    const out = OUT.filter((one) => (one === kind) !== state.out.includes(one));
    set({ out, again: out.length > 0 || state.sides !== null ? state.again : false }, true);
  };
  if (!hasWeights(layer)) return null;
  if (!canBeMade(layer)) {
    return <span class="muted note">Of maps of more than {countText(MOST_MADE)} tokens, leave keys out with: attnviz view --hide</span>;
  }
  return (
    <div class="made" role="group" aria-label="What is left out and seen as one">
      <span class="made-name">leave out</span>
      {OUT.map((kind) => (
        <button key={kind} type="button" class="toggle" aria-pressed={state.out.includes(kind)} title={NAMES[kind][1]} onClick={() => toggle(kind)}>
          {NAMES[kind][0]}
        </button>
      ))}
      {(state.out.length > 0 || state.sides !== null || state.again) && (
        <button type="button" class="toggle" aria-pressed={state.again} title="Make what is left of each row sum to 1 again" onClick={() => set({ again: !state.again }, true)}>
          renormalize
        </button>
      )}
      {layer.query_words !== undefined && layer.key_words !== undefined && (
        <Segmented
          name="What is seen as one"
          value={state.words ? "words" : "tokens"}
          choices={[
            ["tokens", "tokens"],
            ["words", "words", "Weight on a word is its tokens\u2019 sum, of one their mean"],
          ]}
          onChange={(value) =>
            set({ words: value === "words", query: null, key: null, x: null, y: null, zoom: null, first: 0, keys: null }, true)
          }
        />
      )}
      <label class="field">
        <span>map of</span>
        <select
          value={state.logits ? "logits" : (state.together ?? "")}
          onChange={({ currentTarget: { value } }) =>
            set({ logits: value === "logits", together: value === "logits" || value === "" ? null : (value as Together) }, true)
          }
        >
          <option value="">each head</option>
          {!layer.given && layer.kept === undefined && <option value="logits">each head, scores</option>}
          {layer.heads > 1 && <option value="mean-heads">mean of heads</option>}
          {layer.heads > 1 && <option value="max-heads">max of heads</option>}
          {ofLayers && <option value="mean-layers">mean of layers</option>}
          {ofLayers && <option value="max-layers">max of layers</option>}
        </select>
      </label>
      {sentences.length > 0 && (
        <label class="field">
          <span>sentences</span>
          <select
            value={state.sides === null ? "" : state.sides.join(".")}
            onChange={({ currentTarget: { value } }) => set({ sides: value === "" ? null : (value.split(".").map(Number) as [number, number]) }, true)}
          >
            <option value="">all</option>
            {sentences.slice(0, 6).flatMap((_, from) =>
              sentences.slice(0, 6).map((_, to) => (
                <option key={`${from}.${to}`} value={`${from}.${to}`} title={`${sentenceName(description, layer, sentences[from])} to ${sentenceName(description, layer, sentences[to])}`}>
                  {from + 1} {"\u2192"} {to + 1}
                </option>
              )),
            )}
          </select>
        </label>
      )}
      {rule !== null && (rule.out.length > 0 || rule.sides !== null) && <LeftOut />}
    </div>
  );
}

/** The share that is left out, said. */
function LeftOut() {
  const { state } = useStore();
  const left = known(useAnswer(LEFT, { layer: state.layer, head: state.head }));
  return (
    <span class="muted made-share" data-role="left-out">
      {left === null ? "\u2026" : shareText(left.share, left.span)} of the weight is left out
    </span>
  );
}
