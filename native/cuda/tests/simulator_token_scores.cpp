// The kernels of scores and of turned keys in the simulator, in three orders of threads: keys, rows and depths around the edges of warps,
// chunks and tiles, against the formula in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../token_pruning/key_rerotate.cuh"
#include "../token_pruning/token_scores.cuh"
#include "check.h"
#include "launch.h"
#include "random.h"

namespace auxcore {

namespace token_scores {
extern "C" void auxcore_token_logits_1(Arguments arguments);
extern "C" void auxcore_token_logits_4(Arguments arguments);
extern "C" void auxcore_token_logits_8(Arguments arguments);
extern "C" void auxcore_token_columns(Arguments arguments, int32_t blocks_of_sequence);
extern "C" void auxcore_token_softmaxes(Arguments arguments, int32_t row_tiles);
extern "C" void auxcore_token_column_tiles(Arguments arguments, int32_t key_tiles);
extern "C" void auxcore_token_column_sums(Arguments arguments);
}  // namespace token_scores

namespace key_rerotate {
extern "C" void auxcore_key_rerotate(Arguments arguments);
}  // namespace key_rerotate

namespace {

float random_value() { return float(int(test::next_random()) % 257 - 128) / 64.0f; }

std::vector<float> random_values(size_t count) {
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), random_value);
  return values;
}

void scores_agree(int rows, int tokens, int depth, bool causal, bool tiled, bool padded) {
  using namespace token_scores;
  constexpr int kBatch = 2, kHeads = 4, kKeyHeads = 2;
  const auto size = [](int count) { return size_t(count); };
  const std::vector<float> queries = random_values(size(kBatch * kHeads * rows * depth));
  std::vector<float> keys = random_values(size(kBatch * kKeyHeads * tokens * depth));
  const int fewest = causal ? rows : 0;
  const std::vector<int32_t> lengths = {padded ? std::max(fewest, tokens * 2 / 3) : tokens, padded ? fewest : tokens};
  for (int i = 0; i < kBatch * kKeyHeads * tokens; ++i)
    if (i % tokens >= lengths[size(i / tokens / kKeyHeads)])
      std::fill_n(keys.begin() + i * depth, depth, std::nanf(""));
  const int shared = rows * kHeads / kKeyHeads, at_once = shared <= 1 ? 1 : shared <= 4 ? 4 : 8, step = kThreads / at_once;
  std::vector<float> scores(size(kBatch * tokens), -7), logits(size(kBatch * kHeads * rows * tokens), std::nanf(""));
  Arguments arguments = {};
  arguments.queries = queries.data();
  arguments.keys = keys.data();
  arguments.lengths = padded ? lengths.data() : nullptr;
  arguments.scores = scores.data();
  arguments.logits = logits.data();
  arguments.query_steps = {int64_t{kHeads} * rows * depth, int64_t{rows} * depth, depth};
  arguments.key_steps = {int64_t{kKeyHeads} * tokens * depth, int64_t{tokens} * depth, depth};
  arguments.type = tokens::kFloat32;
  arguments.batch = kBatch;
  arguments.query_heads = kHeads;
  arguments.key_heads = kKeyHeads;
  arguments.rows = rows;
  arguments.tokens = tokens;
  arguments.depth = depth;
  arguments.causal = causal;
  arguments.scale = 0.5f;
  arguments.weight = 0.125;
  arguments.chunks = tiled ? 1 : std::min((tokens + step - 1) / step, 3);
  arguments.splits = 3;
  std::vector<Softmax> softmaxes(size(kBatch * kHeads * rows * arguments.chunks));
  std::vector<double> partial(size(arguments.splits * kBatch * tokens));
  arguments.softmaxes = softmaxes.data();
  arguments.partial = partial.data();
  const int blocks = (tokens + kThreads - 1) / kThreads, row_tiles = (rows + kTileRows - 1) / kTileRows,
            key_tiles = (tokens + kTileRows - 1) / kTileRows;
  if (tiled) {
    simt::launch(auxcore_token_softmaxes, {unsigned(kBatch * kHeads * row_tiles), kThreads, 0}, arguments, row_tiles);
    simt::launch(auxcore_token_column_tiles, {unsigned(arguments.splits * kBatch * key_tiles), kThreads, 0}, arguments, key_tiles);
    simt::launch(auxcore_token_column_sums, {unsigned((kBatch * tokens + kThreads - 1) / kThreads), kThreads, 0}, arguments);
  } else {
    const simt::Shape shape = {unsigned(kBatch * kKeyHeads * arguments.chunks), kThreads, 0};
    simt::launch(at_once == 1 ? auxcore_token_logits_1 : at_once == 4 ? auxcore_token_logits_4 : auxcore_token_logits_8, shape, arguments);
    simt::launch(auxcore_token_columns, {unsigned(kBatch * blocks), kThreads, 0}, arguments, blocks);
  }

  std::vector<double> expected(scores.size());
  for (int row = 0; row < kBatch * kHeads * rows; ++row) {
    const int b = row / rows / kHeads, head = row / rows % kHeads, length = lengths[size(b)];
    const int seen = causal ? length - rows + row % rows + 1 : length;
    std::vector<double> shares;
    double total = 0;
    for (int j = 0; j < seen; ++j) {
      double dot = 0;
      for (int k = 0; k < depth; ++k)
        dot += 0.5 * queries[size(row * depth + k)] * keys[size(((b * kKeyHeads + head / 2) * tokens + j) * depth + k)];
      shares.push_back(std::exp(dot));
      total += shares.back();
    }
    for (size_t j = 0; j < shares.size(); ++j)
      expected[size(b * tokens) + j] += 0.125 * shares[j] / total;
  }
  const double largest = *std::max_element(expected.begin(), expected.end());
  for (size_t j = 0; j < expected.size(); ++j)
    if (!(std::fabs(scores[j] - expected[j]) <= 4e-6 * (largest + expected[j]))) {
      CHECK(false, "%d rows, %d tokens, depth %d, padded %d: score %zu is %g, not %g", rows, tokens, depth, padded, j, scores[j],
          expected[j]);
      return;
    }
}

void keys_are_turned() {
  using namespace key_rerotate;
  for (const int tokens : {1, 3, 33})
    for (const int pairs : {1, 5, 64})
      for (const int heads : {1, 3, 4, 5}) {
        const int depth = 2 * pairs + 1;
        std::vector<float> keys = random_values(size_t(heads * tokens * depth));
        const std::vector<float> before = keys;
        std::vector<int32_t> differences(static_cast<size_t>(tokens));
        for (int token = 0; token < tokens; ++token)
          differences[size_t(token)] = token % 3 == 0 ? 0 : token * 1000 - 5000;
        Arguments arguments = {};
        arguments.differences = differences.data();
        arguments.tokens = tokens;
        arguments.pairs = pairs;
        arguments.rows = arguments.layer_count = arguments.slices = 1;
        for (int pair = 0; pair < pairs; ++pair)
          arguments.frequencies[pair] = std::pow(10000.0, -pair / double(pairs));
        arguments.layers[0] = {keys.data(), 0, int64_t{tokens} * depth, depth, tokens::kFloat32, 1, heads, 0};
        simt::launch(auxcore_key_rerotate, {unsigned((tokens * pairs + kThreads - 1) / kThreads), kThreads, 0}, arguments);
        for (int row = 0; row < heads * tokens; ++row)
          for (int pair = 0; pair < pairs; ++pair) {
            const size_t i = size_t(row * depth + pair), j = i + size_t(pairs);
            const double angle = differences[size_t(row % tokens)] * arguments.frequencies[pair];
            CHECK(std::fabs(keys[i] - (before[i] * std::cos(angle) - before[j] * std::sin(angle))) < 1e-6);
            CHECK(std::fabs(keys[j] - (before[j] * std::cos(angle) + before[i] * std::sin(angle))) < 1e-6);
            CHECK(keys[size_t(row * depth + depth - 1)] == before[size_t(row * depth + depth - 1)], "what is not rotated");
          }
      }
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 12345u}) {
    simt::set_run_order(order);
    for (const bool causal : {false, true})
      for (const bool padded : {false, true}) {
        for (const int rows : {1, 2, 3, 5})
          for (const int tokens : {5, 31, 33, 257})
            scores_agree(rows, tokens, tokens == 33 ? 300 : 7, causal, false, padded);
        for (const int rows : {3, 64, 65})
          for (const int tokens : {65, 130})
            scores_agree(rows, tokens, rows == 64 ? 16 : 17, causal, true, padded);
      }
    keys_are_turned();
  }
  return test::result();
}
