// The driver functions about memory.
#include "standin_state.h"

#include <cstring>

using standin::call;
using standin::Driver;
using standin::Kind;
using standin::require;
using standin::Stream;

namespace standin {
namespace {

/// A range that has to be device memory, now and when the work runs.
void require_device(const Driver& driver, CUdeviceptr address, size_t bytes) {
  require(driver.memory.reach(address, bytes) != nullptr, CUDA_ERROR_INVALID_VALUE);
}

void require_host(const Driver& driver, const void* address) {
  require(address != nullptr && !driver.memory.contains(address), CUDA_ERROR_INVALID_VALUE);
}

void copy_from_host(Driver& driver, Stream& target, CUdeviceptr destination, const void* source, size_t bytes) {
  require_device(driver, destination, bytes);
  require_host(driver, source);
  // Pinned memory is read when the copy is made.
  if (target.capture || driver.host_memory.find(source) != nullptr) {
    driver.submit(target, [=, &driver] {
      require_device(driver, destination, bytes);
      std::memcpy(driver.memory.reach(destination, bytes), source, bytes);
    });
    return;
  }
  // Pageable memory is staged: the source may change as soon as the call returns.
  const auto* first = static_cast<const unsigned char*>(source);
  driver.submit(target, [&driver, destination, staged = std::vector<unsigned char>(first, first + bytes)] {
    require_device(driver, destination, staged.size());
    std::memcpy(driver.memory.reach(destination, staged.size()), staged.data(), staged.size());
  });
}

void copy_to_host(Driver& driver, Stream& target, void* destination, CUdeviceptr source, size_t bytes) {
  require_device(driver, source, bytes);
  require_host(driver, destination);
  driver.submit(target, [=, &driver] {
    require_device(driver, source, bytes);
    std::memcpy(destination, driver.memory.reach(source, bytes), bytes);
  });
}

void copy_on_device(Driver& driver, Stream& target, CUdeviceptr destination, CUdeviceptr source, size_t bytes) {
  require_device(driver, source, bytes);
  require_device(driver, destination, bytes);
  driver.submit(target, [=, &driver] {
    require_device(driver, source, bytes);
    require_device(driver, destination, bytes);
    std::memmove(driver.memory.reach(destination, bytes), driver.memory.reach(source, bytes), bytes);
  });
}

void write_host_attribute(const HostMemory::Range& pinned, int which, void* value, CUdeviceptr address) {
  switch (which) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned*>(value) = CU_MEMORYTYPE_HOST;
      return;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      *static_cast<CUdeviceptr*>(value) = address;
      return;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      *static_cast<CUdeviceptr*>(value) = reinterpret_cast<CUdeviceptr>(pinned.begin);
      return;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      *static_cast<size_t*>(value) = pinned.bytes;
      return;
    default:
      return;
  }
}

void write_attribute(Driver& driver, int which, void* value, CUdeviceptr address) {
  const auto* found = driver.memory.find(address);
  const auto write = [&](auto known, auto unknown) { *static_cast<decltype(known)*>(value) = found != nullptr ? known : unknown; };
  switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return write(found != nullptr ? found->second.context->handle : CUcontext(), CUcontext());
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return write(CU_MEMORYTYPE_DEVICE, 0u);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return write(address, CUdeviceptr(0));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return write(0, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return write(found != nullptr ? found->second.context->device : 0, -2);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return write(found != nullptr ? found->first : 0, CUdeviceptr(0));
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return write(found != nullptr ? found->second.bytes : 0, size_t(0));
    default:
      fail(CUDA_ERROR_INVALID_VALUE);
  }
}

/// Of an address that is no memory of ours everything is 0.
void write_attributes(Driver& driver, unsigned count, const int* attributes, void** values, CUdeviceptr address) {
  const HostMemory::Range* pinned = driver.host_memory.find(reinterpret_cast<const void*>(address));
  for (unsigned i = 0; i < count; ++i) {
    write_attribute(driver, attributes[i], values[i], address);
    if (pinned != nullptr)
      write_host_attribute(*pinned, attributes[i], values[i], address);
  }
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  return call(__func__, [&](Driver& driver) {
    require(address != nullptr && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    const standin::Context& context = driver.current();
    driver.forbid_while_capturing();
    require(bytes <= standin::kDeviceMemory - driver.memory.bytes(context.device), CUDA_ERROR_OUT_OF_MEMORY);
    const CUdeviceptr allocated = driver.memory.allocate(bytes, context);
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
    standin::Context& owner = driver.context(found->second.context->handle);
    driver.drain(owner);
    driver.memory.free(address);
    require(owner.fault == CUDA_SUCCESS, owner.fault);
  });
}

CUDA_EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  return call(__func__, [&](Driver& driver) {
    require(free != nullptr && total != nullptr, CUDA_ERROR_INVALID_VALUE);
    *free = standin::kDeviceMemory - driver.memory.bytes(driver.current().device);
    *total = standin::kDeviceMemory;
  });
}

CUDA_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr destination, const void* source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    if (bytes > 0)
      standin::copy_from_host(driver, target, destination, source, bytes);
  });
}

CUDA_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    if (bytes > 0)
      standin::copy_to_host(driver, target, destination, source, bytes);
  });
}

CUDA_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    if (bytes > 0)
      standin::copy_on_device(driver, target, destination, source, bytes);
  });
}

/// The addresses say which way it goes; one of them at least is of the device.
CUDA_EXPORT CUresult cuMemcpyAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    void* const to = reinterpret_cast<void*>(destination);
    const void* const from = reinterpret_cast<const void*>(source);
    if (bytes == 0)
      return;
    if (driver.memory.contains(to) && driver.memory.contains(from))
      standin::copy_on_device(driver, target, destination, source, bytes);
    else if (driver.memory.contains(to))
      standin::copy_from_host(driver, target, destination, from, bytes);
    else
      standin::copy_to_host(driver, target, to, source, bytes);
  });
}

CUDA_EXPORT CUresult cuMemsetD8Async(CUdeviceptr destination, unsigned char value, size_t bytes, CUstream stream) {
  return call(__func__, [&](Driver& driver) {
    Stream& target = driver.stream(stream);
    if (bytes == 0)
      return;
    standin::require_device(driver, destination, bytes);
    driver.submit(target, [=, &driver] {
      standin::require_device(driver, destination, bytes);
      std::memset(driver.memory.reach(destination, bytes), value, bytes);
    });
  });
}

CUDA_EXPORT CUresult cuPointerGetAttributes(unsigned count, int* attributes, void** values, CUdeviceptr address) {
  return call(__func__, [&](Driver& driver) {
    require(count > 0 && attributes != nullptr && values != nullptr, CUDA_ERROR_INVALID_VALUE);
    driver.current();
    standin::write_attributes(driver, count, attributes, values, address);
  });
}

CUDA_EXPORT CUresult cuPointerGetAttribute(void* value, int attribute, CUdeviceptr address) {
  return call(__func__, [&](Driver& driver) {
    require(value != nullptr, CUDA_ERROR_INVALID_VALUE);
    driver.current();
    // Alone it fails where all of them together would write zeros.
    require(driver.memory.find(address) != nullptr || driver.host_memory.find(reinterpret_cast<const void*>(address)) != nullptr,
            CUDA_ERROR_INVALID_VALUE);
    standin::write_attributes(driver, 1, &attribute, &value, address);
  });
}
