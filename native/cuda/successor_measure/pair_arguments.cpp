#include "pair_arguments.h"

namespace auxcore::pairs {

void check_type(auxcore_dtype type) {
  if (type != AUXCORE_FLOAT32 && type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "type %d is not float32 or bfloat16", type);
}

void check_count(int32_t count) {
  if (count < 2 || count > 1 << 30)
    fail(AUXCORE_E_ARGUMENT, "count is %d; there may be 2 to 2^30", count);
}

void check_dimension(int32_t dimension) {
  if (dimension < 1 || dimension > 1 << 16)
    fail(AUXCORE_E_ARGUMENT, "dimension is %d; there may be 1 to 65536", dimension);
}

}  // namespace auxcore::pairs
