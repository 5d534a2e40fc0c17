// Parses the rope part of config.json with the precedence transformers gives the two spellings. The frequencies
// themselves are computed in rope.cpp.
#include "config_parts.h"

#include "stepward/error.h"

namespace stepward {

namespace {

// Both spellings may be there; a non-empty rope_scaling wins, as in transformers' convert_rope_params_to_dict.
const Json* rope_object(const JsonFields& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) config.bad(key, "an object or null");
    if (!value->empty()) return value;
  }
  return nullptr;
}

void refuse_partial_rotary(const JsonFields& fields) {
  const double partial = fields.number("partial_rotary_factor", 1.0);
  if (partial != 1.0) {
    fail(ErrorCode::UNSUPPORTED_MODEL, fields.place(), ": partial_rotary_factor ", partial,
         " is not supported, only 1 (the whole head is rotated)");
  }
}

RopeKind rope_kind(const JsonFields& rope) {
  // "type" is the name rope_type had before transformers 4.45.
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  if (type == "default") return RopeKind::standard;
  if (type == "linear") return RopeKind::linear;
  if (type == "llama3") return RopeKind::llama3;
  if (type == "yarn") return RopeKind::yarn;
  fail(ErrorCode::UNSUPPORTED_MODEL, rope.place(), ": rope_type \"", type,
       "\" is not supported, only default, linear, llama3 and yarn");
}

double positive(const JsonFields& rope, const char* key, std::optional<double> fallback = std::nullopt) {
  const double value = rope.number(key, fallback);
  if (!(value > 0)) rope.bad(key, "a number above 0");
  return value;
}

}  // namespace

RopeConfig read_rope_config(const JsonFields& config, int64_t max_positions) {
  RopeConfig result;
  refuse_partial_rotary(config);
  result.theta = positive(config, "rope_theta", result.theta);
  const Json* object = rope_object(config);
  if (object == nullptr) return result;

  const bool legacy = config.find("rope_scaling") == object;
  const JsonFields rope(*object, config.place() + (legacy ? ": rope_scaling" : ": rope_parameters"));
  for (const char* layer_type : {"full_attention", "sliding_attention"}) {
    if (rope.contains(layer_type)) {
      fail(ErrorCode::UNSUPPORTED_MODEL, rope.place(), ": rope settings per layer type (\"", layer_type,
           "\") are not supported");
    }
  }
  refuse_partial_rotary(rope);
  result.kind = rope_kind(rope);
  result.theta = positive(rope, "rope_theta", result.theta);
  if (result.kind == RopeKind::standard) return result;

  if (result.kind == RopeKind::llama3 || result.kind == RopeKind::yarn) {
    // The outer key, where there is one, wins over the inner one: transformers' standardize_rope_params.
    const int64_t inner = rope.integer("original_max_position_embeddings", 1, max_position_limit, max_positions);
    result.original_max_positions = config.integer("original_max_position_embeddings", 1, max_position_limit, inner);
  }
  if (result.kind == RopeKind::yarn && rope.contains("factor") && rope.find("factor") == nullptr) {
    result.factor = static_cast<double>(max_positions) / static_cast<double>(result.original_max_positions);
  } else {
    result.factor = positive(rope, "factor");
  }
  if (result.kind == RopeKind::llama3) {
    result.low_freq_factor = positive(rope, "low_freq_factor");
    result.high_freq_factor = positive(rope, "high_freq_factor");
    if (result.high_freq_factor <= result.low_freq_factor) rope.bad("high_freq_factor", "above low_freq_factor");
  }
  if (result.kind == RopeKind::yarn) {
    // Zero means "not given" to transformers for every one of these but attention_factor.
    const auto or_default = [&](const char* key, double fallback) {
      const double value = rope.number(key, fallback);
      if (value < 0) rope.bad(key, "a number of at least 0");
      return value == 0 ? fallback : value;
    };
    result.beta_fast = or_default("beta_fast", result.beta_fast);
    result.beta_slow = or_default("beta_slow", result.beta_slow);
    result.mscale = or_default("mscale", 0);
    result.mscale_all_dim = or_default("mscale_all_dim", 0);
    if (rope.find("attention_factor") != nullptr) result.attention_factor = positive(rope, "attention_factor");
    result.truncate = rope.boolean("truncate", true);
    if (result.theta == 1) rope.bad("rope_theta", "a number other than 1");
  }
  return result;
}

}  // namespace stepward
