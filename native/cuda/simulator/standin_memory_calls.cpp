// The driver functions about memory.
#include "standin_state.h"

#include <cstring>

using standin::call;
using standin::Driver;
using standin::Kind;
using standin::require;

namespace standin {
namespace {

/// A range that has to be device memory, now and when the work runs.
void require_device(const Driver& driver, CUdeviceptr address, size_t bytes) {
  require(driver.memory.reach(address, bytes) != nullptr, CUDA_ERROR_INVALID_VALUE);
}

void require_host(const Driver& driver, const void* address) {
  require(address != nullptr && !driver.memory.contains(address), CUDA_ERROR_INVALID_VALUE);
}

void write_attribute(Driver& driver, int which, void* value, CUdeviceptr address) {
  const auto* found = driver.memory.find(address);
  const auto write = [&](auto known, auto unknown) { *static_cast<decltype(known)*>(value) = found != nullptr ? known : unknown; };
  switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return write(found != nullptr ? driver.primary(found->second.device).handle : CUcontext(), CUcontext());
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return write(CU_MEMORYTYPE_DEVICE, 0u);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return write(address, CUdeviceptr(0));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return write(0, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return write(found != nullptr ? found->second.device : 0, -2);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return write(found != nullptr ? found->first : 0, CUdeviceptr(0));
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return write(found != nullptr ? found->second.bytes : 0, size_t(0));
    default:
      fail(CUDA_ERROR_INVALID_VALUE);
  }
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  return call(__func__, [&](Driver& driver) {
    require(address != nullptr && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    const int device = driver.current().device;
    driver.forbid_while_capturing();
    require(bytes <= standin::kDeviceMemory - driver.memory.bytes(device), CUDA_ERROR_OUT_OF_MEMORY);
    const CUdeviceptr allocated = driver.memory.allocate(bytes, device);
    require(allocated != 0, CUDA_ERROR_OUT_OF_MEMORY);
    *address = allocated;
  });
}

CUDA_EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    if (address == 0)
      return;
    const auto* found = driver.memory.find(address);
    require(found != nullptr && found->first == address, CUDA_ERROR_INVALID_VALUE);
    driver.forbid_while_capturing();
    standin::Context& owner = driver.primary(found->second.device);
    driver.drain(owner);
    driver.memory.free(address);
    require(owner.fault == CUDA_SUCCESS, owner.fault);
  });
}

CUDA_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr destination, const void* source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    standin::Stream& target = driver.stream(stream);
    if (bytes == 0)
      return;
    standin::require_device(driver, destination, bytes);
    standin::require_host(driver, source);
    if (target.capture) {
      driver.submit(target, [=, &driver] {
        standin::require_device(driver, destination, bytes);
        std::memcpy(driver.memory.reach(destination, bytes), source, bytes);
      });
      return;
    }
    // Pageable memory is staged: the source may change as soon as the call returns.
    const auto* first = static_cast<const unsigned char*>(source);
    driver.submit(target, [&driver, destination, staged = std::vector<unsigned char>(first, first + bytes)] {
      standin::require_device(driver, destination, staged.size());
      std::memcpy(driver.memory.reach(destination, staged.size()), staged.data(), staged.size());
    });
  });
}

CUDA_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    standin::Stream& target = driver.stream(stream);
    if (bytes == 0)
      return;
    standin::require_device(driver, source, bytes);
    standin::require_host(driver, destination);
    driver.submit(target, [=, &driver] {
      standin::require_device(driver, source, bytes);
      std::memcpy(destination, driver.memory.reach(source, bytes), bytes);
    });
  });
}

CUDA_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    standin::Stream& target = driver.stream(stream);
    if (bytes == 0)
      return;
    standin::require_device(driver, source, bytes);
    standin::require_device(driver, destination, bytes);
    driver.submit(target, [=, &driver] {
      standin::require_device(driver, source, bytes);
      standin::require_device(driver, destination, bytes);
      std::memmove(driver.memory.reach(destination, bytes), driver.memory.reach(source, bytes), bytes);
    });
  });
}

CUDA_EXPORT CUresult cuMemsetD8Async(CUdeviceptr destination, unsigned char value, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    standin::Stream& target = driver.stream(stream);
    if (bytes == 0)
      return;
    standin::require_device(driver, destination, bytes);
    driver.submit(target, [=, &driver] {
      standin::require_device(driver, destination, bytes);
      std::memset(driver.memory.reach(destination, bytes), value, bytes);
    });
  });
}

/// Of an address that is no device memory everything is 0, and the call succeeds.
CUDA_EXPORT CUresult cuPointerGetAttributes(unsigned count, int* attributes, void** values, CUdeviceptr address) {
  return call(__func__, [&](Driver& driver) {
    require(count > 0 && attributes != nullptr && values != nullptr, CUDA_ERROR_INVALID_VALUE);
    driver.current();
    for (unsigned i = 0; i < count; ++i)
      standin::write_attribute(driver, attributes[i], values[i], address);
  });
}
