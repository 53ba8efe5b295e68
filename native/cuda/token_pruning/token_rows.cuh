// Rows that move within their tensor, for the ops that keep some of them: TokenCompact and KvEvict.
#pragma once

#include "token_device.cuh"

namespace auxcore::tokens {

struct Bytes16 {
  static constexpr int kSize = 16;
  float4 value = {0, 0, 0, 0};
  __device__ __forceinline__ void read(uint64_t from) { value = load4(global<const float>(from)); }
  __device__ __forceinline__ void write(uint64_t to) const { store4(global<float>(to), value); }
};

struct Bytes8 {
  static constexpr int kSize = 8;
  uint2 value = {0, 0};
  __device__ __forceinline__ void read(uint64_t from) { value = load4(global<const bfloat16>(from)); }
  __device__ __forceinline__ void write(uint64_t to) const { store4(global<bfloat16>(to), value); }
};

template <class T>
struct Bytes {
  static constexpr int kSize = sizeof(T);
  T value = 0;
  __device__ __forceinline__ void read(uint64_t from) { value = *global<const T>(from); }
  __device__ __forceinline__ void write(uint64_t to) const { *global<T>(to) = value; }
};

/// Rows of one strip move towards its beginning: row j comes from from(j), where that is not 0, and is zeros else; it goes to to(j), where
/// that is not 0. In place, so a strip's columns are one block's: it reads a group of rows, waits for all of its threads, and writes it. As
/// sources ascend, what it writes lies before all that it has yet to read. A row has so many lanes, and a lane one vector of it; those that
/// lie beyond the row only wait.
template <int kThreads, int kTogether, class Vector, class From, class To>
__device__ AUXCORE_TOKEN_INLINE void move_rows(int32_t count, int32_t lanes, bool is_within, const From& from, const To& to) {
  const int32_t rows_at_once = kThreads / lanes, own = int32_t(threadIdx.x) / lanes;
  for (int32_t first = 0; first < count; first += kTogether * rows_at_once) {
    Vector values[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t row = first + own + k * rows_at_once;
      const uint64_t source = is_within && row < count ? from(row) : 0;
      if (source != 0)
        values[k].read(source);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t row = first + own + k * rows_at_once;
      const uint64_t destination = is_within && row < count ? to(row) : 0;
      if (destination != 0)
        values[k].write(destination);
    }
  }
}

}  // namespace auxcore::tokens
