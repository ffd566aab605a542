/** Numbers from the server that `attnviz view` started. */

import type { Description, Reduce } from "../description";
import type { Rectangle } from "./math";
import type { Pass, Source, Thumbnail } from "./source";

const POLL = 250; // ms between looks at a pass

export class LiveSource implements Source {
  onPass: ((pass: Pass | null) => void) | null = null;
  private readonly ready = new Map<string, Promise<void>>();
  private readonly closed = new AbortController();

  /** `base` is the address that the paths of FORMAT.md are relative to. */
  constructor(
    readonly description: Description,
    private readonly base: string,
  ) {}

  async tile(
    layer: number,
    head: number,
    level: number,
    row: number,
    column: number,
    reduce: Reduce,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    await stoppable(this.passed(layer, head), signal);
    return this.floats(`tile/${layer}/${head}/${level}/${row}/${column}/${reduce}`, signal);
  }

  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`weights/${layer}/${head}/${path(rectangle)}`, signal);
  }

  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`logits/${layer}/${head}/${path(rectangle)}`, signal);
  }

  vectors(layer: number, head: number, query: number, key: number, signal?: AbortSignal): Promise<Float32Array> {
    return this.floats(`vectors/${layer}/${head}/${query}/${key}`, signal);
  }

  async thumbnail(layer: number, head: number, signal?: AbortSignal): Promise<Thumbnail | null> {
    const answer = await this.get(`thumbnail/${layer}/${head}`, signal);
    if (answer.status === 204) return null;
    const bytes = await answer.arrayBuffer();
    const [rows, columns] = new Uint16Array(bytes, 0, 2);
    return { rows, columns, values: new Float32Array(bytes, 4, rows * columns) };
  }

  close(): void {
    this.closed.abort();
  }

  /**
   * The one pass over a head. Tiles wait for it here, not at the server: a browser opens six connections to a host, and
   * six waiting tiles would leave none to ask how far the pass is.
   */
  private passed(layer: number, head: number): Promise<void> {
    const name = `${layer} ${head}`;
    let made = this.ready.get(name);
    if (!made) {
      made = this.watch(layer, head);
      this.ready.set(name, made);
      made.catch(() => this.ready.delete(name));
    }
    return made;
  }

  private async watch(layer: number, head: number): Promise<void> {
    try {
      for (;;) {
        const answer = await this.get(`pass/${layer}/${head}`, this.closed.signal);
        const { rows, done } = (await answer.json()) as { rows: number; done: number };
        if (done >= rows) return;
        this.onPass?.({ layer, head, done, rows });
        await new Promise((resolve) => setTimeout(resolve, POLL));
      }
    } finally {
      this.onPass?.(null);
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
      throw new Error("the server does not answer: is attnviz view still running?");
    }
    if (answer.ok) return answer;
    const said = (await answer.json().catch(() => null)) as { error?: string } | null;
    throw new Error(said?.error ?? `the server answered ${answer.status}`);
  }
}

function path({ queries, keys }: Rectangle): string {
  return `${queries[0]}/${queries[1]}/${keys[0]}/${keys[1]}`;
}

/** The promise, or an end when the signal comes first. */
function stoppable<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(new DOMException("aborted", "AbortError"));
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject);
  });
}
