// The driver functions about contexts.
#include "standin_state.h"

using standin::call;
using standin::Context;
using standin::context_stack;
using standin::Driver;
using standin::Kind;
using standin::require;

namespace standin {
namespace {

constexpr unsigned kMostContextFlags = 0x3f;
constexpr int kMostCacheConfig = 3, kMostSharedConfig = 2;

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(context != nullptr, CUDA_ERROR_INVALID_VALUE);
    Context& primary = driver.primary(device);
    ++primary.retained;
    *context = primary.handle;
  });
}

CUDA_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    Context& primary = driver.primary(device);
    require(primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.retained == 0)
      driver.release_all_of(primary);
  });
}

CUDA_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  return call(__func__, [&](Driver& driver) { context_stack().push_back(&driver.context(context)); });
}

CUDA_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  return call(__func__, Kind::kFrees, [&](Driver&) {
    require(!context_stack().empty(), CUDA_ERROR_INVALID_CONTEXT);
    if (context != nullptr)
      *context = context_stack().back()->handle;
    context_stack().pop_back();
  });
}

CUDA_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  return call(__func__, [&](Driver&) {
    require(context != nullptr, CUDA_ERROR_INVALID_VALUE);
    *context = context_stack().empty() ? nullptr : context_stack().back()->handle;
  });
}

CUDA_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  return call(__func__, [&](Driver& driver) {
    Context* next = context == nullptr ? nullptr : &driver.context(context);
    if (!context_stack().empty())
      context_stack().pop_back();
    if (next != nullptr)
      context_stack().push_back(next);
  });
}

CUDA_EXPORT CUresult cuCtxSynchronize() {
  return call(__func__, [](Driver& driver) { driver.synchronize(driver.current()); });
}

CUDA_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  return call(__func__, [&](Driver& driver) {
    require(device != nullptr, CUDA_ERROR_INVALID_VALUE);
    *device = driver.current().device;
  });
}

/// A context of the caller's own, beside the primary one. ILGPU makes one an accelerator.
CUDA_EXPORT CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
  return call(__func__, [&](Driver& driver) {
    require(context != nullptr && flags <= standin::kMostContextFlags, CUDA_ERROR_INVALID_VALUE);
    Context& created = driver.create_context(device);
    context_stack().push_back(&created);
    *context = created.handle;
  });
}

CUDA_EXPORT CUresult cuCtxDestroy_v2(CUcontext context) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    Context& destroyed = driver.context(context);
    require(!driver.is_primary(destroyed), CUDA_ERROR_INVALID_CONTEXT);
    driver.drain(destroyed);
    if (!context_stack().empty() && context_stack().back() == &destroyed)
      context_stack().pop_back();
    destroyed.retained = 0;
    driver.release_all_of(destroyed);
  });
}

CUDA_EXPORT CUresult cuCtxGetCacheConfig(int* config) {
  return call(__func__, [&](Driver& driver) {
    require(config != nullptr, CUDA_ERROR_INVALID_VALUE);
    *config = driver.current().cache_config;
  });
}

CUDA_EXPORT CUresult cuCtxSetCacheConfig(int config) {
  return call(__func__, [&](Driver& driver) {
    require(config >= 0 && config <= standin::kMostCacheConfig, CUDA_ERROR_INVALID_VALUE);
    driver.current().cache_config = config;
  });
}

CUDA_EXPORT CUresult cuCtxGetSharedMemConfig(int* config) {
  return call(__func__, [&](Driver& driver) {
    require(config != nullptr, CUDA_ERROR_INVALID_VALUE);
    *config = driver.current().shared_config;
  });
}

CUDA_EXPORT CUresult cuCtxSetSharedMemConfig(int config) {
  return call(__func__, [&](Driver& driver) {
    require(config >= 0 && config <= standin::kMostSharedConfig, CUDA_ERROR_INVALID_VALUE);
    driver.current().shared_config = config;
  });
}

CUDA_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
  return call(__func__, [&](Driver& driver) {
    Context& current = driver.current();
    const Context& other = driver.context(peer);
    require(flags == 0, CUDA_ERROR_INVALID_VALUE);
    require(other.device != current.device, CUDA_ERROR_INVALID_DEVICE);
    require(current.peers.insert(peer).second, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
  });
}

CUDA_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  return call(__func__, [&](Driver& driver) {
    Context& current = driver.current();
    driver.context(peer);
    require(current.peers.erase(peer) == 1, CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  });
}
