// ForwardBackwardLoss and InfoNceLoss through the C ABI: against their formulas, and what they refuse. On the stand-in and on a device.
#include <array>

#include "library_pairs.h"

using namespace auxcore::test;

namespace {

void forward_backward_agrees_with_the_formula() {
  for (const auxcore_dtype type : {AUXCORE_FLOAT32, AUXCORE_BFLOAT16})
    for (const auto& [heads, n, d, target, is_gram] : std::vector<std::array<int, 5>>{{1, 2, 1, 0, 1}, {2, 3, 2, 0, 0}, {2, 20, 7, 0, 1},
             {2, 70, 9, 0, 1}, {2, 70, 9, 1, 0}, {2, 20, 7, 2, 0}, {3, 17, 5, 2, 0}, {1, 66, 70, 1, 0}}) {
      Memory memory;
      ForwardBackwardCase given = forward_backward_case(heads, n, d, target, n % 2 == 0);
      const auxcore_forward_backward batch = on_device(memory, given, is_gram, type);
      OK(auxcore_forward_backward_loss(context, nullptr, &batch));
      const PairGradients expected = given.formula();
      const double forward = distance(read<float>(batch.forward_gradient, given.f.size()), expected.first),
                   backward = distance(read<float>(batch.backward_gradient, given.b.size()), expected.second),
                   loss = distance(read<double>(batch.loss, 4), expected.loss);
      CHECK(forward < 3e-6 && backward < 3e-6 && loss < 3e-6, "type %d, heads %d, n %d, d %d, target %d, gram %d: %g, %g, %g", type, heads,
          n, d, target, is_gram, forward, backward, loss);
    }
}

void info_nce_agrees_with_the_formula() {
  for (const auxcore_dtype type : {AUXCORE_FLOAT32, AUXCORE_BFLOAT16})
    for (int similarity = 0; similarity < 4; ++similarity)
      for (const auto& [n, d, is_symmetric, excludes] :
          std::vector<std::array<int, 4>>{{2, 3, 0, 0}, {21, 6, 0, 0}, {21, 6, 1, 0}, {30, 4, 1, 1}, {70, 20, 0, 1}}) {
        Memory memory;
        InfoNceCase given = info_nce_case(n, d, similarity, is_symmetric, excludes);
        const auxcore_info_nce batch = on_device(memory, given, type);
        OK(auxcore_info_nce_loss(context, nullptr, &batch));
        const PairGradients expected = given.formula();
        const double query = distance(read<float>(batch.query_gradient, given.queries.size()), expected.first),
                     key = distance(read<float>(batch.key_gradient, given.keys.size()), expected.second),
                     loss = distance(read<double>(batch.loss, 2), expected.loss);
        CHECK(query < 1e-5 && key < 1e-5 && loss < 1e-5, "type %d, similarity %d, n %d, d %d, %d, %d: %g, %g, %g", type, similarity, n, d,
            is_symmetric, excludes, query, key, loss);
      }
}

void the_same_batch_gives_the_same_bits() {
  Memory memory;
  ForwardBackwardCase given = forward_backward_case(2, 70, 9, AUXCORE_FB_MINIMUM, true);
  const auxcore_forward_backward batch = on_device(memory, given, false, AUXCORE_FLOAT32);
  OK(auxcore_forward_backward_loss(context, nullptr, &batch));
  const std::vector<float> first = read<float>(batch.backward_gradient, given.b.size());
  OK(auxcore_fill(context, nullptr, batch.workspace, 0, batch.workspace_bytes));
  OK(auxcore_forward_backward_loss(context, nullptr, &batch));
  CHECK(read<float>(batch.backward_gradient, given.b.size()) == first);
}

void forward_backward_is_checked() {
  Memory memory;
  ForwardBackwardCase given = forward_backward_case(2, 20, 7, AUXCORE_FB_MEAN, true);
  const auxcore_forward_backward good = on_device(memory, given, true, AUXCORE_FLOAT32);
  const auto refused = [&](const char* text, auto&& change) {
    auxcore_forward_backward batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_forward_backward_loss(context, nullptr, &batch));
  };
  using Batch = auxcore_forward_backward;
  refused("type 1 is not", [](Batch& batch) { batch.type = 1; });
  refused("heads is 0", [](Batch& batch) { batch.heads = 0; });
  refused("heads is 17", [](Batch& batch) { batch.heads = 17; });
  refused("count is 1;", [](Batch& batch) { batch.count = 1; });
  refused("count is -5;", [](Batch& batch) { batch.count = -5; });
  refused("dimension is 0", [](Batch& batch) { batch.dimension = 0; });
  refused("dimension is 65537", [](Batch& batch) { batch.dimension = 65537; });
  refused("target is 3", [](Batch& batch) { batch.target = 3; });
  refused("is_gram is 2", [](Batch& batch) { batch.is_gram = 2; });
  refused("is_gram is 1, and the target", [](Batch& batch) { batch.target = AUXCORE_FB_MINIMUM; });
  refused("is_gram is 1, and the target", [](Batch& batch) { batch.target = AUXCORE_FB_PENALISED; });
  refused("is_difference is 2", [](Batch& batch) { batch.is_difference = 2; });
  for (const double wrong : {1.0, -0.1, std::nan(""), HUGE_VAL})
    refused("discount is", [=](Batch& batch) { batch.discount = wrong; });
  for (const double wrong : {-0.1, std::nan(""), HUGE_VAL}) {
    refused("penalty is", [=](Batch& batch) { batch.penalty = wrong; });
    refused("diagonal_weight is", [=](Batch& batch) { batch.diagonal_weight = wrong; });
    refused("orthonormality is", [=](Batch& batch) { batch.orthonormality = wrong; });
  }
  refused("forward: 0x0", [](Batch& batch) { batch.forward = 0; });
  refused("backward: 0x", [](Batch& batch) { batch.backward += 2; });
  refused("target_forward: ", [](Batch& batch) { batch.target_forward = reinterpret_cast<uint64_t>(&batch); });
  refused("done: 0x0", [](Batch& batch) { batch.done = 0; });
  refused("loss: 0x", [](Batch& batch) { batch.loss += 4; });
  refused("forward_gradient overlaps forward", [](Batch& batch) { batch.forward_gradient = batch.forward; });
  refused("backward_gradient overlaps target_backward", [](Batch& batch) { batch.backward_gradient = batch.target_backward; });
  refused("workspace overlaps forward_gradient", [](Batch& batch) { batch.forward_gradient = batch.workspace; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  auxcore_forward_backward batch = good;
  batch.struct_size = 8;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_forward_backward_loss(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_forward_backward_loss(context, nullptr, nullptr));
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_forward_backward_loss(0, nullptr, &good));
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_forward_backward_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_forward_backward_workspace(nullptr, &bytes));
  batch = good;
  batch.count = 1 << 30;
  batch.dimension = 1 << 16;
  batch.heads = 16;
  OK(auxcore_forward_backward_workspace(&batch, &bytes));  // a number, though nobody has that much
  CHECK(bytes > int64_t{1} << 46);
  CHECK(read<float>(good.forward_gradient, given.f.size()) == std::vector<float>(given.f.size(), -7), "what was refused was not done");
}

void info_nce_is_checked() {
  Memory memory;
  InfoNceCase given = info_nce_case(20, 7, AUXCORE_INFO_NCE_DOT, false, false);
  const auxcore_info_nce good = on_device(memory, given, AUXCORE_FLOAT32);
  const auto refused = [&](const char* text, auto&& change) {
    auxcore_info_nce batch = good;
    change(batch);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_info_nce_loss(context, nullptr, &batch));
  };
  using Batch = auxcore_info_nce;
  refused("type 1 is not", [](Batch& batch) { batch.type = 1; });
  refused("count is 1;", [](Batch& batch) { batch.count = 1; });
  refused("dimension is 0", [](Batch& batch) { batch.dimension = 0; });
  refused("similarity is 4", [](Batch& batch) { batch.similarity = 4; });
  refused("similarity is -1", [](Batch& batch) { batch.similarity = -1; });
  refused("is_symmetric is 2", [](Batch& batch) { batch.is_symmetric = 2; });
  refused("excludes_positives is 2", [](Batch& batch) { batch.excludes_positives = 2; });
  refused("reserved is 1", [](Batch& batch) { batch.reserved = 1; });
  for (const double wrong : {0.0, -1.0, std::nan(""), HUGE_VAL})
    refused("temperature is", [=](Batch& batch) { batch.temperature = wrong; });
  for (const double wrong : {-0.1, std::nan(""), HUGE_VAL}) {
    refused("penalty is", [=](Batch& batch) { batch.penalty = wrong; });
    refused("distance_offset is", [=](Batch& batch) { batch.distance_offset = wrong; });
  }
  refused("queries: 0x0", [](Batch& batch) { batch.queries = 0; });
  refused("keys: 0x", [](Batch& batch) { batch.keys += 2; });
  refused("query_gradient overlaps keys", [](Batch& batch) { batch.query_gradient = batch.keys; });
  refused("key_gradient overlaps query_gradient", [](Batch& batch) { batch.key_gradient = batch.query_gradient; });
  refused("are needed", [](Batch& batch) { --batch.workspace_bytes; });
  refused("is not aligned to 256 bytes", [](Batch& batch) { batch.workspace += 16; });
  auxcore_info_nce batch = good;
  batch.struct_size = 8;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_info_nce_loss(context, nullptr, &batch));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_info_nce_loss(context, nullptr, nullptr));
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_info_nce_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_info_nce_workspace(nullptr, &bytes));
  CHECK(read<float>(good.key_gradient, given.keys.size()) == std::vector<float>(given.keys.size(), -7), "what was refused was not done");
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  forward_backward_agrees_with_the_formula();
  info_nce_agrees_with_the_formula();
  the_same_batch_gives_the_same_bits();
  forward_backward_is_checked();
  info_nce_is_checked();
  OK(auxcore_close(context));
  return result();
}
