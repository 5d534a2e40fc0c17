// Positions, ancestor intervals and transitions of packed forests, against their definitions.
#include <gtest/gtest.h>

#include <functional>

#include "helpers/tiny_model.h"
#include "stepward/error.h"
#include "stepward/forest.h"

namespace stepward {
namespace {

using testing::random_forest;

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "expected an error";
  return ErrorCode::INTERNAL;
}

//        [1 2] -> [3] -> [5 6]
//              -> []  -> [4]
Forest small() {
  return {{1, 2, 3, 5, 6, 4}, {0, 2, 3, 5, 5, 6}, {-1, 0, 1, 0, 3}};
}

TEST(Forest, PositionsCountFromTheRootAndTransitionsCrossEmptySegments) {
  const PackedForest packed = pack_forest(small());
  EXPECT_EQ(packed.position, (std::vector<int32_t>{0, 1, 2, 3, 4, 2}));
  EXPECT_EQ(packed.source, (std::vector<int32_t>{-1, 0, 1, 2, 3, 1}));
  EXPECT_EQ(packed.last_token, (std::vector<int32_t>{1, 2, 4, 1, 5}));
  EXPECT_EQ(packed.tree_first, (std::vector<int32_t>{0, 5}));
}

TEST(Forest, IntervalsAgreeWithParentChains) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    const Forest forest = random_forest(random, 1 + round % 4, 1 + round % 9);
    const PackedForest packed = pack_forest(forest);
    for (int32_t b = 0; b < forest.num_segments(); ++b) {
      const std::vector<int32_t> path = path_to(forest, b);
      for (int32_t a = 0; a < forest.num_segments(); ++a) {
        EXPECT_EQ(packed.is_ancestor(a, b), std::find(path.begin(), path.end(), a) != path.end()) << a << " of " << b;
      }
    }
  }
}

TEST(Forest, BadForestsAreRefusedByKind) {
  const auto check = [](Forest forest) { return code_of([&] { validate_forest(forest, 61, 5); }); };
  Forest forest = small();
  EXPECT_NO_THROW(validate_forest(forest, 61, 5));
  EXPECT_EQ(code_of([&] { validate_forest(forest, 6, 5); }), ErrorCode::TOKEN_OUT_OF_RANGE);
  EXPECT_EQ(code_of([&] { validate_forest(forest, 61, 4); }), ErrorCode::CONTEXT_TOO_LONG);
  forest.parents[1] = 1;
  EXPECT_EQ(check(forest), ErrorCode::INVALID_ARGUMENT);
  forest = small();
  forest.offsets.back() = 7;
  EXPECT_EQ(check(forest), ErrorCode::INVALID_ARGUMENT);
  forest = small();
  forest.offsets[1] =
      forest.offsets.back() + 1;  // only the last offset may be trusted: nothing is read past the tokens
  EXPECT_EQ(check(forest), ErrorCode::INVALID_ARGUMENT);
  forest = small();
  forest.parents[3] = -1;
  forest.parents[4] = 0;  // back into the tree that ended
  EXPECT_EQ(check(forest), ErrorCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace stepward
