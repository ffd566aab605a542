/** Numbers out of the page itself: a worker decodes its chunks and computes from q and k. */

import type { Description, Reduce } from "../description";
import type { Request } from "./engine";
import type { Rectangle } from "./math";
import { Signal } from "../signal";
import { type Health, type Pass, type Sides, type Source, type Thumbnail, sidesIn } from "./source";
import { type FromWorker, type ToWorker, serve } from "./worker";
import script from "worker:./worker-main.ts";

/** A chunk by its number: base64 out of the page, or bytes out of a notebook. */
export type Chunks = (index: number) => string | Uint8Array;

interface Waiting {
  request: Request;
  resolve(values: Float32Array): void;
  reject(error: Error): void;
}

export class EmbeddedSource implements Source {
  readonly passes = new Signal<readonly Pass[]>([]);
  readonly health = new Signal<Health>({ state: "well" });
  private readonly waiting = new Map<number, Waiting>();
  private post: (message: ToWorker) => void = () => undefined;
  private stop: () => void = () => undefined;
  private next = 0;

  constructor(
    readonly description: Description,
    private readonly chunks: Chunks,
  ) {
    const worker = makeWorker();
    if (!worker) {
      this.runHere();
      return;
    }
    let answered = false;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      answered = true;
      this.receive(data);
    };
    worker.onerror = ({ message }) => {
      if (answered) this.fail(message || "the page's worker stopped");
      else this.runHere(); // a host whose policy allows no worker says so only now
    };
    this.post = (message) => worker.postMessage(message);
    this.stop = () => worker.terminate();
    this.post({ kind: "open", description });
  }

  /** The worker's work on the page's own thread, a slice at a time, where the host allows no worker. */
  private runHere(): void {
    const receive = serve((message) => this.receive(message));
    this.post = (message) => queueMicrotask(() => receive(message));
    this.stop = () => undefined;
    this.post({ kind: "open", description: this.description });
    for (const [id, { request }] of this.waiting) this.post({ kind: "ask", id, request });
  }

  tile(
    layer: number,
    head: number,
    level: number,
    row: number,
    column: number,
    reduce: Reduce,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    return this.ask({ kind: "tile", layer, head, level, row, column, reduce }, signal);
  }

  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.ask({ kind: "weights", layer, head, rectangle }, signal);
  }

  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array> {
    return this.ask({ kind: "logits", layer, head, rectangle }, signal);
  }

  row(layer: number, head: number, query: number, signal?: AbortSignal): Promise<Float32Array> {
    const { keys } = this.description.layers[layer];
    return this.weights(layer, head, { queries: [query, query + 1], keys: [0, keys] }, signal);
  }

  column(layer: number, head: number, key: number, signal?: AbortSignal): Promise<Float32Array> {
    const { queries } = this.description.layers[layer];
    return this.weights(layer, head, { queries: [0, queries], keys: [key, key + 1] }, signal);
  }

  async sides(layer: number, head: number, signal?: AbortSignal): Promise<Sides> {
    return sidesIn(this.description.layers[layer], await this.ask({ kind: "sides", layer, head }, signal));
  }

  vectors(layer: number, head: number, query: number, keys: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    return this.ask({ kind: "vectors", layer, head, query, keys }, signal);
  }

  async thumbnail(layer: number, head: number, _all: boolean, signal?: AbortSignal): Promise<Thumbnail> {
    const [, rows, columns] = this.description.layers[layer].thumbnails!.shape;
    return { rows, columns, values: await this.ask({ kind: "thumbnail", layer, head }, signal), queries: null };
  }

  async statistics(layer: number, head: number): Promise<Record<string, number | string | null> | null> {
    const of = this.description.layers[layer].statistics;
    return of ? Object.fromEntries(Object.entries(of).map(([name, values]) => [name, values[head]])) : null;
  }

  close(): void {
    this.stop();
    this.fail("closed");
  }

  private ask(request: Request, signal?: AbortSignal): Promise<Float32Array> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(new DOMException("aborted", "AbortError"));
        return;
      }
      const id = this.next++;
      this.waiting.set(id, { request, resolve, reject });
      signal?.addEventListener(
        "abort",
        () => {
          if (!this.waiting.delete(id)) return;
          this.post({ kind: "cancel", id });
          reject(new DOMException("aborted", "AbortError"));
        },
        { once: true },
      );
      this.post({ kind: "ask", id, request });
    });
  }

  private receive(message: FromWorker): void {
    if (message.kind === "need") {
      try {
        this.post({ kind: "chunk", index: message.index, content: this.chunks(message.index) });
      } catch (error) {
        this.fail((error as Error).message);
      }
      return;
    }
    const waiting = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (message.kind === "answer") waiting?.resolve(message.values);
    else waiting?.reject(new Error(message.message));
  }

  private fail(message: string): void {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }
}

/** A worker out of the script that the page holds; null where the host allows none. */
function makeWorker(): Worker | null {
  try {
    return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  } catch {
    return null;
  }
}
