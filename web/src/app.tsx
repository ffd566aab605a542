/** The page: views, their controls, and what is said below. */

import { Component, type ComponentChildren, type ComponentType } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { Answers, known } from "./answers";
import { Compared } from "./compare/compare";
import { type Description, type Layer, headName } from "./description";
import { useRoving } from "./focus";
import type { Host } from "./host";
import { MadeSession } from "./made/session";
import { countText } from "./numbers";
import { type Session, SessionContext, useAnswer, useSession, useSignal, useStore } from "./session";
import type { Source } from "./source/source";
import { type State, type Theme, VIEWS, type View, opening } from "./state";
import type { Store } from "./store";
import { CLEAREST } from "./telling";
import { BarEnd, Tools, useOpened } from "./tools";
import { HeadsControls, HeadsView } from "./views/heads";
import { MapControls, MapView } from "./views/map";
import { ModelControls, ModelView } from "./views/model";
import { QueryKeyControls, QueryKeyView } from "./views/query-key";
import { TextControls, TextView } from "./views/text";

const PAGES: Record<View, { name: string; hint: string; controls: ComponentType; page: ComponentType<{ dark: boolean }> }> = {
  heads: { name: "Heads", hint: "Tokens, with lines between them", controls: HeadsControls, page: HeadsView },
  model: { name: "Model", hint: "Every head of every layer", controls: ModelControls, page: ModelView },
  map: { name: "Map", hint: "One head's heatmap, down to single weights", controls: MapControls, page: MapView },
  text: { name: "Text", hint: "The text, shaded by attention", controls: TextControls, page: TextView },
  "query-key": { name: "Query-key", hint: "What makes one score", controls: QueryKeyControls, page: QueryKeyView },
};

export function App(props: { store: Store; source: Source; host: Host }) {
  const [said, announce] = useState("");
  const [failure, fail] = useState<string | null>(null);
  const session = useMemo<Session>(
    () => ({
      ...props.host,
      store: props.store,
      source: props.source,
      answers: new Answers(props.source),
      description: props.source.description,
      announce,
      fail,
    }),
    [props.store, props.source],
  );
  return (
    <SessionContext.Provider value={session}>
      <MadeSession>
        <Frame failure={failure} said={said} host={props.host} />
      </MadeSession>
    </SessionContext.Provider>
  );
}

function Frame(props: { failure: string | null; said: string; host: Host }) {
  const { description, prefix } = useSession();
  const { state, layer, set } = useStore();
  const hostDark = useSignal(props.host.dark);
  const dark = state.theme === "auto" ? hostDark : state.theme === "dark";
  const { controls: Controls, page: Page } = PAGES[state.view];
  const failure = useFailure() ?? props.failure;
  useClearestHead();
  const [opened, open] = useOpened();
  return (
    <div
      class="app"
      data-theme={dark ? "dark" : "light"}
      onKeyDown={(event) => {
        // What is pinned is let go of in every view alike.
        const held = state.query !== null || state.key !== null;
        if (event.key === "Escape" && held) set({ query: null, key: null }, true);
      }}
    >
      <header class="bar">
        <h1 class="brand">
          <Logo />
          <span>attnviz</span>
          <bdi class="source" title={description.source}>
            {description.source}
          </bdi>
        </h1>
        <Tabs />
        <div class="bar-end">
          <BarEnd dark={dark} opened={opened} onOpen={open} />
          <ThemeSwitch dark={dark} />
        </div>
      </header>
      <HealthBanner />
      <main>
        <Tools opened={opened} />
        <div class="controls" role="group" aria-label={`${PAGES[state.view].name} controls`}>
          <Controls />
        </div>
        <div
          id={`${prefix}view`}
          role="tabpanel"
          aria-labelledby={`${prefix}tab-${state.view}`}
          class={`view view-${state.view}`}
        >
          <Guard key={state.view}>
            <Compared page={Page} dark={dark} />
          </Guard>
        </div>
      </main>
      <footer class="status">
        {failure === null ? (
          <span>{facts(description, layer, state)}</span>
        ) : (
          <span class="failure" role="alert">
            {failure}
          </span>
        )}
        <span class="program">{description.program}</span>
      </footer>
      <div class="aloud" aria-live="polite">
        {props.said}
      </div>
    </div>
  );
}

/** Why a number that is shown is not there; what the server's own silence explains is said above. */
function useFailure(): string | null {
  const { answers, source } = useSession();
  const [failure, setFailure] = useState<string | null>(null);
  useEffect(() => answers.subscribe(() => setFailure(answers.failure)), [answers]);
  const health = useSignal(source.health);
  useEffect(() => {
    if (health.state === "well") answers.retry();
  }, [health]);
  return health.state === "gone" ? null : failure;
}

/** That the server has ended, or that its files are others now: said above all numbers. */
function HealthBanner() {
  const health = useSignal(useSession().source.health);
  if (health.state === "well") return null;
  return (
    <p class="banner" role="alert">
      {health.message}
    </p>
  );
}

/** A page that was opened without a link begins with the head that has the clearest link. */
function useClearestHead(): void {
  const { store } = useSession();
  const { state } = useStore();
  const asked = useAnswer(CLEAREST, store.untouched ? { layer: state.layer } : null);
  const head = known(asked);
  useEffect(() => {
    if (head !== null && store.untouched) store.set({ head });
  }, [head]);
}

/** What is shown, in a line. */
function facts(description: Description, layer: Layer, state: State): string {
  const { layers } = description;
  const of = ({ pattern, queries, keys, head_dim: dim, given }: Layer): string =>
    `${pattern} \u00b7 ${countText(queries)} ${queries === 1 ? "query" : "queries"} \u00d7 ${plural(keys, "key")}` +
    (given ? "" : ` \u00b7 head_dim ${dim}`);
  if (state.view === "model") {
    const heads = layers.reduce((sum, { heads }) => sum + heads, 0);
    const counted = `${plural(layers.length, "layer")}, ${plural(heads, "head")}`;
    return layers.every((other) => of(other) === of(layers[0])) ? `${counted} \u00b7 ${of(layers[0])}` : counted;
  }
  const head = state.view === "heads" ? "" : ` \u00b7 head ${headName(layer, state.head)}`;
  return `layer ${layer.label}${head} \u00b7 ${of(layer)}`;
}

function plural(count: number, name: string): string {
  return `${countText(count)} ${name}${count === 1 ? "" : "s"}`;
}

function Tabs() {
  const { description, prefix } = useSession();
  const { state, set } = useStore();
  const open = (view: View): void => {
    if (view !== state.view) set(opening(state, description, view), true);
  };
  const roving = useRoving<View>(state.view, () => true, (key) => {
    const at = VIEWS.indexOf(state.view);
    const to: Record<string, number> = {
      ArrowLeft: (at + VIEWS.length - 1) % VIEWS.length,
      ArrowRight: (at + 1) % VIEWS.length,
      Home: 0,
      End: VIEWS.length - 1,
    };
    return key in to ? VIEWS[to[key]] : null;
  });
  useEffect(() => roving.came(state.view), [state.view]);
  return (
    <div class="tabs" role="tablist" aria-label="Views" ref={roving.group} onKeyDown={roving.onKeyDown}>
      {VIEWS.map((view) => (
        <button
          key={view}
          type="button"
          role="tab"
          id={`${prefix}tab-${view}`}
          {...roving.stop(view)}
          aria-selected={view === state.view}
          aria-controls={`${prefix}view`}
          title={PAGES[view].hint}
          onFocus={({ currentTarget }) => currentTarget.matches(":focus-visible") && open(view)}
          onClick={() => open(view)}
        >
          {PAGES[view].name}
        </button>
      ))}
    </div>
  );
}

function ThemeSwitch(props: { dark: boolean }) {
  const { set } = useStore();
  const next: Theme = props.dark ? "light" : "dark";
  return (
    <button
      type="button"
      class="theme"
      aria-label={`Switch to ${next} colors`}
      title={`Switch to ${next} colors`}
      onClick={() => set({ theme: next }, false)}
    >
      <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true">
        <circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" stroke-width="1.6" />
        <path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />
      </svg>
    </button>
  );
}

function Logo() {
  return (
    <svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">
      <rect width="24" height="24" rx="5" fill="#1d1147" />
      <rect x="4" y="4" width="5" height="5" rx="1" fill="#fcfdbf" />
      <rect x="4" y="9.5" width="5" height="5" rx="1" fill="#b73779" />
      <rect x="9.5" y="9.5" width="5" height="5" rx="1" fill="#fc8961" />
      <rect x="4" y="15" width="5" height="5" rx="1" fill="#51127c" />
      <rect x="9.5" y="15" width="5" height="5" rx="1" fill="#b73779" />
      <rect x="15" y="15" width="5" height="5" rx="1" fill="#fec98d" />
    </svg>
  );
}

/** A view that breaks says so, and leaves the others as they are. */
class Guard extends Component<{ children: ComponentChildren }, { error: Error | null }> {
  override state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    return this.state.error ? (
      <p class="hint" role="alert">
        This view failed: {this.state.error.message}
      </p>
    ) : (
      this.props.children
    );
  }
}
