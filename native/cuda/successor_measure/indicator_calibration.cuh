// What indicator_calibration.cpp and indicator_calibration.cu both know.
#pragma once

#include "td_types.cuh"

namespace auxcore::indicator_calibration {

constexpr int kThreads = 256;  ///< of a block of rows, a warp each
constexpr int kRows = kThreads / td::kWarp;
constexpr int kColumnThreads = 256;
constexpr int kSelectThreads = 1024;

struct Arguments {
  const void* features;
  float* thresholds;
  uint8_t* bits;  ///< null where it is not wanted, as all that follow
  int32_t* active_counts;
  float* gradient;
  double* task_losses;
  int32_t rows;
  int32_t tasks;
  int32_t type;    ///< of the features: float32 or bfloat16
  int32_t wanted;  ///< of the states, for the exact threshold
  double rate;
  double learning_rate;
};

}  // namespace auxcore::indicator_calibration
