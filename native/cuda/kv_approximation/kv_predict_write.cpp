// KvPredictWrite: checks and launches. The formulas are in KvPredictWrite.cs, the kernel in kv_predict_write.cu.
#include "kv_predict_write.cuh"

#include <array>
#include <cstdint>
#include <vector>

#include "kv_append_arguments.h"

namespace auxcore::kv_predict_write {
namespace {

constexpr const char* kOp = "KvPredictWrite";
constexpr int32_t kMostLayers = 1024;

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kPredictWrite{kOp, &image_kv_approximation, "auxcore_kv_predict_layers"};

/// A layer, as a call of KvAppend without queries.
auxcore_kv_append append_of(const auxcore_kv_predict& given, const auxcore_kv_predict_layer& layer) {
  auxcore_kv_append append = {};
  append.struct_size = sizeof append;
  append.tokens = given.tokens;
  append.type = given.type;
  append.keys = layer.keys;
  append.values = layer.values;
  append.sequences = given.sequences;
  append.slots = given.slots;
  append.positions = given.positions;
  append.norm_epsilon = given.norm_epsilon;
  append.rotated = given.rotated;
  append.is_in_pairs = given.is_in_pairs;
  append.frequencies = given.frequencies;
  return append;
}

/// Says of which layer a failure is.
template <class Body>
void in_layer(int32_t layer, Body body) {
  try {
    body();
  } catch (const Failure& failure) {
    fail(failure.status(), "layers[%d]: %s", layer, failure.what());
  }
}

void check_numbers(const auxcore_kv_predict& given) {
  check_struct_size("predict", given.struct_size, sizeof given);
  if (given.layer_count < 0 || given.layer_count > kMostLayers)
    fail(AUXCORE_E_ARGUMENT, "layer_count is %d; it may be 0 to %d", given.layer_count, kMostLayers);
  if (given.tokens < 0)
    fail(AUXCORE_E_ARGUMENT, "tokens is %d", given.tokens);
  if (given.layer_count > 0 && given.layers == nullptr)
    fail(AUXCORE_E_ARGUMENT, "layers is NULL");
  for (int32_t i = 0; i < given.layer_count; ++i)
    in_layer(i, [&] {
      const auxcore_kv_cache &cache = given.layers[i].cache, &first = given.layers[0].cache;
      kv_append::check_numbers(cache, append_of(given, given.layers[i]));
      if (cache.head_dim != first.head_dim || cache.batch != first.batch)
        fail(AUXCORE_E_ARGUMENT, "%d sequences and heads of %d, but layers[0] has %d, and heads of %d", cache.batch, cache.head_dim,
            first.batch, first.head_dim);
    });
}

/// Each layer was held against itself. Caches of layers may interleave in one pool.
void check_disjoint(const auxcore_kv_predict& given) {
  const int size = given.type == AUXCORE_FLOAT32 ? 4 : 2;
  const auto planes = [](const auxcore_kv_predict_layer& layer) {
    return std::array{kv::stretches_of("keys", layer.cache, layer.cache.keys), kv::stretches_of("values", layer.cache, layer.cache.values)};
  };
  const auto rows = [&](const auxcore_kv_predict_layer& layer, const auxcore_kv_rows& of) {
    return kv::Stretches{of.first, of.step, given.tokens, kv::product("layers", {of.heads, layer.cache.head_dim, size})};
  };
  for (int32_t i = 0; i < given.layer_count; ++i)
    for (int32_t k = 0; k < given.layer_count; ++k)
      for (const kv::Stretches& written : planes(given.layers[i])) {
        if (i == k)
          continue;
        const auxcore_kv_predict_layer& other = given.layers[k];
        for (const kv::Stretches& plane : planes(other))
          if (may_overlap(written, plane))
            fail(AUXCORE_E_ARGUMENT, "layers[%d].cache overlaps layers[%d].cache", i, k);
        for (const auxcore_kv_rows* read : {&other.keys, &other.values})
          if (may_overlap(written, rows(other, *read)))
            fail(AUXCORE_E_ARGUMENT, "layers[%d].cache overlaps what layers[%d] reads", i, k);
      }
}

std::vector<kv::Cache> check_memory(const auxcore_kv_predict& given, const Context& context) {
  std::vector<kv::Cache> caches;
  caches.reserve(static_cast<std::size_t>(given.layer_count));
  for (int32_t i = 0; i < given.layer_count; ++i)
    in_layer(i, [&] {
      caches.push_back(kv_append::check_memory(given.layers[i].cache, append_of(given, given.layers[i]), context));
    });
  check_disjoint(given);
  return caches;
}

int64_t blocks_of(const auxcore_kv_predict& given, int32_t layer) {
  return kv::product("tokens", {given.tokens, kv::blocks_of_token(2 * int64_t{given.layers[layer].cache.kv_heads})});
}

/// Layers from one on: as many as one launch may have. Where the next begins.
int32_t fill(const auxcore_kv_predict& given, const std::vector<kv::Cache>& caches, int32_t from, Arguments& arguments, int64_t& blocks) {
  arguments.layer_count = 0;
  blocks = 0;
  for (int32_t i = from; i < given.layer_count && i < from + kLayers; ++i) {
    const int64_t own = blocks_of(given, i);
    if (i > from && blocks + own > INT32_MAX)
      break;
    arguments.layers[arguments.layer_count++] = {caches[static_cast<std::size_t>(i)], kv_append::rows_of(given.layers[i].keys),
        kv_append::rows_of(given.layers[i].values), blocks};
    blocks += own;
  }
  return from + arguments.layer_count;
}

void run(const auxcore_kv_predict& given, const std::vector<kv::Cache>& caches, Context& context, CUstream stream) {
  Arguments arguments = {};
  arguments.tokens = kv_append::tokens_of(append_of(given, given.layers[0]));
  for (int32_t i = 0; i < given.layer_count; ++i)
    kv_append::store_leaving(caches[static_cast<std::size_t>(i)], append_of(given, given.layers[i]), context, stream);
  for (int32_t from = 0; from < given.layer_count;) {
    int64_t blocks;
    from = fill(given, caches, from, arguments, blocks);
    context.launch(kPredictWrite, Grid{blocks_for(blocks, 1), kv::kHeadThreads}, stream, arguments);
  }
}

}  // namespace
}  // namespace auxcore::kv_predict_write

using namespace auxcore;

extern "C" auxcore_status auxcore_kv_predict_write(auxcore_context context, void* stream, const auxcore_kv_predict* predict) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (predict == nullptr)
      fail(AUXCORE_E_ARGUMENT, "predict is NULL");
    kv_predict_write::check_numbers(*predict);
    if (predict->tokens == 0 || predict->layer_count == 0)
      return;
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    const std::vector<kv::Cache> caches = kv_predict_write::check_memory(*predict, *opened);
    for (int32_t i = 0; i < predict->layer_count; ++i) {  // what one launch cannot have is refused before the first
      blocks_for(kv_predict_write::blocks_of(*predict, i), 1);
      kv_append::leaving_blocks(caches[static_cast<std::size_t>(i)], predict->tokens);
    }
    kv_predict_write::run(*predict, caches, *opened, on);
  });
}
