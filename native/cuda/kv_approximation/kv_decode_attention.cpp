// KvDecodeAttention: checks, splits, launches. The formula is in KvDecodeAttention.cs, the kernels in kv_decode_attention.cu.
#include "kv_decode_attention.cuh"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kv_arguments.h"

namespace auxcore::kv_decode_attention {
namespace {

constexpr const char* kOp = "KvDecodeAttention";

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kAttend1{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_1"};
const Kernel kAttend2{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_2"};
const Kernel kAttend4{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_4"};
const Kernel kAttend8{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_8"};
const Kernel kMerge{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_merge"};
const Kernel kSums{kOp, &image_kv_approximation, "auxcore_kv_decode_attention_sums"};

constexpr int64_t kBlocks = 1056;  // eight for each multiprocessor of an H100: enough of them for any device at hand

void check_numbers(const auxcore_kv_cache& cache, const auxcore_kv_attention& given) {
  kv::check_cache(cache, true);
  check_struct_size("attention", given.struct_size, sizeof given);
  check_at_least_one("query_heads", given.query_heads);
  if (given.query_heads % cache.kv_heads != 0)
    fail(AUXCORE_E_ARGUMENT, "query_heads %d is not a multiple of kv_heads %d", given.query_heads, cache.kv_heads);
  check_flag("lengths_are_of_heads", given.lengths_are_of_heads);
  if (given.sum_positions < 0)
    fail(AUXCORE_E_ARGUMENT, "sum_positions is %d", given.sum_positions);
  if (!std::isfinite(given.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite", given.scale);
}

/// How the work is parted, by sizes alone, and where things lie in the workspace.
struct Plan {
  int32_t heads, head_blocks, splits;
  int64_t rows, lengths_count, lengths, maxima, sums, partials, scores, totals, bytes;

  Plan(const auxcore_kv_cache& cache, const auxcore_kv_attention& given) {
    const int32_t group = given.query_heads / cache.kv_heads;
    head_blocks = (group - 1) / kMostHeads + 1;
    heads = (group - 1) / head_blocks + 1;
    const int64_t units = kv::product("batch", {cache.batch, cache.kv_heads, head_blocks});
    // In pages, one sequence may have nearly all positions.
    const int64_t most =
        cache.page_offsets == 0 ? int64_t{cache.positions} : kv::product("page_count", {cache.page_count, cache.positions});
    const int64_t useful = std::clamp<int64_t>(most / kLeastPositions + 1, 1, kMostSplits);
    splits = static_cast<int32_t>(std::clamp<int64_t>((kBlocks - 1) / units + 1, 1, useful));
    rows = kv::product("query_heads", {cache.batch, given.query_heads});
    lengths_count = kv::product("batch", {cache.batch, given.lengths_are_of_heads != 0 ? cache.kv_heads : 1});
    WorkspaceLayout layout;
    lengths = layout.add(lengths_count, sizeof(int32_t));
    const int64_t parts = splits == 1 ? 0 : kv::product("query_heads", {rows, splits});
    maxima = layout.add(parts, sizeof(float));
    sums = layout.add(parts, sizeof(float));
    partials = layout.add(kv::product("query_heads", {parts, cache.head_dim}), sizeof(float));
    scores = layout.add(kv::product("sum_positions", {rows, given.sum_positions}), sizeof(float));
    totals = layout.add(given.sum_positions == 0 ? 0 : kv::product("query_heads", {rows, 2}), sizeof(float));
    bytes = layout.bytes();
  }
};

/// Checks memory, and gives the cache as kernels see it.
kv::Cache check_memory(const auxcore_kv_cache& cache, const auxcore_kv_attention& given, const Plan& plan, const Context& context) {
  const int64_t tokens = kv::product("query_heads", {plan.rows, cache.head_dim});
  Memory memory(context);
  memory.read("query", given.query, tokens, 4);
  const kv::Cache seen = kv::cache_of(cache, false, memory, context);
  if ((given.lengths != 0) == (given.host_lengths != nullptr))
    fail(AUXCORE_E_ARGUMENT, "lengths and host_lengths: one of them is to be given");
  if (given.lengths != 0)
    memory.read("lengths", given.lengths, plan.lengths_count, 4);
  const int32_t most = cache.page_offsets == 0 ? cache.positions : std::numeric_limits<int32_t>::max();
  for (int64_t i = 0; given.host_lengths != nullptr && i < plan.lengths_count; ++i)
    if (given.host_lengths[i] < 0 || given.host_lengths[i] > most)
      fail(AUXCORE_E_ARGUMENT, "host_lengths[%lld] is %d, not within 0 and the capacity, %d", static_cast<long long>(i),
          given.host_lengths[i], most);
  memory.write("output", given.output, tokens, 4);
  if ((given.position_sums != 0) != (given.sum_positions != 0))
    fail(AUXCORE_E_ARGUMENT, "position_sums and sum_positions: one of them is 0, and the other is not");
  memory.write_if_wanted(
      "position_sums", given.position_sums, kv::product("batch", {cache.batch, cache.kv_heads, given.sum_positions}), 4);
  add_workspace(memory, given.workspace, given.workspace_bytes, plan.bytes);
  memory.check_disjoint();
  return seen;
}

Arguments arguments_of(const kv::Cache& cache, const auxcore_kv_attention& given, const Plan& plan) {
  const auto floats = [&](int64_t offset) { return pointer<float>(given.workspace + static_cast<uint64_t>(offset)); };
  Arguments arguments = {};
  arguments.cache = cache;
  arguments.query = pointer<const float>(given.query);
  arguments.lengths =
      pointer<const int32_t>(given.lengths != 0 ? given.lengths : given.workspace + static_cast<uint64_t>(plan.lengths));
  arguments.output = pointer<float>(given.output);
  arguments.maxima = floats(plan.maxima);
  arguments.sums = floats(plan.sums);
  arguments.partials = floats(plan.partials);
  if (given.position_sums != 0) {
    arguments.scores = floats(plan.scores);
    arguments.totals = floats(plan.totals);
    arguments.position_sums = pointer<float>(given.position_sums);
  }
  arguments.factor = given.scale * 1.4426950408889634;  // log2 e
  arguments.lengths_are_of_heads = static_cast<int32_t>(given.lengths_are_of_heads);
  arguments.sum_positions = given.sum_positions;
  arguments.query_heads = given.query_heads;
  arguments.heads = plan.heads;
  arguments.head_blocks = plan.head_blocks;
  arguments.splits = plan.splits;
  arguments.lanes = cache.head_dim <= 64 ? 8 : cache.head_dim <= 128 ? 16 : 32;
  return arguments;
}

void run(const kv::Cache& cache, const auxcore_kv_attention& given, const Plan& plan, Context& context, CUstream stream) {
  const Arguments arguments = arguments_of(cache, given, plan);
  const int32_t heads = plan.heads <= 1 ? 1 : plan.heads <= 2 ? 2 : plan.heads <= 4 ? 4 : 8;
  const Kernel& kernel = heads == 1 ? kAttend1 : heads == 2 ? kAttend2 : heads == 4 ? kAttend4 : kAttend8;
  const Layout layout(cache, heads);
  const int64_t units = kv::product("batch", {cache.batch, cache.kv_heads, plan.head_blocks, plan.splits});
  const int64_t sum_blocks =
      kv::product("batch", {cache.batch, cache.kv_heads, (int64_t{given.sum_positions} + kSumThreads - 1) / kSumThreads});
  const Grid grid{blocks_for(units, 1), kThreads, static_cast<unsigned>(layout.bytes)};
  const unsigned rows = blocks_for(plan.rows, 1), sums = blocks_for(sum_blocks, 1);
  if (given.host_lengths != nullptr) {
    if (context.is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: give lengths in device memory");
    AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, given.workspace + static_cast<uint64_t>(plan.lengths), given.host_lengths,
        static_cast<std::size_t>(plan.lengths_count) * sizeof(int32_t), stream);
  }
  context.launch(kernel, grid, stream, arguments);
  if (plan.splits > 1)
    context.launch(kMerge, Grid{rows, kMergeThreads}, stream, arguments);
  if (given.position_sums != 0)
    context.launch(kSums, Grid{sums, kSumThreads}, stream, arguments);
}

}  // namespace
}  // namespace auxcore::kv_decode_attention

using namespace auxcore;

extern "C" {

auxcore_status auxcore_kv_attention_workspace(const auxcore_kv_cache* cache, const auxcore_kv_attention* attention, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (cache == nullptr || attention == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "cache, attention or bytes is NULL");
    kv_decode_attention::check_numbers(*cache, *attention);
    *bytes = kv_decode_attention::Plan(*cache, *attention).bytes;
  });
}

auxcore_status auxcore_kv_decode_attention(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_attention* attention) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (cache == nullptr || attention == nullptr)
      fail(AUXCORE_E_ARGUMENT, "cache or attention is NULL");
    kv_decode_attention::check_numbers(*cache, *attention);
    const kv_decode_attention::Plan plan(*cache, *attention);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    const kv::Cache seen = kv_decode_attention::check_memory(*cache, *attention, plan, *opened);
    kv_decode_attention::run(seen, *attention, plan, *opened, on);
  });
}

}  // extern "C"
