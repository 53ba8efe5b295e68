// What tabular_td.cpp and tabular_td.cu both know.
#pragma once

#include "td_types.cuh"

namespace auxcore::tabular_td {

constexpr int kThreads = 32;  ///< of a block: one warp, a column a thread

/// As much dynamic shared memory as every device gives without being asked for more.
constexpr unsigned kMostSharedBytes = 48 * 1024;

struct Arguments {
  float* measure;
  const float* snapshot;  ///< where next rows are read; the measure itself in sequence
  const int32_t* current;
  const int32_t* next;
  const uint8_t* done;
  int32_t states;
  int32_t transitions;
  int32_t counts_next;  ///< which state counts: s, or s'
  float step_size;
  float discount;
  float height;
};

constexpr int kIndexThreads = 256;

}  // namespace auxcore::tabular_td
