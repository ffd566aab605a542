import assert from "node:assert/strict";
import { test } from "node:test";
import { Answers, type Kind, known } from "../src/answers";
import type { Source } from "../src/source/source";

/** A kind whose answers come when the test says so. */
function slow(): { kind: Kind<{ head: number }, number>; settle: Map<number, { resolve(value: number): void; reject(error: Error): void }>; stopped: number[] } {
  const settle = new Map<number, { resolve(value: number): void; reject(error: Error): void }>();
  const stopped: number[] = [];
  const kind: Kind<{ head: number }, number> = {
    name: "slow",
    bytes: () => 8,
    ask: (_source, { head }, signal) => {
      signal.addEventListener("abort", () => stopped.push(head));
      return new Promise((resolve, reject) => settle.set(head, { resolve, reject }));
    },
  };
  return { kind, settle, stopped };
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));
const nobody = (): void => undefined;

test("an answer is that of its own question, in whatever order answers come", async () => {
  const { kind, settle } = slow();
  const answers = new Answers({} as Source);
  for (const head of [3, 4]) answers.want(kind, { head }, nobody);
  settle.get(4)!.resolve(40);
  await turn();
  assert.equal(answers.look(kind, { head: 3 }).state, "waiting");
  assert.deepEqual(answers.look(kind, { head: 4 }), { state: "known", question: { head: 4 }, value: 40 });
  settle.get(3)!.resolve(30);
  await turn();
  assert.equal(known(answers.look(kind, { head: 3 })), 30);
  assert.equal(known(answers.look(kind, { head: 5 })), null);
});

test("what nobody wants any longer is stopped, and its late answer is nothing", async () => {
  const { kind, settle, stopped } = slow();
  const answers = new Answers({} as Source);
  const leave = answers.want(kind, { head: 3 }, nobody);
  const stay = answers.want(kind, { head: 3 }, nobody);
  leave();
  assert.deepEqual(stopped, []); // another still waits
  stay();
  assert.deepEqual(stopped, [3]);
  settle.get(3)!.resolve(30);
  await turn();
  assert.equal(answers.look(kind, { head: 3 }).state, "waiting");
});

test("a failure is said while its question is wanted, and asked again on a word", async () => {
  const { kind, settle } = slow();
  const answers = new Answers({} as Source);
  let told = 0;
  answers.subscribe(() => told++);
  const end = answers.want(kind, { head: 1 }, nobody);
  settle.get(1)!.reject(new Error("gone"));
  await turn();
  assert.equal(answers.look(kind, { head: 1 }).state, "failed");
  assert.equal(answers.failure, "gone");
  answers.retry();
  settle.get(1)!.resolve(10);
  await turn();
  assert.equal(answers.failure, null);
  assert.equal(known(answers.look(kind, { head: 1 })), 10);
  assert.ok(told >= 2);
  end();
  assert.equal(known(answers.look(kind, { head: 1 })), 10); // kept
});

test("answers that nobody shows make room for others", async () => {
  const kind: Kind<{ at: number }, number> = { name: "large", bytes: () => 40 << 20, ask: async (_, { at }) => at };
  const answers = new Answers({} as Source);
  const ends: (() => void)[] = [];
  for (let at = 0; at < 4; at++) {
    ends.push(answers.want(kind, { at }, nobody));
    await turn();
    if (at < 3) ends[at]();
  }
  assert.deepEqual([0, 1, 2, 3].map((at) => known(answers.look(kind, { at }))), [null, null, 2, 3]);
});
