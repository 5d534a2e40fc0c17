#include "core/rollout/decoder.h"

namespace stepward {
namespace {

class HostDecodeRun final : public DecodeRun {
 public:
  explicit HostDecodeRun(Decoder& decoder) : decoder_(decoder) {}

  void step(DecodeStep& step) override {
    for (size_t r = 0; before_ != nullptr && r < step.draws.size(); ++r) {
      const DrawQuery& drawn = before_->draws[r];
      step.plan.tokens[r] = drawn.bad ? 0 : drawn.sample.id;
    }
    decoder_.run(step.plan);
    decoder_.draw(step.draws);
    before_ = &step;
  }
  void collect() override {}

 private:
  Decoder& decoder_;
  const DecodeStep* before_ = nullptr;
};

}  // namespace

std::unique_ptr<DecodeRun> Decoder::decode_run() {
  return std::make_unique<HostDecodeRun>(*this);
}

}  // namespace stepward
