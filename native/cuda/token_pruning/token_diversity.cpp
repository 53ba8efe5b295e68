// TokenDiversity: checks, workspace, launches. The definition is in TokenDiversity.cs, the kernels are in token_diversity.cu.
#include "token_diversity.cuh"

#include "token_arguments.h"

namespace auxcore::token_diversity {
namespace {

constexpr const char* kOp = "TokenDiversity";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kNorms{kOp, &image_token_pruning, "auxcore_diversity_norms"};
const Kernel kSimilarities{kOp, &image_token_pruning, "auxcore_diversity_similarities"};
const Kernel kNearest{kOp, &image_token_pruning, "auxcore_diversity_nearest"};
const Kernel kChoose{kOp, &image_token_pruning, "auxcore_diversity_choose"};

constexpr int64_t kMostElements = int64_t{1} << 48;

/// Where things lie in the workspace. DiversityWorkspace.cs reckons the same.
struct Plan {
  int64_t longest, scales, nearest, is_chosen, similarities, bytes;

  Plan(int64_t tokens, int64_t most) : longest(std::min(tokens, most)) {
    scales = 0;
    nearest = aligned(tokens * 8);
    is_chosen = nearest + aligned(tokens * 4);
    similarities = is_chosen + aligned(tokens * 4);
    bytes = similarities + aligned(tokens * longest * 4);
  }
};

void check_sizes(int64_t tokens, int64_t longest) {
  tokens::check_tokens("tokens", tokens);
  check_not_negative("longest", longest);
  if (tokens * std::min(tokens, longest) > kMostElements)
    fail(AUXCORE_E_ARGUMENT, "similarities of %lld tokens are more than memory holds", static_cast<long long>(tokens));
}

void run(const auxcore_token_diversity_batch& batch, Context& context, CUstream stream) {
  const int element_bytes = tokens::size_of_type("type", batch.type);
  check_sizes(batch.tokens, batch.longest);
  check_at_least_one("width", batch.width);
  check_not_negative("segments", batch.segments);
  check_not_negative("count", batch.count);
  check_not_negative("index_capacity", batch.index_capacity);
  if (int64_t{batch.tokens} * batch.width > kMostElements)
    fail(AUXCORE_E_ARGUMENT, "%d tokens of %d elements are more than memory holds", batch.tokens, batch.width);
  const int64_t most = std::min<int64_t>(batch.tokens, int64_t{batch.count} * batch.segments);
  if (batch.index_capacity < most)
    fail(AUXCORE_E_ARGUMENT, "index_capacity is %d, for %lld tokens", batch.index_capacity, static_cast<long long>(most));
  const Plan plan(batch.tokens, batch.longest);
  Memory memory(context);
  memory.read("source", batch.source, int64_t{batch.tokens} * batch.width, element_bytes);
  memory.read("bounds", batch.bounds, int64_t{batch.segments} + 1, 4);
  memory.write("indices", batch.indices, batch.index_capacity, 4);
  memory.write("offsets", batch.offsets, int64_t{batch.segments} + 1, 4);
  memory.write_if_wanted("slots", batch.slots, batch.tokens, 4);
  memory.write_if_wanted("nan_counts", batch.nan_counts, batch.segments, 4);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, plan.bytes);
  memory.check_disjoint();
  if (batch.segments == 0) {
    AUXCORE_CUDA(cuMemsetD8Async, batch.offsets, 0, 4, stream);
    return;
  }

  const auto at = [&](int64_t offset) { return batch.workspace + static_cast<uint64_t>(offset); };
  const Arguments arguments = {pointer<const void>(batch.source), pointer<const int32_t>(batch.bounds),
      pointer<int32_t>(batch.indices), pointer<int32_t>(batch.offsets), pointer<int32_t>(batch.slots),
      pointer<int32_t>(batch.nan_counts), pointer<double>(at(plan.scales)), pointer<float>(at(plan.nearest)),
      pointer<int32_t>(at(plan.is_chosen)), pointer<float>(at(plan.similarities)), batch.type, batch.tokens, batch.width,
      batch.segments, batch.count, static_cast<int32_t>(plan.longest), batch.index_capacity};
  if (plan.longest > 0) {
    // Each segment may end with a tile that is not full.
    const int64_t rows = (batch.tokens + kTileTokens - 1) / kTileTokens + batch.segments;
    const Grid by_warps{blocks_for(batch.tokens, kThreads / tokens::kWarp), kThreads};
    const Grid tiles{blocks_for(rows * ((plan.longest + kTileTokens - 1) / kTileTokens), 1), kThreads};
    context.launch(kNorms, by_warps, stream, arguments);
    context.launch(kSimilarities, tiles, stream, arguments);
    context.launch(kNearest, by_warps, stream, arguments);
  }
  context.launch(kChoose, Grid{static_cast<unsigned>(batch.segments), tokens::kRankThreads}, stream, arguments);
}

}  // namespace
}  // namespace auxcore::token_diversity

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_diversity_workspace(int32_t tokens, int32_t longest, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "bytes is NULL");
    token_diversity::check_sizes(tokens, longest);
    *bytes = token_diversity::Plan(tokens, longest).bytes;
  });
}

auxcore_status auxcore_token_diversity(auxcore_context context, void* stream, const auxcore_token_diversity_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_diversity::run(*batch, opened, on); });
}

}  // extern "C"
