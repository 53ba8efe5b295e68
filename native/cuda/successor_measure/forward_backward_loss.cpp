// ForwardBackwardLoss: checks, workspace, launches. The formulas are in ForwardBackwardLoss.cs, the kernels in forward_backward_loss.cu.
#include "forward_backward_loss.cuh"

#include <algorithm>

#include "pair_arguments.h"
#include "td_arguments.h"

namespace auxcore::forward_backward {
namespace {

constexpr const char* kOp = "ForwardBackwardLoss";

AUXCORE_DECLARE_IMAGE(successor_measure);

/// The kernels for one type of inputs.
struct Kernels {
  Kernel prepare, gram, forward_tiles, backward_tiles, gradients;
};

#define AUXCORE_FB_KERNELS(type)                                                                             \
  {                                                                                                          \
    {kOp, &image_successor_measure, "auxcore_fb_prepare_" type}, {kOp, &image_successor_measure, "auxcore_fb_gram_" type},    \
        {kOp, &image_successor_measure, "auxcore_fb_forward_tiles_" type},                                   \
        {kOp, &image_successor_measure, "auxcore_fb_backward_tiles_" type},                                  \
        {kOp, &image_successor_measure, "auxcore_fb_gradients_" type},                                       \
  }

const Kernels kOfFloat32 = AUXCORE_FB_KERNELS("f32");
const Kernels kOfBFloat16 = AUXCORE_FB_KERNELS("bf16");
const Kernel kReduce{kOp, &image_successor_measure, "auxcore_fb_reduce"};
const Kernel kLoss{kOp, &image_successor_measure, "auxcore_fb_loss"};

static_assert(int{kMean} == AUXCORE_FB_MEAN && int{kMinimum} == AUXCORE_FB_MINIMUM && int{kPenalised} == AUXCORE_FB_PENALISED);

void check_numbers(const auxcore_forward_backward& batch) {
  check_struct_size("batch", batch.struct_size, sizeof batch);
  pairs::check_type(batch.type);
  if (batch.heads < 1 || batch.heads > kMostHeads)
    fail(AUXCORE_E_ARGUMENT, "heads is %d; there may be 1 to %d", batch.heads, kMostHeads);
  pairs::check_count(batch.count);
  pairs::check_dimension(batch.dimension);
  if (batch.target < kMean || batch.target > kPenalised)
    fail(AUXCORE_E_ARGUMENT, "target is %d, none of AUXCORE_FB_MEAN, …", batch.target);
  check_flag("is_gram", batch.is_gram);
  check_flag("is_difference", batch.is_difference);
  td::check_discount(batch.discount);
  check_finite_not_negative("penalty", batch.penalty);
  check_finite_not_negative("diagonal_weight", batch.diagonal_weight);
  check_finite_not_negative("orthonormality", batch.orthonormality);
  if (batch.is_gram != 0 && batch.target != kMean && (batch.target != kPenalised || batch.penalty != 0))
    fail(AUXCORE_E_ARGUMENT, "is_gram is 1, and the target is not the mean of the heads");
}

int64_t tiles_of(int64_t rows) { return (rows + kTile - 1) / kTile; }

int32_t grams_of(const auxcore_forward_backward& batch) { return batch.is_gram != 0 ? kGrams : 1; }

/// Where things lie in the workspace. It is of the order of the inputs: slices of Gram matrices are at most n / d.
struct Workspace {
  int32_t slices, segments;
  int64_t square_blocks, gram_blocks;
  int64_t discounts, products, targets, norms, target_rows, grams, operands, sums, forward_sums, backward_sums, bytes;

  explicit Workspace(const auxcore_forward_backward& batch) {
    const int64_t n = batch.count, d = batch.dimension, heads = batch.heads, gram = batch.is_gram;
    slices = static_cast<int32_t>(std::clamp<int64_t>(n / std::max<int64_t>(128, d), 1, kMostSlices));
    segments = gram != 0 ? 1 : pairs::segments_of(n);
    gram_blocks = (d * d + kThreads - 1) / kThreads;
    square_blocks = gram != 0 ? gram_blocks : tiles_of(n) * segments;
    WorkspaceLayout layout;
    discounts = layout.add(n, sizeof(float));
    products = layout.add(heads * n, sizeof(double));
    targets = layout.add(n, sizeof(double));
    norms = layout.add(n, sizeof(double));
    target_rows = layout.add(gram * n * d, sizeof(float));
    grams = layout.add(slices * grams_of(batch) * d * d, sizeof(double));
    operands = layout.add(kOperands * d * d, sizeof(float));
    sums = layout.add(square_blocks + gram_blocks, sizeof(double));
    forward_sums = layout.add((segments - 1) * heads * n * d, sizeof(float));
    backward_sums = layout.add((segments - 1) * n * d, sizeof(float));
    bytes = layout.bytes();
  }
};

void check_memory(const auxcore_forward_backward& batch, const Workspace& workspace, const Context& context) {
  const int element = batch.type == AUXCORE_FLOAT32 ? 4 : 2;
  const int64_t matrix = int64_t{batch.count} * batch.dimension;
  Memory memory(context);
  memory.read("forward", batch.forward, matrix * batch.heads, element);
  memory.read("backward", batch.backward, matrix, element);
  memory.read("target_forward", batch.target_forward, matrix * batch.heads, element);
  memory.read("target_backward", batch.target_backward, matrix, element);
  memory.read("done", batch.done, batch.count, 1);
  memory.write("forward_gradient", batch.forward_gradient, matrix * batch.heads, 4);
  memory.write("backward_gradient", batch.backward_gradient, matrix, 4);
  memory.write("loss", batch.loss, 4, 8);
  add_workspace(memory, batch.workspace, batch.workspace_bytes, workspace.bytes);
  memory.check_disjoint();
}

Batch batch_of(const auxcore_forward_backward& given, const Workspace& workspace) {
  const auto part = [&](int64_t offset) { return given.workspace + static_cast<uint64_t>(offset); };
  const int32_t pairs_of_heads = given.heads * (given.heads - 1) / 2;
  Batch batch = {};
  batch.forward = pointer<const void>(given.forward);
  batch.backward = pointer<const void>(given.backward);
  batch.target_forward = pointer<const void>(given.target_forward);
  batch.target_backward = pointer<const void>(given.target_backward);
  batch.done = pointer<const uint8_t>(given.done);
  batch.forward_gradient = pointer<float>(given.forward_gradient);
  batch.backward_gradient = pointer<float>(given.backward_gradient);
  batch.loss = pointer<double>(given.loss);
  batch.discounts = pointer<float>(part(workspace.discounts));
  batch.products = pointer<double>(part(workspace.products));
  batch.targets = pointer<double>(part(workspace.targets));
  batch.norms = pointer<double>(part(workspace.norms));
  batch.target_rows = pointer<float>(part(workspace.target_rows));
  batch.grams = pointer<double>(part(workspace.grams));
  batch.operands = pointer<float>(part(workspace.operands));
  batch.sums = pointer<double>(part(workspace.sums));
  batch.forward_sums = pointer<float>(part(workspace.forward_sums));
  batch.backward_sums = pointer<float>(part(workspace.backward_sums));
  batch.heads = given.heads;
  batch.count = given.count;
  batch.dimension = given.dimension;
  batch.target = given.target == kPenalised && given.penalty == 0 ? int32_t{kMean} : given.target;
  batch.is_gram = static_cast<int32_t>(given.is_gram);
  batch.is_difference = static_cast<int32_t>(given.is_difference);
  batch.slices = workspace.slices;
  batch.segments = workspace.segments;
  batch.square_blocks = static_cast<int32_t>(workspace.square_blocks);
  batch.gram_blocks = static_cast<int32_t>(workspace.gram_blocks);
  batch.discount = static_cast<float>(given.discount);
  batch.penalty = static_cast<float>(pairs_of_heads == 0 ? 0 : -given.penalty / pairs_of_heads);
  batch.diagonal_weight = given.diagonal_weight;
  batch.orthonormality = given.orthonormality;
  return batch;
}

void run(const auxcore_forward_backward& given, const Workspace& workspace, Context& context, CUstream stream) {
  const Kernels& kernels = given.type == AUXCORE_FLOAT32 ? kOfFloat32 : kOfBFloat16;
  const Batch batch = batch_of(given, workspace);
  const int32_t grams = grams_of(given);
  const int64_t row_tiles = tiles_of(batch.count), column_tiles = tiles_of(batch.dimension);
  const auto launch = [&](const Kernel& kernel, int64_t blocks) {
    context.launch(kernel, Grid{blocks_for(blocks, 1), kThreads}, stream, batch, grams);
  };
  launch(kernels.prepare, (int64_t{batch.count} + kThreads / kWarp - 1) / (kThreads / kWarp));
  launch(kernels.gram, column_tiles * column_tiles * grams * workspace.slices);
  launch(kReduce, workspace.gram_blocks);
  if (batch.is_gram == 0) {
    launch(kernels.forward_tiles, row_tiles * workspace.segments);
    launch(kernels.backward_tiles, row_tiles * workspace.segments);
  }
  launch(kernels.gradients, row_tiles * column_tiles * (batch.heads + 1));
  launch(kLoss, 1);
}

}  // namespace
}  // namespace auxcore::forward_backward

using namespace auxcore;

extern "C" {

auxcore_status auxcore_forward_backward_workspace(const auxcore_forward_backward* batch, int64_t* bytes) {
  return guarded(__func__, [&] {
    if (batch == nullptr || bytes == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch or bytes is NULL");
    forward_backward::check_numbers(*batch);
    *bytes = forward_backward::Workspace(*batch).bytes;
  });
}

auxcore_status auxcore_forward_backward_loss(auxcore_context context, void* stream, const auxcore_forward_backward* batch) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch is NULL");
    forward_backward::check_numbers(*batch);
    const forward_backward::Workspace workspace(*batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    forward_backward::check_memory(*batch, workspace, *opened);
    forward_backward::run(*batch, workspace, *opened, on);
  });
}

}  // extern "C"
