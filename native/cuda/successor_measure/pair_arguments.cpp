#include "pair_arguments.h"

#include <cmath>
#include <limits>

namespace auxcore::pairs {

int64_t Layout::add(int64_t count, int64_t element_bytes) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  if (count > (kMost - bytes_ - kAlignment) / element_bytes)
    fail(AUXCORE_E_ARGUMENT, "the workspace is more than memory holds");
  const int64_t offset = bytes_;
  bytes_ = (bytes_ + count * element_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return offset;
}

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

void check_not_negative(const char* name, double value) {
  if (!(value >= 0 && std::isfinite(value)))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "%s is %g, not finite and at least 0", name, value);
}

void add_workspace(td::Memory& memory, uint64_t address, int64_t given, int64_t needed) {
  if (given < needed)
    fail(AUXCORE_E_ARGUMENT, "workspace: %lld bytes, %lld are needed", static_cast<long long>(given), static_cast<long long>(needed));
  if (address % Layout::kAlignment != 0)
    fail(AUXCORE_E_ARGUMENT, "workspace: 0x%llx is not aligned to 256 bytes", static_cast<unsigned long long>(address));
  memory.write("workspace", address, needed, 1);
}

}  // namespace auxcore::pairs
