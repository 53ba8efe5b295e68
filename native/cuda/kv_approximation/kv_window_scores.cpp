// KvWindowScores: checks and launches. The formula is in KvWindowScores.cs, the kernels in kv_window_scores.cu.
#include "kv_window_scores.cuh"

#include <cmath>

#include "kv_arguments.h"

namespace auxcore::kv_window_scores {
namespace {

constexpr const char* kOp = "KvWindowScores";

AUXCORE_DECLARE_IMAGE(kv_approximation);
const Kernel kSoftmaxes{kOp, &image_kv_approximation, "auxcore_kv_window_softmaxes"};
const Kernel kMeans{kOp, &image_kv_approximation, "auxcore_kv_window_means"};
const Kernel kProducts{kOp, &image_kv_approximation, "auxcore_kv_window_products"};
const Kernel kShares{kOp, &image_kv_approximation, "auxcore_kv_window_shares"};
const Kernel kCollect{kOp, &image_kv_approximation, "auxcore_kv_window_collect"};

/// What calls with logits and with queries and keys have in common.
template <class Window>
void check_window(const char* name, const Window& given) {
  check_struct_size(name, given.struct_size, sizeof given);
  if (given.heads < 0)
    fail(AUXCORE_E_ARGUMENT, "heads is %d", given.heads);
  check_at_least_one("group", given.group);
  check_at_least_one("window", given.window);
  if (given.positions < 0)
    fail(AUXCORE_E_ARGUMENT, "positions is %d", given.positions);
  check_flag("causal", given.causal);
  if (given.causal != 0 && given.window > given.positions)
    fail(AUXCORE_E_ARGUMENT, "window is %d, more than %d positions, and causal", given.window, given.positions);
  blocks_for(kv::product("heads", {given.heads, given.group, given.window}), 1);
}

void check_sizes(const auxcore_kv_window& given) { check_window("window", given); }

template <class Window>
int64_t rows_of(const Window& given) {
  return int64_t{given.heads} * given.group * given.window;
}

int64_t workspace_of(const auxcore_kv_window& given) { return rows_of(given) * int64_t{sizeof(RowSoftmax)}; }

void check(const auxcore_kv_window& given, const Context& context) {
  if (!std::isfinite(given.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite", given.scale);
  Memory memory(context);
  memory.read("logits", given.logits, kv::product("logits", {rows_of(given), given.positions}), 4);
  memory.write("scores", given.scores, kv::product("scores", {given.heads, given.positions}), 4);
  add_workspace(memory, given.workspace, given.workspace_bytes, workspace_of(given));
  memory.check_disjoint();
}

void run(const auxcore_kv_window& given, Context& context, CUstream stream) {
  Arguments arguments = {};
  arguments.logits = pointer<const float>(given.logits);
  arguments.scores = pointer<float>(given.scores);
  arguments.softmaxes = pointer<RowSoftmax>(given.workspace);
  arguments.factor = static_cast<float>(given.scale * 1.4426950408889634);  // log2 e
  arguments.rows = given.group * given.window;
  arguments.window = given.window;
  arguments.positions = given.positions;
  arguments.causal = static_cast<int32_t>(given.causal);
  const int64_t blocks = (int64_t{given.positions} + kThreads - 1) / kThreads;
  const Grid means{blocks_for(kv::product("scores", {given.heads, blocks}), 1), kThreads};
  context.launch(kSoftmaxes, Grid{blocks_for(rows_of(given), 1), kThreads}, stream, arguments);
  context.launch(kMeans, means, stream, arguments);
}

void check_sizes(const auxcore_kv_window_product& given) {
  check_window("product", given);
  check_at_least_one("depth", given.depth);
  if (given.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "reserved is %u, not 0", given.reserved);
  if (given.key_step < 0 || given.head_step < 0)
    fail(AUXCORE_E_ARGUMENT, "key_step is %lld and head_step is %lld", static_cast<long long>(given.key_step),
        static_cast<long long>(given.head_step));
}

/// How the work is parted, and where things lie in the workspace.
struct ProductPlan {
  int64_t row_tiles, key_tiles, weights, parts, bytes;

  explicit ProductPlan(const auxcore_kv_window_product& given)
      : row_tiles((int64_t{given.group} * given.window - 1) / kTileRows + 1),
        key_tiles((int64_t{given.positions} + kTileKeys - 1) / kTileKeys) {
    WorkspaceLayout layout;
    weights = layout.add(kv::product("positions", {rows_of(given), given.positions}), sizeof(float));
    parts = layout.add(kv::product("positions", {rows_of(given), key_tiles}), sizeof(TilePart));
    bytes = layout.bytes();
  }
};

void check(const auxcore_kv_window_product& given, const ProductPlan& plan, const Context& context) {
  if (!std::isfinite(given.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite", given.scale);
  const int64_t keys = kv::sum("keys", kv::sum("head_step", kv::product("head_step", {given.heads - 1, given.head_step}),
                                           kv::product("key_step", {given.positions - 1, given.key_step})), given.depth);
  Memory memory(context);
  memory.read("queries", given.queries, kv::product("depth", {rows_of(given), given.depth}), 4);
  memory.read("keys", given.keys, keys, 4);
  memory.write("scores", given.scores, kv::product("scores", {given.heads, given.positions}), 4);
  add_workspace(memory, given.workspace, given.workspace_bytes, plan.bytes);
  memory.check_disjoint();
}

void run(const auxcore_kv_window_product& given, const ProductPlan& plan, Context& context, CUstream stream) {
  ProductArguments arguments = {};
  arguments.queries = pointer<const float>(given.queries);
  arguments.keys = pointer<const float>(given.keys);
  arguments.scores = pointer<float>(given.scores);
  arguments.weights = pointer<float>(given.workspace + static_cast<uint64_t>(plan.weights));
  arguments.parts = pointer<TilePart>(given.workspace + static_cast<uint64_t>(plan.parts));
  arguments.key_step = given.key_step;
  arguments.head_step = given.head_step;
  arguments.factor = static_cast<float>(given.scale * 1.4426950408889634);  // log2 e
  arguments.heads = given.heads;
  arguments.rows = given.group * given.window;
  arguments.window = given.window;
  arguments.positions = given.positions;
  arguments.depth = given.depth;
  arguments.causal = static_cast<int32_t>(given.causal);
  arguments.key_tiles = static_cast<int32_t>(plan.key_tiles);
  const int64_t blocks = (int64_t{given.positions} + kThreads - 1) / kThreads;
  const Grid products{blocks_for(kv::product("heads", {given.heads, plan.key_tiles, plan.row_tiles}), 1), kProductThreads};
  const Grid shares{blocks_for(rows_of(given), kRowsOfBlock), kRowsOfBlock * 32};
  const Grid collect{blocks_for(kv::product("scores", {given.heads, blocks}), 1), kThreads};
  context.launch(kProducts, products, stream, arguments);
  context.launch(kShares, shares, stream, arguments);
  context.launch(kCollect, collect, stream, arguments);
}

}  // namespace
}  // namespace auxcore::kv_window_scores

using namespace auxcore;

extern "C" {

auxcore_status auxcore_kv_window_workspace(const auxcore_kv_window* window, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (window == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "window or bytes is NULL");
    kv_window_scores::check_sizes(*window);
    *bytes = kv_window_scores::workspace_of(*window);
  });
}

auxcore_status auxcore_kv_window_scores(auxcore_context context, void* stream, const auxcore_kv_window* window) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (window == nullptr)
      fail(AUXCORE_E_ARGUMENT, "window is NULL");
    kv_window_scores::check_sizes(*window);
    if (window->heads == 0 || window->positions == 0)
      return;
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    kv_window_scores::check(*window, *opened);
    kv_window_scores::run(*window, *opened, on);
  });
}

auxcore_status auxcore_kv_window_product_workspace(const auxcore_kv_window_product* product, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (product == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "product or bytes is NULL");
    kv_window_scores::check_sizes(*product);
    *bytes = kv_window_scores::ProductPlan(*product).bytes;
  });
}

auxcore_status auxcore_kv_window_scores_of_product(auxcore_context context, void* stream, const auxcore_kv_window_product* product) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (product == nullptr)
      fail(AUXCORE_E_ARGUMENT, "product is NULL");
    kv_window_scores::check_sizes(*product);
    if (product->heads == 0 || product->positions == 0)
      return;
    const kv_window_scores::ProductPlan plan(*product);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    kv_window_scores::check(*product, plan, *opened);
    kv_window_scores::run(*product, plan, *opened, on);
  });
}

}  // extern "C"
