// Every failure Stepward can report, in one table shared with native/include/stepward/error_codes.def
// (scripts/check-contract.mjs fails when the two differ).

/** code -> [process exit code, meaning]. */
export const ERROR_TABLE = {
  INVALID_ARGUMENT: [2, 'an option or argument has a value that cannot be used'],
  INVALID_CONFIG: [2, 'a recipe or config file has an unknown or ill-typed key'],
  INVALID_DATA: [2, 'a line of an input file does not have the expected form'],
  FILE_NOT_FOUND: [2, 'a file or folder that was named does not exist'],
  CHECKPOINT_INVALID: [2, "a checkpoint's files are damaged, incomplete or inconsistent"],
  UNSUPPORTED_MODEL: [2, "the checkpoint's architecture or a feature of it is not supported"],
  UNSUPPORTED_DEVICE: [2, 'the device or dtype asked for cannot be used on this machine'],
  TOKEN_OUT_OF_RANGE: [2, 'a token id is negative or not below the vocabulary size'],
  CONTEXT_TOO_LONG: [2, "a sequence is longer than the model's maximum number of positions"],
  HANDLE_INVALID: [1, 'a native handle is of the wrong kind or was disposed'],
  NUMERICAL: [1, 'a loss, gradient or logit is NaN or infinite'],
  OUT_OF_MEMORY: [1, 'an allocation failed'],
  IO_ERROR: [1, 'reading or writing a file failed'],
  NATIVE_LOAD: [1, 'the native addon or libtorch could not be loaded'],
  GUARD_STOPPED: [1, 'a training guard stopped the run before it could do harm'],
  CANCELLED: [130, 'the work was cancelled by its AbortSignal'],
  INTERNAL: [1, 'an unexpected failure; please report it'],
} as const;

export type ErrorCode = keyof typeof ERROR_TABLE;

/** An error with a code from the table. `message` says what was expected, where, and what came. */
export class StepwardError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'StepwardError';
    this.code = code;
  }

  get exitCode(): number {
    return ERROR_TABLE[this.code][0];
  }
}

/** Turns anything thrown by the addon into a StepwardError, keeping the original as `cause`. */
export function toStepwardError(error: unknown): StepwardError {
  if (error instanceof StepwardError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const message = error instanceof Error ? error.message : String(error);
  if (typeof code === 'string' && code in ERROR_TABLE)
    return new StepwardError(code as ErrorCode, message, { cause: error });
  if (code === 'ENOENT') return new StepwardError('FILE_NOT_FOUND', message, { cause: error });
  if ((error as { name?: string } | null)?.name === 'AbortError')
    return new StepwardError('CANCELLED', message, { cause: error });
  return new StepwardError('INTERNAL', message, { cause: error });
}
