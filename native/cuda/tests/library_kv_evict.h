// Calls of KvWindowScores and KvEvict, for tests.
#pragma once

#include "kv_eviction_formulas.h"
#include "library_kv.h"

namespace auxcore::test {

inline auxcore_kv_window window_call(Memory& memory, const WindowCase& given) {
  auxcore_kv_window window = {};
  window.struct_size = sizeof window;
  window.heads = given.heads;
  window.group = given.group;
  window.window = given.window;
  window.positions = given.positions;
  window.causal = given.causal;
  window.scale = given.scale;
  window.logits = memory.add(given.logits);
  window.scores = memory.add(std::vector<float>(static_cast<std::size_t>(given.heads * given.positions), -7.0f));
  OK(auxcore_kv_window_workspace(&window, &window.workspace_bytes));
  window.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(window.workspace_bytes), 0xff));
  return window;
}

inline auxcore_kv_window_product window_product_call(Memory& memory, const WindowProductCase& given) {
  auxcore_kv_window_product product = {};
  product.struct_size = sizeof product;
  product.heads = given.scored.heads;
  product.group = given.scored.group;
  product.window = given.scored.window;
  product.positions = given.scored.positions;
  product.causal = given.scored.causal;
  product.depth = given.depth;
  product.scale = given.scored.scale;
  product.queries = memory.add(given.queries);
  product.keys = memory.add(given.keys);
  product.key_step = static_cast<int64_t>(given.key_step);
  product.head_step = static_cast<int64_t>(given.head_step);
  product.scores = memory.add(std::vector<float>(static_cast<std::size_t>(product.heads * product.positions), -7.0f));
  OK(auxcore_kv_window_product_workspace(&product, &product.workspace_bytes));
  product.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(product.workspace_bytes), 0xff));
  return product;
}

/// A case in device memory, contiguous, or in pages of so many positions.
struct EvictionCall {
  auxcore_kv_cache cache;
  auxcore_kv_eviction eviction = {};

  EvictionCall(Memory& memory, const EvictionCase& given, int page = 0, bool pages_are_of_heads = false)
      : cache(AttentionCall(memory, given.cache, page, pages_are_of_heads).cache) {
    eviction.struct_size = sizeof eviction;
    eviction.rule = given.rule;
    eviction.count = static_cast<int32_t>(given.value);
    eviction.value = given.value;
    eviction.minimum = given.minimum;
    eviction.maximum = given.maximum;
    eviction.pool_width = given.pool_width;
    eviction.sinks = given.sinks;
    eviction.recent = given.recent;
    eviction.heads_share = given.shares();
    eviction.head_floor = given.shares() ? given.floor : 0;
    eviction.score_positions = eviction.number_positions = given.cache.capacity;
    eviction.scores = memory.add(given.scores);
    eviction.lengths = memory.add(given.cache.lengths);
    eviction.numbers = memory.add(given.numbers);
    if (!given.counts.empty())
      eviction.counts = memory.add(given.counts);
    OK(auxcore_kv_evict_workspace(cache.batch, cache.kv_heads, eviction.score_positions, &eviction.workspace_bytes));
    eviction.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(eviction.workspace_bytes), 0xff));
  }
};

}  // namespace auxcore::test
