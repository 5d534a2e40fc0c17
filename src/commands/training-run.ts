// What `sft` and `dpo` do around training: the output folder, the log of metrics, progress, and the summary.

import { join } from 'node:path';
import { JsonlWriter } from '../data/jsonl.js';
import { Progress } from '../progress.js';
import { trainingRecord } from '../training/run.js';
import type { StepMetrics, TrainingHooks, TrainingSummary } from '../training/types.js';
import { writeFolder } from './output.js';
import { type CommandContext, type OpenModel, peakBytes } from './shared.js';
import type { TrainingCommandOptions } from './training-options.js';

/** Trains, then writes model folder, train.jsonl and, with LoRA, adapter/. Resolves to the command's summary. */
export async function trainIntoFolder(
  label: string,
  options: TrainingCommandOptions,
  context: CommandContext,
  model: OpenModel,
  train: (hooks: TrainingHooks) => Promise<TrainingSummary>,
): Promise<object> {
  const summary = await writeFolder(options.output, async (folder) => {
    const metrics = new JsonlWriter(join(folder, 'train.jsonl'));
    const progress = new Progress({ label, unit: 'steps' });
    try {
      const done = await train({
        signal: context.signal,
        ...(options.loraRank !== undefined && { adapterDirectory: join(folder, 'adapter'), baseModel: options.model }),
        onPlan(total) {
          progress.total = total;
        },
        onReference(step, total) {
          progress.update(0, `reference ${step}/${total}`);
        },
        onStep(values) {
          metrics.write(values);
          progress.update(values.step as number, remark(values));
        },
      });
      progress.finish();
      await model.engine.save(folder);
      return done;
    } finally {
      metrics.close();
    }
  });
  context.log.info(
    `${label}: wrote ${options.output} (${summary.steps} steps, last loss ${summary.finalLoss.toFixed(4)})`,
  );
  return {
    ...trainingRecord(summary),
    load_seconds: model.loadSeconds,
    peak_bytes: peakBytes(),
  };
}

function remark(metrics: StepMetrics): string {
  const accuracy = metrics['rewards/accuracies'];
  const won = accuracy === undefined ? '' : ` accuracy ${accuracy.toFixed(2)}`;
  return `loss ${(metrics.loss as number).toFixed(4)}${won}`;
}
