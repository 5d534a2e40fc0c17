import { expect, it } from 'vitest';
import { treeKey } from '../../src/data/tree-key.js';

// Values of the FNV-1a reference (64 bits): "" is the offset basis, "a" and "foobar" are its published examples.
it('is FNV-1a over the UTF-8 form of an id', () => {
  expect(treeKey('')).toBe(0xcbf29ce484222325n);
  expect(treeKey('a')).toBe(0xaf63dc4c8601ec8cn);
  expect(treeKey('foobar')).toBe(0x85944171f73967e8n);
});

it('is the same for a number and its text', () => {
  expect(treeKey(17)).toBe(treeKey('17'));
});
