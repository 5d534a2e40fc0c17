// The library: what `import ... from 'stepward'` gives. The command line is cli.ts.

export {
  type EftOptions,
  type IftOptions,
  makeEft,
  makeIft,
  makeProblems,
  type ProblemOptions,
} from './arithmetic/index.js';
export { type LoadedRecipe, loadRecipe } from './config/load.js';
export { type Recipe, recipeSchema } from './config/recipe.js';
export type { ChatMessage, TextCodec } from './data/codec.js';
export { ForestBuilder, PathForest, PrefixForest } from './data/forest.js';
export { type JsonLine, JsonlWriter, readJsonl } from './data/jsonl.js';
export { readPreferenceTrees } from './data/preference-records.js';
export { readSftExamples } from './data/sft-records.js';
export { loadCodec } from './data/tokenizer.js';
export { treeKey } from './data/tree-key.js';
export { ERROR_TABLE, type ErrorCode, StepwardError } from './errors.js';
export { extractAnswer, goldAnswer } from './eval/answer.js';
export { Grader } from './eval/grader.js';
export { wilsonInterval } from './eval/interval.js';
export { type Answer, type AskOptions, askJudge, type Question } from './judge/ask.js';
export { type BothOrders, type JudgeOptions, type JudgeReport, judgePairs, judgeReport } from './judge/report.js';
export { countVerdicts, tallyWins } from './judge/tally.js';
export { type Policy, policyOf } from './loop/policy.js';
export { type RunOptions, runRecipe } from './loop/run.js';
export { type SearchOptions, type SearchProgress, searchSteps } from './loop/search.js';
export { type Choice, select } from './loop/select.js';
export type { Candidate, SearchStep, SearchTree, Verdict } from './loop/types.js';
export { Engine } from './native/engine.js';
export { type RolloutSummary, rolloutSummary } from './native/rollout-summary.js';
export { type SystemInfo, setThreads, systemInfo } from './native/system.js';
export { TokenTree } from './native/token-tree.js';
export { Trainer } from './native/trainer.js';
export type {
  Completions,
  CompletionValues,
  EngineLike,
  EngineOptions,
  ForestData,
  ForkRequest,
  ForkResult,
  GenerateRequest,
  GenerateResult,
  ModelInfo,
  NodeNumber,
  PreferenceBatch,
  PreferenceLossKind,
  PreferenceResult,
  ReadoutResult,
  RequestOptions,
  RolloutCounters,
  ScoreResult,
  SftBatch,
  SftResult,
  TokenTreeLike,
  TrainerLike,
  TrainerOptions,
} from './native/types.js';
export { CompiledPrompts } from './prompts/compile.js';
export { DEFAULT_FORMAT, type PromptFormat } from './prompts/format.js';
export { modelFormat, readFormat, writeModelFormat } from './prompts/load.js';
export { type CheckpointOptions, TrainingCheckpoints } from './training/checkpoint.js';
export { Dual, DualPair, pairwise } from './training/losses/dual.js';
export type { PairGradients, PairLoss, PairVectors } from './training/losses/pair-loss.js';
export { trainPreference } from './training/preference.js';
export { trainSft } from './training/sft.js';
export type {
  OptimizerOptions,
  PreferenceOptions,
  PreferenceStep,
  PreferenceTree,
  SftExample,
  SftOptions,
  StepMetrics,
  TrainingHooks,
  TrainingSummary,
} from './training/types.js';
