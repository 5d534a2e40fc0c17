// One set-up at a time: two builds in one tree would write over each other. Waits for the other one to end.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { root, say } from './machine.mjs';

const file = path.join(root, '.deps/setup.lock');

export async function withLock(body) {
  mkdirSync(path.dirname(file), { recursive: true });
  let told = false;
  while (!tryLock()) {
    if (!told) say(`another set-up (process ${owner()}) is at work in this folder: waiting for it`);
    told = true;
    await sleep(500);
  }
  try {
    return await body();
  } finally {
    rmSync(file, { force: true });
  }
}

function tryLock() {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  const pid = owner();
  // A process that was killed leaves its file behind. Between creation and the write the file is empty: not stale.
  if (pid === undefined || isAlive(pid)) return false;
  rmSync(file, { force: true });
  return tryLock();
}

function owner() {
  try {
    return Number(readFileSync(file, 'utf8')) || undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}
