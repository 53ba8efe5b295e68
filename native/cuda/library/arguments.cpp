#include "arguments.h"

#include <cmath>
#include <limits>

namespace auxcore {

void Memory::add(const char* name, uint64_t address, int64_t count, int element_bytes, bool is_written) {
  if (count > std::numeric_limits<int64_t>::max() / element_bytes)
    fail(AUXCORE_E_ARGUMENT, "%s: %lld elements", name, static_cast<long long>(count));
  const uint64_t bytes = static_cast<uint64_t>(count) * static_cast<uint64_t>(element_bytes);
  if (address % static_cast<uint64_t>(element_bytes) != 0)
    fail(AUXCORE_E_ARGUMENT, "%s: 0x%llx is not aligned to its elements of %d bytes", name, static_cast<unsigned long long>(address),
        element_bytes);
  context_.check_device_memory(name, address, bytes);
  if (size_ == ranges_.size())
    fail(AUXCORE_E_INTERNAL, "more tensors than were reckoned with");
  ranges_[size_++] = {name, address, address + bytes, is_written};
}

void Memory::check_disjoint() const {
  for (std::size_t i = 0; i < size_; ++i)
    for (std::size_t k = 0; k < i; ++k)
      if ((ranges_[i].is_written || ranges_[k].is_written) && ranges_[i].begin < ranges_[k].end && ranges_[k].begin < ranges_[i].end)
        fail(AUXCORE_E_ARGUMENT, "%s overlaps %s", ranges_[i].name, ranges_[k].name);
}

int64_t WorkspaceLayout::add(int64_t count, int64_t element_bytes) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  if (count > (kMost - bytes_ - kAlignment) / element_bytes)
    fail(AUXCORE_E_ARGUMENT, "the workspace is more than memory holds");
  const int64_t offset = bytes_;
  bytes_ = aligned(bytes_ + count * element_bytes);
  return offset;
}

void add_workspace(Memory& memory, uint64_t address, int64_t given, int64_t needed) {
  if (needed == 0)
    return;
  if (given < needed)
    fail(AUXCORE_E_ARGUMENT, "workspace: %lld bytes, %lld are needed", static_cast<long long>(given), static_cast<long long>(needed));
  if (address % kAlignment != 0)
    fail(AUXCORE_E_ARGUMENT, "workspace: 0x%llx is not aligned to %lld bytes", static_cast<unsigned long long>(address),
        static_cast<long long>(kAlignment));
  memory.write("workspace", address, needed, 1);
}

void check_struct_size(const char* name, uint32_t given, std::size_t expected) {
  if (given != expected)
    fail(AUXCORE_E_ABI, "%s->struct_size is %u, not %zu", name, given, expected);
}

void check_at_least_one(const char* name, int64_t value) {
  if (value < 1)
    fail(AUXCORE_E_ARGUMENT, "%s is %lld; it must be at least 1", name, static_cast<long long>(value));
}

void check_not_negative(const char* name, int64_t value) {
  if (value < 0)
    fail(AUXCORE_E_ARGUMENT, "%s is %lld; it must not be negative", name, static_cast<long long>(value));
}

void check_flag(const char* name, uint32_t value) {
  if (value > 1)
    fail(AUXCORE_E_ARGUMENT, "%s is %u, neither 0 nor 1", name, value);
}

void check_finite_not_negative(const char* name, double value) {
  if (!(value >= 0 && std::isfinite(value)))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "%s is %g, not finite and at least 0", name, value);
}

unsigned blocks_for(int64_t elements, int64_t per_block) {
  const int64_t blocks = (elements + per_block - 1) / per_block;
  if (blocks > std::numeric_limits<int32_t>::max())
    fail(AUXCORE_E_ARGUMENT, "%lld blocks are more than one launch takes", static_cast<long long>(blocks));
  return static_cast<unsigned>(blocks);
}

}  // namespace auxcore
