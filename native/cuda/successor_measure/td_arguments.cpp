#include "td_arguments.h"

namespace auxcore::td {

void check_discount(double discount) {
  if (!(discount >= 0 && discount < 1))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "discount is %g, not within [0, 1)", discount);
}

void add_sets(Memory& memory, auxcore_dtype type, uint64_t features, uint64_t thresholds, int64_t rows, int64_t tasks) {
  switch (type) {
    case AUXCORE_FLOAT32:
    case AUXCORE_BFLOAT16:
      memory.read("features", features, rows * tasks, type == AUXCORE_FLOAT32 ? 4 : 2);
      memory.read("thresholds", thresholds, tasks, 4);
      break;
    case AUXCORE_UINT8:
      memory.read("features", features, rows * ((tasks + 7) / 8), 1);
      break;
    default:
      fail(AUXCORE_E_ARGUMENT, "feature_type %d is not float32, bfloat16 or uint8", type);
  }
}

}  // namespace auxcore::td
