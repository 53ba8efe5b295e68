// Calls of the KV cache's C functions, for tests.
#pragma once

#include "kv_formulas.h"
#include "library_td.h"

namespace auxcore::test {

inline auxcore_kv_elements kv_elements(Memory& memory, int format, const std::vector<float>& elements) {
  auxcore_kv_elements given = {};
  given.struct_size = sizeof given;
  given.format = format;
  given.count = static_cast<int64_t>(elements.size());
  given.scale = 1;
  given.elements = memory.add(elements);
  given.stored = memory.add(std::vector<uint8_t>(stored_bytes(format, elements.size()) + 16, 0xa5));
  return given;
}

/// A case in device memory, contiguous, or in pages of so many positions.
struct AttentionCall {
  auxcore_kv_cache cache = {};
  auxcore_kv_attention attention = {};

  AttentionCall(Memory& memory, const AttentionCase& given, int page = 0, bool pages_are_of_heads = false, bool has_sums = false) {
    const bool is_paged = page != 0;
    const int positions = is_paged ? page : given.capacity, held = pages_are_of_heads ? 1 : given.kv_heads;
    const PagedRows keys(given, given.keys, given.key_format, positions, pages_are_of_heads);
    const PagedRows values(given, given.values, given.value_format, positions, pages_are_of_heads);
    const auto plane = [&](int format, const std::vector<uint8_t>& bytes, const std::vector<float>& scales,
                           const std::vector<float>& ring) {
      const auto row = static_cast<int64_t>(given.row_bytes(format));
      const bool has_scales = format == AUXCORE_KV_E4M3;
      return auxcore_kv_plane{format, has_scales ? static_cast<int32_t>(scales.size()) : 0, memory.add(bytes),
          is_paged ? static_cast<int64_t>(keys.pages.size()) : given.batch, held * positions * row, positions * row,
          has_scales ? memory.add(scales) : 0, ring.empty() ? 0 : memory.add(ring),
          ring.empty() ? 0 : given.ring(&ring == &given.key_ring), 0};
    };
    cache.struct_size = sizeof cache;
    cache.batch = given.batch;
    cache.kv_heads = given.kv_heads;
    cache.head_dim = given.head_dim;
    cache.positions = positions;
    cache.keys = plane(given.key_format, is_paged ? keys.bytes : given.keys, given.key_scales, given.key_ring);
    cache.values = plane(given.value_format, is_paged ? values.bytes : given.values, given.value_scales, given.value_ring);
    if (is_paged) {
      cache.pages_are_of_heads = pages_are_of_heads;
      cache.page_offsets = memory.add(keys.offsets);
      cache.pages = memory.add(keys.pages);
      cache.page_count = static_cast<int64_t>(keys.pages.size());
    }
    attention.struct_size = sizeof attention;
    attention.query_heads = given.query_heads;
    attention.lengths_are_of_heads = given.lengths_are_of_heads();
    attention.scale = given.scale();
    attention.query = memory.add(given.query);
    attention.lengths = memory.add(given.lengths);
    attention.output = memory.add(std::vector<float>(given.query.size(), -7.0f));
    if (has_sums) {
      attention.sum_positions = given.capacity;
      attention.position_sums = memory.add(
          std::vector<float>(static_cast<std::size_t>(given.batch * given.kv_heads * given.capacity)));
    }
    OK(auxcore_kv_attention_workspace(&cache, &attention, &attention.workspace_bytes));
    attention.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(attention.workspace_bytes), 0xff));
  }
};

/// Tokens for the cache of an AttentionCall: one of each sequence, at so many slots.
struct AppendCall {
  auxcore_kv_cache cache;
  auxcore_kv_append append = {};
  std::vector<double> frequencies;

  AppendCall(Memory& memory, const AttentionCall& call, const std::vector<int32_t>& slots) : cache(call.cache) {
    const int d = cache.head_dim, tokens = cache.batch, queries = call.attention.query_heads;
    const auto rows = [&](int heads, int seed, bool has_norm) {
      const auto count = static_cast<std::size_t>(heads * d);
      return auxcore_kv_rows{memory.add(pattern(count * static_cast<std::size_t>(tokens), seed)), int64_t{heads} * d * 4, 0,
          has_norm ? memory.add(std::vector<float>(static_cast<std::size_t>(d), 1.0f)) : 0, heads, 0};
    };
    for (int pair = 0; pair < 128; ++pair)  // as many as any call may read
      frequencies.push_back(std::pow(10000.0, -2.0 * pair / d));
    append.struct_size = sizeof append;
    append.tokens = tokens;
    append.type = AUXCORE_FLOAT32;
    append.query = rows(queries, 1, true);
    append.keys = rows(cache.kv_heads, 2, true);
    append.values = rows(cache.kv_heads, 3, false);
    append.rotated_query = memory.add(std::vector<float>(static_cast<std::size_t>(tokens * queries * d)));
    append.rotated_step = int64_t{queries} * d * 4;
    append.slots = memory.add(slots);
    append.positions = memory.add(slots);
    append.norm_epsilon = 1e-5;
    append.rotated = d;
    append.frequencies = frequencies.data();
  }
  AppendCall(const AppendCall&) = delete;
  AppendCall& operator=(const AppendCall&) = delete;
};

/// Predictions for the caches of layers: one token of each sequence.
struct PredictCall {
  std::vector<auxcore_kv_predict_layer> layers;
  auxcore_kv_predict predict = {};
  std::vector<double> frequencies;

  PredictCall(Memory& memory, const std::vector<const AttentionCall*>& calls, const std::vector<int32_t>& slots) {
    const int d = calls[0]->cache.head_dim, tokens = calls[0]->cache.batch;
    const auto rows = [&](int heads, int seed, bool has_norm) {
      const auto count = static_cast<std::size_t>(heads * d);
      return auxcore_kv_rows{memory.add(pattern(count * static_cast<std::size_t>(tokens), seed)), int64_t{heads} * d * 4,
          memory.add(pattern(count, seed + 1)), has_norm ? memory.add(std::vector<float>(static_cast<std::size_t>(d), 1.0f)) : 0, heads, 0};
    };
    for (const AttentionCall* const call : calls)
      layers.push_back({call->cache, rows(call->cache.kv_heads, 2, true), rows(call->cache.kv_heads, 4, false)});
    for (int pair = 0; pair < 128; ++pair)  // as many as any call may read
      frequencies.push_back(std::pow(10000.0, -2.0 * pair / d));
    predict.struct_size = sizeof predict;
    predict.tokens = tokens;
    predict.type = AUXCORE_FLOAT32;
    predict.layer_count = static_cast<int32_t>(layers.size());
    predict.layers = layers.data();
    predict.slots = memory.add(slots);
    predict.positions = memory.add(slots);
    predict.norm_epsilon = 1e-5;
    predict.rotated = d;
    predict.frequencies = frequencies.data();
  }
  PredictCall(const PredictCall&) = delete;
  PredictCall& operator=(const PredictCall&) = delete;
};

}  // namespace auxcore::test
