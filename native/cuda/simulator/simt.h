// CUDA's names for the simulator: device code compiled as C++ runs on the CPU, one fiber a CUDA thread. device.cuh includes this and lists
// what there is.
#pragma once

#include "launch.h"
#include "thread.h"

#include <math.h>
#include <stdint.h>
#include <stddef.h>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

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

#define threadIdx (::simt::position().thread)
#define blockIdx (::simt::position().block)
#define blockDim (::simt::position().block_extent)
#define gridDim (::simt::position().grid_extent)

// Each expansion has a lambda of its own, and so an array of its own.
#define AUXCORE_SHARED(T, name, N) T(&name)[N] = ::simt::shared<T, N>([] {})
#define AUXCORE_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())
#define AUXCORE_KERNEL(name) static const ::simt::Kernel auxcore_kernel_##name(#name, name);

namespace simt {

template <class T, size_t kCount, class Occurrence>
inline T (&shared(Occurrence))[kCount] {
  static const char key = 0;
  return *static_cast<T(*)[kCount]>(shared_array(&key, sizeof(T) * kCount, alignof(T) < 16 ? 16 : alignof(T)));
}

/// What the lane `from(lane)` brought; a lane that the mask leaves out brought poison.
template <class T, class From>
inline T exchange(unsigned mask, T value, const std::source_location& where, From from) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const WarpValues values = synchronize_warp(Collective::kExchange, mask, bits, where);
  T result;
  __builtin_memcpy(&result, &values.value[from(lane())], sizeof result);
  return result;
}

}  // namespace simt

inline void __syncthreads(const std::source_location& where = std::source_location::current()) { simt::synchronize_block(where); }

inline void __syncwarp(unsigned mask = 0xffffffffu, const std::source_location& where = std::source_location::current()) {
  simt::synchronize_warp(simt::Collective::kSynchronize, mask, 0, where);
}

#define AUXCORE_SHUFFLES(T)                                                                                                         \
  inline T __shfl_sync(unsigned mask, T value, int lane, const std::source_location& where = std::source_location::current()) {     \
    return simt::exchange(mask, value, where, [=](unsigned) { return unsigned(lane) % 32; });                                       \
  }                                                                                                                                 \
  inline T __shfl_xor_sync(unsigned mask, T value, int with, const std::source_location& where = std::source_location::current()) { \
    return simt::exchange(mask, value, where, [=](unsigned own) { return (own ^ unsigned(with)) % 32; });                           \
  }                                                                                                                                 \
  inline T __shfl_down_sync(                                                                                                        \
      unsigned mask, T value, unsigned by, const std::source_location& where = std::source_location::current()) {                   \
    return simt::exchange(mask, value, where, [=](unsigned own) { return own + by < 32 ? own + by : own; });                        \
  }                                                                                                                                 \
  inline T __shfl_up_sync(                                                                                                          \
      unsigned mask, T value, unsigned by, const std::source_location& where = std::source_location::current()) {                   \
    return simt::exchange(mask, value, where, [=](unsigned own) { return own >= by ? own - by : own; });                            \
  }

AUXCORE_SHUFFLES(float)
AUXCORE_SHUFFLES(int)
AUXCORE_SHUFFLES(unsigned)
#undef AUXCORE_SHUFFLES

inline unsigned __ballot_sync(unsigned mask, int predicate, const std::source_location& where = std::source_location::current()) {
  const simt::WarpValues values = simt::synchronize_warp(simt::Collective::kBallot, mask, predicate != 0, where);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (values.value[lane] == 1u)  // not shifted by a conditional: g++ 12's -fsanitize=shift gets that wrong
      ballot |= 1u << lane;
  return ballot;
}

// Each a call of its own to the compiler, so that none is contracted with another.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }

/// Bytes 0 to 3 are a's, 4 to 7 b's; a digit of the selector chooses each byte of the result. Signs are not replicated here.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i)
    result |= unsigned(bytes >> (selector >> (4 * i) & 7u) * 8 & 0xffu) << (8 * i);
  return result;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }

inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* address, unsigned value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* address, float value) {
  float before;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  for (;;) {
    float after = before + value;
    if (__atomic_compare_exchange(address, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return before;
  }
}

namespace auxcore {

// The copy is made no sooner than the wait that it must have landed by: what reads before finds poison.
inline void copy_async16(void* shared, const void* global, const std::source_location& where = std::source_location::current()) {
  simt::begin_copy({shared, global}, where);
}

inline void copy_async_commit() { simt::commit_copies(); }

template <int kPending>
inline void copy_async_wait() {
  simt::AsyncCopy copy;
  while (simt::take_landing_copy(kPending, copy))
    __builtin_memcpy(copy.shared, copy.global, 16);
}

}  // namespace auxcore
