#include "core/stop_text.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "stepward/error.h"

namespace stepward {

StopText::StopText(const TokenBytes& token_bytes, std::vector<std::string> stop)
    : token_bytes_(token_bytes), stop_(std::move(stop)) {
  for (const std::string& text : stop_) {
    if (text.empty()) fail(ErrorCode::INVALID_ARGUMENT, "stop: a stop text must not be empty");
    longest_ = std::max(longest_, text.size());
  }
  if (!stop_.empty() && token_bytes.offsets.empty()) {
    fail(ErrorCode::INVALID_ARGUMENT,
         "stop: stop texts need the texts of the tokens, but the model folder has no tokenizer");
  }
}

bool StopText::add(State& state, int32_t token) const {
  if (stop_.empty() || static_cast<size_t>(token) + 1 >= token_bytes_.offsets.size()) return false;
  const size_t begin = token_bytes_.offsets[token], length = token_bytes_.offsets[token + 1] - begin;
  const size_t before = state.tail.size();
  state.tail.append(token_bytes_.bytes, begin, length);

  // A match counts once it ends inside the new token (earlier ends were seen before) and past the first visible
  // character.
  size_t covered = before;
  if (!state.has_text) {
    while (covered < state.tail.size() && std::isspace(static_cast<unsigned char>(state.tail[covered]))) ++covered;
    state.has_text = covered < state.tail.size();
  }
  bool ended = false;
  for (const std::string& text : stop_) {
    const size_t from = covered + 1 > text.size() ? covered + 1 - text.size() : 0;
    ended |= state.has_text && state.tail.find(text, from) != std::string::npos;
  }
  if (state.tail.size() + 1 > longest_) state.tail.erase(0, state.tail.size() + 1 - longest_);
  return ended;
}

}  // namespace stepward
