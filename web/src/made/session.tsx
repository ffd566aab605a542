/** The session of maps that are made of the page's: everything inside sees them as it sees any. */

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { Answers, type Kind, known } from "../answers";
import { Segmented } from "../controls";
import { type Description, hasWeights, withinOf } from "../description";
import { type Session, SessionContext, useAnswer, useSession, useStore } from "../session";
import { shareText, sumSpan } from "../numbers";
import { OUT, type Out, type State, type Together, changed } from "../state";
import type { Store } from "../store";
import { madeDescription, partsOf } from "./description";
import { type Matrix, merged, together, without } from "./matrix";
import { type Rule, canBeMade, edgesOf, leftOut, ruleOf, sentenceName, sentencesOf } from "./rule";
import { MOST_MADE, MadeSource, wholeOf } from "./source";
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

/** The map that a rule makes of a head's. */
async function makeOf(source: Source, description: Description, rule: Rule, layer: number, head: number): Promise<Matrix> {
  const of = description.layers[layer];
  if (rule.logits) return wholeOf(source, layer, head, "logits");
  const whole = await togetherOf(source, description, rule, layer, head);
  const out = leftOut(rule, description, of);
  const { matrix } = without(whole, out.keys, out.queries, rule.again);
  return rule.words ? merged(matrix, edgesOf("query", rule, description, of), edgesOf("key", rule, description, of)) : matrix;
}

/** The map of a head, or the one of several that a rule sees as one. */
async function togetherOf(source: Source, description: Description, rule: Rule, layer: number, head: number): Promise<Matrix> {
  if (rule.together === null) return wholeOf(source, layer, head);
  const all = partsOf(rule.together, description, layer, head);
  return together(await Promise.all(all.map((one) => wholeOf(source, one.layer, one.head))), rule.together.startsWith("mean") ? "mean" : "max");
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
    const made = new MadeSource(described, source, async (index, head) => {
      const own = of(description.layers[index]);
      return own === null ? wholeOf(source, index, head) : makeOf(source, description, own, index, head);
    });
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

/** The mean share of a query's weight that is left out, of a head. */
const LEFT: Kind<{ layer: number; head: number; rule: Rule }, Left> = {
  name: "left out",
  bytes: () => 24,
  async ask(source, { layer, head, rule }) {
    const { description } = source;
    const of = description.layers[layer];
    const whole = await togetherOf(source, description, rule, layer, head);
    const { keys, queries } = leftOut(rule, description, of);
    let [sum, count] = [0, 0];
    const { left } = without(whole, keys, queries, false);
    for (let t = 0; t < of.queries; t++) {
      if (queries.has(t) || whole.values.subarray(t * of.keys, (t + 1) * of.keys).every(Number.isNaN)) continue;
      sum += left[t];
      count++;
    }
    const within = withinOf(madeDescription(description, () => ({ ...rule, again: false })).layers[layer], head);
    const all = { sum, count: count * keys.size };
    const [low, high] = sumSpan(all, within);
    const mean = (of: number): number => (count > 0 ? of / count : 0);
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
    return <span class="muted note">Of maps of more than {MOST_MADE} tokens, leave keys out with: attnviz view --hide</span>;
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
      {rule !== null && (rule.out.length > 0 || rule.sides !== null) && <LeftOut rule={rule} />}
    </div>
  );
}

/** The share that is left out, said. */
function LeftOut(props: { rule: Rule }) {
  const session = useSession();
  const { state } = useStore();
  const base = session.base ?? session;
  return (
    <SessionContext.Provider value={base}>
      <Share rule={props.rule} layer={state.layer} head={state.head} />
    </SessionContext.Provider>
  );
}

function Share(props: { rule: Rule; layer: number; head: number }) {
  const left = known(useAnswer(LEFT, props));
  return (
    <span class="muted made-share" data-role="left-out">
      {left === null ? "\u2026" : shareText(left.share, left.span)} of the weight is left out
    </span>
  );
}
