// What token_compact.cpp and token_compact.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_compact {

constexpr int kThreads = 256;
constexpr int kTogether = 4;    ///< rows of a thread whose loads are under way at once
constexpr int kDimensions = 3;  ///< of a tensor, before its rows, that are not the tokens'
constexpr int kGroups = 8;      ///< of tensors that lie alike, in one launch
constexpr int kTensors = 160;   ///< in one launch: the table is a parameter of the kernel, of 4 KB at most

/// Tensors that lie alike. A strip is a sequence of rows, one for each index of the dimensions. Steps are in bytes.
struct Group {
  int64_t row_bytes, source_step, destination_step;  ///< from one token to the next
  int64_t sizes[kDimensions], source_steps[kDimensions], destination_steps[kDimensions];
  int64_t strips;
  int32_t source_tokens, destination_tokens;
  int32_t first_tensor, first_block;
  int32_t parts;              ///< blocks of a strip: rows, or of tensors in place columns
  int16_t lanes;              ///< threads of a row, a power of two up to a warp
  int8_t vector_bytes;        ///< of a load or a store
  int8_t segment_dimension;   ///< -1 where segments have no dimension
  int8_t clears_rest;
  int8_t is_in_place;
};

struct Tensor {
  uint64_t source, destination;
};

/// Destination row r of segment b is source row map[begins[b] + r] - bases[b]. The indices of TokenSelect, or, backwards, its slots.
struct Selection {
  const int32_t* map;
  const int32_t* begins;  ///< [segments + 1]
  const int32_t* bases;   ///< [segments + 1]
  int32_t length, segments;
};

struct Table {
  Selection selection;
  int32_t group_count;
  Group groups[kGroups];
  Tensor tensors[kTensors];
};
static_assert(sizeof(Table) <= 4096);

}  // namespace auxcore::token_compact
