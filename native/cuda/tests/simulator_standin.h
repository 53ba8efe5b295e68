// What the tests of the stand-in driver share.
#pragma once

#include "standin.h"
#include "standin_cuda.h"

#include "check.h"

#include <cstdint>

namespace auxcore::test {

#define GIVES(expected, call)                                 \
  do {                                                        \
    const int result_ = (call);                               \
    CHECK(result_ == (expected), "%s gives %d", #call, result_); \
  } while (false)
#define OK(call) GIVES(CUDA_SUCCESS, call)

inline constexpr char kPtx[] = R"(
// .entry commented_out(
.version 7.0
.target sm_80
.address_size 64
.visible .entry auxcore_ema_set_steps(
  .param .u64 .ptr .global .align 1 steps,
  .param .align 4 .b8 values[128],
  .param .u32 count
)
.maxntid 16, 1, 1
{ ret; }
.visible .entry made_elsewhere(.param .u8 a, .param .align 8 .b8 b[12], /* c */ .param .f64 c, .param .b16 d) { ret; }
.visible .entry without_parameters() { ret; }
)";

/// The primary context of a device, current.
struct Context {
  CUdevice device;
  CUcontext handle = nullptr;

  explicit Context(CUdevice device_ = 0) : device(device_) {
    OK(cuDevicePrimaryCtxRetain(&handle, device));
    OK(cuCtxPushCurrent_v2(handle));
  }
  ~Context() {
    CUcontext popped = nullptr;
    OK(cuCtxPopCurrent_v2(&popped));
    CHECK(popped == handle);
    OK(cuDevicePrimaryCtxRelease_v2(device));
  }
};

inline auxcore_standin_state state() {
  auxcore_standin_state now;
  auxcore_standin_get_state(&now);
  return now;
}

inline CUdeviceptr allocate(size_t bytes) {
  CUdeviceptr address = 0;
  OK(cuMemAlloc_v2(&address, bytes));
  return address;
}

inline CUstream create_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
  CUstream stream = nullptr;
  OK(cuStreamCreate(&stream, flags));
  return stream;
}

inline CUmodule load(const char* ptx = kPtx) {
  CUmodule module = nullptr;
  OK(cuModuleLoadDataEx(&module, ptx, 0, nullptr, nullptr));
  return module;
}

inline uint32_t word_at(CUdeviceptr address) {
  uint32_t value = 0;
  CHECK(auxcore_standin_peek(address, &value, 4) == 0);
  return value;
}

template <class Handle>
Handle garbage() {
  return reinterpret_cast<Handle>(uintptr_t(0xdead0));
}

/// An attribute of an address, or 0.
template <class T>
T attribute(CUpointer_attribute which, CUdeviceptr address) {
  T value = {};
  int attribute = which;
  void* to = &value;
  OK(cuPointerGetAttributes(1, &attribute, &to, address));
  return value;
}

}  // namespace auxcore::test
