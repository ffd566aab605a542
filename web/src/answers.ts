/**
 * Questions to the source, and answers that carry what they answer.
 *
 * A view can't show an answer under another question's name: it says what it asks and is given what is known of that,
 * and of nothing else. What asks is written once, outside of the views, so that it sees the question alone.
 */

import { type Source, isAbort } from "./source/source";

/** A kind of question: what is asked, and how a source answers it. */
export interface Kind<Q extends object, V> {
  readonly name: string;
  ask(source: Source, question: Q, signal: AbortSignal): Promise<V>;
  bytes(value: V): number;
}

/** What is known of one question. The value is there where it answers this question, and nowhere else. */
export type Asked<Q, V> =
  | { state: "nothing" } // nothing was asked
  | { state: "waiting"; question: Q }
  | { state: "failed"; question: Q; message: string }
  | { state: "known"; question: Q; value: V };

/** The value, where it is known. */
export function known<Q, V>(asked: Asked<Q, V>): V | null {
  return asked.state === "known" ? asked.value : null;
}

/** A part of what is known. */
export function part<Q, V, W>(asked: Asked<Q, V>, of: (value: V) => W): Asked<Q, W> {
  return asked.state === "known" ? { ...asked, value: of(asked.value) } : asked;
}

/** What a number is shown as until it is known. */
export function pending(asked: Asked<unknown, unknown>): string {
  return asked.state === "failed" ? "?" : "\u2026";
}

interface Entry {
  value?: { value: unknown; bytes: number };
  failure?: string;
  stop?: AbortController; // while it is asked
  ask: () => void;
  wanted: Set<() => void>; // whoever waits, told when it is known
}

const KEPT = 96 << 20; // bytes of answers that nobody shows any more

/** Every question of a page: asked once however many want it, stopped when nobody does, kept while there is room. */
export class Answers {
  private readonly entries = new Map<string, Entry>();
  private readonly listeners = new Set<() => void>();
  private bytes = 0;

  constructor(private readonly source: Source) {}

  /** What is known of a question now. */
  look<Q extends object, V>(kind: Kind<Q, V>, question: Q): Asked<Q, V> {
    const entry = this.entries.get(nameOf(kind, question));
    if (entry?.value) return { state: "known", question, value: entry.value.value as V };
    if (entry?.failure !== undefined) return { state: "failed", question, message: entry.failure };
    return { state: "waiting", question };
  }

  /** Asks where the answer is not known; `told` is called when it is, or when it fails. Gives what ends the wish. */
  want<Q extends object, V>(kind: Kind<Q, V>, question: Q, told: () => void): () => void {
    const name = nameOf(kind, question);
    const entry = this.entries.get(name) ?? this.open(kind, question);
    this.entries.delete(name);
    this.entries.set(name, entry); // the latest used are kept
    const wish = (): void => told(); // one more of whoever wants it twice
    entry.wanted.add(wish);
    if (!entry.value && !entry.stop) entry.ask();
    return () => {
      entry.wanted.delete(wish);
      if (entry.wanted.size > 0 || entry.value) return;
      entry.stop?.abort();
      if (this.entries.get(name) === entry) this.entries.delete(name);
      if (entry.failure !== undefined) this.tell();
    };
  }

  /** Asks again what failed and is still wanted. */
  retry(): void {
    for (const entry of this.entries.values()) {
      if (entry.failure !== undefined && entry.wanted.size > 0) entry.ask();
    }
  }

  /** Why something that is wanted is not here; null where nothing failed. */
  get failure(): string | null {
    for (const { failure, wanted } of this.entries.values()) if (failure !== undefined && wanted.size > 0) return failure;
    return null;
  }

  /** Calls back when :attr:`failure` may have changed. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private open<Q extends object, V>(kind: Kind<Q, V>, question: Q): Entry {
    const entry: Entry = {
      wanted: new Set(),
      ask: () => {
        const stop = new AbortController();
        entry.stop = stop;
        kind.ask(this.source, question, stop.signal).then(
          (value) => {
            if (stop.signal.aborted) return;
            entry.value = { value, bytes: kind.bytes(value) };
            this.bytes += entry.value.bytes;
            this.settle(entry, undefined);
            this.fit();
          },
          (error: unknown) => {
            if (!isAbort(error) && !stop.signal.aborted) this.settle(entry, (error as Error).message);
          },
        );
      },
    };
    return entry;
  }

  private settle(entry: Entry, failure: string | undefined): void {
    delete entry.stop;
    const failed = entry.failure !== failure;
    if (failure === undefined) delete entry.failure;
    else entry.failure = failure;
    for (const told of [...entry.wanted]) told();
    if (failed) this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }

  private fit(): void {
    for (const [name, { value, wanted }] of this.entries) {
      if (this.bytes <= KEPT) return;
      if (!value || wanted.size > 0) continue;
      this.bytes -= value.bytes;
      this.entries.delete(name);
    }
  }
}

/** What tells questions apart: two of one name have one answer. */
export function nameOf<Q extends object, V>(kind: Kind<Q, V>, question: Q): string {
  return `${kind.name} ${JSON.stringify(question)}`;
}
