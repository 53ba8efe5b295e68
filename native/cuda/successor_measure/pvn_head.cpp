// PvnHead: checks, workspace, launches. The formulas are in PvnHead.cs, the kernels in pvn_head.cu.
#include "pvn_head.cuh"

#include <limits>

#include "td_arguments.h"

namespace auxcore::pvn_head {
namespace {

constexpr const char* kOp = "PvnHead";

AUXCORE_DECLARE_IMAGE(successor_measure);
const Kernel kGroup{kOp, &image_successor_measure, "auxcore_pvn_group"};
const Kernel kErrors{kOp, &image_successor_measure, "auxcore_pvn_errors"};
const Kernel kRowLosses{kOp, &image_successor_measure, "auxcore_pvn_row_losses"};
const Kernel kFeatureGradient{kOp, &image_successor_measure, "auxcore_pvn_feature_gradient"};
const Kernel kWeightGradient{kOp, &image_successor_measure, "auxcore_pvn_weight_gradient"};
const Kernel kColumns{kOp, &image_successor_measure, "auxcore_pvn_columns"};
const Kernel kMean{kOp, &image_successor_measure, "auxcore_pvn_mean"};

int64_t tiles_of(int64_t count) { return (count + kTile - 1) / kTile; }

/// Where things lie in the workspace. PvnWorkspace.cs reckons the same.
struct Workspace {
  int64_t error, losses, order, offsets, bytes;

  Workspace(int64_t rows, int64_t tasks, int64_t actions) {
    error = 0;
    losses = aligned(rows * tasks * int64_t{sizeof(float)});
    order = losses + aligned(rows * tiles_of(tasks) * int64_t{sizeof(double)});
    offsets = order + aligned(rows * int64_t{sizeof(int32_t)});
    bytes = offsets + aligned((actions + 2) * int64_t{sizeof(int32_t)});
  }
};

void check_sizes(int64_t rows, int64_t tasks, int64_t actions) {
  check_at_least_one("rows", rows);
  check_at_least_one("tasks", tasks);
  check_at_least_one("actions", actions);
  if (rows * tasks > std::numeric_limits<int64_t>::max() / 64)
    fail(AUXCORE_E_ARGUMENT, "%lld rows of %lld tasks are more than memory holds", static_cast<long long>(rows),
        static_cast<long long>(tasks));
}

void check(const auxcore_indicator_td_batch& batch, const auxcore_pvn& heads, const Context& context) {
  check_sizes(batch.rows, batch.tasks, heads.actions);
  check_at_least_one("heads->features", heads.features);
  td::check_discount(batch.discount);
  check_flag("batch->normalised", batch.normalised);
  if (heads.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "heads->reserved is %u, not 0", heads.reserved);
  if (batch.value_type != AUXCORE_FLOAT32 || batch.prediction != 0 || batch.next_values != 0 || batch.gradient != 0)
    fail(AUXCORE_E_ARGUMENT, "batch: value_type is %d, and prediction, next_values and gradient are not all 0", batch.value_type);
  if (batch.loss != 0 && batch.row_losses == 0)
    fail(AUXCORE_E_ARGUMENT, "row_losses is 0, and the loss is summed from them");
  if (int64_t{heads.features} * batch.tasks > std::numeric_limits<int64_t>::max() / 64 / heads.actions)
    fail(AUXCORE_E_ARGUMENT, "weights [%d, %d, %d] are more than memory holds", batch.tasks, heads.actions, heads.features);

  const int64_t states = int64_t{batch.rows} * heads.features, mean = int64_t{batch.tasks} * heads.features;
  Memory memory(context);
  memory.read("current", heads.current, states, 4);
  memory.read("next", heads.next, states, 4);
  memory.read("weights", heads.weights, mean * heads.actions, 4);
  memory.read("target_mean", heads.target_mean, mean, 4);
  memory.read("taken", heads.taken, batch.rows, 4);
  memory.read("done", batch.done, batch.rows, 1);
  td::add_sets(memory, batch.feature_type, batch.features, batch.thresholds, batch.rows, batch.tasks);
  memory.write_if_wanted("feature_gradient", heads.feature_gradient, states, 4);
  memory.write_if_wanted("weight_gradient", heads.weight_gradient, mean * heads.actions, 4);
  add_workspace(memory, heads.workspace, heads.workspace_bytes, Workspace(batch.rows, batch.tasks, heads.actions).bytes);
  memory.write_if_wanted("loss", batch.loss, 1, 8);
  memory.write_if_wanted("row_losses", batch.row_losses, batch.rows, 8);
  memory.write_if_wanted("active_counts", batch.active_counts, batch.tasks, 4);
  memory.write_if_wanted("mean_absolute_errors", batch.mean_absolute_errors, batch.tasks, 4);
  memory.check_disjoint();
}

Arguments arguments_of(const auxcore_indicator_td_batch& batch, const auxcore_pvn& heads, const Workspace& workspace) {
  Arguments arguments = {};
  arguments.features = pointer<const float>(heads.current);
  arguments.next_features = pointer<const float>(heads.next);
  arguments.weights = pointer<const float>(heads.weights);
  arguments.target_mean = pointer<const float>(heads.target_mean);
  arguments.actions = pointer<const int32_t>(heads.taken);
  arguments.done = pointer<const uint8_t>(batch.done);
  arguments.sets = {pointer<const void>(batch.features), pointer<const float>(batch.thresholds), batch.feature_type};
  arguments.feature_gradient = pointer<float>(heads.feature_gradient);
  arguments.weight_gradient = pointer<float>(heads.weight_gradient);
  arguments.error = pointer<float>(heads.workspace + static_cast<uint64_t>(workspace.error));
  arguments.losses = pointer<double>(heads.workspace + static_cast<uint64_t>(workspace.losses));
  arguments.order = pointer<int32_t>(heads.workspace + static_cast<uint64_t>(workspace.order));
  arguments.offsets = pointer<int32_t>(heads.workspace + static_cast<uint64_t>(workspace.offsets));
  arguments.rows = batch.rows;
  arguments.feature_count = heads.features;
  arguments.tasks = batch.tasks;
  arguments.action_count = heads.actions;
  arguments.discount = static_cast<float>(batch.discount);
  arguments.height = td::height_of(batch.discount, batch.normalised);
  arguments.scale = static_cast<float>(1 / (batch.rows * static_cast<double>(batch.tasks)));
  return arguments;
}

void run(const auxcore_indicator_td_batch& batch, const auxcore_pvn& heads, Context& context, CUstream stream) {
  const Arguments arguments = arguments_of(batch, heads, Workspace(batch.rows, batch.tasks, heads.actions));
  const int32_t task_tiles = static_cast<int32_t>(tiles_of(batch.tasks)), feature_tiles = static_cast<int32_t>(tiles_of(heads.features));
  // Each group may end with a tile that is not full, and there is a group for rows without an action.
  const int64_t row_tiles = tiles_of(batch.rows) + heads.actions + 1;
  const Grid group{blocks_for(std::max<int64_t>(batch.rows, int64_t{heads.actions} + 2), kGroupThreads), kGroupThreads};
  const Grid errors{blocks_for(row_tiles * task_tiles, 1), kThreads};
  const Grid by_feature{blocks_for(row_tiles * feature_tiles, 1), kThreads};
  const Grid by_weight{blocks_for(int64_t{heads.actions} * task_tiles * feature_tiles, 1), kThreads};

  context.launch(kGroup, group, stream, heads.taken, int32_t{batch.rows}, int32_t{heads.actions}, arguments.order, arguments.offsets);
  context.launch(kErrors, errors, stream, arguments, task_tiles);
  if (batch.row_losses != 0)
    context.launch(kRowLosses, Grid{blocks_for(batch.rows, kThreads), kThreads}, stream, arguments.losses, int32_t{batch.rows},
        task_tiles, 0.5 / batch.tasks, batch.row_losses);
  if (batch.loss != 0)
    td::launch_mean(context, stream, batch.row_losses, batch.rows, batch.loss);
  if (batch.active_counts != 0 || batch.mean_absolute_errors != 0)
    context.launch(kColumns, Grid{blocks_for(batch.tasks, td::kColumns), kThreads}, stream, arguments, batch.active_counts,
        batch.mean_absolute_errors);
  if (heads.feature_gradient != 0)
    context.launch(kFeatureGradient, by_feature, stream, arguments, feature_tiles);
  if (heads.weight_gradient != 0)
    context.launch(kWeightGradient, by_weight, stream, arguments, task_tiles, feature_tiles);
}

}  // namespace
}  // namespace auxcore::pvn_head

using namespace auxcore;

extern "C" {

auxcore_status auxcore_pvn_head_workspace(int32_t rows, int32_t tasks, int32_t actions, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "bytes is NULL");
    pvn_head::check_sizes(rows, tasks, actions);
    *bytes = pvn_head::Workspace(rows, tasks, actions).bytes;
  });
}

auxcore_status auxcore_pvn_head(
    auxcore_context context, void* stream, const auxcore_indicator_td_batch* batch, const auxcore_pvn* heads) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr || heads == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch or heads is NULL");
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    check_struct_size("heads", heads->struct_size, sizeof *heads);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    pvn_head::check(*batch, *heads, *opened);
    pvn_head::run(*batch, *heads, *opened, on);
  });
}

auxcore_status auxcore_pvn_mean_over_actions(
    auxcore_context context, void* stream, uint64_t weights, int32_t tasks, int32_t actions, int32_t features, uint64_t mean) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    check_at_least_one("tasks", tasks);
    check_at_least_one("actions", actions);
    check_at_least_one("features", features);
    if (int64_t{features} * tasks > std::numeric_limits<int64_t>::max() / 64 / actions)
      fail(AUXCORE_E_ARGUMENT, "weights [%d, %d, %d] are more than memory holds", tasks, actions, features);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    const int64_t elements = int64_t{tasks} * features;
    Memory memory(*opened);
    memory.read("weights", weights, elements * actions, 4);
    memory.write("mean", mean, elements, 4);
    memory.check_disjoint();
    opened->launch(pvn_head::kMean, Grid{blocks_for(elements, pvn_head::kThreads), pvn_head::kThreads}, on, weights, tasks, actions,
        features, mean);
  });
}

}  // extern "C"
