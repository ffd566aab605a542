/** What every view is given, and how it waits for numbers. */

import { createContext } from "preact";
import { type MutableRef, useContext, useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { type Answers, type Asked, type Kind, nameOf } from "./answers";
import { type Axis, type Description, type Layer, globalOf } from "./description";
import type { Signal } from "./signal";
import type { Pass, PassKind, Source } from "./source/source";
import { type Scale, type State, type Strength, scaleOf, strengthOf } from "./state";
import type { Store } from "./store";

export interface Session {
  store: Store;
  source: Source;
  answers: Answers;
  description: Description;
  /** What this is made of, where it is: keys left out, words. */
  base?: Session;
  /** What ids of elements begin with: a notebook holds several pages. */
  prefix: string;
  /** Whether the page is in a notebook's cell, and a wheel is the notebook's. */
  inCell: boolean;
  /** Says something to people who listen to the page. */
  announce(text: string): void;
  /** Shows what went wrong apart from questions; null takes it away. */
  fail(message: string | null): void;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  return useContext(SessionContext)!;
}

/** The state, the layer it names and the color scale; what calls this is drawn again when it changes. */
export function useStore(): { state: State; layer: Layer; scale: Scale; strength: Strength; set: Store["set"] } {
  const { store, description } = useSession();
  const redraw = useRedraw();
  useEffect(() => store.subscribe(redraw), [store]);
  const { state } = store;
  return {
    state,
    layer: description.layers[state.layer],
    scale: scaleOf(state, description),
    strength: strengthOf(state),
    set: (patch, push) => store.set(patch, push),
  };
}

/** The indices of an axis that are global tokens. */
export function useGlobal(axis: Axis): ReadonlySet<number> {
  const { description } = useSession();
  const { layer } = useStore();
  return useMemo(() => globalOf(description, layer, axis), [description, layer, axis]);
}

function useRedraw(): () => void {
  const [, redraw] = useReducer((count: number, _: null) => count + 1, 0);
  return useMemo(() => () => redraw(null), []);
}

/** What is known of a question now; null asks nothing. */
export function useAnswer<Q extends object, V>(kind: Kind<Q, V>, question: Q | null): Asked<Q, V> {
  return useAnswers(kind, question === null ? [] : [question])[0] ?? { state: "nothing" };
}

/** What is known of each of some questions now, in their order. */
export function useAnswers<Q extends object, V>(kind: Kind<Q, V>, questions: readonly Q[]): Asked<Q, V>[] {
  const { answers } = useSession();
  const redraw = useRedraw();
  useEffect(() => {
    const ends = questions.map((question) => answers.want(kind, question, redraw));
    return () => {
      for (const end of ends) end();
    };
  }, [answers, questions.map((question) => nameOf(kind, question)).join("\n")]);
  return questions.map((question) => answers.look(kind, question));
}

/** A signal's value; what calls this is drawn again when it changes. */
export function useSignal<T>(signal: Signal<T>): T {
  const redraw = useRedraw();
  useEffect(() => signal.subscribe(redraw), [signal]);
  return signal.value;
}

/** How far the work is that a panel waits for; null where there is none. */
export function usePass(what: PassKind, layer: number, head: number): Pass | null {
  const passes = useSignal(useSession().source.passes);
  return passes.find((pass) => pass.what === what && pass.layer === layer && pass.head === head) ?? null;
}

/** Brings a token of a list into the middle of what scrolls around it, where it is out of sight; again as `parts` change. */
export function useInSight(list: MutableRef<HTMLElement | null>, index: number | null, parts: readonly unknown[]): void {
  useEffect(() => {
    const pinned = index === null ? null : list.current?.querySelector(`[data-position="${index}"]`);
    if (!pinned) return;
    // Not scrollIntoView, which would scroll the notebook that the page is in as well.
    const scrolls = (box: Element): boolean =>
      box.scrollHeight > box.clientHeight && /auto|scroll/.test(getComputedStyle(box).overflowY);
    let box: Element | null = pinned.parentElement;
    while (box && !scrolls(box)) box = box.classList.contains("attnviz") ? null : box.parentElement;
    if (!box) return;
    const [own, seen] = [pinned.getBoundingClientRect(), box.getBoundingClientRect()];
    if (own.top < seen.top || own.bottom > seen.bottom) box.scrollTop += (own.top + own.bottom - seen.top - seen.bottom) / 2;
  }, [index, ...parts]);
}

/** An element's size, as it changes. */
export function useSize<T extends Element>(): [MutableRef<T | null>, { width: number; height: number }] {
  const element = useRef<T | null>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const watcher = new ResizeObserver(([{ contentRect }]) => {
      setSize({ width: contentRect.width, height: contentRect.height });
    });
    if (element.current) watcher.observe(element.current);
    return () => watcher.disconnect();
  }, []);
  return [element, size];
}
