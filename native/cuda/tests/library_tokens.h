// Batches for the tests of the C functions of token pruning.
#pragma once

#include <algorithm>

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

/// Two heads of queries that share one of keys.
inline auxcore_token_scores_batch scores_batch(Memory& memory, int rows) {
  const int tokens = 40, depth = 5, heads = 2;
  const auto size = [](int count) { return static_cast<std::size_t>(count); };
  auxcore_token_scores_batch batch = {};
  batch.struct_size = sizeof batch;
  batch.type = AUXCORE_FLOAT32;
  batch.batch = batch.key_heads = 1;
  batch.query_heads = heads;
  batch.rows = rows;
  batch.tokens = tokens;
  batch.depth = depth;
  batch.scale = 0.03125f;
  const int64_t queries[] = {heads * rows * depth, rows * depth, depth}, keys[] = {tokens * depth, tokens * depth, depth};
  std::copy_n(queries, 3, batch.query_steps);
  std::copy_n(keys, 3, batch.key_steps);
  batch.queries = memory.add(pattern(size(heads * rows * depth), 1));
  batch.keys = memory.add(pattern(size(tokens * depth), 2));
  batch.log_sum_exp = memory.add(pattern(size(heads * rows), 3));
  batch.head_weights = memory.add(std::vector<float>{0.25f, 0.5f});
  batch.scores = memory.add(std::vector<float>(size(tokens), -7));
  OK(auxcore_token_scores_workspace(&batch, &batch.workspace_bytes));
  batch.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(batch.workspace_bytes), 0xff));
  return batch;
}

/// Two layers of [1, 2, 3, 4], of which all elements are rotated. What lies on the host is the case's own.
struct RerotateCase {
  double frequencies[2] = {1, 0.5};
  int32_t row_of[2] = {0, 1};
  auxcore_key_layer layers[2] = {};
  auxcore_key_rerotate_batch batch = {};

  explicit RerotateCase(Memory& memory) {
    for (auxcore_key_layer& layer : layers)
      layer = {memory.add(pattern(24, 4)), AUXCORE_FLOAT32, 1, 2, 0, 24, 12, 4};
    batch = {sizeof batch, 3, 4, 4, 0, 2, memory.add(std::vector<int32_t>{0, 1, 0, 0, 2, -3}), nullptr, nullptr, nullptr, 2};
  }

  auxcore_status run(auxcore_context on) const {
    auxcore_key_rerotate_batch given = batch;
    given.frequencies = frequencies;
    given.row_of = row_of;
    given.layers = layers;
    given.layer_count = std::min<int64_t>(given.layer_count, 2);
    return auxcore_key_rerotate(on, nullptr, &given);
  }
};

}  // namespace auxcore::test
