// What token_pool.cpp and token_pool.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_pool {

constexpr int kThreads = 256;

/// AuxCore.Kernels.PoolGrid: windows are 0 where cells are a share of the grid.
struct Shape {
  int32_t height, width, rows, columns, window_height, window_width;
};

struct Arguments {
  const void* source;
  void* destination;
  int64_t units;     ///< vectors of the destination
  int32_t channels;  ///< in vectors
  int32_t type;
  Shape shape;
};

}  // namespace auxcore::token_pool
