// Finds the end of a step in a growing text, token by token, without detokenising it again.
#pragma once

#include <string>
#include <vector>

#include "stepward/rollout.h"

namespace stepward {

// The stop texts of a request; rows keep a State each.
class StopText {
 public:
  // Throws INVALID_ARGUMENT where stop texts are given but the token texts are not, or a stop text is empty.
  StopText(const TokenBytes& token_bytes, std::vector<std::string> stop);

  struct State {
    std::string tail;       // as much of the text's end as a stop text could still span
    bool has_text = false;  // whether the new text holds a non-blank character so far
  };

  // Adds a token to the row's text. True where a stop text ends inside this token and some non-blank character stands
  // before its end: a delimiter before any visible text does not end a step.
  bool add(State& state, int32_t token) const;

 private:
  const TokenBytes& token_bytes_;
  std::vector<std::string> stop_;
  size_t longest_ = 0;
};

}  // namespace stepward
