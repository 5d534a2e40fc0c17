// Fetches libtorch into .libtorch/: downloads the torch wheel with pip and unpacks only what a C++ build needs of it.
// The CPU wheel is asked for first unless this machine can build for CUDA: PyPI's plain Linux wheel is the CUDA one, several GB
// with the nvidia wheels that it cannot be loaded without.

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { FETCHED_VERSION, inspect, loadError, REMEDIES } from './find-libtorch.mjs';
import { withLock } from './lib/lock.mjs';
import { capture, isMain, main, root, run, SetupError, say, which } from './lib/machine.mjs';
import { findPip, findPython, QUIET_PIP } from './lib/tools.mjs';

const CPU_INDEX = 'https://download.pytorch.org/whl/cpu';
const target = path.join(root, '.libtorch');
const downloads = path.join(target, 'download');

// Wheels are made per Python version, but libtorch inside is the same: any of them will do.
const PYTHON_TAGS = ['312', '311', '313', '310'];

const UNPACK = `
import sys, zipfile
for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(('torch/lib/', 'torch/include/', 'torch/share/', 'nvidia/')) and 'torch_python' not in name \\
                    or name.endswith(('/METADATA', '/LICENSE', '/NOTICE')):
                archive.extract(name, sys.argv[1])
`;

// Prints the wheel's requirements on NVIDIA's libraries, without their markers.
const REQUIREMENTS = `
import re, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    metadata = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
    for line in archive.read(metadata).decode().splitlines():
        match = re.match(r'Requires-Dist: ((?:nvidia-|cuda-toolkit)[^;]*)', line)
        if match:
            print(match[1].strip())
`;

/** Leaves a loadable libtorch in .libtorch/torch and returns its description, or throws with the remedies. */
export async function fetchLibtorch() {
  const python = findPython();
  if (!python)
    throw new SetupError('no libtorch, and no Python (3.8 or newer) to fetch it with. Any one of:', [
      'install Python: sudo apt install python3 python3-pip (Debian, Ubuntu), sudo dnf install python3-pip (Fedora), then npm run setup',
      ...REMEDIES.slice(1),
    ]);
  const pip = await findPip(python);
  if (!pip)
    throw new SetupError(`no libtorch, and ${python} has no pip to fetch it with. Any one of:`, [
      'install pip: sudo apt install python3-pip (Debian, Ubuntu), sudo dnf install python3-pip (Fedora), or python3 -m ensurepip',
      ...REMEDIES.slice(1),
    ]);

  const cuda = hasNvidiaDriver() && which(process.env.CUDACXX ?? 'nvcc') !== undefined;
  const cpu = `torch==${FETCHED_VERSION}+cpu`;
  const attempts = [
    { requirement: cpu, options: [] },
    { requirement: cpu, options: ['--index-url', CPU_INDEX] },
    { requirement: `torch==${FETCHED_VERSION}`, options: [] },
  ];
  if (cuda) attempts.unshift(attempts.pop());
  const failures = [];
  for (const attempt of attempts) {
    const failure = await tryWheel(pip, attempt);
    if (!failure) return inspect(path.join(target, 'torch'), 'the private copy').found;
    failures.push(failure);
  }
  throw new SetupError(['libtorch could not be fetched:', ...failures, 'Any one of:'].join('\n  '), [
    'mend the connection to PyPI (pip reads PIP_INDEX_URL, PIP_FIND_LINKS and your pip.conf) and run npm run setup again',
    ...REMEDIES.slice(1),
  ]);
}

function hasNvidiaDriver() {
  return existsSync('/proc/driver/nvidia/version') || existsSync('/dev/dxg');
}

/** Undefined when .libtorch/ holds a loadable copy afterwards, else the reason. */
async function tryWheel(pip, { requirement, options }) {
  const name = options.length > 0 ? `${requirement} from ${options.at(-1)}` : requirement;
  say(`fetching ${name}`);
  const { wheel, complaint } = await download(pip, requirement, ['--no-deps', ...options]);
  if (!wheel) return `${name}: pip found no wheel that fits${complaint && ` (${complaint})`}`;
  const needed = capture(pip[0], ['-c', REQUIREMENTS, wheel])?.split('\n').filter(Boolean) ?? [];
  if (needed.length > 0) {
    say(`this is a CUDA wheel: fetching the NVIDIA packages that it needs, about 2 GB`);
    const { status, complaint } = await runPip(pip, [
      'download',
      '--dest',
      downloads,
      '--only-binary=:all:',
      ...needed,
    ]);
    if (status !== 0) return `${name}: the NVIDIA packages that it needs could not be fetched (${complaint})`;
  }
  return unpack(pip[0], name);
}

/** { wheel } with the path of the downloaded wheel, or { complaint } with what pip said last. */
async function download(pip, requirement, options) {
  rmSync(downloads, { recursive: true, force: true });
  mkdirSync(downloads, { recursive: true });
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const tagged = PYTHON_TAGS.map((tag) => [
    ...['--only-binary=:all:', '--implementation', 'cp', '--python-version', tag, '--abi', `cp${tag}`],
    ...['--platform', `manylinux_2_28_${machine}`],
  ]);
  let complaint = '';
  for (const flags of [[], ...tagged]) {
    const result = await runPip(pip, ['download', '--dest', downloads, ...options, ...flags, requirement]);
    const wheel = readdirSync(downloads).find((name) => name.startsWith('torch-') && name.endsWith('.whl'));
    if (wheel) return { wheel: path.join(downloads, wheel) };
    complaint = result.complaint;
  }
  return { complaint };
}

/** { status, complaint }: pip's progress is shown; its errors are kept, since most attempts are expected to fail. */
async function runPip([command, ...first], args) {
  // pip keeps its temporary files beside the target: /tmp is often too small for this wheel.
  const temporary = path.join(target, 'tmp');
  mkdirSync(temporary, { recursive: true });
  const env = { ...process.env, ...QUIET_PIP, TMPDIR: temporary };
  const options = ['--retries', '1', '--timeout', '30', ...(process.stderr.isTTY ? [] : ['--quiet'])];
  let errors = '';
  const status = await run(command, [...first, ...args, ...options], {
    env,
    stdio: ['ignore', 2, 'pipe'],
    onStderr: (text) => {
      errors += text;
    },
  });
  const complaint =
    errors
      .trim()
      .split('\n')
      .at(-1)
      ?.replace(/^ERROR: /, '') ?? '';
  return { status, complaint };
}

async function unpack(python, name) {
  const fresh = path.join(target, 'unpack');
  rmSync(fresh, { recursive: true, force: true });
  const wheels = readdirSync(downloads)
    .filter((name) => name.endsWith('.whl'))
    .map((name) => path.join(downloads, name));
  say('unpacking libtorch into .libtorch/');
  if ((await run(python, ['-c', UNPACK, fresh, ...wheels])) !== 0) return `${name}: the wheel could not be unpacked`;
  const torch = path.join(fresh, 'torch');
  const { reason } = inspect(torch, 'the private copy');
  const failure = reason ?? loadError(torch);
  if (failure) return `${name}: ${failure}`;
  // Only a copy that was proved to load takes the final name.
  for (const entry of readdirSync(fresh)) {
    rmSync(path.join(target, entry), { recursive: true, force: true });
    renameSync(path.join(fresh, entry), path.join(target, entry));
  }
  for (const entry of ['unpack', 'download', 'tmp']) rmSync(path.join(target, entry), { recursive: true, force: true });
  return undefined;
}

if (isMain(import.meta.url)) {
  await main(() =>
    withLock(async () => {
      const found = await fetchLibtorch();
      say(`libtorch ${found.version} is in ${found.root}`);
    }),
  );
}
