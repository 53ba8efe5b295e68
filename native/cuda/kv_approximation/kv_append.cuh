// What kv_append.cpp and kv_append.cu both know.
#pragma once

#include "kv_types.cuh"

namespace auxcore::kv_append {

constexpr int kWarps = 8;  ///< of a block, which has some heads of one token, a warp each
constexpr int kThreads = kWarps * kv::kWarp;
constexpr int kMostHeadDim = 256;
constexpr int kMostPairs = kMostHeadDim / 2;

enum Type : int32_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 3 };

struct Rows {
  uint64_t first;
  int64_t step;  ///< bytes
  const float* norm;
  int32_t heads;
};

struct Arguments {
  kv::Cache cache;
  Rows query;
  Rows keys;
  Rows values;
  uint64_t rotated_query;
  int64_t rotated_step;
  const int32_t* sequences;
  const int32_t* slots;
  const int32_t* positions;
  double norm_epsilon;
  int32_t tokens;
  int32_t type;
  int32_t slots_are_of_heads;
  int32_t pairs;
  int32_t is_in_pairs;
  double frequencies[kMostPairs];
};

}  // namespace auxcore::kv_append
