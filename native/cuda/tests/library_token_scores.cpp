// The C functions of scores and of turned keys: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_tokens.h"

using namespace auxcore::test;

namespace {

void scores_are_sums_of_columns() {
  Memory memory;
  for (const int rows : {1, 2, 3, 20})
    for (const bool given : {false, true})
      for (const bool causal : {false, true}) {
        auxcore_token_scores_batch batch = scores_batch(memory, rows);
        batch.causal = causal;
        const std::vector<float> q = pattern(static_cast<std::size_t>(2 * rows * 5), 1), k = pattern(40 * 5, 2),
                                 shifts = pattern(static_cast<std::size_t>(2 * rows), 3);
        if (!given)
          batch.log_sum_exp = 0;
        OK(auxcore_token_scores(context, nullptr, &batch));
        const std::vector<float> scores = read<float>(batch.scores, 40);
        std::vector<double> expected(40);
        double largest = 0;
        for (int row = 0; row < 2 * rows; ++row) {
          const int seen = causal ? 40 - rows + row % rows + 1 : 40;
          std::vector<double> shares;
          double total = 0;
          for (int j = 0; j < seen; ++j) {
            double dot = 0;
            for (int e = 0; e < 5; ++e)
              dot += double{q[static_cast<std::size_t>(row * 5 + e)]} * k[static_cast<std::size_t>(j * 5 + e)] / 32;
            shares.push_back(std::exp(dot - (given ? double{shifts[static_cast<std::size_t>(row)]} : 0)));
            total += shares.back();
          }
          for (std::size_t j = 0; j < shares.size(); ++j)
            expected[j] += (row < rows ? 0.25 : 0.5) * shares[j] / (given ? 1 : total);
        }
        for (const double score : expected)
          largest = std::fmax(largest, score);
        for (std::size_t j = 0; j < 40; ++j)
          CHECK(std::fabs(scores[j] - expected[j]) <= 4e-6 * (largest + expected[j]), "%d rows: %g, not %g", rows, scores[j], expected[j]);
      }
  auxcore_token_scores_batch none = scores_batch(memory, 3);
  none.rows = 0;
  OK(auxcore_token_scores(context, nullptr, &none));
  CHECK(read<float>(none.scores, 40) == std::vector<float>(40));
}

void scores_are_checked() {
  Memory memory;
  const auxcore_token_scores_batch good = scores_batch(memory, 3);
  using Batch = auxcore_token_scores_batch;
  const auto refused = [&](const char* text, auto&& change) {
    Batch batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_token_scores(context, nullptr, &batch));
  };
  refused("type 4 is not", [](Batch& batch) { batch.type = AUXCORE_UINT8; });
  refused("batch is -1", [](Batch& batch) { batch.batch = -1; });
  refused("query_heads is 0", [](Batch& batch) { batch.query_heads = 0; });
  refused("key_heads is 0", [](Batch& batch) { batch.key_heads = 0; });
  refused("query_heads 2 is no multiple of key_heads 4", [](Batch& batch) { batch.key_heads = 4; });
  refused("rows is -1", [](Batch& batch) { batch.rows = -1; });
  refused("tokens is -1", [](Batch& batch) { batch.tokens = -1; });
  refused("depth is 0", [](Batch& batch) { batch.depth = 0; });
  refused("more elements than memory holds", [](Batch& batch) { batch.batch = 1 << 20, batch.rows = 1 << 20, batch.tokens = 1 << 20; });
  refused("causal is 2", [](Batch& batch) { batch.causal = 2; });
  refused("rows is 3, more than the tokens 2", [](Batch& batch) { batch.causal = 1, batch.tokens = 2; });
  for (const float scale : {HUGE_VALF, std::nanf("")})
    refused("scale is", [=](Batch& batch) { batch.scale = scale; });
  refused("queries: a step of -5", [](Batch& batch) { batch.query_steps[2] = -5; });
  refused("keys: a step of", [](Batch& batch) { batch.key_steps[2] = INT64_MAX; });
  refused("queries: 0x0", [](Batch& batch) { batch.queries = 0; });
  refused("keys: 0x", [](Batch& batch) { batch.keys += 2; });
  refused("log_sum_exp: 0x", [](Batch& batch) { batch.log_sum_exp = reinterpret_cast<uint64_t>(&batch); });
  refused("head_weights: 0x", [](Batch& batch) { batch.head_weights += 1; });
  refused("scores overlaps keys", [](Batch& batch) { batch.scores = batch.keys; });
  refused("workspace overlaps scores", [](Batch& batch) { batch.scores = batch.workspace; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  Batch batch = good;
  batch.struct_size = 8;
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_token_scores(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_token_scores_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_token_scores_workspace(nullptr, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_token_scores(context, nullptr, nullptr));
  CHECK(read<float>(good.scores, 40) == std::vector<float>(40, -7), "what was refused was not done");
}

void keys_are_turned() {
  Memory memory;
  RerotateCase given(memory);
  for (const uint32_t is_pairs : {0u, 1u}) {
    given.batch.is_pairs = is_pairs;
    const std::vector<float> before = read<float>(given.layers[1].keys, 24);
    OK(given.run(context));
    const std::vector<float> after = read<float>(given.layers[1].keys, 24);
    const int differences[2][3] = {{0, 1, 0}, {0, 2, -3}};
    for (int head = 0; head < 2; ++head)
      for (int token = 0; token < 3; ++token)
        for (int pair = 0; pair < 2; ++pair) {
          const std::size_t at = static_cast<std::size_t>((head * 3 + token) * 4),
                            i = at + static_cast<std::size_t>(is_pairs ? 2 * pair : pair), j = i + (is_pairs ? 1 : 2);
          const double angle = differences[pair][token] * given.frequencies[pair];
          CHECK(std::fabs(after[i] - (before[i] * std::cos(angle) - before[j] * std::sin(angle))) < 3e-6);
          CHECK(std::fabs(after[j] - (before[j] * std::cos(angle) + before[i] * std::sin(angle))) < 3e-6);
        }
  }
}

void turns_are_checked() {
  Memory memory;
  const RerotateCase good(memory);
  const std::vector<float> before = read<float>(good.layers[0].keys, 24);
  const auto refused = [&](const char* text, auto&& change) {
    RerotateCase given = good;
    change(given);
    REFUSED(AUXCORE_E_ARGUMENT, text, given.run(context));
  };
  refused("tokens is -1", [](RerotateCase& given) { given.batch.tokens = -1; });
  refused("rows is 0", [](RerotateCase& given) { given.batch.rows = 0; });
  refused("is_pairs is 2", [](RerotateCase& given) { given.batch.is_pairs = 2; });
  for (const int rotated : {0, 3, 258})
    refused("rotated is", [=](RerotateCase& given) { given.batch.rotated = rotated; });
  refused("depth is 3, with rotated 4", [](RerotateCase& given) { given.batch.depth = 3; });
  refused("frequencies[1] is", [](RerotateCase& given) { given.frequencies[1] = HUGE_VAL; });
  refused("row_of[0] is 2, with rows 2", [](RerotateCase& given) { given.row_of[0] = 2; });
  refused("row_of[1] is -1", [](RerotateCase& given) { given.row_of[1] = -1; });
  refused("layer_count is -1", [](RerotateCase& given) { given.batch.layer_count = -1; });
  refused("differences: 0x0", [](RerotateCase& given) { given.batch.differences = 0; });
  refused("layers: type 1 is not", [](RerotateCase& given) { given.layers[1].type = 1; });
  refused("layers: batch is -1", [](RerotateCase& given) { given.layers[1].batch = -1; });
  refused("layers: heads is -1", [](RerotateCase& given) { given.layers[1].heads = -1; });
  refused("layers[0]: elements share memory", [](RerotateCase& given) { given.layers[0].token_step = 3; });
  refused("layers[0]: elements share memory", [](RerotateCase& given) { given.layers[0].head_step = -12; });
  refused("layers[1]: a step of", [](RerotateCase& given) { given.layers[1].head_step = INT64_MAX; });
  refused("layers[1]: 0x", [](RerotateCase& given) { given.layers[1].keys += 2; });
  refused("layers[1]: 0x0", [](RerotateCase& given) { given.layers[1].keys = 0; });
  refused("layers[1] overlaps layers[0]", [](RerotateCase& given) { given.layers[1].keys = given.layers[0].keys; });
  refused("layers[0] overlaps layers[-1]", [](RerotateCase& given) { given.batch.differences = given.layers[0].keys; });
  auxcore_key_rerotate_batch batch = good.batch;
  REFUSED(AUXCORE_E_ARGUMENT, "frequencies or row_of is NULL", auxcore_key_rerotate(context, nullptr, &batch));
  batch.frequencies = good.frequencies;
  batch.row_of = good.row_of;
  REFUSED(AUXCORE_E_ARGUMENT, "layers is NULL", auxcore_key_rerotate(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_key_rerotate(context, nullptr, nullptr));
  CHECK(read<float>(good.layers[0].keys, 24) == before, "what was refused was not done");
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  scores_are_sums_of_columns();
  scores_are_checked();
  keys_are_turned();
  turns_are_checked();
  OK(auxcore_close(context));
  return result();
}
