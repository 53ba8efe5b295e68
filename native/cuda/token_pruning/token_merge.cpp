// TokenMerge: checks, workspace, launches. The definitions are in TokenMerge.cs, the kernels in token_match.cu and token_merge.cu.
#include "token_merge.cuh"

#include "token_arguments.h"

namespace auxcore::token_merge {
namespace {

constexpr const char* kOp = "TokenMerge";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kNorms{kOp, &image_token_pruning, "auxcore_match_norms"};
const Kernel kLists{kOp, &image_token_pruning, "auxcore_match_lists"};
const Kernel kNearest{kOp, &image_token_pruning, "auxcore_match_nearest"};
const Kernel kAssign{kOp, &image_token_pruning, "auxcore_match_assign"};
const Kernel kBipartite{kOp, &image_token_pruning, "auxcore_match_bipartite"};
const Kernel kGroups{kOp, &image_token_pruning, "auxcore_merge_groups"};
const Kernel kRows{kOp, &image_token_pruning, "auxcore_merge_rows"};
const Kernel kBackward{kOp, &image_token_pruning, "auxcore_merge_backward"};

constexpr int64_t kMostElements = int64_t{1} << 48;
constexpr int64_t kMostChunks = 16, kWantedBlocks = 264;  // two a multiprocessor of the largest device

/// Where things lie in the workspace of a matching. MergeWorkspace.cs reckons the same.
struct MatchPlan {
  int64_t chunks, scales, sources, candidates, counts, similarities, nearest, bytes;

  MatchPlan(int64_t tokens, int64_t segments) {
    const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
    chunks = std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(1, tiles), 1, std::min(kMostChunks, std::max<int64_t>(1, tiles)));
    scales = 0;
    sources = aligned(tokens * 8);
    candidates = sources + aligned(tokens * 4);
    counts = candidates + aligned(tokens * 4);
    similarities = counts + aligned(segments * 8);
    nearest = similarities + aligned(chunks * tokens * 4);
    bytes = nearest + aligned(chunks * tokens * 4);
  }
};

void check_match_sizes(int64_t tokens, int64_t segments) {
  tokens::check_tokens("tokens", tokens);
  check_not_negative("segments", segments);
}

void match(const auxcore_token_match_batch& batch, bool is_bipartite, Context& context, CUstream stream) {
  const int element_bytes = tokens::size_of_type("type", batch.type);
  check_match_sizes(batch.tokens, batch.segments);
  check_at_least_one("depth", batch.depth);
  check_not_negative("merged", batch.merged);
  check_not_negative("protect", batch.protect);
  if (int64_t{batch.tokens} * batch.depth > kMostElements)
    fail(AUXCORE_E_ARGUMENT, "%d tokens of %d elements are more than memory holds", batch.tokens, batch.depth);
  const MatchPlan plan(batch.tokens, batch.segments);
  Memory memory(context);
  memory.read("metric", batch.metric, int64_t{batch.tokens} * batch.depth, element_bytes);
  memory.read("bounds", batch.bounds, int64_t{batch.segments} + 1, 4);
  memory.write("slots", batch.slots, batch.tokens, 4);
  if (is_bipartite)
    memory.write("offsets", batch.offsets, int64_t{batch.segments} + 1, 4);
  else if (batch.targets != 0)
    memory.read("targets", batch.targets, batch.tokens, 1);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, plan.bytes);
  memory.check_disjoint();
  if (batch.segments == 0) {
    if (is_bipartite)
      AUXCORE_CUDA(cuMemsetD8Async, batch.offsets, 0, 4, stream);
    return;
  }

  const auto at = [&](int64_t offset) { return batch.workspace + static_cast<uint64_t>(offset); };
  const Match arguments = {pointer<const void>(batch.metric), pointer<const int32_t>(batch.bounds),
      pointer<const uint8_t>(is_bipartite ? 0 : batch.targets), pointer<int32_t>(batch.slots),
      pointer<int32_t>(batch.offsets), pointer<double>(at(plan.scales)), pointer<int32_t>(at(plan.sources)),
      pointer<int32_t>(at(plan.candidates)), pointer<int32_t>(at(plan.counts)), pointer<float>(at(plan.similarities)),
      pointer<int32_t>(at(plan.nearest)), batch.type, batch.tokens, batch.depth, batch.segments, static_cast<int32_t>(plan.chunks),
      is_bipartite, batch.merged, batch.protect};
  const Grid segments{static_cast<unsigned>(batch.segments), tokens::kRankThreads};
  if (batch.tokens > 0) {
    // Each segment may end with a tile that is not full.
    const int64_t tiles = (batch.tokens + kTileTokens - 1) / kTileTokens + batch.segments;
    const Grid nearest{blocks_for(tiles * plan.chunks, 1), kThreads};
    context.launch(kNorms, Grid{blocks_for(batch.tokens, kThreads / tokens::kWarp), kThreads}, stream, arguments);
    context.launch(kLists, segments, stream, arguments);
    context.launch(kNearest, nearest, stream, arguments);
  } else {
    context.launch(kLists, segments, stream, arguments);
  }
  context.launch(is_bipartite ? kBipartite : kAssign, segments, stream, arguments);
}

int64_t begins_at(int64_t tokens) { return aligned(tokens * 4); }

int64_t merge_workspace(int64_t tokens, int64_t kept) { return begins_at(tokens) + aligned((kept + 1) * 4); }

void check_merge_sizes(int64_t tokens, int64_t kept) {
  tokens::check_tokens("tokens", tokens);
  tokens::check_tokens("kept", kept);
}

void merge(const auxcore_token_merge_batch& batch, bool is_backward, Context& context, CUstream stream) {
  const int element_bytes = tokens::size_of_type("type", batch.type);
  check_merge_sizes(batch.tokens, batch.kept);
  check_at_least_one("width", batch.width);
  if (int64_t{std::max(batch.tokens, batch.kept)} * batch.width > kMostElements)
    fail(AUXCORE_E_ARGUMENT, "%d rows of %d elements are more than memory holds", std::max(batch.tokens, batch.kept), batch.width);
  const int64_t all = int64_t{batch.tokens} * batch.width, few = int64_t{batch.kept} * batch.width;
  Memory memory(context);
  memory.read("source", batch.source, is_backward ? few : all, element_bytes);
  memory.write("destination", batch.destination, is_backward ? all : few, element_bytes);
  memory.read("slots", batch.slots, batch.tokens, 4);
  if (batch.sizes != 0)
    memory.read("sizes", batch.sizes, batch.tokens, 4);
  if (!is_backward)
    memory.write_if_wanted("merged_sizes", batch.merged_sizes, batch.kept, 4);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, merge_workspace(batch.tokens, batch.kept));
  memory.check_disjoint();

  const Groups groups = {pointer<const void>(batch.source), pointer<void>(batch.destination),
      pointer<const int32_t>(batch.slots), pointer<const float>(batch.sizes), pointer<float>(batch.merged_sizes),
      pointer<int32_t>(batch.workspace), pointer<int32_t>(batch.workspace + static_cast<uint64_t>(begins_at(batch.tokens))),
      batch.type, batch.tokens, batch.kept, batch.width};
  const int32_t rows = is_backward ? batch.tokens : batch.kept;
  if (rows == 0)
    return;
  const int64_t places = std::max(int64_t{batch.tokens}, int64_t{batch.kept} + 1);
  context.launch(kGroups, Grid{blocks_for(places, kThreads), kThreads}, stream, groups);
  context.launch(is_backward ? kBackward : kRows, Grid{blocks_for(rows, 1), kThreads}, stream, groups);
}

}  // namespace
}  // namespace auxcore::token_merge

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_match_workspace(int32_t tokens, int32_t segments, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "bytes is NULL");
    token_merge::check_match_sizes(tokens, segments);
    *bytes = token_merge::MatchPlan(tokens, segments).bytes;
  });
}

auxcore_status auxcore_token_match_bipartite(auxcore_context context, void* stream, const auxcore_token_match_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_merge::match(*batch, true, opened, on); });
}

auxcore_status auxcore_token_match_assign(auxcore_context context, void* stream, const auxcore_token_match_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_merge::match(*batch, false, opened, on); });
}

auxcore_status auxcore_token_merge_workspace(int32_t tokens, int32_t kept, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "bytes is NULL");
    token_merge::check_merge_sizes(tokens, kept);
    *bytes = token_merge::merge_workspace(tokens, kept);
  });
}

auxcore_status auxcore_token_merge(auxcore_context context, void* stream, const auxcore_token_merge_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_merge::merge(*batch, false, opened, on); });
}

auxcore_status auxcore_token_merge_backward(auxcore_context context, void* stream, const auxcore_token_merge_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_merge::merge(*batch, true, opened, on); });
}

}  // extern "C"
