// What pvn_head.cpp and pvn_head.cu both know.
#pragma once

#include "td_types.cuh"

namespace auxcore::pvn_head {

constexpr int kTile = 32;      ///< rows and columns of a tile of results
constexpr int kThreads = 256;  ///< of a block: four results each
constexpr int kGroupThreads = 256;

struct Arguments {
  const float* features;       ///< [rows, feature_count]
  const float* next_features;  ///< [rows, feature_count]
  const float* weights;        ///< [tasks, actions, feature_count]
  const float* target_mean;    ///< [tasks, feature_count]
  const int32_t* actions;      ///< [rows]
  const uint8_t* done;
  td::Sets sets;
  float* feature_gradient;  ///< null where it is not wanted
  float* weight_gradient;   ///< null where it is not wanted
  float* error;             ///< workspace: the gradient of predictions [rows, tasks], rows in grouped order
  double* losses;           ///< workspace: [rows, tiles of tasks]: the sums of squared errors
  int32_t* order;           ///< workspace: [rows]: the row at each place of the grouped order
  int32_t* offsets;         ///< workspace: [actions + 2]: where the places of an action begin, and of rows without one
  int32_t rows;
  int32_t feature_count;
  int32_t tasks;
  int32_t action_count;
  float discount;
  float height;
  float scale;  ///< 1 / (rows · tasks)
};

}  // namespace auxcore::pvn_head
