// Tiles of matrices of dot products: 64 rows of one matrix against 64 of another, in float32, a block of 256 threads with sixteen numbers
// each. The products of a pair are added in the order of the elements.
#pragma once

#include "token_device.cuh"

namespace auxcore::tokens {

constexpr int kTile = 64, kTilePitch = kTile + 4, kTileDepth = 16, kTileThreads = 256;
constexpr int kTilePart = 16;  ///< threads along a side, four rows each

struct TileSpace {
  float* own;    ///< [kTileDepth, kTilePitch]
  float* other;  ///< [kTileDepth, kTilePitch]
};

#define AUXCORE_TILE_SPACE(name)                                                                       \
  AUXCORE_SHARED(float, name##_own, ::auxcore::tokens::kTileDepth * ::auxcore::tokens::kTilePitch);    \
  AUXCORE_SHARED(float, name##_other, ::auxcore::tokens::kTileDepth * ::auxcore::tokens::kTilePitch);  \
  const ::auxcore::tokens::TileSpace name = {name##_own, name##_other}

/// The thread's first own row and first other row within a tile; it has four of each.
__device__ __forceinline__ int32_t tile_row() { return int32_t(threadIdx.x) / kTilePart * 4; }
__device__ __forceinline__ int32_t tile_column() { return int32_t(threadIdx.x) % kTilePart * 4; }

struct TileSums {
  float at[4][4];
};

/// sums[r][c] = own row · other row. own(row, k) and other(row, k) give elements, 0 where there is none. Every thread calls it.
template <class Own, class Other>
__device__ AUXCORE_TOKEN_INLINE TileSums tile_products(int32_t depth, const TileSpace& space, const Own& own, const Other& other) {
  TileSums sums = {};
  const int32_t row = int32_t(threadIdx.x) / (kTileDepth / 4), column = int32_t(threadIdx.x) % (kTileDepth / 4) * 4;
  for (int32_t from = 0; from < depth; from += kTileDepth) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool is_there = from + column + k < depth;
      space.own[(column + k) * kTilePitch + row] = is_there ? own(row, from + column + k) : 0.0f;
      space.other[(column + k) * kTilePitch + row] = is_there ? other(row, from + column + k) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTileDepth; ++k) {
      const float* a = space.own + k * kTilePitch + tile_row();
      const float* b = space.other + k * kTilePitch + tile_column();
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          sums.at[r][c] = fmaf(a[r], b[c], sums.at[r][c]);
    }
  }
  return sums;
}

}  // namespace auxcore::tokens
