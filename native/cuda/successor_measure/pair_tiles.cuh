// Tiles of n x n matrices of pairs, for losses over all pairs of a batch: a block takes kTile rows of one matrix, its own, against all rows
// of another, kTile at a time. It forms the dot products, makes a weight of each, and adds weight · other row to its own rows' gradients. A
// tile of weights lives in shared memory only; every gradient has one block, so sums have one order and nothing is atomic.
//
// The other rows are cut into segments, so that a small batch fills a device; a segment's gradients are added up later, in their order.
#pragma once

#include "../device/device.cuh"
#include "pair_types.cuh"

// Compiled into their callers on the device. In the simulator that would be dozens of times, and take sanitizers minutes.
#if defined(AUXCORE_SIMULATOR)
#  define AUXCORE_PAIR_INLINE inline __attribute__((noinline))
#else
#  define AUXCORE_PAIR_INLINE __forceinline__
#endif

namespace auxcore::pairs {

__device__ __forceinline__ float load(const float* from) { return *from; }
__device__ __forceinline__ float load(const bfloat16* from) { return widen(bfloat16{from->bits}); }

/// A matrix of rows with what is done to them as they are read.
template <class T>
struct Rows {
  const T* first;
  int32_t count;
  int32_t columns;
  const float* centre = nullptr;  ///< subtracted from every row
  float factor = 1;
  const float* factors = nullptr; ///< one a row: the row is multiplied by it, and not read where it is 0

  __device__ __forceinline__ float at(int32_t row, int32_t column) const {
    if (row >= count || column >= columns)
      return 0;
    const float scale = factors != nullptr ? factors[row] : factor;
    if (factors != nullptr && scale == 0)
      return 0;
    const float value = load(first + int64_t{row} * columns + column);
    return (centre != nullptr ? value - centre[column] : value) * scale;
  }
};

/// The shared memory of a block. Rows of kPitch elements, so that columns of threads do not meet in a bank.
struct Shared {
  float* own;      ///< [kDepth, kPitch]
  float* other;    ///< [kDepth, kPitch]
  float* weights;  ///< [kTile own, kPitch others]
  float* values;   ///< [kTile others, kPitch columns]
};

#define AUXCORE_PAIR_SHARED(name)                                            \
  AUXCORE_SHARED(float, name##_own, ::auxcore::pairs::kDepth * ::auxcore::pairs::kPitch);     \
  AUXCORE_SHARED(float, name##_other, ::auxcore::pairs::kDepth * ::auxcore::pairs::kPitch);   \
  AUXCORE_SHARED(float, name##_weights, ::auxcore::pairs::kTile * ::auxcore::pairs::kPitch);  \
  AUXCORE_SHARED(float, name##_values, ::auxcore::pairs::kTile * ::auxcore::pairs::kPitch);   \
  const ::auxcore::pairs::Shared name = {name##_own, name##_other, name##_weights, name##_values}

/// Sixteen numbers of a thread: its four own rows, kPart apart in nothing, against its four others.
struct Square {
  float at[4][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        at[r][c] = 0;
  }
};

/// The thread's first own row and first other row within a tile.
__device__ __forceinline__ int32_t own_row() { return int32_t(threadIdx.x) / kPart * 4; }
__device__ __forceinline__ int32_t other_row() { return int32_t(threadIdx.x) % kPart * 4; }

/// dots = own · other for the tile of rows that begin at own_from and other_from. Every thread of the block calls it.
template <class Own, class Other>
__device__ AUXCORE_PAIR_INLINE void dot_products(
    const Rows<Own>& own, int32_t own_from, const Rows<Other>& other, int32_t other_from, const Shared& shared, Square& dots) {
  dots.clear();
  for (int32_t from = 0; from < own.columns; from += kDepth) {
    // Four neighbouring columns of a row a thread.
    const int32_t row = int32_t(threadIdx.x) / (kDepth / 4), column = int32_t(threadIdx.x) % (kDepth / 4) * 4;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      shared.own[(column + k) * kPitch + row] = own.at(own_from + row, from + column + k);
      shared.other[(column + k) * kPitch + row] = other.at(other_from + row, from + column + k);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float* a = shared.own + k * kPitch + own_row();
      const float* b = shared.other + k * kPitch + other_row();
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          dots.at[r][c] = fmaf(a[r], b[c], dots.at[r][c]);
    }
    __syncthreads();
  }
}

/// Puts the block's weights where add_weighted finds them.
__device__ __forceinline__ void share_weights(const Square& weights, const Shared& shared) {
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      shared.weights[(own_row() + r) * kPitch + other_row() + c] = weights.at[r][c];
  __syncthreads();
}

/// sums[own] (+)= Σ weight · other row; the first time it is =. sums has own_count rows of as many columns as other.
template <class Other>
__device__ AUXCORE_PAIR_INLINE void add_weighted(
    const Rows<Other>& other, int32_t other_from, float* sums, int32_t own_from, int32_t own_count, bool is_first, const Shared& shared) {
  for (int32_t from = 0; from < other.columns; from += kTile) {
    for (int32_t i = int32_t(threadIdx.x); i < kTile * kTile; i += kThreads)
      shared.values[i / kTile * kPitch + i % kTile] = other.at(other_from + i / kTile, from + i % kTile);
    __syncthreads();
    Square total;
    total.clear();
#pragma unroll 8
    for (int32_t j = 0; j < kTile; ++j) {
      const float* values = shared.values + j * kPitch + other_row();
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float weight = shared.weights[(own_row() + r) * kPitch + j];
#pragma unroll
        for (int c = 0; c < 4; ++c)
          total.at[r][c] = fmaf(weight, values[c], total.at[r][c]);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int32_t row = own_from + own_row() + r, column = from + other_row() + c;
        if (row < own_count && column < other.columns) {
          float* to = sums + int64_t{row} * other.columns + column;
          *to = is_first ? total.at[r][c] : *to + total.at[r][c];
        }
      }
    __syncthreads();
  }
}

/// The sum over a block of one number a thread, in the order of a fixed tree; for thread 0 only. scratch: kThreads places.
__device__ AUXCORE_PAIR_INLINE double block_sum(double value, double* scratch) {
  scratch[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      scratch[threadIdx.x] += scratch[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = scratch[0];
  __syncthreads();
  return sum;
}

/// The tiles of a segment: from begin to end, in tiles of kTile rows.
struct Segment {
  int32_t begin, end;

  __device__ __forceinline__ Segment(int32_t segment, int32_t segments, int32_t count) {
    const int64_t tiles = (count + kTile - 1) / kTile;
    begin = int32_t(tiles * segment / segments);
    end = int32_t(tiles * (segment + 1) / segments);
  }
};

}  // namespace auxcore::pairs
