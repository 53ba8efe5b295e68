// What successor_sweep.cpp and successor_sweep.cu both know.
#pragma once

#include "td_types.cuh"

namespace auxcore::successor_sweep {

constexpr int kThreads = 128;      ///< of a block of one row, in Jacobi order
constexpr int kColumnThreads = 32; ///< of a block that takes columns through all rows
constexpr int kChangeThreads = 256;

struct Arguments {
  const int32_t* row_offsets;
  const int32_t* columns;
  const float* values;
  int32_t states;
  int32_t entries;
  int32_t counts_next;  ///< E is P instead of I
  float discount;
  float height;
};

}  // namespace auxcore::successor_sweep
