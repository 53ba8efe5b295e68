// The functions of auxcore.h that belong to no op.
#include <cstdlib>
#include <cstring>

#include "context.h"

namespace auxcore {
namespace {

void require_address(const void* address, const char* name) {
  if (address == nullptr)
    fail(AUXCORE_E_ARGUMENT, "%s is NULL", name);
}

template <class T>
T& required(T* argument, const char* name) {
  require_address(argument, name);
  return *argument;
}

std::size_t size_of(int64_t bytes, int64_t least) {
  if (bytes < least)
    fail(AUXCORE_E_ARGUMENT, "bytes is %lld; it must be at least %lld", static_cast<long long>(bytes), static_cast<long long>(least));
  return static_cast<std::size_t>(bytes);
}

CUstream stream_of(const Context& context, void* stream) {
  const CUstream handle = static_cast<CUstream>(stream);
  context.check_stream(handle);
  return handle;
}

bool environment_asks_for_synchronous() {
  const char* value = std::getenv("AUXCORE_SYNC");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

/// Runs the body of a function that works in a context.
template <class Body>
auxcore_status in_context(const char* function, auxcore_context handle, Body&& body) noexcept {
  return guarded(function, [&] {
    const std::shared_ptr<Context> context = require<Context>(handle, "context");
    const Context::Scope scope(*context);
    body(*context);
  });
}

/// An event that exists for one ordering of two streams; what it orders outlives it.
class Event {
 public:
  Event() {
    constexpr unsigned kDisableTiming = 2;
    AUXCORE_CUDA(cuEventCreate, &event_, kDisableTiming);
  }
  ~Event() {
    if (event_ != nullptr)
      driver().cuEventDestroy_v2(event_);
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  CUevent get() const { return event_; }

  void destroy() {
    const CUevent event = event_;
    event_ = nullptr;
    AUXCORE_CUDA(cuEventDestroy_v2, event);
  }

 private:
  CUevent event_ = nullptr;
};

}  // namespace
}  // namespace auxcore

using namespace auxcore;

extern "C" {

uint32_t auxcore_abi_version(void) { return AUXCORE_ABI_VERSION; }

const char* auxcore_device_image(void) { return image_description; }

auxcore_status auxcore_device_count(int32_t* count) {
  return guarded(__func__, [&] {
    int32_t& result = required(count, "count");
    int found = 0;
    try {
      AUXCORE_CUDA(cuDeviceGetCount, &found);
    } catch (const Failure& failure) {
      if (failure.status() != AUXCORE_E_NO_DEVICE)
        throw;
    }
    result = found;
  });
}

auxcore_status auxcore_open(uint32_t abi_version, int32_t device, uint32_t flags, auxcore_context* context) {
  return guarded(__func__, [&] {
    if (abi_version != AUXCORE_ABI_VERSION)
      fail(AUXCORE_E_ABI, "the caller was built for ABI version %u, this library has %u; take both from one release", abi_version,
          AUXCORE_ABI_VERSION);
    if ((flags & ~AUXCORE_OPEN_SYNCHRONOUS) != 0)
      fail(AUXCORE_E_ARGUMENT, "flags 0x%x has bits that mean nothing", flags);
    auxcore_context& result = required(context, "context");
    const bool synchronous = (flags & AUXCORE_OPEN_SYNCHRONOUS) != 0 || environment_asks_for_synchronous();
    const auto opened = std::make_shared<Context>(device, synchronous);
    try {
      result = handles::add(opened);
    } catch (...) {
      opened->close();
      throw;
    }
  });
}

auxcore_status auxcore_close(auxcore_context context) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> closing = require<Context>(context, "context");
    handles::remove_all(*closing);
    closing->close();
  });
}

auxcore_status auxcore_describe_device(auxcore_context context, auxcore_device* device) {
  return in_context(__func__, context, [&](Context& opened) {
    auxcore_device& result = required(device, "device");
    if (result.struct_size != sizeof result)
      fail(AUXCORE_E_ABI, "device->struct_size is %u, not %zu", result.struct_size, sizeof result);
    opened.describe(result);
  });
}

auxcore_status auxcore_allocate(auxcore_context context, int64_t bytes, uint64_t* address) {
  return in_context(__func__, context, [&](Context& opened) {
    uint64_t& result = required(address, "address");
    result = opened.allocate(size_of(bytes, 1), Context::Owner::caller);
  });
}

auxcore_status auxcore_free(auxcore_context context, uint64_t address) {
  return in_context(__func__, context, [&](Context& opened) { opened.free(address, Context::Owner::caller); });
}

auxcore_status auxcore_copy_to_device(auxcore_context context, void* stream, uint64_t destination, const void* source, int64_t bytes) {
  return in_context(__func__, context, [&](Context& opened) {
    const CUstream on = stream_of(opened, stream);
    const std::size_t size = size_of(bytes, 0);
    if (size == 0)
      return;
    require_address(source, "source");
    opened.check_device_memory("destination", destination, size);
    AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, destination, source, size, on);
    AUXCORE_CUDA(cuStreamSynchronize, on);
  });
}

auxcore_status auxcore_copy_to_host(auxcore_context context, void* stream, void* destination, uint64_t source, int64_t bytes) {
  return in_context(__func__, context, [&](Context& opened) {
    const CUstream on = stream_of(opened, stream);
    const std::size_t size = size_of(bytes, 0);
    if (size == 0)
      return;
    require_address(destination, "destination");
    opened.check_device_memory("source", source, size);
    AUXCORE_CUDA(cuMemcpyDtoHAsync_v2, destination, source, size, on);
    AUXCORE_CUDA(cuStreamSynchronize, on);
  });
}

auxcore_status auxcore_copy_on_device(auxcore_context context, void* stream, uint64_t destination, uint64_t source, int64_t bytes) {
  return in_context(__func__, context, [&](Context& opened) {
    const CUstream on = stream_of(opened, stream);
    const std::size_t size = size_of(bytes, 0);
    opened.check_device_memory("destination", destination, size);
    opened.check_device_memory("source", source, size);
    if (size > 0 && destination < source + size && source < destination + size)
      fail(AUXCORE_E_ARGUMENT, "source overlaps destination");
    if (size > 0)
      AUXCORE_CUDA(cuMemcpyDtoDAsync_v2, destination, source, size, on);
  });
}

auxcore_status auxcore_fill(auxcore_context context, void* stream, uint64_t destination, uint8_t value, int64_t bytes) {
  return in_context(__func__, context, [&](Context& opened) {
    const CUstream on = stream_of(opened, stream);
    const std::size_t size = size_of(bytes, 0);
    opened.check_device_memory("destination", destination, size);
    if (size > 0)
      AUXCORE_CUDA(cuMemsetD8Async, destination, value, size, on);
  });
}

auxcore_status auxcore_stream_create(auxcore_context context, void** stream) {
  return in_context(__func__, context, [&](Context& opened) {
    void*& result = required(stream, "stream");
    result = opened.create_stream();
  });
}

auxcore_status auxcore_stream_destroy(auxcore_context context, void* stream) {
  return in_context(__func__, context, [&](Context& opened) { opened.destroy_stream(static_cast<CUstream>(stream)); });
}

auxcore_status auxcore_stream_synchronize(auxcore_context context, void* stream) {
  return in_context(__func__, context, [&](Context& opened) { AUXCORE_CUDA(cuStreamSynchronize, stream_of(opened, stream)); });
}

auxcore_status auxcore_stream_wait(auxcore_context context, void* waiting, void* awaited) {
  return in_context(__func__, context, [&](Context& opened) {
    const CUstream later = stream_of(opened, waiting), earlier = stream_of(opened, awaited);
    Event event;
    AUXCORE_CUDA(cuEventRecord, event.get(), earlier);
    AUXCORE_CUDA(cuStreamWaitEvent, later, event.get(), 0);
    event.destroy();
  });
}

}  // extern "C"
