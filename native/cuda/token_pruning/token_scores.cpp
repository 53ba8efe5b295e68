// TokenScores: checks, workspace, launches. The formula is in TokenScores.cs, the kernels are in token_scores.cu.
#include "token_scores.cuh"

#include <algorithm>
#include <cmath>

#include "token_arguments.h"

namespace auxcore::token_scores {
namespace {

constexpr const char* kOp = "TokenScores";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kLogits1{kOp, &image_token_pruning, "auxcore_token_logits_1"};
const Kernel kLogits4{kOp, &image_token_pruning, "auxcore_token_logits_4"};
const Kernel kLogits8{kOp, &image_token_pruning, "auxcore_token_logits_8"};
const Kernel kColumns{kOp, &image_token_pruning, "auxcore_token_columns"};
const Kernel kSoftmaxes{kOp, &image_token_pruning, "auxcore_token_softmaxes"};
const Kernel kColumnTiles{kOp, &image_token_pruning, "auxcore_token_column_tiles"};
const Kernel kColumnSums{kOp, &image_token_pruning, "auxcore_token_column_sums"};

constexpr int64_t kMostElements = int64_t{1} << 48;
constexpr int64_t kWantedBlocks = 264;  // two a multiprocessor of the largest device

/// How the work is cut. ScoresWorkspace.cs reckons the same.
struct Plan {
  bool is_few;
  int rows_at_once;  ///< few rows: of a warp
  int64_t chunks, splits;
  int64_t logits, softmaxes, partial, bytes;  ///< workspace: where each begins, and the end

  explicit Plan(const auxcore_token_scores_batch& batch) {
    const int64_t b = batch.batch, heads = batch.query_heads, rows = batch.rows, tokens = batch.tokens;
    const int64_t shared_rows = heads / batch.key_heads * rows;
    is_few = shared_rows < kManyRows;
    rows_at_once = shared_rows <= 1 ? 1 : shared_rows <= 4 ? 4 : 8;
    const int64_t keys_at_once = kThreads / rows_at_once;
    chunks = is_few ? std::clamp<int64_t>((tokens + keys_at_once - 1) / keys_at_once, 1, kMostChunks) : 1;
    const int64_t key_tiles = (tokens + kTileRows - 1) / kTileRows;
    splits = is_few ? 1 : std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(1, b * key_tiles), 1, heads);
    logits = 0;
    softmaxes = aligned(is_few ? b * heads * rows * tokens * int64_t{sizeof(float)} : 0);
    partial = softmaxes + aligned(b * heads * rows * chunks * int64_t{sizeof(Softmax)});
    bytes = partial + aligned(is_few ? 0 : splits * b * tokens * int64_t{sizeof(double)});
  }
};

/// Elements of a product of sizes, none of which is negative.
int64_t elements(const char* name, std::initializer_list<int64_t> sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) {
    if (size > 0 && count > kMostElements / size)
      fail(AUXCORE_E_ARGUMENT, "%s: more elements than memory holds", name);
    count *= size;
  }
  return count;
}

void check_sizes(const auxcore_token_scores_batch& batch) {
  check_not_negative("batch", batch.batch);
  check_at_least_one("query_heads", batch.query_heads);
  check_at_least_one("key_heads", batch.key_heads);
  tokens::check_tokens("rows", batch.rows);
  tokens::check_tokens("tokens", batch.tokens);
  check_at_least_one("depth", batch.depth);
  if (batch.query_heads % batch.key_heads != 0)
    fail(AUXCORE_E_ARGUMENT, "query_heads %d is no multiple of key_heads %d", batch.query_heads, batch.key_heads);
  elements("logits", {batch.batch, batch.query_heads, batch.rows, std::max(batch.tokens, kMostChunks)});
  elements("queries", {batch.batch, batch.query_heads, batch.rows, batch.depth});
  elements("keys", {batch.batch, batch.key_heads, batch.tokens, batch.depth});
  if (int64_t{batch.query_heads} * batch.rows > tokens::kMostTokens)
    fail(AUXCORE_E_ARGUMENT, "%d heads of %d rows are more than 32 bits count", batch.query_heads, batch.rows);
}

/// Elements from the first to the last, both counted.
int64_t extent(const char* name, const int64_t* steps, int64_t batch, int64_t heads, int64_t rows, int64_t depth) {
  if (batch == 0 || heads == 0 || rows == 0)
    return 0;
  int64_t last = depth;
  const int64_t sizes[] = {batch, heads, rows};
  for (int i = 0; i < 3; ++i) {
    if (steps[i] < 0 || (sizes[i] > 1 && steps[i] > (kMostElements - last) / (sizes[i] - 1)))
      fail(AUXCORE_E_ARGUMENT, "%s: a step of %lld elements", name, static_cast<long long>(steps[i]));
    last += (sizes[i] - 1) * steps[i];
  }
  return last;
}

void check(const auxcore_token_scores_batch& batch, const Plan& plan, const Context& context) {
  const int element_bytes = tokens::size_of_type("type", batch.type);
  check_flag("causal", batch.causal);
  if (batch.causal != 0 && batch.rows > batch.tokens)
    fail(AUXCORE_E_ARGUMENT, "rows is %d, more than the tokens %d, with a causal mask", batch.rows, batch.tokens);
  if (!std::isfinite(batch.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g; it is finite", static_cast<double>(batch.scale));
  const int64_t rows = int64_t{batch.batch} * batch.query_heads * batch.rows;
  Memory memory(context);
  memory.read("queries", batch.queries, extent("queries", batch.query_steps, batch.batch, batch.query_heads, batch.rows, batch.depth),
      element_bytes);
  memory.read("keys", batch.keys, extent("keys", batch.key_steps, batch.batch, batch.key_heads, batch.tokens, batch.depth), element_bytes);
  if (batch.log_sum_exp != 0)
    memory.read("log_sum_exp", batch.log_sum_exp, rows, 4);
  if (batch.head_weights != 0)
    memory.read("head_weights", batch.head_weights, batch.query_heads, 4);
  if (batch.lengths != 0)
    memory.read("lengths", batch.lengths, batch.batch, 4);
  memory.write("scores", batch.scores, int64_t{batch.batch} * batch.tokens, 4);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, plan.bytes);
  memory.check_disjoint();
}

Arguments arguments_of(const auxcore_token_scores_batch& batch, const Plan& plan) {
  Arguments arguments = {};
  arguments.queries = pointer<const void>(batch.queries);
  arguments.keys = pointer<const void>(batch.keys);
  arguments.log_sum_exp = pointer<const float>(batch.log_sum_exp);
  arguments.head_weights = pointer<const float>(batch.head_weights);
  arguments.lengths = pointer<const int32_t>(batch.lengths);
  arguments.scores = pointer<float>(batch.scores);
  arguments.logits = pointer<float>(batch.workspace + static_cast<uint64_t>(plan.logits));
  arguments.softmaxes = pointer<Softmax>(batch.workspace + static_cast<uint64_t>(plan.softmaxes));
  arguments.partial = pointer<double>(batch.workspace + static_cast<uint64_t>(plan.partial));
  arguments.query_steps = {batch.query_steps[0], batch.query_steps[1], batch.query_steps[2]};
  arguments.key_steps = {batch.key_steps[0], batch.key_steps[1], batch.key_steps[2]};
  arguments.type = batch.type;
  arguments.batch = batch.batch;
  arguments.query_heads = batch.query_heads;
  arguments.key_heads = batch.key_heads;
  arguments.rows = batch.rows;
  arguments.tokens = batch.tokens;
  arguments.depth = batch.depth;
  arguments.causal = static_cast<int32_t>(batch.causal);
  arguments.chunks = static_cast<int32_t>(plan.chunks);
  arguments.splits = static_cast<int32_t>(plan.splits);
  arguments.scale = batch.scale;
  arguments.weight = static_cast<float>(1.0 / (static_cast<double>(batch.query_heads) * batch.rows));
  return arguments;
}

void run(const auxcore_token_scores_batch& batch, const Plan& plan, Context& context, CUstream stream) {
  const int64_t scores = int64_t{batch.batch} * batch.tokens;
  if (scores == 0)
    return;
  if (batch.rows == 0) {
    AUXCORE_CUDA(cuMemsetD8Async, batch.scores, 0, static_cast<std::size_t>(scores) * sizeof(float), stream);
    return;
  }
  const Arguments arguments = arguments_of(batch, plan);
  const auto grid = [](int64_t blocks) { return Grid{blocks_for(blocks, 1), kThreads}; };
  if (plan.is_few) {
    const Kernel& products = plan.rows_at_once == 1 ? kLogits1 : plan.rows_at_once == 4 ? kLogits4 : kLogits8;
    const int32_t blocks = (batch.tokens + kThreads - 1) / kThreads;
    const Grid columns = grid(int64_t{batch.batch} * blocks);
    context.launch(products, grid(int64_t{batch.batch} * batch.key_heads * plan.chunks), stream, arguments);
    context.launch(kColumns, columns, stream, arguments, blocks);
    return;
  }
  const int32_t row_tiles = (batch.rows + kTileRows - 1) / kTileRows, key_tiles = (batch.tokens + kTileRows - 1) / kTileRows;
  const Grid rows = grid(int64_t{batch.batch} * batch.query_heads * row_tiles), columns = grid(plan.splits * batch.batch * key_tiles);
  if (batch.log_sum_exp == 0)
    context.launch(kSoftmaxes, rows, stream, arguments, row_tiles);
  context.launch(kColumnTiles, columns, stream, arguments, key_tiles);
  context.launch(kColumnSums, Grid{blocks_for(scores, kThreads), kThreads}, stream, arguments);
}

}  // namespace
}  // namespace auxcore::token_scores

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_scores_workspace(const auxcore_token_scores_batch* batch, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (batch == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch or bytes is NULL");
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    token_scores::check_sizes(*batch);
    *bytes = token_scores::Plan(*batch).bytes;
  });
}

auxcore_status auxcore_token_scores(auxcore_context context, void* stream, const auxcore_token_scores_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch, [&](Context& opened, CUstream on) {
    token_scores::check_sizes(*batch);
    const token_scores::Plan plan(*batch);
    token_scores::check(*batch, plan, opened);
    token_scores::run(*batch, plan, opened, on);
  });
}

}  // extern "C"
