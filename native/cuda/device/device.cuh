// What device code includes, and all that it includes. Three compilers read a .cu file: nvcc; clang, which makes PTX without a CUDA
// toolkit; and a C++ compiler, for which the simulator takes the device's place. Code that keeps to the names below suits all three.
//
//   AUXCORE_SHARED(T, name, N)         a shared array of N (a constant) elements
//   AUXCORE_DYNAMIC_SHARED(T, name)    the launch's dynamic shared memory, aligned to 16 bytes
//   AUXCORE_KERNEL(name)               after a kernel's definition, once: makes it known to the simulator
//
//   AUXCORE_GLOBAL T*                  a pointer to device memory, which the compiler does not have to find out; made by global<T>(address)
//   load4(pointer), store4(pointer, …) four elements in one access, whose address is a multiple of its size
//   load16(pointer), store16(pointer, …) 16 bytes in one access, likewise
//   exp2_approximate(x)                2^x within 2^-22 of itself, 0 where that is subnormal; exact for 0
//
//   copy_async16(shared, global)       16 bytes, aligned, on their way into shared memory, where they are after copy_async_wait
//   copy_async_commit()                what the thread copied since the last one is a group
//   copy_async_wait<N>()               all of the thread's groups but the newest N have landed, for the thread itself
//
// and of CUDA: __global__ with __launch_bounds__, __device__, threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp,
// __shfl_sync, __shfl_xor_sync, __shfl_down_sync, __shfl_up_sync, __ballot_sync, __popc, __ffs, atomicAdd (int, unsigned, unsigned long
// long, float), fma, fmaf, fminf, fmaxf, fabsf, sqrtf, __fadd_rn, __fmul_rn, __dadd_rn, __dmul_rn, __fma_rn (double), __dsqrt_rn,
// __byte_perm, float2, float4, uint2, uint4. Anything else is added to the two headers beside the one for nvcc.
#pragma once

#if defined(AUXCORE_SIMULATOR)
#  include "../simulator/simt.h"
#elif defined(__clang__) && defined(__CUDA__)
#  include "clang_cuda.cuh"
#else
#  include <cuda_runtime.h>
#  include <stdint.h>
#endif

#if !defined(AUXCORE_SIMULATOR)
#  define AUXCORE_SHARED(T, name, N) __shared__ T name[N]
#  define AUXCORE_DYNAMIC_SHARED(T, name)                         \
    extern __shared__ __align__(16) unsigned char auxcore_shared[]; \
    T* name = reinterpret_cast<T*>(auxcore_shared)
#  define AUXCORE_KERNEL(name)
#endif

#if defined(__clang__) && defined(__CUDA__)
#  define AUXCORE_GLOBAL __attribute__((address_space(1)))
#else
#  define AUXCORE_GLOBAL
#endif

namespace auxcore {

/// A 16-bit float as storage. Kernels widen it, compute in float32, and round back where they store.
struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

__device__ __forceinline__ float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ __forceinline__ uint32_t as_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Exact.
__device__ __forceinline__ float widen(float value) { return value; }

__device__ __forceinline__ float widen(bfloat16 value) { return as_float(uint32_t(value.bits) << 16); }

__device__ __forceinline__ float widen(float16 value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t exponent = value.bits >> 10 & 0x1fu, mantissa = value.bits & 0x3ffu;
  if (exponent == 0)  // zero or subnormal: mantissa · 2^-24
    return as_float(sign | as_bits(float(mantissa) * 0x1p-24f));
  if (exponent == 31)  // infinity or NaN
    return as_float(sign | 0x7f800000u | mantissa << 13);
  return as_float(sign | (exponent + 112u) << 23 | mantissa << 13);
#endif
}

/// Rounded to nearest, ties to even.
__device__ __forceinline__ bfloat16 narrow_to(bfloat16, float value) {
  const uint32_t bits = as_bits(value);
  if (value != value)
    return {uint16_t(bits >> 16 | 0x40u)};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

__device__ __forceinline__ float16 narrow_to(float16, float value) {
#if defined(__CUDA_ARCH__)
  float16 narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
  return narrow;
#else
  const uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffffu;
  uint32_t narrow;
  if (magnitude > 0x7f800000u)
    narrow = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  else if (magnitude >= 0x477ff000u)  // 65520, halfway to what would follow the greatest
    narrow = 0x7c00u;
  else if (magnitude < 113u << 23)  // below 2^-14: a sum with one half rounds to multiples of 2^-24
    narrow = as_bits(as_float(magnitude) + 0.5f) - (126u << 23);
  else
    narrow = (magnitude - ((112u << 23) - 0xfffu) + (magnitude >> 13 & 1u)) >> 13;
  return {uint16_t(narrow | (bits >> 16 & 0x8000u))};
#endif
}

// An address that a kernel reads from a table may be of any memory, as far as the compiler knows, and is accessed by slower, generic
// instructions. clang knows better by the pointer's type, nvcc by what it is told to assume.
template <class T>
__device__ __forceinline__ AUXCORE_GLOBAL T* global(uint64_t address) {
#if defined(__NVCC__) && defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(reinterpret_cast<const void*>(address)));
#endif
  return reinterpret_cast<AUXCORE_GLOBAL T*>(address);
}

#if defined(__clang__) && defined(__CUDA__)
// Structures cannot be copied out of an address space as a whole; their fields can, and become one access again.
__device__ __forceinline__ float4 load4(const AUXCORE_GLOBAL float* from) {
  const AUXCORE_GLOBAL float4* four = reinterpret_cast<const AUXCORE_GLOBAL float4*>(from);
  return {four->x, four->y, four->z, four->w};
}

__device__ __forceinline__ void store4(AUXCORE_GLOBAL float* to, float4 value) {
  AUXCORE_GLOBAL float4* four = reinterpret_cast<AUXCORE_GLOBAL float4*>(to);
  four->x = value.x;
  four->y = value.y;
  four->z = value.z;
  four->w = value.w;
}

/// Elements of 16 bits: the first in the lower half of x.
template <class Narrow>
__device__ __forceinline__ uint2 load4(const AUXCORE_GLOBAL Narrow* from) {
  static_assert(sizeof(Narrow) == 2);
  const AUXCORE_GLOBAL uint2* four = reinterpret_cast<const AUXCORE_GLOBAL uint2*>(from);
  return {four->x, four->y};
}

template <class Narrow>
__device__ __forceinline__ void store4(AUXCORE_GLOBAL Narrow* to, uint2 value) {
  static_assert(sizeof(Narrow) == 2);
  AUXCORE_GLOBAL uint2* four = reinterpret_cast<AUXCORE_GLOBAL uint2*>(to);
  four->x = value.x;
  four->y = value.y;
}

__device__ __forceinline__ uint4 load16(const AUXCORE_GLOBAL unsigned char* from) {
  const AUXCORE_GLOBAL uint4* all = reinterpret_cast<const AUXCORE_GLOBAL uint4*>(from);
  return {all->x, all->y, all->z, all->w};
}

__device__ __forceinline__ void store16(AUXCORE_GLOBAL unsigned char* to, uint4 value) {
  AUXCORE_GLOBAL uint4* all = reinterpret_cast<AUXCORE_GLOBAL uint4*>(to);
  all->x = value.x;
  all->y = value.y;
  all->z = value.z;
  all->w = value.w;
}
#else
__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }

__device__ __forceinline__ void store4(float* to, float4 value) { *reinterpret_cast<float4*>(to) = value; }

template <class Narrow>
__device__ __forceinline__ uint2 load4(const Narrow* from) {
  static_assert(sizeof(Narrow) == 2);
  return *reinterpret_cast<const uint2*>(from);
}

template <class Narrow>
__device__ __forceinline__ void store4(Narrow* to, uint2 value) {
  static_assert(sizeof(Narrow) == 2);
  *reinterpret_cast<uint2*>(to) = value;
}

__device__ __forceinline__ uint4 load16(const unsigned char* from) { return *reinterpret_cast<const uint4*>(from); }

__device__ __forceinline__ void store16(unsigned char* to, uint4 value) { *reinterpret_cast<uint4*>(to) = value; }
#endif

__device__ __forceinline__ float exp2_approximate(float x) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#elif defined(AUXCORE_SIMULATOR)
  return x < -126.0f ? 0.0f : exp2f(x);
#else
  return x;  // nvcc's pass over host code, which calls no device function
#endif
}

#if !defined(AUXCORE_SIMULATOR)
__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "{ .reg .u64 to; .reg .u32 at; cvta.to.shared.u64 to, %0; cvt.u32.u64 at, to; "
      "cp.async.cg.shared.global [at], [%1], 16; }" ::"l"(shared),
      "l"(global)
      : "memory");
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}
#endif

}  // namespace auxcore
