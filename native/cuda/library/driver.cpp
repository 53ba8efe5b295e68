#include "driver.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>

namespace auxcore {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

std::mutex loading;
std::atomic<const Driver*> loaded{nullptr};

void* open_library() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    fail(AUXCORE_E_NO_DRIVER, "no CUDA driver: %s; install NVIDIA's driver, or use host memory", reason ? reason : kLibrary);
  }
  return library;
}

template <class Function>
void find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr)
    fail(AUXCORE_E_NO_DRIVER, "the CUDA driver is too old: %s has no %s; CUDA 11.1 or later is needed", kLibrary, name);
}

}  // namespace

const Driver& driver() {
  if (const Driver* ready = loaded.load(std::memory_order_acquire))
    return *ready;

  const std::lock_guard lock(loading);
  static Driver table;
  if (loaded.load(std::memory_order_relaxed) == nullptr) {
    void* library = open_library();  // stays open: unloading a driver is not supported
    Driver candidate;
#define AUXCORE_FIND(name, parameters) find(library, candidate.name, #name);
    AUXCORE_DRIVER_FUNCTIONS(AUXCORE_FIND)
#undef AUXCORE_FIND
    const CUresult result = candidate.cuInit(0);
    if (result == kCudaErrorNoDevice)
      fail(AUXCORE_E_NO_DEVICE, "the CUDA driver finds no device");
    if (result != kCudaSuccess)
      fail(result, "cuInit: the CUDA driver does not start (error %d)", result);
    table = candidate;
    loaded.store(&table, std::memory_order_release);
  }
  return table;
}

void check(CUresult result, const char* what) {
  if (result == kCudaSuccess)
    return;
  const char* name = nullptr;
  const char* text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  // A driver does not give negative results; ours are negative, so none may pass for one of them.
  fail(result > 0 ? result : static_cast<auxcore_status>(AUXCORE_E_INTERNAL), "%s: %s (%d): %s", what,
      name ? name : "unknown error", result, text ? text : "no text");
}

}  // namespace auxcore
