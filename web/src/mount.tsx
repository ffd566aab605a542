/** Puts the page into an element. */

import { render } from "preact";
import { App } from "./app";
import type { Source } from "./source/source";
import { type Address, Store } from "./store";

/** Gives what takes it away again. */
export function mount(element: HTMLElement, source: Source, address: Address): () => void {
  const store = new Store(source.description, address);
  element.classList.add("attnviz");
  render(<App store={store} source={source} />, element);
  return () => {
    render(null, element);
    store.close();
    source.close();
  };
}

/** Says what is wrong where the page cannot start. */
export function complain(element: HTMLElement, message: string): void {
  element.textContent = `attnviz: ${message}`;
}
