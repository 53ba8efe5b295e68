// Batches for the tests of the C functions of losses over pairs.
#pragma once

#include "library_td.h"
#include "pair_formulas.h"

namespace auxcore::test {

inline std::vector<float> small_pattern(int count, int seed) {
  std::vector<float> values = pattern(static_cast<std::size_t>(count), seed);
  for (float& value : values)
    value /= 16;
  return values;
}

/// To bfloat16, and back in the values.
inline std::vector<uint16_t> narrow(std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (float& value : values) {
    uint32_t word = 0;
    std::memcpy(&word, &value, 4);
    word = (word + 0x7fff + (word >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&value, &word, 4);
    bits.push_back(static_cast<uint16_t>(word >> 16));
  }
  return bits;
}

inline uint64_t add(Memory& memory, std::vector<float>& values, auxcore_dtype type) {
  return type == AUXCORE_FLOAT32 ? memory.add(values) : memory.add(narrow(values));
}

inline ForwardBackwardCase forward_backward_case(int heads, int n, int d, int target, bool is_difference) {
  ForwardBackwardCase given{heads, n, d, target, is_difference};
  given.f = small_pattern(heads * n * d, 1);
  given.b = small_pattern(n * d, 2);
  given.f_bar = small_pattern(heads * n * d, 3);
  given.b_bar = small_pattern(n * d, 4);
  for (int i = 0; i < n; ++i)
    given.done.push_back(i % 5 == 3);
  return given;
}

/// On the device; of bfloat16, the case's values become those that bfloat16 has.
inline auxcore_forward_backward on_device(Memory& memory, ForwardBackwardCase& given, bool is_gram, auxcore_dtype type) {
  auxcore_forward_backward batch = {};
  batch.struct_size = sizeof batch;
  batch.type = type;
  batch.heads = given.heads;
  batch.count = given.n;
  batch.dimension = given.d;
  batch.target = given.target;
  batch.is_gram = is_gram;
  batch.is_difference = given.is_difference;
  batch.discount = given.discount;
  batch.penalty = given.penalty;
  batch.diagonal_weight = given.diagonal_weight;
  batch.orthonormality = given.orthonormality;
  batch.forward = add(memory, given.f, type);
  batch.backward = add(memory, given.b, type);
  batch.target_forward = add(memory, given.f_bar, type);
  batch.target_backward = add(memory, given.b_bar, type);
  batch.done = memory.add(given.done);
  batch.forward_gradient = memory.add(std::vector<float>(given.f.size(), -7));
  batch.backward_gradient = memory.add(std::vector<float>(given.b.size(), -7));
  batch.loss = memory.add(std::vector<double>(4, -7));
  OK(auxcore_forward_backward_workspace(&batch, &batch.workspace_bytes));
  batch.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(batch.workspace_bytes), 0xff));
  return batch;
}

inline InfoNceCase info_nce_case(int n, int d, int similarity, bool is_symmetric, bool excludes_positives) {
  return {n, d, similarity, is_symmetric, excludes_positives, 1.5, 0.1, 1e-3, small_pattern(n * d, 1), small_pattern(n * d, 5)};
}

inline auxcore_info_nce on_device(Memory& memory, InfoNceCase& given, auxcore_dtype type) {
  auxcore_info_nce batch = {};
  batch.struct_size = sizeof batch;
  batch.type = type;
  batch.count = given.n;
  batch.dimension = given.d;
  batch.similarity = given.similarity;
  batch.is_symmetric = given.is_symmetric;
  batch.excludes_positives = given.excludes_positives;
  batch.temperature = given.temperature;
  batch.penalty = given.penalty;
  batch.distance_offset = given.offset;
  batch.queries = add(memory, given.queries, type);
  batch.keys = add(memory, given.keys, type);
  batch.query_gradient = memory.add(std::vector<float>(given.queries.size(), -7));
  batch.key_gradient = memory.add(std::vector<float>(given.keys.size(), -7));
  batch.loss = memory.add(std::vector<double>(2, -7));
  OK(auxcore_info_nce_workspace(&batch, &batch.workspace_bytes));
  batch.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(batch.workspace_bytes), 0xff));
  return batch;
}

}  // namespace auxcore::test
