// Batches for the tests of the C functions of token pruning.
#pragma once

#include "library_td.h"

namespace auxcore::test {

/// Two segments, of which the scores above 0 are kept: tokens 1, 3, 4.
inline auxcore_token_select_batch select_batch(Memory& memory) {
  auxcore_token_select_batch batch = {};
  batch.struct_size = sizeof batch;
  batch.score_type = AUXCORE_FLOAT32;
  batch.tokens = 6;
  batch.segments = 2;
  batch.rule = AUXCORE_BUDGET_THRESHOLD;
  batch.maximum = INT32_MAX;
  batch.index_capacity = 6;
  batch.scores = memory.add(std::vector<float>{-1, 2, -3, 4, 5, std::nanf("")});
  batch.bounds = memory.add(std::vector<int32_t>{0, 3, 6});
  batch.always = memory.add(std::vector<uint8_t>(6));
  batch.indices = memory.add(std::vector<int32_t>(6, -7));
  batch.offsets = memory.add(std::vector<int32_t>(3, -7));
  batch.slots = memory.add(std::vector<int32_t>(6, -7));
  batch.nan_counts = memory.add(std::vector<int32_t>(2, -7));
  OK(auxcore_token_select_workspace(&batch, &batch.workspace_bytes));
  batch.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(batch.workspace_bytes), 0xff));
  return batch;
}

/// The same selection, and how it maps rows.
struct CompactCase {
  auxcore_token_selection indices = {}, slots = {};
  auxcore_token_rows rows = {};      ///< [6, 3] to [4, 3]
  auxcore_token_rows in_place = {};  ///< [2, 6, 4]
  auxcore_token_rows spread = {};    ///< [4, 3] to [6, 3]
};

inline auxcore_token_rows rows_of(uint64_t source, uint64_t destination, int64_t source_tokens, int64_t destination_tokens,
    int64_t row_bytes) {
  auxcore_token_rows rows = {};
  rows.source = source;
  rows.destination = destination;
  rows.row_bytes = rows.source_step = rows.destination_step = row_bytes;
  rows.source_tokens = source_tokens;
  rows.destination_tokens = destination_tokens;
  for (int64_t& size : rows.sizes)
    size = 1;
  rows.segment_dimension = -1;
  return rows;
}

inline CompactCase compact_case(Memory& memory) {
  CompactCase given;
  const uint64_t bounds = memory.add(std::vector<int32_t>{0, 3, 6}), offsets = memory.add(std::vector<int32_t>{0, 1, 3});
  given.indices = {sizeof(auxcore_token_selection), 2, bounds, offsets, memory.add(std::vector<int32_t>{1, 3, 4}), 3, 0};
  given.slots = {sizeof(auxcore_token_selection), 2, bounds, offsets, memory.add(std::vector<int32_t>{-1, 0, -1, 1, 2, -1}), 6, 0};
  const uint64_t kept = memory.add(std::vector<float>(12, -7));
  given.rows = rows_of(memory.add(pattern(18, 1)), kept, 6, 4, 12);
  const uint64_t cache = memory.add(pattern(48, 2));
  given.in_place = rows_of(cache, cache, 6, 6, 16);
  given.in_place.sizes[0] = 2;
  given.in_place.source_steps[0] = given.in_place.destination_steps[0] = 96;
  given.spread = rows_of(memory.add(pattern(12, 3)), memory.add(std::vector<float>(18, -7)), 4, 6, 12);
  return given;
}

inline auxcore_token_pool_batch pool_batch(Memory& memory) {
  auxcore_token_pool_batch batch = {sizeof(auxcore_token_pool_batch), AUXCORE_FLOAT32, 2, 3, 4, 8, 2, 2, 2, 2, 0, 0};
  batch.source = memory.add(pattern(2 * 3 * 4 * 8, 1));
  batch.destination = memory.add(std::vector<float>(2 * 3 * 4 * 8, -7));
  return batch;
}

}  // namespace auxcore::test
