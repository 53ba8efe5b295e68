// What forward_backward_loss.cpp and forward_backward_loss.cu both know.
#pragma once

#include "pair_types.cuh"

namespace auxcore::forward_backward {

using pairs::kThreads;
using pairs::kTile;

constexpr int kMostHeads = 16;
constexpr int kWarp = 32;
constexpr int kMostSlices = 16;

/// How the heads' targets become one: the numbers of auxcore.h.
enum Target : int32_t { kMean = 0, kMinimum = 1, kPenalised = 2 };

/// The Gram matrices, each [d, d] in float64. Where the form is tiled there is only the first. Symmetric ones come before the others.
enum Gram : int32_t {
  kBackward = 0,        ///< B'B
  kForward = 1,         ///< sum of F'F over the heads
  kTarget = 2,          ///< T'T, T the rows of targets
  kTargetBackward = 3,  ///< B~'B~, B~ the target network's B
  kForwardCross = 4,    ///< T' (sum of F)
  kBackwardCross = 5,   ///< B~'B
  kGrams = 6
};

constexpr int kSymmetricGrams = 4;

/// The right factors of the gradients, each [d, d] in float32, transposed, so that a product is one of rows with rows.
enum Operand : int32_t {
  kOfForward = 0,         ///< B'B / N
  kOfTarget = 1,          ///< -(B~'B) / N
  kOfBackward = 2,        ///< (sum of F'F + 2 · orthonormality · B'B) / N
  kOfTargetBackward = 3,  ///< -(T' (sum of F)) / N
  kOperands = 4
};

/// One batch and its workspace.
struct Batch {
  const void* forward;          ///< [heads, count, dimension]
  const void* backward;         ///< [count, dimension]
  const void* target_forward;   ///< [heads, count, dimension]
  const void* target_backward;  ///< [count, dimension]
  const uint8_t* done;          ///< [count]
  float* forward_gradient;
  float* backward_gradient;
  double* loss;            ///< four parts
  float* discounts;        ///< workspace: [count]
  double* products;        ///< workspace: [heads, count]: F_i · B_i
  double* targets;         ///< workspace: [count]: discount · target of pair (i, i)
  double* norms;           ///< workspace: [count]: |B_i|^2
  float* target_rows;      ///< workspace, Gram form: [count, dimension]: T
  double* grams;           ///< workspace: [slices, grams, dimension, dimension]
  float* operands;         ///< workspace: [operands, dimension, dimension]
  double* sums;            ///< workspace: [2, blocks]: of squares of differences, and of entries of B'B
  float* forward_sums;     ///< workspace, tiled form: [segments - 1, heads, count, dimension]
  float* backward_sums;    ///< workspace, tiled form: [segments - 1, count, dimension]
  int32_t heads;
  int32_t count;
  int32_t dimension;
  int32_t target;      ///< Target
  int32_t is_gram;     ///< the form
  int32_t is_difference; ///< the diagonal part of the loss is of F · B less its target
  int32_t slices;      ///< of rows, in Gram products
  int32_t segments;    ///< of other rows, in tiles
  int32_t square_blocks; ///< how many sums of squares there are
  int32_t gram_blocks;   ///< how many sums of B'B there are
  float discount;
  float penalty;         ///< what the sum of |differences| over pairs of heads is multiplied by; not positive
  double diagonal_weight;
  double orthonormality; ///< with the convention's factor
};

}  // namespace auxcore::forward_backward
