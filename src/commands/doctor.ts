// `stepward doctor`: what was found on this machine, what is wrong with it, and how to mend it.
// Works when the addon cannot be loaded: that is when it is needed.

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import pc from 'picocolors';
import { toStepwardError } from '../errors.js';
import type { SystemInfo } from '../native/contract.js';
import { addonDirectory, linkTarget, loadAddon, packageRoot, packageVersion } from '../native/load.js';

const MIN_NODE = [20, 17] as const;

export interface DoctorReport {
  stepward: string;
  root: string;
  node: string;
  platform: string;
  addon: { loaded: boolean; file: string; error?: string };
  libtorch: { root: string; version?: string; cuda: boolean };
  cuda: { built: boolean; available: boolean; devices: string[]; driver: boolean };
  cpu: { model: string; cores: number; capability?: string; features: string[]; bfloat16: boolean; threads?: number };
  memoryBytes: number;
  tokenizers: boolean;
  /** What keeps Stepward from working here. */
  problems: { problem: string; remedies: string[] }[];
  /** What works, but less well than it could. */
  notes: string[];
}

/** Looks at the machine; never throws. */
export function examine(): DoctorReport {
  const problems: DoctorReport['problems'] = [];
  const notes: string[] = [];

  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    problems.push({
      problem: `Node.js ${process.versions.node} is too old: expected ${MIN_NODE.join('.')} or newer`,
      remedies: ['nvm: nvm install 22', 'https://nodejs.org/en/download'],
    });
  }
  if (process.platform !== 'linux') {
    problems.push({ problem: `expected Linux, got ${process.platform}`, remedies: ['use Linux, WSL2 or a container'] });
  }

  let info: SystemInfo | undefined;
  let error: string | undefined;
  try {
    info = loadAddon().systemInfo();
  } catch (cause) {
    error = toStepwardError(cause).message;
    const [problem = error, ...remedies] = error.split('\n');
    problems.push({ problem, remedies: remedies.map((line) => line.replace(/^\s*-\s*/, '')) });
  }

  const tokenizers = canResolve('tokenizers');
  if (!tokenizers) {
    problems.push({
      problem: 'the tokenizers package cannot be loaded, so models with text prompts cannot be used',
      remedies: [`in ${packageRoot}: npm ci (with optional packages: they carry the binaries)`],
    });
  }

  const torch = linkTarget();
  const libtorchCuda = existsSync(path.join(torch, 'lib/libtorch_cuda.so'));
  const driver = existsSync('/proc/driver/nvidia/version') || existsSync('/dev/dxg');
  if (info) notes.push(...cudaNotes(info, libtorchCuda, driver));

  return {
    stepward: packageVersion,
    root: packageRoot,
    node: process.versions.node,
    platform: `${process.platform}-${process.arch} ${os.release()}`,
    addon: { loaded: info !== undefined, file: path.join(addonDirectory, 'stepward.node'), ...(error && { error }) },
    libtorch: { root: torch, cuda: libtorchCuda, ...versionOf(torch, info) },
    cuda: {
      built: info?.cudaBuilt ?? false,
      available: info?.cudaAvailable ?? false,
      devices: info?.cudaDevices ?? [],
      driver,
    },
    cpu: {
      model: os.cpus()[0]?.model.trim() ?? 'unknown',
      cores: os.availableParallelism(),
      features: info?.cpuFeatures ?? [],
      bfloat16: info?.cpuBfloat16 ?? false,
      ...(info && { capability: info.cpuCapability, threads: info.threads }),
    },
    memoryBytes: os.totalmem(),
    tokenizers,
    problems,
    notes,
  };
}

function cudaNotes(info: SystemInfo, libtorchCuda: boolean, driver: boolean): string[] {
  if (!driver || info.cudaAvailable) return [];
  if (!libtorchCuda) {
    return [
      'this machine has an NVIDIA driver, but libtorch is a CPU build: activate a Python with a CUDA torch (or set LIBTORCH), npm run setup',
    ];
  }
  if (!info.cudaBuilt) {
    return ['libtorch has CUDA, but the addon was built without: put nvcc on PATH (or set CUDACXX), npm run setup'];
  }
  return [
    'the addon has CUDA, but no device can be used: see what nvidia-smi says and whether CUDA_VISIBLE_DEVICES is set',
  ];
}

function versionOf(torch: string, info: SystemInfo | undefined): { version?: string } {
  if (info) return { version: info.torch };
  const header = path.join(torch, 'include/torch/headeronly/version.h');
  if (!existsSync(header)) return {};
  const numbers = [...readFileSync(header, 'utf8').matchAll(/#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) +(\d+)/g)];
  return { version: numbers.map((match) => match[1]).join('.') };
}

function canResolve(name: string): boolean {
  try {
    createRequire(import.meta.url)(name);
    return true;
  } catch {
    return false;
  }
}

/** Prints the report; 0 when Stepward can be used here, else 1. */
export async function runDoctor(options: { json?: boolean } = {}): Promise<number> {
  const report = examine();
  const out = options.json ? process.stderr : process.stdout;
  out.write(`${format(report)}\n`);
  if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
  return report.problems.length === 0 ? 0 : 1;
}

function format(report: DoctorReport): string {
  const { addon, libtorch, cuda, cpu } = report;
  const devices = cuda.devices.length > 0 ? cuda.devices.join(', ') : 'no device';
  const rows: [string, string][] = [
    ['Stepward', `${report.stepward} in ${report.root}`],
    ['Node.js', `${report.node} on ${report.platform}`],
    ['addon', addon.loaded ? addon.file : 'not loaded'],
    [
      'libtorch',
      `${libtorch.version ?? 'unknown version'}${libtorch.cuda ? ', CUDA' : ', CPU only'}: ${libtorch.root}`,
    ],
    ['CUDA', cuda.built ? `built in; ${devices}` : `not built in${cuda.driver ? '' : '; no NVIDIA driver'}`],
    ['CPU', `${cpu.model}, ${cpu.cores} cores${cpu.capability ? `, ATen runs ${cpu.capability}` : ''}`],
    ['features', cpu.features.length > 0 ? cpu.features.join(' ') : 'unknown'],
    [
      'bfloat16',
      !addon.loaded ? 'unknown' : cpu.bfloat16 ? 'fast on this CPU' : 'refused on this CPU: float32 is used',
    ],
    ['threads', cpu.threads === undefined ? 'unknown' : String(cpu.threads)],
    ['memory', `${(report.memoryBytes / 2 ** 30).toFixed(1)} GiB`],
    ['tokenizers', report.tokenizers ? 'found' : 'not loaded'],
  ];
  const lines = rows.map(([name, value]) => `${pc.dim(name.padEnd(11))}${value}`);
  for (const note of report.notes) lines.push(`${pc.yellow('note')}       ${note}`);
  for (const { problem, remedies } of report.problems) {
    lines.push(`${pc.red('problem')}    ${problem}`, ...remedies.map((remedy) => `           - ${remedy}`));
  }
  lines.push(
    report.problems.length === 0 ? pc.green('Stepward can be used here.') : pc.red('Stepward cannot be used here yet.'),
  );
  return lines.join('\n');
}
