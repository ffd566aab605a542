/** The worker of a page: one request at a time, the most urgent first, stopped when nobody waits for it. */

import type { Description } from "../description";
import { base64 } from "./decode";
import { Engine, type Request } from "./engine";

export type ToWorker =
  | { kind: "open"; description: Description }
  | { kind: "ask"; id: number; request: Request }
  | { kind: "cancel"; id: number }
  | { kind: "chunk"; index: number; content: string | Uint8Array };

export type FromWorker =
  | { kind: "answer"; id: number; values: Float32Array }
  | { kind: "failed"; id: number; message: string }
  | { kind: "need"; index: number };

/** What a pointer waits for comes first; a page of thumbnails comes last. */
const URGENCY: Record<Request["kind"], number> = { weights: 0, logits: 0, vectors: 0, sides: 0, tile: 1, thumbnail: 2 };

const SLICE = 12; // ms of work before the worker looks at its messages

/** The worker's loop, over any pair of "post" and "receive": a page without workers runs it on its own thread. */
export function serve(post: (message: FromWorker, transfer: Transferable[]) => void): (message: ToWorker) => void {
  let engine: Engine | null = null;
  const waiting: { id: number; request: Request }[] = [];
  const cancelled = new Set<number>();
  const wanted = new Map<number, (bytes: Uint8Array) => void>();
  let busy = false;

  const readChunk = (index: number): Promise<Uint8Array> =>
    new Promise((resolve) => {
      wanted.set(index, resolve);
      post({ kind: "need", index }, []);
    });

  const run = async (): Promise<void> => {
    if (busy) return;
    busy = true;
    for (let next = take(waiting); next; next = take(waiting)) {
      const { id, request } = next;
      let started = performance.now();
      try {
        const values = await engine!.answer(request, async () => {
          if (performance.now() - started < SLICE) return;
          await turn();
          started = performance.now();
          if (cancelled.has(id)) throw new Error("cancelled");
        });
        const own = values.slice(); // what the engine keeps must not be taken from it
        post({ kind: "answer", id, values: own }, [own.buffer]);
      } catch (error) {
        if (!cancelled.has(id)) post({ kind: "failed", id, message: (error as Error).message }, []);
      }
      cancelled.delete(id);
    }
    busy = false;
  };

  return (message) => {
    switch (message.kind) {
      case "open":
        engine = new Engine(message.description, readChunk);
        break;
      case "ask":
        waiting.push(message);
        void run();
        break;
      case "cancel": {
        const at = waiting.findIndex(({ id }) => id === message.id);
        if (at >= 0) waiting.splice(at, 1);
        else cancelled.add(message.id);
        break;
      }
      case "chunk": {
        const { content } = message;
        wanted.get(message.index)?.(typeof content === "string" ? base64(content) : content);
        wanted.delete(message.index);
      }
    }
  };
}

function take<T extends { request: Request }>(waiting: T[]): T | undefined {
  let best = 0;
  for (const [i, { request }] of waiting.entries()) {
    if (URGENCY[request.kind] < URGENCY[waiting[best].request.kind]) best = i;
  }
  return waiting.splice(best, 1)[0];
}

/** Lets waiting messages in; a timer would wait 4 ms. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
