/** The one state of a page, its listeners, and its place in the browser's history. */

import type { Description } from "./description";
import { type State, changed, format, parse } from "./state";

/** Where a state is kept between visits: a page's fragment, or nowhere in a notebook. */
export interface Address {
  read(): string;
  write(fragment: string, push: boolean): void;
  /** Calls back when the user goes back, forward, or edits the fragment; gives what ends that. */
  listen(changed: () => void): () => void;
}

export const FRAGMENT: Address = {
  read: () => location.hash,
  write: (fragment, push) => {
    try {
      history[push ? "pushState" : "replaceState"](null, "", `#${fragment}`);
    } catch {
      // A browser that counts more than 100 of these in 30 s refuses: the next one says it all.
    }
  },
  listen: (changed) => {
    addEventListener("popstate", changed);
    return () => removeEventListener("popstate", changed);
  },
};


const REST = 300; // ms that the address may lag behind what moves

export class Store {
  state: State;
  /** Whether nobody has said yet what to look at: no link, no click. */
  untouched: boolean;
  private readonly listeners = new Set<() => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly unlisten: () => void;

  constructor(
    readonly description: Description,
    private readonly address: Address,
  ) {
    this.state = parse(address.read(), description);
    this.untouched = address.read().replace("#", "") === "";
    this.unlisten = address.listen(() => {
      clearTimeout(this.timer);
      this.timer = undefined;
      this.untouched = false;
      this.state = parse(address.read(), description);
      this.tell();
    });
  }

  /** Changes the state. A step that the back button should undo is pushed; what moves all the time is not. */
  set(patch: Partial<State>, push = false): void {
    this.untouched = false;
    if (push && this.timer !== undefined) this.write(false); // where back leads is where one was
    this.state = changed(this.state, patch, this.description);
    if (push) this.write(true);
    else this.timer ??= setTimeout(() => this.write(false), REST);
    this.tell();
  }

  /** The address of what is seen now. */
  link(address: string): string {
    return `${address.replace(/#.*/, "")}#${format(this.state, this.description)}`;
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  close(): void {
    clearTimeout(this.timer);
    this.unlisten();
  }

  private write(push: boolean): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.address.write(format(this.state, this.description), push);
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}
