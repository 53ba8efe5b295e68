// The driver functions about host memory.
#include "standin_state.h"

#include <cstdlib>

using standin::call;
using standin::Driver;
using standin::Kind;
using standin::require;

namespace standin {
namespace {

constexpr size_t kPage = 4096;

}  // namespace

HostMemory::~HostMemory() {
  for (const auto& [address, range] : ranges_)
    if (range.allocated)
      std::free(range.begin);
}

void* HostMemory::allocate(size_t bytes) {
  void* const memory = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  if (memory != nullptr)
    ranges_[reinterpret_cast<uintptr_t>(memory)] = {memory, bytes, true};
  return memory;
}

bool HostMemory::free(void* begin) {
  if (!erase(begin, true))
    return false;
  std::free(begin);
  return true;
}

bool HostMemory::add(void* begin, size_t bytes) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin);
  const auto after = ranges_.lower_bound(first);
  const bool free = find(begin) == nullptr && (after == ranges_.end() || after->first - first >= bytes);
  if (free)
    ranges_[first] = {begin, bytes, false};
  return free;
}

bool HostMemory::remove(void* begin) { return erase(begin, false); }

const HostMemory::Range* HostMemory::find(const void* address) const {
  const uintptr_t wanted = reinterpret_cast<uintptr_t>(address);
  auto after = ranges_.upper_bound(wanted);
  if (after == ranges_.begin())
    return nullptr;
  --after;
  return wanted - after->first < after->second.bytes ? &after->second : nullptr;
}

bool HostMemory::erase(void* begin, bool allocated) {
  const auto found = ranges_.find(reinterpret_cast<uintptr_t>(begin));
  if (found == ranges_.end() || found->second.allocated != allocated)
    return false;
  ranges_.erase(found);
  return true;
}

}  // namespace standin

CUDA_EXPORT CUresult cuMemAllocHost_v2(void** address, size_t bytes) {
  return call(__func__, [&](Driver& driver) {
    require(address != nullptr && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    driver.current();
    void* const allocated = bytes <= standin::kDeviceMemory ? driver.host_memory.allocate(bytes) : nullptr;
    require(allocated != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
    *address = allocated;
  });
}

CUDA_EXPORT CUresult cuMemFreeHost(void* address) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.drain(driver.current());
    require(driver.host_memory.free(address), CUDA_ERROR_INVALID_VALUE);
  });
}

CUDA_EXPORT CUresult cuMemHostRegister_v2(void* address, size_t bytes, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    require(address != nullptr && bytes > 0 && flags <= 0xf && !driver.memory.contains(address), CUDA_ERROR_INVALID_VALUE);
    driver.current();
    require(driver.host_memory.add(address, bytes), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  });
}

CUDA_EXPORT CUresult cuMemHostUnregister(void* address) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.drain(driver.current());
    require(driver.host_memory.remove(address), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  });
}

CUDA_EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* on_device, void* address, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    require(on_device != nullptr && flags == 0 && driver.host_memory.find(address) != nullptr, CUDA_ERROR_INVALID_VALUE);
    driver.current();
    *on_device = reinterpret_cast<CUdeviceptr>(address);
  });
}
