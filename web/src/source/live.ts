/** Numbers from the server that `attnviz view` started. */

import { CHEAP, type Description, type Reduce } from "../description";
import { Signal } from "../signal";
import type { Rectangle } from "./math";
import { Shared } from "./shared";
import { type Health, type Pass, type PassKind, type Sides, type Source, type Thumbnail, sidesIn } from "./source";

const POLL = 250; // ms between looks at a pass
const LOOK = 4000; // ms between looks at the server itself
const GONE = "the server does not answer: is attnviz view still running? Numbers come again when it does";

export class LiveSource implements Source {
  readonly passes = new Signal<readonly Pass[]>([]);
  readonly health = new Signal<Health>({ state: "well" });
  private readonly shared = new Shared();
  private readonly made = new Set<string>(); // passes that are over
  private turn: Promise<void> = Promise.resolve(); // of thumbnails that want a pass
  private readonly closed = new AbortController();
  private readonly looks: ReturnType<typeof setInterval>;

  /** `base` is the address that the paths of FORMAT.md are relative to. */
  constructor(
    readonly description: Description,
    private readonly base: string,
  ) {
    this.looks = setInterval(() => {
      if (document.visibilityState === "visible") void this.look();
    }, LOOK);
  }

  async tile(
    layer: number,
    head: number,
    level: number,
    row: number,
    column: number,
    reduce: Reduce,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    await this.passed("map", layer, head, signal);
    return this.floats(`tile/${layer}/${head}/${level}/${row}/${column}/${reduce}`, signal);
  }

  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`weights/${layer}/${head}/${path(rectangle)}`, signal);
  }

  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`logits/${layer}/${head}/${path(rectangle)}`, signal);
  }

  row(layer: number, head: number, query: number, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`row/${layer}/${head}/${query}`, signal);
  }

  async column(layer: number, head: number, key: number, signal?: AbortSignal): Promise<Float32Array> {
    const { queries, keys } = this.description.layers[layer];
    if (queries * keys > CHEAP) await this.passed("map", layer, head, signal);
    return this.floats(`column/${layer}/${head}/${key}`, signal);
  }

  async sides(layer: number, head: number, signal?: AbortSignal): Promise<Sides> {
    await this.passed("sides", layer, head, signal);
    return sidesIn(this.description.layers[layer], await this.floats(`sides/${layer}/${head}`, signal));
  }

  vectors(layer: number, head: number, query: number, keys: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`vectors/${layer}/${head}/${query}/${keys.join()}`, signal);
  }

  async thumbnail(layer: number, head: number, all: boolean, signal?: AbortSignal): Promise<Thumbnail> {
    if (all) await this.inTurn(() => this.passed("map", layer, head, signal), signal);
    const answer = await this.get(`thumbnail/${layer}/${head}`, signal);
    const bytes = await answer.arrayBuffer();
    const [rows, columns, made] = new Uint32Array(bytes, 0, 3);
    const { queries } = this.description.layers[layer];
    return { rows, columns, values: new Float32Array(bytes, 12, rows * columns), queries: made < queries ? made : null };
  }

  async statistics(layer: number, head: number, signal?: AbortSignal): Promise<Record<string, number | string | null> | null> {
    const answer = await this.get(`statistics/${layer}/${head}`, signal);
    return answer.status === 204 ? null : ((await answer.json()) as Record<string, number | string | null>);
  }

  close(): void {
    clearInterval(this.looks);
    this.closed.abort();
    this.shared.close();
  }

  /** One pass after another, so that one thousand heads do not ask at once how far they are. */
  private inTurn(work: () => Promise<void>, signal?: AbortSignal): Promise<void> {
    const next = this.turn.then(() => {
      if (!signal?.aborted) return work();
      throw new DOMException("aborted", "AbortError");
    });
    this.turn = next.catch(() => undefined);
    return next;
  }

  /**
   * Long work on a head: the pass before its tiles. Tiles wait for it here, not at the server: a browser opens six
   * connections to a host, and six waiting tiles would leave none to ask how far the pass is. When nobody waits any
   * longer nobody asks, and the server ends it.
   */
  private passed(what: PassKind, layer: number, head: number, signal?: AbortSignal): Promise<void> {
    const name = `${what} ${layer} ${head}`;
    if (this.made.has(name)) return Promise.resolve();
    return this.shared.wait(name, (stop) => this.watch(what, layer, head, stop), signal);
  }

  private async watch(what: PassKind, layer: number, head: number, stop: AbortSignal): Promise<void> {
    const others = (): readonly Pass[] =>
      this.passes.value.filter((one) => one.what !== what || one.layer !== layer || one.head !== head);
    try {
      for (;;) {
        const answer = await this.get(`pass/${what}/${layer}/${head}`, stop);
        const { rows, done } = (await answer.json()) as { rows: number; done: number };
        if (done >= rows) {
          this.made.add(`${what} ${layer} ${head}`);
          return;
        }
        this.passes.set([...others(), { what, layer, head, done, rows }]);
        await new Promise((resolve) => setTimeout(resolve, POLL));
        if (stop.aborted) throw new DOMException("aborted", "AbortError");
      }
    } finally {
      this.passes.set(others());
    }
  }

  /** Whether the server is there, and its files are those it opened. */
  private async look(): Promise<void> {
    try {
      const { changed } = (await (await this.get("alive", this.closed.signal)).json()) as { changed: string | null };
      if (changed !== null) this.health.set({ state: "changed", message: changed });
    } catch {
      // What `get` found is in `health`.
    }
  }

  private async floats(address: string, signal?: AbortSignal): Promise<Float32Array> {
    return new Float32Array(await (await this.get(address, signal)).arrayBuffer());
  }

  private async get(address: string, signal?: AbortSignal): Promise<Response> {
    let answer: Response;
    try {
      answer = await fetch(new URL(address, this.base), signal ? { signal } : {});
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      if (this.health.value.state === "well") this.health.set({ state: "gone", message: GONE });
      throw new Error(GONE);
    }
    if (this.health.value.state === "gone") this.health.set({ state: "well" });
    if (answer.ok) return answer;
    const said = (await answer.json().catch(() => null)) as { error?: string } | null;
    throw new Error(said?.error ?? `the server answered ${answer.status}`);
  }
}

function path({ queries, keys }: Rectangle): string {
  return `${queries[0]}/${queries[1]}/${keys[0]}/${keys[1]}`;
}
