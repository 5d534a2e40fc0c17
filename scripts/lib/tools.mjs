// The build tools: a C++20 compiler, CMake, Ninja or make, Python. Finds them, or says how to get them.
// CMake and Ninja, when missing, are fetched from PyPI into .deps/ where nothing else sees them.

import { existsSync } from 'node:fs';
import path from 'node:path';
import { capture, root, run, SetupError, say, which } from './machine.mjs';

const MINIMUM = { gcc: 11, clang: 14, cmake: [3, 22], python: [3, 8] };
const C_NAMES = { clang: 'clang', g: 'gcc', c: 'cc' };
/** pip's advice about itself and about root is not ours to pass on: nothing is installed outside this folder. */
export const QUIET_PIP = { PIP_DISABLE_PIP_VERSION_CHECK: '1', PIP_ROOT_USER_ACTION: 'ignore' };
export const privateTools = path.join(root, '.deps/python');

/** { cxx, cc } of a compiler that knows C++20: CXX when set, else c++, g++, clang++. `cc` is its C compiler, where there is one. */
export function findCompiler() {
  const asked = process.env.CXX?.split(' ')[0];
  const names = asked ? [asked] : ['c++', 'g++', 'clang++'];
  const remedies = [
    'Debian, Ubuntu: sudo apt install g++',
    'Fedora, RHEL: sudo dnf install gcc-c++',
    'conda: conda install gxx',
    'or point CXX at a compiler that is already there: CXX=/path/to/g++ npm run setup',
  ];
  const old = [];
  for (const name of names) {
    const cxx = which(name);
    const macros = cxx && capture(cxx, ['-dM', '-E', '-x', 'c++', '/dev/null']);
    if (!macros) continue;
    const kind = macros.includes('__clang__') ? 'clang' : 'gcc';
    const major = Number(macros.match(kind === 'clang' ? /__clang_major__ (\d+)/ : /__GNUC__ (\d+)/)?.[1]);
    if (major >= MINIMUM[kind]) {
      return { cxx, cc: which(process.env.CC ?? cxx.replace(/(clang|g|c)\+\+(?=[^/]*$)/, (_, name) => C_NAMES[name])) };
    }
    old.push(`${cxx} is ${kind} ${major}`);
  }
  const found = old.length > 0 ? `found only ${old.join(', ')}` : `looked for ${names.join(', ')} on PATH`;
  throw new SetupError(
    `no C++20 compiler (expected gcc ${MINIMUM.gcc} or newer, or clang ${MINIMUM.clang} or newer; ${found}). Any one of:`,
    remedies,
  );
}

/** A Python that runs: PYTHON, the active virtual environment's, python3, python; undefined when there is none. */
export function findPython() {
  const names = [
    process.env.PYTHON,
    process.env.VIRTUAL_ENV && `${process.env.VIRTUAL_ENV}/bin/python`,
    'python3',
    'python',
  ];
  for (const name of names) {
    const python = name && which(name);
    const version = python && capture(python, ['-c', 'import sys; print(*sys.version_info[:2])']);
    if (!version) continue;
    const [major, minor] = version.split(' ').map(Number);
    if (major === MINIMUM.python[0] && minor >= MINIMUM.python[1]) return python;
  }
  return undefined;
}

/** Arguments that run pip, of this Python or of a private virtual environment made with it; undefined without either. */
export async function findPip(python) {
  if (capture(python, ['-m', 'pip', '--version'])) return [python, '-m', 'pip'];
  const directory = path.join(root, '.deps/venv');
  const inside = path.join(directory, 'bin/python');
  if (!existsSync(inside) && capture(python, ['-c', 'import venv, ensurepip']) !== undefined) {
    say('this Python has no pip: making a private virtual environment in .deps/venv');
    await run(python, ['-m', 'venv', directory]);
  }
  return capture(inside, ['-m', 'pip', '--version']) ? [inside, '-m', 'pip'] : undefined;
}

/** Installs one tool's wheel into .deps/python; true when that worked. */
export async function fetchTool(requirement) {
  const python = findPython();
  const pip = python && (await findPip(python));
  if (!pip) return false;
  say(`${requirement} is not on this machine: fetching it from PyPI into .deps/`);
  const [command, ...args] = pip;
  const install = ['install', '--quiet', '--no-deps', '--upgrade', '--target', privateTools, requirement];
  return (await run(command, [...args, ...install], { env: { ...process.env, ...QUIET_PIP } })) === 0;
}

export async function findCMake() {
  const candidates = () => [which('cmake'), path.join(privateTools, 'cmake/data/bin/cmake')];
  let cmake = candidates().find(isRecentCMake);
  if (!cmake && (await fetchTool('cmake>=3.26,<5'))) cmake = candidates().find(isRecentCMake);
  if (cmake) return cmake;
  const found = which('cmake') ? `${which('cmake')} is older` : 'there is none on PATH';
  throw new SetupError(
    `no CMake (expected ${MINIMUM.cmake.join('.')} or newer; ${found}, and it could not be fetched with pip). Any one of:`,
    [
      'Debian, Ubuntu: sudo apt install cmake',
      'Fedora, RHEL: sudo dnf install cmake',
      'any system with Python and pip: python3 -m pip install cmake',
      'conda: conda install cmake',
    ],
  );
}

function isRecentCMake(file) {
  const version = file && capture(file, ['--version'])?.match(/version (\d+)\.(\d+)/);
  if (!version) return false;
  const [major, minor] = [Number(version[1]), Number(version[2])];
  return major > MINIMUM.cmake[0] || (major === MINIMUM.cmake[0] && minor >= MINIMUM.cmake[1]);
}

/** { generator, program } for CMake: Ninja where it can be had, else make. */
export async function findGenerator() {
  const ninja = () =>
    [
      which('ninja'),
      which('ninja-build'),
      path.join(privateTools, 'bin/ninja'),
      path.join(privateTools, 'ninja/data/bin/ninja'),
    ].find((file) => file && capture(file, ['--version']));
  const make = which('make') ?? which('gmake');
  let program = ninja();
  if (!program && !make && (await fetchTool('ninja'))) program = ninja();
  if (program) return { generator: 'Ninja', program };
  if (make) return { generator: 'Unix Makefiles', program: make };
  throw new SetupError('no Ninja and no make (and Ninja could not be fetched with pip). Any one of:', [
    'Debian, Ubuntu: sudo apt install ninja-build',
    'Fedora, RHEL: sudo dnf install ninja-build',
    'any system with Python and pip: python3 -m pip install ninja',
  ]);
}
