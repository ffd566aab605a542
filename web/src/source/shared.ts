/** Long work that several wait for: begun once, and ended when nobody waits for it any more. */

interface Work {
  made: Promise<unknown>;
  waiting: number;
  stop: AbortController;
}

export class Shared {
  private readonly works = new Map<string, Work>();

  /** What `begin` gives, which is called where no such work is under way. What failed or was made is forgotten. */
  wait<T>(name: string, begin: (stop: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    let work = this.works.get(name);
    if (!work) {
      const stop = new AbortController();
      const begun: Work = { made: begin(stop.signal), waiting: 0, stop };
      const over = (): void => {
        if (this.works.get(name) === begun) this.works.delete(name);
      };
      begun.made.then(over, over);
      this.works.set(name, begun);
      work = begun;
    }
    const one = work;
    one.waiting++;
    return stoppable(one.made as Promise<T>, signal).finally(() => {
      if (--one.waiting > 0) return;
      one.stop.abort(); // of work that is done, this does nothing
      if (this.works.get(name) === one) this.works.delete(name); // who comes next begins it anew
    });
  }

  /** Ends all of it. */
  close(): void {
    for (const { stop } of this.works.values()) stop.abort();
  }
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
