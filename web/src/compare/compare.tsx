/** Two heads beside each other, or their difference: of any layer, with one zoom and one pin. */

import type { ComponentChildren, ComponentType } from "preact";
import { useMemo } from "preact/hooks";
import { Answers } from "../answers";
import { HeadPicker, LayerPicker, Segmented } from "../controls";
import { type Description, type Layer, headName } from "../description";
import { difference } from "../made/matrix";
import { derivedStore } from "../made/session";
import { canBeMade } from "../made/rule";
import { MOST_MADE, MadeSource, type Make, rowsOf } from "../made/source";
import { countText } from "../numbers";
import { TextPicker } from "../texts";
import { type Session, SessionContext, useSession, useStore } from "../session";
import { type Other, type State, changed, isCompared } from "../state";

/** Whether two layers' maps can be taken from each other. */
function alike(a: Layer, b: Layer): boolean {
  return a.queries === b.queries && a.keys === b.keys && canBeMade(a) && canBeMade(b);
}

/** Whether what is seen is the difference of two heads. */
export function isDifference(state: State, { layers }: Description): boolean {
  return isCompared(state) && state.how === "difference" && state.view !== "query-key" && alike(layers[state.layer], layers[state.other!.layer]);
}

/** The session of what is seen, where that is a difference. */
export function Seen(props: { children: ComponentChildren }) {
  const { description } = useSession();
  const { state } = useStore();
  return isDifference(state, description) ? <DifferenceSession>{props.children}</DifferenceSession> : <>{props.children}</>;
}

export function CompareControls() {
  const { description } = useSession();
  const { state, layer, set } = useStore();
  if (!isCompared({ ...state, other: state.other ?? state })) return null;
  if (state.other === null) {
    const next: Other = { layer: state.layer, head: (state.head + 1) % layer.heads };
    const heads = description.layers.reduce((sum, { heads }) => sum + heads, 0);
    if (heads < 2) return null;
    if (layer.heads < 2) next.layer = (state.layer + 1) % description.layers.length;
    return (
      <button type="button" class="toggle" aria-pressed={false} title="Look at two heads at once" onClick={() => set({ other: next }, true)}>
        compare
      </button>
    );
  }
  const { other } = state;
  const able = alike(layer, description.layers[other.layer]) && state.view !== "query-key";
  return (
    <div class="made compare-controls" role="group" aria-label="What is compared">
      <button type="button" class="toggle" aria-pressed={true} onClick={() => set({ other: null }, true)}>
        compare
      </button>
      <span class="made-name">with</span>
      <OtherSession prefix="pick-">
        <TextPicker alone />
        <LayerPicker />
        <HeadPicker />
      </OtherSession>
      <Segmented
        name="How they are compared"
        value={able ? state.how : "side"}
        choices={[
          ["side", "side by side"],
          ["difference", "difference", able ? "The first minus the second" : `Of maps of one size, up to ${countText(MOST_MADE)} tokens`],
        ]}
        onChange={(how) => set({ how }, true)}
      />
      <button
        type="button"
        class="link"
        onClick={() => set({ layer: other.layer, head: other.head, heads: [other.head], other: { layer: state.layer, head: state.head } }, true)}
      >
        swap
      </button>
    </div>
  );
}

/** A session that looks at one head alone: what is set of its layer or head goes to `to`. */
function useHeadSession(prefix: string, of: (state: State) => Other, to: (patch: Partial<Other>) => Partial<State>): Session {
  const session = useSession();
  return useMemo(() => {
    const { store, description } = session;
    const shown = (state: State): State => {
      const { layer, head } = of(state);
      return { ...changed(state, { layer, head }, description), heads: [head], other: null };
    };
    const back = ({ layer, head, heads: _, ...rest }: Partial<State>): Partial<State> => ({
      ...rest,
      ...(layer === undefined && head === undefined
        ? {}
        : to({ ...(layer === undefined ? {} : { layer }), ...(head === undefined ? {} : { head }) })),
    });
    return { ...session, prefix: session.prefix + prefix, store: derivedStore(store, description, shown, back) };
  }, [session]);
}

/** The second of two heads, for what is inside. */
function OtherSession(props: { prefix: string; children: ComponentChildren }) {
  const { store, description } = useSession();
  const made = useHeadSession(
    props.prefix,
    ({ other, layer, head }) => other ?? { layer, head },
    (patch) => {
      const { other, layer, head } = store.state;
      const next = { ...(other ?? { layer, head }), ...patch };
      return { other: { ...next, head: Math.min(next.head, description.layers[next.layer].heads - 1) } };
    },
  );
  return <SessionContext.Provider value={made}>{props.children}</SessionContext.Provider>;
}

function FirstSession(props: { children: ComponentChildren }) {
  const made = useHeadSession(
    "a-",
    ({ layer, head }) => ({ layer, head }),
    (patch) => patch,
  );
  return <SessionContext.Provider value={made}>{props.children}</SessionContext.Provider>;
}

/** The description whose one layer is the difference. */
function differenceDescription(description: Description, at: number, [a, b]: [number, Other]): Description {
  const [one, other] = [description.layers[at], description.layers[b.layer]];
  const by = (layer: Layer, head: number): number => {
    const share = Math.expm1(layer.accuracy.logs[head]);
    return Math.min(layer.accuracy.weights?.[head] ?? share, share); // of weights, which are 1 at most
  };
  const far = by(one, a) + by(other, b.head);
  const fill = (value: number): number[] => Array.from({ length: one.heads }, () => value);
  const name = (layer: Layer, head: number): string => `${layer.label}.${headName(layer, head)}`;
  const layer: Layer = {
    ...one,
    given: true,
    made: true,
    kept: undefined,
    signed: true,
    unit: "difference",
    sinks: null,
    alibi: null,
    softcap: null,
    pattern: `${name(one, a)} \u2212 ${name(other, b.head)}`,
    accuracy: { weights: fill(far), logs: fill(Number.POSITIVE_INFINITY), logits: fill(0), sides: fill(0) },
    origin: undefined,
  };
  return { ...description, layers: description.layers.map((kept, i) => (i === at ? layer : kept)), statistics: undefined };
}

/** One minus the other, for what is inside. */
function DifferenceSession(props: { children: ComponentChildren }) {
  const session = useSession();
  const { state } = useStore();
  const other = state.other!;
  const made = useMemo<Session>(() => {
    const { source, description, store } = session;
    const { layer: at, head } = state;
    const described = differenceDescription(description, at, [head, other]);
    const make: Make = async (_layer, _head, rows) => {
      const [a, b] = await Promise.all([rowsOf(source, at, head, rows), rowsOf(source, other.layer, other.head, rows)]);
      return { matrix: difference(a, b), left: { sum: 0, count: 0 } };
    };
    const made = new MadeSource(described, source, make, () => 2);
    const shown = (one: State): State => ({ ...one, heads: [one.head], other: null });
    return { ...session, description: described, source: made, answers: new Answers(made), store: derivedStore(store, described, shown, (patch) => patch) };
  }, [session, state.layer, state.head, other.layer, other.head]);
  return <SessionContext.Provider value={made}>{props.children}</SessionContext.Provider>;
}

function titleOf(layer: Layer, head: number): string {
  return `${layer.text === undefined ? "" : `${layer.text}, `}layer ${layer.label}, head ${headName(layer, head)}`;
}

function Title() {
  const { state, layer } = useStore();
  return (
    <h2 class="pane-title">{titleOf(layer, state.head)}</h2>
  );
}

/** A view of one head, of two beside each other, or of their difference. */
export function Compared(props: { page: ComponentType<{ dark: boolean }>; dark: boolean }) {
  const { description } = useSession();
  const { state, layer } = useStore();
  const { page: Page, dark } = props;
  if (!isCompared(state)) return <Page dark={dark} />;
  const other = description.layers[state.other!.layer];
  if (isDifference(state, description)) {
    return (
      <DifferenceSession>
        <div class="pane">
          <h2 class="pane-title">
            {titleOf(layer, state.head)} minus {titleOf(other, state.other!.head)}
          </h2>
          <Page key={`${state.layer} ${state.head} ${state.other!.layer} ${state.other!.head}`} dark={dark} />
        </div>
      </DifferenceSession>
    );
  }
  return (
    <div class="panes">
      <FirstSession>
        <div class="pane">
          <Title />
          <Page dark={dark} />
        </div>
      </FirstSession>
      <OtherSession prefix="b-">
        <div class="pane">
          <Title />
          <Page dark={dark} />
        </div>
      </OtherSession>
    </div>
  );
}
