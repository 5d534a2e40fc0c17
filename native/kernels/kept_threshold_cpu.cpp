// Radix selection of kept_threshold.h, a byte of the key at a time from the top.
#include "exact_float.h"

#include "kept_threshold.h"

#include <array>

namespace stepward::kernels {
namespace {

template <typename Amount>
uint32_t threshold(const std::vector<KeptId>& list, uint64_t wanted, const Amount& amount) {
  uint32_t prefix = 0;
  uint32_t known = 0;  // mask of the key bytes that prefix fixes
  for (int shift = 24; shift >= 0; shift -= 8) {
    std::array<uint64_t, 256> bin{};
    std::array<bool, 256> used{};
    for (const KeptId& entry : list) {
      if ((entry.key & known) != prefix) continue;
      const uint32_t digit = (entry.key >> shift) & 0xFFu;
      bin[digit] += amount(entry);
      used[digit] = true;
    }
    uint32_t lowest_used = 0;
    while (lowest_used < 255 && !used[lowest_used]) ++lowest_used;
    uint32_t digit = 255;
    while (digit > lowest_used && bin[digit] < wanted) wanted -= bin[digit--];
    prefix |= digit << shift;
    known |= 0xFFu << shift;
  }
  return prefix;
}

}  // namespace

uint64_t total_mass(const std::vector<KeptId>& list) {
  uint64_t mass = 0;
  for (const KeptId& entry : list) mass += entry.mass;
  return mass;
}

uint32_t count_threshold(const std::vector<KeptId>& list, uint64_t wanted) {
  return threshold(list, wanted, [](const KeptId&) { return uint64_t{1}; });
}

uint32_t mass_threshold(const std::vector<KeptId>& list, uint64_t wanted) {
  return threshold(list, wanted, [](const KeptId& entry) { return entry.mass; });
}

uint64_t drop_below(std::vector<KeptId>* list, uint32_t least) {
  uint64_t mass = 0;
  size_t count = 0;
  for (const KeptId& entry : *list) {
    if (entry.key < least) continue;
    (*list)[count++] = entry;
    mass += entry.mass;
  }
  list->resize(count);
  return mass;
}

}  // namespace stepward::kernels
