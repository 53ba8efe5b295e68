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

void check_sizes(const auxcore_kv_window& given) {
  td::check_struct_size("window", given.struct_size, sizeof given);
  if (given.heads < 0)
    fail(AUXCORE_E_ARGUMENT, "heads is %d", given.heads);
  td::check_at_least_one("group", given.group);
  td::check_at_least_one("window", given.window);
  if (given.positions < 0)
    fail(AUXCORE_E_ARGUMENT, "positions is %d", given.positions);
  td::check_flag("causal", given.causal);
  if (given.causal != 0 && given.window > given.positions)
    fail(AUXCORE_E_ARGUMENT, "window is %d, more than %d positions, and causal", given.window, given.positions);
  td::blocks_for(kv::product("heads", {given.heads, given.group, given.window}), 1);
}

int64_t rows_of(const auxcore_kv_window& given) { return int64_t{given.heads} * given.group * given.window; }

int64_t workspace_of(const auxcore_kv_window& given) { return rows_of(given) * int64_t{sizeof(RowSoftmax)}; }

void check(const auxcore_kv_window& given, const Context& context) {
  if (!std::isfinite(given.scale))
    fail(AUXCORE_E_ARGUMENT, "scale is %g, not finite", given.scale);
  td::Memory memory(context);
  memory.read("logits", given.logits, kv::product("logits", {rows_of(given), given.positions}), 4);
  memory.write("scores", given.scores, kv::product("scores", {given.heads, given.positions}), 4);
  pairs::add_workspace(memory, given.workspace, given.workspace_bytes, workspace_of(given));
  memory.check_disjoint();
}

void run(const auxcore_kv_window& given, Context& context, CUstream stream) {
  Arguments arguments = {};
  arguments.logits = td::pointer<const float>(given.logits);
  arguments.scores = td::pointer<float>(given.scores);
  arguments.softmaxes = td::pointer<RowSoftmax>(given.workspace);
  arguments.factor = static_cast<float>(given.scale * 1.4426950408889634);  // log2 e
  arguments.rows = given.group * given.window;
  arguments.window = given.window;
  arguments.positions = given.positions;
  arguments.causal = static_cast<int32_t>(given.causal);
  const int64_t blocks = (int64_t{given.positions} + kThreads - 1) / kThreads;
  const Grid means{td::blocks_for(kv::product("scores", {given.heads, blocks}), 1), kThreads};
  context.launch(kSoftmaxes, Grid{td::blocks_for(rows_of(given), 1), kThreads}, stream, arguments);
  context.launch(kMeans, means, stream, arguments);
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

}  // extern "C"
