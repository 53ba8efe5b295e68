// TokenPool: checks and launches. The formulas are in TokenPool.cs, the kernels in token_pool.cu.
#include "token_pool.cuh"

#include <limits>

#include "token_arguments.h"

namespace auxcore::token_pool {
namespace {

constexpr const char* kOp = "TokenPool";

AUXCORE_DECLARE_IMAGE(token_pruning);
const Kernel kPool{kOp, &image_token_pruning, "auxcore_token_pool"};
const Kernel kPoolBackward{kOp, &image_token_pruning, "auxcore_token_pool_backward"};

/// As many cells along one side as a window, or their number without one, says.
void check_side(const char* tokens_name, int32_t tokens, const char* cells_name, int32_t cells, const char* window_name, int32_t window) {
  check_at_least_one(tokens_name, tokens);
  check_at_least_one(cells_name, cells);
  check_not_negative(window_name, window);
  if (window > 0 ? cells != (int64_t{tokens} + window - 1) / window : cells > tokens)
    fail(AUXCORE_E_ARGUMENT, "%s is %d, with %s %d and %s %d", cells_name, cells, tokens_name, tokens, window_name, window);
}

int64_t elements(const char* name, int64_t batch, int64_t rows, int64_t columns, int64_t channels) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 64;
  if (rows > kMost / columns / channels || (batch > 0 && rows * columns * channels > kMost / batch))
    fail(AUXCORE_E_ARGUMENT, "%s are more than memory holds", name);
  return batch * rows * columns * channels;
}

void run(const auxcore_token_pool_batch& batch, bool backward, Context& context, CUstream stream) {
  const int element_bytes = tokens::size_of_type("type", batch.type);
  check_side("height", batch.height, "rows", batch.rows, "window_height", batch.window_height);
  check_side("width", batch.width, "columns", batch.columns, "window_width", batch.window_width);
  check_at_least_one("channels", batch.channels);
  check_not_negative("batch", batch.batch);
  if ((batch.window_height > 0) != (batch.window_width > 0))
    fail(AUXCORE_E_ARGUMENT, "window_height is %d and window_width %d; both are 0 or none is", batch.window_height, batch.window_width);
  if (int64_t{batch.height} * batch.width > std::numeric_limits<int32_t>::max())
    fail(AUXCORE_E_ARGUMENT, "a grid of %d x %d tokens is more than 32 bits count", batch.height, batch.width);
  const int64_t all = elements("tokens", batch.batch, batch.height, batch.width, batch.channels);
  const int64_t few = elements("cells", batch.batch, batch.rows, batch.columns, batch.channels);
  Memory memory(context);
  memory.read("source", batch.source, backward ? few : all, element_bytes);
  memory.write("destination", batch.destination, backward ? all : few, element_bytes);
  memory.check_disjoint();
  if (batch.batch == 0)
    return;

  constexpr int kTogether = 4;
  const auto bytes = static_cast<uint64_t>(kTogether * element_bytes);
  const bool is_single = batch.channels % kTogether != 0 || batch.source % bytes != 0 || batch.destination % bytes != 0;
  const int per_vector = is_single ? 1 : kTogether;
  const Arguments arguments = {pointer<const void>(batch.source), pointer<void>(batch.destination),
      (backward ? all : few) / per_vector, batch.channels / per_vector, batch.type,
      {batch.height, batch.width, batch.rows, batch.columns, batch.window_height, batch.window_width}};
  context.launch(backward ? kPoolBackward : kPool, Grid{blocks_for(arguments.units, kThreads), kThreads}, stream, arguments,
      static_cast<int32_t>(is_single));
}

}  // namespace
}  // namespace auxcore::token_pool

using namespace auxcore;

extern "C" {

auxcore_status auxcore_token_pool(auxcore_context context, void* stream, const auxcore_token_pool_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_pool::run(*batch, false, opened, on); });
}

auxcore_status auxcore_token_pool_backward(auxcore_context context, void* stream, const auxcore_token_pool_batch* batch) {
  return tokens::with_batch(__func__, context, stream, batch,
      [&](Context& opened, CUstream on) { token_pool::run(*batch, true, opened, on); });
}

}  // extern "C"
