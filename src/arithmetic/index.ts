// The built-in recipe's data: problems, demonstrations and judgements, made from a seed. Knows nothing of models.

export { type EftOptions, type EftRecord, makeEft } from './judgements.js';
export { makeProblems, type ProblemOptions, type ProblemRecord, type Split, splitOf } from './problems.js';
export { type IftOptions, type IftRecord, makeIft } from './solutions.js';
