// The kernels of ForwardBackwardLoss and InfoNceLoss against the formulas, launched as their host code does, in several thread orders.
#include "../device/device.cuh"
#include "../successor_measure/forward_backward_loss.cuh"
#include "../successor_measure/info_nce_loss.cuh"

#include "check.h"
#include "pair_formulas.h"

#include <array>
#include <deque>
#include <vector>

namespace auxcore {

#define AUXCORE_FB_DECLARE(name) extern "C" void auxcore_fb_##name(Batch batch, int32_t grams);
namespace forward_backward {
AUXCORE_FB_DECLARE(prepare_f32)
AUXCORE_FB_DECLARE(gram_f32)
AUXCORE_FB_DECLARE(reduce)
AUXCORE_FB_DECLARE(forward_tiles_f32)
AUXCORE_FB_DECLARE(backward_tiles_f32)
AUXCORE_FB_DECLARE(gradients_f32)
AUXCORE_FB_DECLARE(loss)
}  // namespace forward_backward

#define AUXCORE_INFO_NCE_DECLARE(name) extern "C" void auxcore_info_nce_##name(Batch batch);
namespace info_nce {
AUXCORE_INFO_NCE_DECLARE(centre_f32)
AUXCORE_INFO_NCE_DECLARE(prepare_f32)
AUXCORE_INFO_NCE_DECLARE(row_sums_f32)
AUXCORE_INFO_NCE_DECLARE(column_sums_f32)
AUXCORE_INFO_NCE_DECLARE(query_weights_f32)
AUXCORE_INFO_NCE_DECLARE(key_weights_f32)
AUXCORE_INFO_NCE_DECLARE(finish_queries_f32)
AUXCORE_INFO_NCE_DECLARE(finish_keys_f32)
AUXCORE_INFO_NCE_DECLARE(merge_rows)
AUXCORE_INFO_NCE_DECLARE(merge_columns)
AUXCORE_INFO_NCE_DECLARE(positives)
AUXCORE_INFO_NCE_DECLARE(loss)
}  // namespace info_nce

namespace {

uint32_t random_state = 1;

std::vector<float> random_values(int count) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    random_state = random_state * 1664525u + 1013904223u;
    values.push_back(float(int32_t(random_state)) * 0x1p-31f);
  }
  return values;
}

unsigned blocks(int64_t work, int64_t a_block) { return unsigned((work + a_block - 1) / a_block); }

/// Memory of exactly the size that a kernel may touch, filled with what nobody may use.
class Blocks {
 public:
  float* floats(int64_t count) { return floats_.emplace_back(size_t(count), -1e30f).data(); }
  double* doubles(int64_t count) { return doubles_.emplace_back(size_t(count), -1e300).data(); }

 private:
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<double>> doubles_;
};

void forward_backward_agrees(int heads, int n, int d, int target, bool is_gram, int segments, int slices) {
  using namespace forward_backward;
  test::ForwardBackwardCase given{heads, n, d, target, n % 2 == 0};
  given.f = random_values(heads * n * d);
  given.b = random_values(n * d);
  given.f_bar = random_values(heads * n * d);
  given.b_bar = random_values(n * d);
  for (int i = 0; i < n; ++i)
    given.done.push_back(i % 4 == 1);
  std::vector<float> forward(given.f.size()), backward(given.b.size());
  std::vector<double> loss(4);
  Blocks memory;
  const int32_t grams = is_gram ? kGrams : 1;
  const int64_t matrix = int64_t{n} * d, tiles = (n + kTile - 1) / kTile, columns = (d + kTile - 1) / kTile;
  Batch batch = {};
  batch.forward = given.f.data();
  batch.backward = given.b.data();
  batch.target_forward = given.f_bar.data();
  batch.target_backward = given.b_bar.data();
  batch.done = given.done.data();
  batch.forward_gradient = forward.data();
  batch.backward_gradient = backward.data();
  batch.loss = loss.data();
  batch.heads = heads;
  batch.count = n;
  batch.dimension = d;
  batch.target = target;
  batch.is_gram = is_gram;
  batch.is_difference = given.is_difference;
  batch.slices = slices;
  batch.segments = segments;
  batch.gram_blocks = int32_t(blocks(int64_t{d} * d, kThreads));
  batch.square_blocks = is_gram ? batch.gram_blocks : int32_t(tiles * segments);
  batch.discount = float(given.discount);
  batch.penalty = heads == 1 ? 0 : float(-given.penalty / (heads * (heads - 1) / 2));
  batch.diagonal_weight = given.diagonal_weight;
  batch.orthonormality = given.orthonormality;
  batch.discounts = memory.floats(n);
  batch.products = memory.doubles(int64_t{heads} * n);
  batch.targets = memory.doubles(n);
  batch.norms = memory.doubles(n);
  batch.target_rows = memory.floats(is_gram ? matrix : 0);
  batch.grams = memory.doubles(int64_t{slices} * grams * d * d);
  batch.operands = memory.floats(int64_t{kOperands} * d * d);
  batch.sums = memory.doubles(batch.square_blocks + batch.gram_blocks);
  batch.forward_sums = memory.floats((segments - 1) * heads * matrix);
  batch.backward_sums = memory.floats((segments - 1) * matrix);

  const auto launch = [&](void (*kernel)(Batch, int32_t), int64_t count) {
    simt::launch(kernel, {unsigned(count), unsigned(kThreads), 0}, batch, grams);
  };
  launch(auxcore_fb_prepare_f32, blocks(n, kThreads / kWarp));
  launch(auxcore_fb_gram_f32, columns * columns * grams * slices);
  launch(auxcore_fb_reduce, batch.gram_blocks);
  if (!is_gram) {
    launch(auxcore_fb_forward_tiles_f32, tiles * segments);
    launch(auxcore_fb_backward_tiles_f32, tiles * segments);
  }
  launch(auxcore_fb_gradients_f32, tiles * columns * (heads + 1));
  launch(auxcore_fb_loss, 1);

  const test::PairGradients expected = given.formula();
  const double by_forward = test::distance(forward, expected.first), by_backward = test::distance(backward, expected.second),
               by_loss = test::distance(loss, expected.loss);
  CHECK(by_forward < 3e-6 && by_backward < 3e-6 && by_loss < 3e-6, "heads %d, n %d, d %d, target %d, gram %d: %g, %g, %g", heads, n, d,
        target, is_gram, by_forward, by_backward, by_loss);
}

void info_nce_agrees(int n, int d, int similarity, bool is_symmetric, bool excludes_positives, int segments) {
  using namespace info_nce;
  test::InfoNceCase given{n, d, similarity, is_symmetric, excludes_positives, 1.5, 0.1, 1e-3, random_values(n * d), random_values(n * d)};
  std::vector<float> query(given.queries.size()), key(given.keys.size());
  std::vector<double> loss(2);
  Blocks memory;
  const int64_t matrix = int64_t{n} * d, tiles = (n + kTile - 1) / kTile * segments, parts = int64_t{n} * segments;
  Batch batch = {};
  batch.queries = given.queries.data();
  batch.keys = given.keys.data();
  batch.query_gradient = query.data();
  batch.key_gradient = key.data();
  batch.loss = loss.data();
  batch.count = n;
  batch.dimension = d;
  batch.similarity = similarity;
  batch.is_symmetric = is_symmetric;
  batch.excludes_positives = excludes_positives;
  batch.segments = segments;
  batch.scale = float(1 / given.temperature);
  batch.distance_offset = float(given.offset);
  batch.penalty = given.penalty;
  for (float** part : {&batch.query_terms, &batch.key_terms, &batch.positive_weights, &batch.row_logs, &batch.row_factors,
           &batch.column_logs})
    *part = memory.floats(n);
  for (float** part : {&batch.maxima, &batch.sums, &batch.query_weights, &batch.key_weights})
    *part = memory.floats(parts);
  for (double** part : {&batch.positives, &batch.row_log_sums, &batch.column_log_sums})
    *part = memory.doubles(n);
  batch.centre = memory.floats(d);
  batch.query_sums = memory.floats((segments - 1) * matrix);
  batch.key_sums = memory.floats((segments - 1) * matrix);

  const auto launch = [&](void (*kernel)(Batch), int64_t count) {
    simt::launch(kernel, {unsigned(count), unsigned(kThreads), 0}, batch);
  };
  if (similarity <= kNegativeSquaredDistance)
    launch(auxcore_info_nce_centre_f32, blocks(d, kWarp));
  launch(auxcore_info_nce_prepare_f32, blocks(n, kThreads / kWarp));
  launch(auxcore_info_nce_row_sums_f32, tiles);
  launch(auxcore_info_nce_merge_rows, blocks(n, kThreads));
  if (is_symmetric) {
    launch(auxcore_info_nce_column_sums_f32, tiles);
    launch(auxcore_info_nce_merge_columns, blocks(n, kThreads));
  }
  launch(auxcore_info_nce_positives, blocks(n, kThreads));
  launch(auxcore_info_nce_query_weights_f32, tiles);
  launch(auxcore_info_nce_key_weights_f32, tiles);
  launch(auxcore_info_nce_finish_queries_f32, blocks(n, kThreads / kWarp));
  launch(auxcore_info_nce_finish_keys_f32, blocks(n, kThreads / kWarp));
  launch(auxcore_info_nce_loss, 1);

  const test::PairGradients expected = given.formula();
  const double by_query = test::distance(query, expected.first), by_key = test::distance(key, expected.second),
               by_loss = test::distance(loss, expected.loss);
  CHECK(by_query < 1e-5 && by_key < 1e-5 && by_loss < 1e-5, "n %d, d %d, similarity %d: %g, %g, %g", n, d, similarity, by_query, by_key,
        by_loss);
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    random_state = order + 1;
    forward_backward_agrees(2, 5, 3, forward_backward::kMean, true, 1, 1);
    forward_backward_agrees(2, 66, 65, forward_backward::kMean, true, 1, 3);
    forward_backward_agrees(1, 17, 18, forward_backward::kMinimum, false, 1, 2);
    forward_backward_agrees(2, 66, 9, forward_backward::kMinimum, false, 2, 1);
    forward_backward_agrees(3, 9, 66, forward_backward::kPenalised, false, 1, 1);
    for (int similarity = 0; similarity < 4; ++similarity) {
      info_nce_agrees(5, 3, similarity, false, false, 1);
      info_nce_agrees(66, 18, similarity, true, similarity % 2 == 0, 2);
    }
  }
  return test::result();
}
