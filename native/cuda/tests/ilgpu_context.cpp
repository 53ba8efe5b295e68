// The shim as ILGPU 1.5.3 uses it: opened by dlopen, asked for the driver's functions by name. That accelerators are on the primary
// context, that what they retain they release, also where the driver fails, and that all other functions are the driver's own. Needs the
// stand-in.
#include <dlfcn.h>

#include <string>
#include <thread>
#include <vector>

#include "../simulator/standin.h"
#include "../simulator/standin_cuda.h"
#include "auxcore.h"
#include "library.h"

using namespace auxcore::test;

namespace {

// Src/ILGPU/Runtime/Cuda/CudaAPI.xml of ILGPU 1.5.3.
constexpr const char* kImports[] = {"cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceGetCount", "cuDeviceGetName",
    "cuDeviceTotalMem_v2", "cuDeviceGetAttribute", "cuCtxCreate_v2", "cuCtxDestroy_v2", "cuCtxSetCurrent", "cuCtxSynchronize",
    "cuCtxGetCacheConfig", "cuCtxSetCacheConfig", "cuCtxGetSharedMemConfig", "cuCtxSetSharedMemConfig", "cuDeviceCanAccessPeer",
    "cuCtxEnablePeerAccess", "cuCtxDisablePeerAccess", "cuDeviceGetP2PAttribute", "cuPointerGetAttribute", "cuMemGetInfo_v2",
    "cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocHost_v2", "cuMemFreeHost", "cuMemcpyAsync", "cuMemsetD8Async", "cuMemHostRegister_v2",
    "cuMemHostUnregister", "cuMemHostGetDevicePointer_v2", "cuStreamCreate", "cuStreamCreateWithPriority", "cuStreamDestroy_v2",
    "cuStreamSynchronize", "cuGetErrorString", "cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleUnload", "cuModuleGetFunction",
    "cuLaunchKernel", "cuOccupancyMaxActiveBlocksPerMultiprocessor", "cuOccupancyMaxPotentialBlockSize", "cuEventCreate",
    "cuEventDestroy_v2", "cuEventQuery", "cuEventElapsedTime", "cuEventRecord", "cuEventSynchronize"};

void* shim = nullptr;
void* driver = nullptr;

#define OF_SHIM(function) reinterpret_cast<decltype(&function)>(dlsym(shim, #function))

#define GIVES(expected, call)                                      \
  do {                                                             \
    const CUresult result_ = (call);                               \
    CHECK(result_ == (expected), "%s gives %d", #call, result_);   \
  } while (false)

int64_t created_contexts() {
  return reinterpret_cast<decltype(&auxcore_standin_created_contexts)>(dlsym(driver, "auxcore_standin_created_contexts"))();
}

CUcontext current() {
  CUcontext context = nullptr;
  GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxGetCurrent)(&context));
  return context;
}

/// What CudaAccelerator does from its constructor to its Dispose, as far as contexts are concerned.
class Accelerator {
 public:
  explicit Accelerator(CUdevice device) {
    result = OF_SHIM(cuCtxCreate_v2)(&context, 0, device);
    if (result == CUDA_SUCCESS)
      result = OF_SHIM(cuCtxSetCurrent)(context);
  }
  ~Accelerator() {
    if (context == nullptr)
      return;
    OF_SHIM(cuCtxSetCurrent)(context);
    const CUresult destroyed = OF_SHIM(cuCtxDestroy_v2)(context);
    const CUresult unbound = OF_SHIM(cuCtxSetCurrent)(nullptr);
    if (result == CUDA_SUCCESS)
      result = destroyed != CUDA_SUCCESS ? destroyed : unbound;
    if (result_at_end != nullptr)
      *result_at_end = result;
  }
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  CUcontext context = nullptr;
  CUresult result = CUDA_SUCCESS;
  CUresult* result_at_end = nullptr;
};

void all_but_two_functions_are_the_drivers_own() {
  CHECK(dlsym(shim, "cuda_has_no_such_function") == nullptr);
  for (const char* import : kImports) {
    void* const found = dlsym(shim, import);
    const bool is_ours = std::strcmp(import, "cuCtxCreate_v2") == 0 || std::strcmp(import, "cuCtxDestroy_v2") == 0;
    CHECK(found != nullptr && (found != dlsym(driver, import)) == is_ours, "%s", import);
  }
}

void accelerators_share_the_primary_context(const Standin& standin) {
  auxcore_context library = 0;
  uint64_t memory = 0;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 1, 0, &library));
  OK(auxcore_allocate(library, 16, &memory));
  CUcontext primary = nullptr;
  OF_SHIM(cuDevicePrimaryCtxRetain)(&primary, 1);
  {
    const Accelerator accelerator(1);
    GIVES(CUDA_SUCCESS, accelerator.result);
    CHECK(accelerator.context == primary && current() == primary && created_contexts() == 0);
    CHECK(standin.state().retained_contexts == 3);

    // What one of them allocates, the other works on.
    GIVES(CUDA_SUCCESS, OF_SHIM(cuMemsetD8Async)(memory, 7, 16, nullptr));
    unsigned char host[16] = {};
    OK(auxcore_copy_to_host(library, nullptr, host, memory, 16));
    CHECK(host[0] == 7 && host[15] == 7);
    CUstream stream = nullptr;
    GIVES(CUDA_SUCCESS, OF_SHIM(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
    OK(auxcore_fill(library, stream, memory, 9, 16));
    GIVES(CUDA_SUCCESS, OF_SHIM(cuStreamSynchronize)(stream));
    OK(auxcore_copy_to_host(library, stream, host, memory, 16));
    CHECK(host[0] == 9);
    GIVES(CUDA_SUCCESS, OF_SHIM(cuStreamDestroy_v2)(stream));
  }
  // The accelerator is gone, the context is not.
  CHECK(current() == nullptr && standin.state().retained_contexts == 2 && standin.state().allocations == 1);
  OK(auxcore_fill(library, nullptr, memory, 1, 16));
  OF_SHIM(cuDevicePrimaryCtxRelease_v2)(1);
  OK(auxcore_close(library));
}

void what_is_retained_is_released(const Standin& standin) {
  for (int time = 0; time < 100; ++time) {
    const Accelerator first(0), second(1), again(0);
    CHECK(first.context == again.context && first.context != second.context);
    CHECK(standin.state().retained_contexts == 3);
  }
  CHECK(standin.state().retained_contexts == 0 && standin.state().pushed_contexts == 0);

  // Disposed of elsewhere, as by a finalizer.
  CUcontext context = nullptr;
  GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxCreate_v2)(&context, 4, 0));
  std::thread([&] {
    GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxSetCurrent)(context));
    GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxDestroy_v2)(context));
    GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxSetCurrent)(nullptr));
  }).join();
  CHECK(standin.state().retained_contexts == 0);
  GIVES(CUDA_SUCCESS, OF_SHIM(cuCtxSetCurrent)(nullptr));
}

void many_threads_create_and_destroy(const Standin& standin) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 8; ++thread)
    threads.emplace_back([thread] {
      for (int time = 0; time < 50; ++time) {
        const Accelerator accelerator((thread + time) % 2);
        CHECK(accelerator.result == CUDA_SUCCESS && current() == accelerator.context);
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK(standin.state().retained_contexts == 0);
}

// Dispose unbinds one context: the one that the constructor pushed, not the caller's.
void the_callers_context_stays_current(const Standin& standin) {
  CUcontext callers = nullptr;
  OF_SHIM(cuDevicePrimaryCtxRetain)(&callers, 1);
  OF_SHIM(cuCtxPushCurrent_v2)(callers);
  for (const CUdevice device : {0, 1}) {
    {
      const Accelerator accelerator(device);
      CHECK(standin.state().pushed_contexts == 2);
    }
    CHECK(current() == callers && standin.state().pushed_contexts == 1, "after device %d", device);
  }
  OF_SHIM(cuCtxPopCurrent_v2)(nullptr);
  OF_SHIM(cuDevicePrimaryCtxRelease_v2)(1);
}

void nobody_elses_context_is_released(const Standin& standin) {
  const CUcontext garbage = reinterpret_cast<CUcontext>(uintptr_t{0xdead0});
  CUcontext context = garbage, primary = nullptr;
  for (const CUdevice wrong : {-1, 2, 256, 1 << 30})
    GIVES(CUDA_ERROR_INVALID_DEVICE, OF_SHIM(cuCtxCreate_v2)(&context, 0, wrong));
  CHECK(context == garbage, "a failed call wrote its output");
  GIVES(CUDA_ERROR_INVALID_VALUE, OF_SHIM(cuCtxCreate_v2)(nullptr, 0, 0));
  GIVES(CUDA_ERROR_INVALID_VALUE, OF_SHIM(cuCtxDestroy_v2)(nullptr));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, OF_SHIM(cuCtxDestroy_v2)(context));

  OF_SHIM(cuDevicePrimaryCtxRetain)(&primary, 0);
  GIVES(CUDA_ERROR_INVALID_CONTEXT, OF_SHIM(cuCtxDestroy_v2)(primary));
  { const Accelerator accelerator(0); }
  GIVES(CUDA_ERROR_INVALID_CONTEXT, OF_SHIM(cuCtxDestroy_v2)(primary));
  CHECK(standin.state().retained_contexts == 1);
  OF_SHIM(cuDevicePrimaryCtxRelease_v2)(0);
}

void every_call_may_fail(const Standin& standin) {
  constexpr CUresult kError = 719;
  const auto life = [] {
    CUresult at_end = CUDA_SUCCESS;
    {
      Accelerator accelerator(1);
      accelerator.result_at_end = &at_end;
      at_end = accelerator.result;
    }
    return at_end;
  };
  const int64_t before = standin.calls();
  GIVES(CUDA_SUCCESS, life());
  const int64_t calls = standin.calls() - before;
  CHECK(calls == 6, "%lld", static_cast<long long>(calls));
  for (int64_t nth = 1; nth <= calls; ++nth) {
    standin.fail(nth, kError);
    const CUresult result = life();
    standin.fail(0, 0);
    // Binding what is bound already is not looked at.
    CHECK(result == kError || nth == 4, "call %lld, %s: %d", static_cast<long long>(nth), standin.failed(), result);
    CHECK(standin.state().retained_contexts == 0, "after %s", standin.failed());
    OF_SHIM(cuCtxSetCurrent)(nullptr);
    CHECK(standin.state().pushed_contexts == 0, "after %s", standin.failed());
  }
}

int with_standin() {
  const Standin standin;
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  GIVES(CUDA_SUCCESS, OF_SHIM(cuInit)(0));
  all_but_two_functions_are_the_drivers_own();
  accelerators_share_the_primary_context(standin);
  what_is_retained_is_released(standin);
  many_threads_create_and_destroy(standin);
  the_callers_context_stays_current(standin);
  nobody_elses_context_is_released(standin);
  every_call_may_fail(standin);
  return result();
}

int on_an_old_driver() {
  CUcontext context = nullptr;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, OF_SHIM(cuCtxCreate_v2)(&context, 0, 0));
  CHECK(context == nullptr);
  return result();
}

}  // namespace

int main(int count, char** arguments) {
  const std::string library = count > 2 ? arguments[1] : "", way = count > 2 ? arguments[2] : "";
  // As .NET opens libraries.
  shim = dlopen(library.c_str(), RTLD_LAZY);
  if (way == "no_driver") {
    if (shim != nullptr) {
      std::printf("skipped: this machine has a CUDA driver\n");
      return kSkipped;
    }
    const char* const reason = dlerror();
    CHECK(std::strstr(reason, "libcuda.so.1: ") != nullptr, "%s", reason);
    return result();
  }
  CHECK(shim != nullptr, "%s", dlerror());
  if (shim == nullptr)
    return result();
  return way == "old_driver" ? on_an_old_driver() : with_standin();
}
