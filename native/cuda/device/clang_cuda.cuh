// The part of CUDA that our device code uses, for clang --cuda-device-only without NVIDIA's headers and without libdevice. What clang has
// as a builtin of the same name (__syncthreads) is not defined here.
#pragma once

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict

using int8_t = __INT8_TYPE__;
using uint8_t = __UINT8_TYPE__;
using int16_t = __INT16_TYPE__;
using uint16_t = __UINT16_TYPE__;
using int32_t = __INT32_TYPE__;
using uint32_t = __UINT32_TYPE__;
using int64_t = __INT64_TYPE__;
using uint64_t = __UINT64_TYPE__;
using size_t = __SIZE_TYPE__;
using uintptr_t = __UINTPTR_TYPE__;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// threadIdx.x and its like are reads of special registers, written as fields.
#define AUXCORE_SPECIAL_REGISTER(type, name, reg)                                                        \
  struct type {                                                                                          \
    __declspec(property(get = get_x)) unsigned x;                                                        \
    __declspec(property(get = get_y)) unsigned y;                                                        \
    __declspec(property(get = get_z)) unsigned z;                                                        \
    static __device__ __forceinline__ unsigned get_x() { return __nvvm_read_ptx_sreg_##reg##_x(); }      \
    static __device__ __forceinline__ unsigned get_y() { return __nvvm_read_ptx_sreg_##reg##_y(); }      \
    static __device__ __forceinline__ unsigned get_z() { return __nvvm_read_ptx_sreg_##reg##_z(); }      \
  };                                                                                                     \
  static constexpr __device__ type name {}

AUXCORE_SPECIAL_REGISTER(auxcore_tid, threadIdx, tid);
AUXCORE_SPECIAL_REGISTER(auxcore_ntid, blockDim, ntid);
AUXCORE_SPECIAL_REGISTER(auxcore_ctaid, blockIdx, ctaid);
AUXCORE_SPECIAL_REGISTER(auxcore_nctaid, gridDim, nctaid);
#undef AUXCORE_SPECIAL_REGISTER

#define AUXCORE_DEVICE static __device__ __forceinline__

AUXCORE_DEVICE void __syncwarp(unsigned mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }

// The last operand: the segment's lanes in the upper half, the clamp in the lower. 0x1f is a segment of the whole warp; up clamps at 0.
AUXCORE_DEVICE float __shfl_sync(unsigned mask, float value, int lane) { return __nvvm_shfl_sync_idx_f32(mask, value, lane, 0x1f); }
AUXCORE_DEVICE int __shfl_sync(unsigned mask, int value, int lane) { return __nvvm_shfl_sync_idx_i32(mask, value, lane, 0x1f); }
AUXCORE_DEVICE unsigned __shfl_sync(unsigned mask, unsigned value, int lane) {
  return unsigned(__nvvm_shfl_sync_idx_i32(mask, int(value), lane, 0x1f));
}
AUXCORE_DEVICE float __shfl_xor_sync(unsigned mask, float value, int with) { return __nvvm_shfl_sync_bfly_f32(mask, value, with, 0x1f); }
AUXCORE_DEVICE int __shfl_xor_sync(unsigned mask, int value, int with) { return __nvvm_shfl_sync_bfly_i32(mask, value, with, 0x1f); }
AUXCORE_DEVICE unsigned __shfl_xor_sync(unsigned mask, unsigned value, int with) {
  return unsigned(__nvvm_shfl_sync_bfly_i32(mask, int(value), with, 0x1f));
}
AUXCORE_DEVICE float __shfl_down_sync(unsigned mask, float value, unsigned by) {
  return __nvvm_shfl_sync_down_f32(mask, value, int(by), 0x1f);
}
AUXCORE_DEVICE int __shfl_down_sync(unsigned mask, int value, unsigned by) {
  return __nvvm_shfl_sync_down_i32(mask, value, int(by), 0x1f);
}
AUXCORE_DEVICE unsigned __shfl_down_sync(unsigned mask, unsigned value, unsigned by) {
  return unsigned(__nvvm_shfl_sync_down_i32(mask, int(value), int(by), 0x1f));
}
AUXCORE_DEVICE float __shfl_up_sync(unsigned mask, float value, unsigned by) { return __nvvm_shfl_sync_up_f32(mask, value, int(by), 0); }
AUXCORE_DEVICE int __shfl_up_sync(unsigned mask, int value, unsigned by) { return __nvvm_shfl_sync_up_i32(mask, value, int(by), 0); }
AUXCORE_DEVICE unsigned __shfl_up_sync(unsigned mask, unsigned value, unsigned by) {
  return unsigned(__nvvm_shfl_sync_up_i32(mask, int(value), int(by), 0));
}

AUXCORE_DEVICE unsigned __ballot_sync(unsigned mask, int predicate) { return __nvvm_vote_ballot_sync(mask, predicate); }
AUXCORE_DEVICE int __popc(unsigned value) { return __builtin_popcount(value); }
AUXCORE_DEVICE int __ffs(int value) { return __builtin_ffs(value); }

AUXCORE_DEVICE float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
AUXCORE_DEVICE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
AUXCORE_DEVICE float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
AUXCORE_DEVICE float fminf(float a, float b) { return __builtin_fminf(a, b); }
AUXCORE_DEVICE float fabsf(float a) { return __builtin_fabsf(a); }
AUXCORE_DEVICE float sqrtf(float a) { return __nvvm_sqrt_rn_f(a); }
AUXCORE_DEVICE float __fadd_rn(float a, float b) { return __nvvm_add_rn_f(a, b); }
AUXCORE_DEVICE float __fmul_rn(float a, float b) { return __nvvm_mul_rn_f(a, b); }
AUXCORE_DEVICE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) { return __nvvm_prmt(a, b, selector); }
AUXCORE_DEVICE double __dadd_rn(double a, double b) { return __nvvm_add_rn_d(a, b); }
AUXCORE_DEVICE double __dmul_rn(double a, double b) { return __nvvm_mul_rn_d(a, b); }
AUXCORE_DEVICE double __fma_rn(double a, double b, double c) { return __nvvm_fma_rn_d(a, b, c); }
AUXCORE_DEVICE double __dsqrt_rn(double a) { return __nvvm_sqrt_rn_d(a); }

AUXCORE_DEVICE int atomicAdd(int* address, int value) { return __nvvm_atom_add_gen_i(address, value); }
AUXCORE_DEVICE unsigned atomicAdd(unsigned* address, unsigned value) {
  return unsigned(__nvvm_atom_add_gen_i(reinterpret_cast<int*>(address), int(value)));
}
AUXCORE_DEVICE unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  return static_cast<unsigned long long>(__nvvm_atom_add_gen_ll(reinterpret_cast<long long*>(address), static_cast<long long>(value)));
}
AUXCORE_DEVICE float atomicAdd(float* address, float value) { return __nvvm_atom_add_gen_f(address, value); }
#undef AUXCORE_DEVICE
