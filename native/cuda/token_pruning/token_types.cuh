// What the host and the device code of the token-pruning ops both know.
#pragma once

#include <stdint.h>

namespace auxcore::tokens {

constexpr int kWarp = 32;

/// auxcore_dtype, as far as these kernels have it.
enum Type : int32_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 3 };

/// AuxCore.Kernels.BudgetRule.
enum Rule : int32_t { kCount = 1, kRatio = 2, kThreshold = 3, kTopP = 4, kOutliers = 5 };

struct Budget {
  double value;
  int32_t rule, count, minimum, maximum;
};

/// Where a segment is cut: keys above are kept, and the first `ties` of what equals it; `count` in all.
struct Cut {
  uint32_t key;
  int32_t ties, count, reserved;
};

constexpr int kRankThreads = 1024;

/// Bytes of an element.
inline constexpr int size_of(int32_t type) { return type == kFloat32 ? 4 : 2; }

}  // namespace auxcore::tokens
