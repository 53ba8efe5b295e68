// TokenSelect: checks and launches. The order is defined in TokenSelect.cs, the budgets in Budget.cs, the kernels are in token_select.cu.
#include "token_select.cuh"

#include "token_arguments.h"

namespace auxcore::token_select {
namespace {

constexpr const char* kOp = "TokenSelect";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kSelect{kOp, &image_token_pruning, "auxcore_token_select"};
const Kernel kRank{kOp, &image_token_pruning, "auxcore_token_rank"};
const Kernel kEmit{kOp, &image_token_pruning, "auxcore_token_emit"};

/// Whether numbers depend on scores or flags, and places on the segments before.
bool needs_cuts(const auxcore_token_select_batch& batch) {
  return batch.segments > 1 && (batch.always != 0 || batch.rule >= AUXCORE_BUDGET_THRESHOLD);
}

int64_t workspace_of(const auxcore_token_select_batch& batch) {
  return needs_cuts(batch) ? int64_t{batch.segments} * int64_t{sizeof(tokens::Cut)} : 0;
}

tokens::Budget budget_of(const auxcore_token_select_batch& batch) {
  return {batch.value, batch.rule, batch.count, batch.minimum, batch.maximum};
}

void check_sizes(const auxcore_token_select_batch& batch) {
  tokens::check_tokens("tokens", batch.tokens);
  check_not_negative("segments", batch.segments);
}

void check(const auxcore_token_select_batch& batch, const Context& context) {
  const int element_bytes = tokens::size_of_type("score_type", batch.score_type);
  check_sizes(batch);
  tokens::check_budget(budget_of(batch));
  check_not_negative("index_capacity", batch.index_capacity);
  Memory memory(context);
  memory.read("scores", batch.scores, batch.tokens, element_bytes);
  memory.read("bounds", batch.bounds, int64_t{batch.segments} + 1, 4);
  if (batch.always != 0)
    memory.read("always", batch.always, batch.tokens, 1);
  memory.write("indices", batch.indices, batch.index_capacity, 4);
  memory.write("offsets", batch.offsets, int64_t{batch.segments} + 1, 4);
  memory.write_if_wanted("slots", batch.slots, batch.tokens, 4);
  memory.write_if_wanted("nan_counts", batch.nan_counts, batch.segments, 4);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, workspace_of(batch));
  memory.check_disjoint();
}

Arguments arguments_of(const auxcore_token_select_batch& batch) {
  Arguments arguments = {};
  arguments.scores = pointer<const void>(batch.scores);
  arguments.bounds = pointer<const int32_t>(batch.bounds);
  arguments.always = pointer<const uint8_t>(batch.always);
  arguments.indices = pointer<int32_t>(batch.indices);
  arguments.offsets = pointer<int32_t>(batch.offsets);
  arguments.slots = pointer<int32_t>(batch.slots);
  arguments.nan_counts = pointer<int32_t>(batch.nan_counts);
  arguments.cuts = pointer<tokens::Cut>(needs_cuts(batch) ? batch.workspace : 0);
  arguments.budget = budget_of(batch);
  arguments.type = batch.score_type;
  arguments.tokens = batch.tokens;
  arguments.segments = batch.segments;
  arguments.capacity = batch.index_capacity;
  return arguments;
}

void run(const auxcore_token_select_batch& batch, Context& context, CUstream stream) {
  if (batch.segments == 0) {
    AUXCORE_CUDA(cuMemsetD8Async, batch.offsets, 0, 4, stream);
    return;
  }
  const Arguments arguments = arguments_of(batch);
  const Grid grid{static_cast<unsigned>(batch.segments), tokens::kRankThreads};
  if (needs_cuts(batch)) {
    context.launch(kRank, grid, stream, arguments);
    context.launch(kEmit, grid, stream, arguments);
  } else {
    context.launch(kSelect, grid, stream, arguments);
  }
}

}  // namespace
}  // namespace auxcore::token_select

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_select_workspace(const auxcore_token_select_batch* batch, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (batch == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch or bytes is NULL");
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    token_select::check_sizes(*batch);
    *bytes = token_select::workspace_of(*batch);
  });
}

auxcore_status auxcore_token_select(auxcore_context context, void* stream, const auxcore_token_select_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch, [&](Context& opened, CUstream on) {
    token_select::check(*batch, opened);
    token_select::run(*batch, opened, on);
  });
}

}  // extern "C"
