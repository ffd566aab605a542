import assert from "node:assert/strict";
import { test } from "node:test";
import type { Description, Layer } from "../src/description";
import { covered, matches, next } from "../src/find/matches";

function of(tokens: string[], words?: number[]): [Description, Layer] {
  const layer = {
    queries: tokens.length, keys: tokens.length, query_labels: 0, key_labels: 0, positions: { queries: 0, keys: 0 },
    ...(words ? { query_words: 0, key_words: 0 } : {}),
  } as unknown as Layer;
  return [{ labels: [tokens], numbers: words ? [words] : [], layers: [layer] } as unknown as Description, layer];
}

test("tokens, words of several, and runs of words are found, letters of any case", () => {
  const spaced = of(["The", " cat", " un", "believ", "ably", " Cat", "."]);
  assert.deepEqual(matches(...spaced, "key", "cat"), [[1, 1], [5, 5]]);
  assert.deepEqual(matches(...spaced, "key", "unbelievably cat"), [[2, 5]]);
  assert.deepEqual(matches(...spaced, "query", " believ"), [[3, 3]]);
  assert.deepEqual(matches(...spaced, "query", "dog"), []);
  assert.deepEqual(matches(...spaced, "query", "  "), []);
});

test("pieces that are no word by themselves are found as the word they make", () => {
  const pieces = of(["[CLS]", "un", "##friend", "##ly", "cats"], [0, 1, 4, 5]);
  assert.deepEqual(matches(...pieces, "key", "unfriendly"), [[1, 3]]);
  assert.deepEqual(matches(...pieces, "key", "friend"), [[2, 2]]);
  assert.deepEqual(matches(...pieces, "key", "unfriendly cats"), [[1, 4]]);
});

test("tokens without marks are found one by one: nothing says that neighbors are a word", () => {
  assert.deepEqual(matches(...of(["it", "tired", "t"]), "key", "tt"), []);
  assert.deepEqual(matches(...of(["it", "tired", "t"]), "key", "t"), [[0, 0], [1, 1], [2, 2]]);
});

test("a number is a position", () => {
  const labelled = of(["7", "a", "b"]);
  assert.deepEqual(matches(...labelled, "key", "2"), [[2, 2]]);
  assert.deepEqual(matches(...labelled, "key", "7"), [[0, 0]]);
  const [description, layer] = labelled;
  const bare = { ...layer, key_labels: null, positions: { queries: 90, keys: 100 } } as Layer;
  assert.deepEqual(matches(description, bare, "key", "101"), [[1, 1]]);
  assert.deepEqual(matches(description, bare, "key", "99"), []);
});

test("matches follow each other around the end", () => {
  const found = matches(...of(["a", "b", "a", "a"]), "key", "a");
  assert.deepEqual([next(found, null, 1), next(found, 0, 1), next(found, 3, 1)], [[0, 0], [2, 2], [0, 0]]);
  assert.deepEqual([next(found, null, -1), next(found, 2, -1), next(found, 0, -1), next([], 0, 1)], [[3, 3], [0, 0], [3, 3], null]);
  assert.deepEqual([...covered([[1, 3], [3, 4]])], [1, 2, 3, 4]);
});
