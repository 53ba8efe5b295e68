// KeyRerotate: checks and launches. The formula is in KeyRerotate.cs, the kernel in key_rerotate.cu.
#include "key_rerotate.cuh"

#include <cmath>

#include "token_arguments.h"

namespace auxcore::key_rerotate {
namespace {

constexpr const char* kOp = "KeyRerotate";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kRerotate{kOp, &image_token_pruning, "auxcore_key_rerotate"};

constexpr int64_t kMostElements = int64_t{1} << 48;
constexpr int64_t kWantedBlocks = 528;  // four a multiprocessor of the largest device

/// Elements from the first to the last, both counted. Refuses elements in one place: from the least step to the greatest, each must step
/// over all that went before.
int64_t extent(int64_t number, const auxcore_key_layer& layer, int64_t tokens, int64_t depth) {
  if (layer.batch == 0 || layer.heads == 0 || tokens == 0)
    return 0;
  std::array<std::pair<int64_t, int64_t>, 3> dimensions = {  // steps and sizes
      {{layer.batch_step, layer.batch}, {layer.head_step, layer.heads}, {layer.token_step, tokens}}};
  std::sort(dimensions.begin(), dimensions.end());
  int64_t covered = depth;
  for (const auto& [step, size] : dimensions) {
    if (size <= 1)
      continue;
    if (step < covered)
      fail(AUXCORE_E_ARGUMENT, "layers[%lld]: elements share memory", static_cast<long long>(number));
    if (step > (kMostElements - covered) / (size - 1))
      fail(AUXCORE_E_ARGUMENT, "layers[%lld]: a step of %lld elements", static_cast<long long>(number), static_cast<long long>(step));
    covered += (size - 1) * step;
  }
  return covered;
}

void check(const auxcore_key_rerotate_batch& batch, const Context& context) {
  tokens::check_tokens("tokens", batch.tokens);
  check_at_least_one("rows", batch.rows);
  check_flag("is_pairs", batch.is_pairs);
  if (batch.rotated < 2 || batch.rotated % 2 != 0 || batch.rotated > 2 * kPairs)
    fail(AUXCORE_E_ARGUMENT, "rotated is %d; it is even, from 2 to %d", batch.rotated, 2 * kPairs);
  if (batch.depth < batch.rotated || batch.depth > tokens::kMostTokens)
    fail(AUXCORE_E_ARGUMENT, "depth is %d, with rotated %d", batch.depth, batch.rotated);
  if (batch.frequencies == nullptr || batch.row_of == nullptr)
    fail(AUXCORE_E_ARGUMENT, "frequencies or row_of is NULL");
  for (int pair = 0; pair < batch.rotated / 2; ++pair) {
    if (!std::isfinite(batch.frequencies[pair]))
      fail(AUXCORE_E_ARGUMENT, "frequencies[%d] is %g; it is finite", pair, batch.frequencies[pair]);
    if (batch.row_of[pair] < 0 || batch.row_of[pair] >= batch.rows || batch.row_of[pair] > UINT8_MAX)
      fail(AUXCORE_E_ARGUMENT, "row_of[%d] is %d, with rows %d", pair, batch.row_of[pair], batch.rows);
  }
  check_not_negative("layer_count", batch.layer_count);
  if (batch.layer_count > 0 && batch.layers == nullptr)
    fail(AUXCORE_E_ARGUMENT, "layers is NULL");
  Memory memory(context);
  const int64_t differences = int64_t{batch.rows} * batch.tokens;
  memory.read("differences", batch.differences, differences, 4);
  tokens::Ranges ranges(context);
  ranges.add_checked(batch.differences, differences * 4);
  for (int64_t i = 0; i < batch.layer_count; ++i) {
    const auxcore_key_layer& layer = batch.layers[i];
    const int element_bytes = tokens::size_of_type("layers: type", layer.type);
    check_not_negative("layers: batch", layer.batch);
    check_not_negative("layers: heads", layer.heads);
    if (int64_t{layer.batch} * layer.heads > tokens::kMostTokens)
      fail(AUXCORE_E_ARGUMENT, "layers[%lld]: %d times %d heads", static_cast<long long>(i), layer.batch, layer.heads);
    if (layer.keys % static_cast<uint64_t>(element_bytes) != 0)
      fail(AUXCORE_E_ARGUMENT, "layers[%lld]: 0x%llx is not aligned to its elements", static_cast<long long>(i),
          static_cast<unsigned long long>(layer.keys));
    ranges.add("layers", i, "", layer.keys, extent(i, layer, batch.tokens, batch.depth) * element_bytes, true);
  }
  ranges.check_disjoint("layers");
}

void run(const auxcore_key_rerotate_batch& batch, Context& context, CUstream stream) {
  Arguments arguments = {};
  arguments.differences = pointer<const int32_t>(batch.differences);
  arguments.tokens = batch.tokens;
  arguments.pairs = batch.rotated / 2;
  arguments.rows = batch.rows;
  arguments.is_pairs = static_cast<int32_t>(batch.is_pairs);
  for (int pair = 0; pair < arguments.pairs; ++pair) {
    arguments.frequencies[pair] = batch.frequencies[pair];
    arguments.row_of[pair] = static_cast<uint8_t>(batch.row_of[pair]);
  }
  const int64_t units = int64_t{batch.tokens} * arguments.pairs, tiles = (units + kThreads - 1) / kThreads;
  if (tiles == 0)
    return;
  for (int64_t from = 0; from < batch.layer_count; from += kLayers) {
    arguments.layer_count = static_cast<int32_t>(std::min<int64_t>(kLayers, batch.layer_count - from));
    arguments.slices = static_cast<int32_t>(std::clamp<int64_t>(kWantedBlocks / tiles, 1, arguments.layer_count));
    for (int i = 0; i < arguments.layer_count; ++i) {
      const auxcore_key_layer& layer = batch.layers[from + i];
      arguments.layers[i] = {pointer<void>(layer.keys), layer.batch_step, layer.head_step, layer.token_step, layer.type, layer.batch,
          layer.heads, 0};
    }
    context.launch(kRerotate, Grid{blocks_for(tiles * arguments.slices, 1), kThreads}, stream, arguments);
  }
}

}  // namespace
}  // namespace auxcore::key_rerotate

using namespace auxcore;

extern "C" {

auxcore_status auxcore_key_rerotate(auxcore_context context, void* stream, const auxcore_key_rerotate_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch, [&](Context& opened, CUstream on) {
    key_rerotate::check(*batch, opened);
    key_rerotate::run(*batch, opened, on);
  });
}

}  // extern "C"
