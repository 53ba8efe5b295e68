// Puts ILGPU on the primary context. ILGPU 1.5 makes a context of its own for each accelerator, in which neither memory nor streams of
// libauxcore, libtorch or the CUDA runtime are valid. This library is handed to ILGPU's assembly in place of libcuda: ILGPU asks it for the
// driver's functions by name, finds the two below in it, and all others in libcuda.so.1, which it needs (CMakeLists.txt).
//
// ILGPU's accelerators otherwise work as before. They bind the context to threads by cuCtxSetCurrent, which takes the place of the context
// that was current; with all of them on primary contexts, that is mostly the same one.
#include <atomic>

using CUresult = int;
using CUdevice = int;
using CUcontext = struct CUctx_st*;

// Weak: a driver without one of them gives a status, not the end of the process. cuDevicePrimaryCtxRelease_v2 came with CUDA 11.
#define AUXCORE_OF_DRIVER extern "C" __attribute__((weak, visibility("default"))) CUresult
AUXCORE_OF_DRIVER cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
AUXCORE_OF_DRIVER cuDevicePrimaryCtxRelease_v2(CUdevice device);
AUXCORE_OF_DRIVER cuCtxPushCurrent_v2(CUcontext context);

#define AUXCORE_IN_PLACE_OF_DRIVER extern "C" __attribute__((visibility("default"))) CUresult

namespace {

constexpr CUresult kSuccess = 0;
constexpr CUresult kInvalidValue = 1;
constexpr CUresult kInvalidDevice = 101;
constexpr CUresult kInvalidContext = 201;
constexpr CUresult kNotSupported = 801;

/// A device's primary context, and how often it was retained here and not released.
struct Primary {
  std::atomic<CUcontext> context{nullptr};
  std::atomic<int> retained{0};
};

constexpr CUdevice kMostDevices = 256;
Primary primaries[kMostDevices];

/// Takes one from the count, which never falls below 0.
bool take(std::atomic<int>& count) {
  int before = count.load();
  while (before > 0 && !count.compare_exchange_weak(before, before - 1)) {
  }
  return before > 0;
}

}  // namespace

/// Retains the primary context and pushes it, as a new context would be. The flags say how host threads wait for the device; that is the
/// choice of whoever made the primary context.
AUXCORE_IN_PLACE_OF_DRIVER cuCtxCreate_v2(CUcontext* context, unsigned, CUdevice device) {
  if (context == nullptr)
    return kInvalidValue;
  if (device < 0 || device >= kMostDevices)
    return kInvalidDevice;
  if (cuDevicePrimaryCtxRetain == nullptr || cuDevicePrimaryCtxRelease_v2 == nullptr || cuCtxPushCurrent_v2 == nullptr)
    return kNotSupported;

  CUcontext primary = nullptr;
  if (const CUresult result = cuDevicePrimaryCtxRetain(&primary, device); result != kSuccess)
    return result;
  if (const CUresult result = cuCtxPushCurrent_v2(primary); result != kSuccess) {
    cuDevicePrimaryCtxRelease_v2(device);
    return result;
  }
  primaries[device].context = primary;
  ++primaries[device].retained;
  *context = primary;
  return kSuccess;
}

/// Releases what cuCtxCreate retained. The context stays current where it is: others may work in it, and ILGPU unbinds it next. Contexts
/// that were not made here are not ILGPU's to destroy.
AUXCORE_IN_PLACE_OF_DRIVER cuCtxDestroy_v2(CUcontext context) {
  if (context == nullptr)
    return kInvalidValue;
  for (CUdevice device = 0; device < kMostDevices; ++device)
    if (primaries[device].context == context && take(primaries[device].retained))
      return cuDevicePrimaryCtxRelease_v2(device);
  return kInvalidContext;
}
