// What indicator_td.cpp and indicator_td.cu both know.
#pragma once

#include "td_types.cuh"

namespace auxcore::indicator_td {

constexpr int kThreads = 256;  ///< of a block; a warp takes a row
constexpr int kRows = kThreads / td::kWarp;
constexpr int kColumnThreads = 256;

struct Arguments {
  const void* prediction;
  const void* next_values;
  const uint8_t* done;
  td::Sets sets;
  float* gradient;  ///< null where it is not wanted, as all that follow
  double* row_losses;
  int32_t* active_counts;
  float* mean_absolute_errors;
  int32_t rows;
  int32_t tasks;
  int32_t value_type;  ///< float32 or bfloat16
  float discount;
  float height;
  float scale;       ///< 1 / (rows · tasks)
  double row_share;  ///< 1 / (2 · tasks)
};

}  // namespace auxcore::indicator_td
