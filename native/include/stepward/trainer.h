// Gradients of the step-wise preference loss and the SFT loss over packed forests, and the optimiser that applies them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "stepward/cancel.h"
#include "stepward/forest.h"
#include "stepward/model.h"

namespace stepward {

struct LoraOptions {
  int64_t rank = 0;  // 0: full fine-tuning
  double alpha = 16;
  // q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head (where it is not the embedding), all-linear
  // (the seven), or longer ends of a module's name: layers.0.self_attn.q_proj.
  std::vector<std::string> targets;
  uint64_t seed = 0;
  bool rslora = false;  // the scale is alpha / sqrt(rank) in place of alpha / rank
  // Other ranks and alphas for modules whose name, or its end after a dot, the regular expression is; the first wins.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
};

struct TrainerOptions {
  std::string optimizer = "adamw";                                    // adamw | sgd
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;  // decay is decoupled and skips 1-D tensors
  double max_grad_norm = 0;                                           // 0: no clipping
  LoraOptions lora;
  bool checkpoint_layers = false;   // layers run again in the backward pass instead of keeping their activations
  std::filesystem::path adapter;    // PEFT folder to start from; its configuration takes the place of `lora`
  bool allow_other_base = false;    // take the adapter also where it names other base weights
  std::vector<std::string> freeze;  // patterns of weight names (* and ?) that are not trained; not with adapters
};

// Completions are sets of segments (their log-prob is the sum over their tokens); pairs index completions.
struct PreferenceBatch {
  Forest forest;
  std::vector<int32_t> completion_offsets;   // [C+1]
  std::vector<int32_t> completion_segments;  // flat
  std::vector<int32_t> chosen, rejected;     // [P] completion indices
  std::vector<float> weight;                 // [P]
  std::vector<double> reference;             // [C] reference log-prob of each completion; simpo does not read it
  std::vector<float> mix;                    // [P] in [0, 1]: the loss is mix * loss(chosen, rejected) + (1 - mix) *
                                             // loss(rejected, chosen); empty: 1 for every pair
  std::string loss = "sigmoid";              // sigmoid | ipo | hinge | robust | sigmoid_norm | simpo
  float beta = 0.1f, label_smoothing = 0;
  float gamma = 0;        // simpo: the margin that chosen is to be ahead by, at least 0
  float sft_weight = 0;   // times the chosen tokens' mean negative log-prob
  double pair_norm = 0;   // pairs in the whole optimiser step
  double token_norm = 0;  // chosen tokens (summed over pairs) in the whole optimiser step; used by sft_weight
};

// Sums over the pairs of a micro-batch, of the tokens of their completions: what TRL reports means of. A completion
// counts once for each pair that it is in.
struct PreferenceStatistics {
  double correct = 0;                             // chosen tokens that no other was likelier than
  double entropy = 0;                             // nats, tokens of both sides
  double logits_chosen = 0, logits_rejected = 0;  // mean logits over the vocabulary
  int64_t chosen_tokens = 0, rejected_tokens = 0;
};

struct PreferenceResult {
  double loss = 0;      // this micro-batch's share of the step's loss, NLL term included: summing shares gives the mean
  double sft_loss = 0;  // this micro-batch's share of the chosen tokens' mean negative log-prob
  std::vector<double> completion_logprobs;  // [C] under the policy
  std::vector<float> pair_loss;             // [P] weighted, not divided
  int64_t computed_tokens = 0;
  PreferenceStatistics statistics;
};

// What a loss that is computed elsewhere needs of a batch.
struct CompletionValues {
  std::vector<double> logprobs;  // [C] under the policy
  std::vector<int32_t> lengths;  // [C] tokens that each is the sum of
  // [3, C] of each one's tokens: those that no other was likelier than, and the sums of entropies in nats and mean
  // logits.
  std::vector<double> statistics;
  int64_t computed_tokens = 0;
};

struct SftBatch {
  Forest forest;
  std::vector<float> segment_weight;  // [S] 0: not trained on
  double token_norm = 0;              // weighted scored tokens in the whole optimiser step
};

struct SftResult {
  double loss = 0;  // this micro-batch's share of the mean
  int64_t scored_tokens = 0, computed_tokens = 0;
  // Sums over scored tokens, each times its weight: of 1, of 1 where no other was likelier, of entropies in nats, and
  // of mean logits over the vocabulary.
  double weight = 0, correct = 0, entropy = 0, logits = 0;
};

struct MicroBatchShape {
  int64_t tokens = 0;         // of the packed forest
  int64_t scored_tokens = 0;  // of its completions
  int64_t path_tokens = 0;    // of the paths from its roots to all its leaves
  int64_t paths = 0;          // how many of those
  int64_t step_tokens = 0;    // of all micro-batches of an optimiser step
  bool checkpoint_layers = false;
};

// Bytes of a training step, see Trainer::memory.
struct TrainingMemory {
  int64_t base = 0;         // taken before the trainer was made, the weights included
  int64_t gradients = 0;    // of what is trained
  int64_t optimizer = 0;    // its state
  int64_t activations = 0;  // kept between forward and backward
  int64_t workspace = 0;    // what comes and goes on top
  int64_t resident = 0;     // taken now
  int64_t available = 0;    // what could still be had beyond that; -1: unknown
  int64_t total() const { return base + gradients + optimizer + activations + workspace; }
};

class Trainer {
 public:
  // Throws INVALID_ARGUMENT for options that cannot be used, and what reading an adapter throws (core/peft.h).
  Trainer(Model& model, const TrainerOptions& options);
  ~Trainer();

  // Forward and backward; gradients accumulate until apply(), in the weights' dtype. Whatever is thrown (NUMERICAL,
  // CANCELLED, INVALID_ARGUMENT ...), the gradients accumulated so far are dropped.
  PreferenceResult accumulate(const PreferenceBatch& batch, const CancelFlag& cancel);
  SftResult accumulate(const SftBatch& batch, const CancelFlag& cancel);

  // accumulate() in two halves, for a loss that the caller computes: forward() gives the completions' log-probs and
  // keeps what their gradients need; backward() takes d loss / d log-prob [C], finite, and adds the weights' gradients.
  // Of the batch only the forest and the completions are read. What a forward() kept is given up by its backward(), by
  // the next forward(), accumulate(), apply(), zero_grad() or merge_adapter(), and by whatever is thrown; backward()
  // without it is INVALID_ARGUMENT.
  CompletionValues forward(const PreferenceBatch& batch, const CancelFlag& cancel);
  void backward(const std::vector<double>& grad, const CancelFlag& cancel);

  // Log-prob of each completion [C] without gradients under the model as it was before training where that was LoRA:
  // adapters off, or with the adapter that training started from. Without LoRA, under the weights as they are.
  std::vector<double> reference_logprobs(const PreferenceBatch& batch, const CancelFlag& cancel);

  // Clips, steps, clears. Returns the global gradient norm before clipping. Throws NUMERICAL and leaves the weights as
  // they were where that norm is not finite.
  double apply(double learning_rate);

  // Memory that a step over micro-batches of this shape will have taken at its peak, by formula: nothing is computed.
  TrainingMemory memory(const MicroBatchShape& shape) const;

  // See Model::set_checkpoint_layers.
  void set_checkpoint_layers(bool on);

  // Drops accumulated gradients.
  void zero_grad();

  // Writes adapter_model.safetensors and adapter_config.json in PEFT's form. Needs LoRA.
  void save_adapter(const std::filesystem::path& directory, const std::string& base_model) const;
  // Adds the adapters into the base weights and removes them.
  void merge_adapter();

  // The optimiser's moments, step counts and float32 masters as one safetensors file; the weights are saved by
  // Model::save or save_adapter.
  void save_state(const std::filesystem::path& file) const;
  // Goes on where save_state left off. `parameters`: the model folder, or with LoRA the adapter folder, saved at the
  // same step. Throws CHECKPOINT_INVALID, leaving all as it was, where optimiser, names or shapes are not this
  // trainer's. Gradients are dropped.
  void load_state(const std::filesystem::path& file, const std::filesystem::path& parameters);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace stepward
