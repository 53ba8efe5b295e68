// InfoNceLoss: checks, workspace, launches. The formulas are in InfoNceLoss.cs, the kernels in info_nce_loss.cu.
#include "info_nce_loss.cuh"

#include <cmath>

#include "pair_arguments.h"

namespace auxcore::info_nce {
namespace {

constexpr const char* kOp = "InfoNceLoss";

AUXCORE_DECLARE_IMAGE(successor_measure);

/// The kernels for one type of inputs.
struct Kernels {
  Kernel centre, prepare, row_sums, column_sums, query_weights, key_weights, finish_queries, finish_keys;
};

#define AUXCORE_INFO_NCE_KERNELS(type)                                                                                       \
  {                                                                                                                          \
    {kOp, &image_successor_measure, "auxcore_info_nce_centre_" type},                                                       \
        {kOp, &image_successor_measure, "auxcore_info_nce_prepare_" type},                                                  \
        {kOp, &image_successor_measure, "auxcore_info_nce_row_sums_" type},                                                 \
        {kOp, &image_successor_measure, "auxcore_info_nce_column_sums_" type},                                              \
        {kOp, &image_successor_measure, "auxcore_info_nce_query_weights_" type},                                            \
        {kOp, &image_successor_measure, "auxcore_info_nce_key_weights_" type},                                              \
        {kOp, &image_successor_measure, "auxcore_info_nce_finish_queries_" type},                                           \
        {kOp, &image_successor_measure, "auxcore_info_nce_finish_keys_" type},                                              \
  }

const Kernels kOfFloat32 = AUXCORE_INFO_NCE_KERNELS("f32");
const Kernels kOfBFloat16 = AUXCORE_INFO_NCE_KERNELS("bf16");
const Kernel kMergeRows{kOp, &image_successor_measure, "auxcore_info_nce_merge_rows"};
const Kernel kMergeColumns{kOp, &image_successor_measure, "auxcore_info_nce_merge_columns"};
const Kernel kPositives{kOp, &image_successor_measure, "auxcore_info_nce_positives"};
const Kernel kLoss{kOp, &image_successor_measure, "auxcore_info_nce_loss"};

static_assert(int{kNegativeDistance} == AUXCORE_INFO_NCE_NEGATIVE_DISTANCE && int{kDot} == AUXCORE_INFO_NCE_DOT &&
              int{kNegativeSquaredDistance} == AUXCORE_INFO_NCE_NEGATIVE_SQUARED_DISTANCE && int{kCosine} == AUXCORE_INFO_NCE_COSINE);

void check_numbers(const auxcore_info_nce& batch) {
  check_struct_size("batch", batch.struct_size, sizeof batch);
  pairs::check_type(batch.type);
  pairs::check_count(batch.count);
  pairs::check_dimension(batch.dimension);
  if (batch.similarity < kNegativeDistance || batch.similarity > kCosine)
    fail(AUXCORE_E_ARGUMENT, "similarity is %d, none of AUXCORE_INFO_NCE_NEGATIVE_DISTANCE, …", batch.similarity);
  check_flag("is_symmetric", batch.is_symmetric);
  check_flag("excludes_positives", batch.excludes_positives);
  if (batch.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "reserved is %u, not 0", batch.reserved);
  if (!(batch.temperature > 0 && std::isfinite(batch.temperature)))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "temperature is %g, not finite and above 0", batch.temperature);
  check_finite_not_negative("penalty", batch.penalty);
  check_finite_not_negative("distance_offset", batch.distance_offset);
}

/// Where things lie in the workspace.
struct Workspace {
  int32_t segments;
  int64_t centre, query_terms, key_terms, positives, positive_weights, maxima, sums, row_log_sums, column_log_sums, row_logs, row_factors,
      column_logs, query_weights, key_weights, query_sums, key_sums, bytes;

  explicit Workspace(const auxcore_info_nce& batch) {
    const int64_t n = batch.count, d = batch.dimension;
    segments = pairs::segments_of(n);
    WorkspaceLayout layout;
    const auto floats = [&](int64_t count) { return layout.add(count, sizeof(float)); };
    const auto doubles = [&](int64_t count) { return layout.add(count, sizeof(double)); };
    centre = floats(d);
    query_terms = floats(n);
    key_terms = floats(n);
    positives = doubles(n);
    positive_weights = floats(n);
    maxima = floats(segments * n);
    sums = floats(segments * n);
    row_log_sums = doubles(n);
    column_log_sums = doubles(n);
    row_logs = floats(n);
    row_factors = floats(n);
    column_logs = floats(n);
    query_weights = floats(segments * n);
    key_weights = floats(segments * n);
    query_sums = floats((segments - 1) * n * d);
    key_sums = floats((segments - 1) * n * d);
    bytes = layout.bytes();
  }
};

void check_memory(const auxcore_info_nce& batch, const Workspace& workspace, const Context& context) {
  const int element = batch.type == AUXCORE_FLOAT32 ? 4 : 2;
  const int64_t matrix = int64_t{batch.count} * batch.dimension;
  Memory memory(context);
  memory.read("queries", batch.queries, matrix, element);
  memory.read("keys", batch.keys, matrix, element);
  memory.write("query_gradient", batch.query_gradient, matrix, 4);
  memory.write("key_gradient", batch.key_gradient, matrix, 4);
  memory.write("loss", batch.loss, 2, 8);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, workspace.bytes);
  memory.check_disjoint();
}

Batch batch_of(const auxcore_info_nce& given, const Workspace& workspace) {
  const auto floats = [&](int64_t offset) { return pointer<float>(given.workspace + static_cast<uint64_t>(offset)); };
  const auto doubles = [&](int64_t offset) { return pointer<double>(given.workspace + static_cast<uint64_t>(offset)); };
  Batch batch = {};
  batch.queries = pointer<const void>(given.queries);
  batch.keys = pointer<const void>(given.keys);
  batch.query_gradient = pointer<float>(given.query_gradient);
  batch.key_gradient = pointer<float>(given.key_gradient);
  batch.loss = pointer<double>(given.loss);
  batch.centre = floats(workspace.centre);
  batch.query_terms = floats(workspace.query_terms);
  batch.key_terms = floats(workspace.key_terms);
  batch.positives = doubles(workspace.positives);
  batch.positive_weights = floats(workspace.positive_weights);
  batch.maxima = floats(workspace.maxima);
  batch.sums = floats(workspace.sums);
  batch.row_log_sums = doubles(workspace.row_log_sums);
  batch.column_log_sums = doubles(workspace.column_log_sums);
  batch.row_logs = floats(workspace.row_logs);
  batch.row_factors = floats(workspace.row_factors);
  batch.column_logs = floats(workspace.column_logs);
  batch.query_weights = floats(workspace.query_weights);
  batch.key_weights = floats(workspace.key_weights);
  batch.query_sums = floats(workspace.query_sums);
  batch.key_sums = floats(workspace.key_sums);
  batch.count = given.count;
  batch.dimension = given.dimension;
  batch.similarity = given.similarity;
  batch.is_symmetric = static_cast<int32_t>(given.is_symmetric);
  batch.excludes_positives = static_cast<int32_t>(given.excludes_positives);
  batch.segments = workspace.segments;
  batch.scale = static_cast<float>(1 / given.temperature);
  batch.distance_offset = static_cast<float>(given.distance_offset);
  batch.penalty = given.penalty;
  return batch;
}

void run(const auxcore_info_nce& given, const Workspace& workspace, Context& context, CUstream stream) {
  const Kernels& kernels = given.type == AUXCORE_FLOAT32 ? kOfFloat32 : kOfBFloat16;
  const Batch batch = batch_of(given, workspace);
  const int64_t n = batch.count, tiles = (n + kTile - 1) / kTile * workspace.segments;
  const auto launch = [&](const Kernel& kernel, int64_t work, int64_t a_block) {
    context.launch(kernel, Grid{blocks_for(work, a_block), kThreads}, stream, batch);
  };
  if (batch.similarity <= kNegativeSquaredDistance)
    launch(kernels.centre, batch.dimension, kWarp);
  launch(kernels.prepare, n, kThreads / kWarp);
  launch(kernels.row_sums, tiles, 1);
  launch(kMergeRows, n, kThreads);
  if (batch.is_symmetric != 0) {
    launch(kernels.column_sums, tiles, 1);
    launch(kMergeColumns, n, kThreads);
  }
  launch(kPositives, n, kThreads);
  launch(kernels.query_weights, tiles, 1);
  launch(kernels.key_weights, tiles, 1);
  launch(kernels.finish_queries, n, kThreads / kWarp);
  launch(kernels.finish_keys, n, kThreads / kWarp);
  launch(kLoss, 1, 1);
}

}  // namespace
}  // namespace auxcore::info_nce

using namespace auxcore;

extern "C" {

auxcore_status auxcore_info_nce_workspace(const auxcore_info_nce* batch, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (batch == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch or bytes is NULL");
    info_nce::check_numbers(*batch);
    *bytes = info_nce::Workspace(*batch).bytes;
  });
}

auxcore_status auxcore_info_nce_loss(auxcore_context context, void* stream, const auxcore_info_nce* batch) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch is NULL");
    info_nce::check_numbers(*batch);
    const info_nce::Workspace workspace(*batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    info_nce::check_memory(*batch, workspace, *opened);
    info_nce::run(*batch, workspace, *opened, on);
  });
}

}  // extern "C"
