// What the host and the device code of the TD ops both know.
#pragma once

#include <stdint.h>

namespace auxcore::td {

constexpr int kWarp = 32;

/// Kernels that go down columns: a block has 32 columns, and so many threads a column.
constexpr int kColumns = 32;

/// auxcore_dtype, as far as these kernels have it.
enum Type : int32_t { kFloat32 = 0, kBFloat16 = 3, kBits = 4 };

/// Sets of states: features and thresholds, or bits (auxcore.h).
struct Sets {
  const void* features;
  const float* thresholds;
  int32_t type;
};

}  // namespace auxcore::td
