/** Puts the page into an element. */

import { render } from "preact";
import { App } from "./app";
import { Signal } from "./signal";
import type { Source } from "./source/source";
import { type Address, Store } from "./store";

let mounted = 0;

/** Gives what takes it away again. */
export function mount(element: HTMLElement, source: Source, address: Address, inCell = false): () => void {
  const store = new Store(source.description, address);
  const [dark, unwatch] = watchDark(inCell);
  const prefix = inCell ? `attnviz-${mounted++}-` : "attnviz-";
  element.classList.add("attnviz");
  render(<App store={store} source={source} host={{ prefix, inCell, dark }} />, element);
  const print = (): void => toPaper(element);
  addEventListener("beforeprint", print);
  return () => {
    removeEventListener("beforeprint", print);
    render(null, element);
    unwatch();
    store.close();
    source.close();
  };
}

/** Says what is wrong where the page cannot start. */
export function complain(element: HTMLElement, message: string): void {
  element.textContent = `attnviz: ${message}`;
}

const PAPER = 700; // CSS pixels that a page is wide

/** Tells print.css how large the page is on the screen, and how much smaller it is on paper. */
function toPaper(element: HTMLElement): void {
  const [app, view] = [element.querySelector<HTMLElement>(".app"), element.querySelector<HTMLElement>(".view")];
  if (!app || !view) return;
  // What flows flows anew; what Leaflet and canvases drew keeps its size.
  if (!view.matches(".view-map, .view-heads")) {
    for (const name of ["--screen-width", "--screen-height", "--on-paper"]) app.style.removeProperty(name);
    return;
  }
  app.style.setProperty("--screen-width", `${app.offsetWidth}px`);
  app.style.setProperty("--screen-height", `${view.offsetHeight}px`);
  app.style.setProperty("--on-paper", `${Math.min(1, PAPER / app.offsetWidth)}`);
}

const SYSTEM = "(prefers-color-scheme: dark)";

/** Whether the notebook says that it is dark or light: Jupyter, VS Code, Colab, marimo; null where it says neither. */
export function notebookIsDark(page: Document): boolean | null {
  const { body, documentElement: root } = page;
  const jupyter = body.dataset.jpThemeLight;
  if (jupyter !== undefined) return jupyter === "false";
  const code = body.dataset.vscodeThemeKind;
  if (code !== undefined) return !code.includes("light");
  for (const element of [root, body]) {
    const theme = element.getAttribute("theme") ?? element.dataset.theme ?? "";
    if (/^(dark|light)$/.test(theme)) return theme === "dark";
    if (element.classList.contains("dark")) return true;
    if (element.classList.contains("light")) return false;
  }
  return null;
}

/** The host's theme, as it changes: the notebook's own word, else the system's. */
function watchDark(inCell: boolean): [Signal<boolean>, () => void] {
  const system = matchMedia(SYSTEM);
  const now = (): boolean => (inCell ? notebookIsDark(document) : null) ?? system.matches;
  const dark = new Signal(now());
  const changed = (): void => dark.set(now());
  system.addEventListener("change", changed);
  const watcher = new MutationObserver(changed);
  if (inCell) {
    for (const element of [document.documentElement, document.body]) watcher.observe(element, { attributes: true });
  }
  return [
    dark,
    () => {
      system.removeEventListener("change", changed);
      watcher.disconnect();
    },
  ];
}
