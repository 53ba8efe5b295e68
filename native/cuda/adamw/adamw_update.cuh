// What the host's and the device's part of AdamWUpdate and GradientNorm both know: the tables in device memory.
#pragma once

#include <stdint.h>

#include "../ema/ema_update.cuh"

namespace auxcore::adamw {

using ema::kBlocksPerMultiprocessor;
using ema::kLeastPiece;
using ema::kMostPiece;
using ema::kNoVectors;
using ema::kPieceStep;
using ema::kQuad;
using ema::kThreads;
using ema::kWarp;
using ema::kWishedPieces;

constexpr int kMostAverages = 4;

/// The values of auxcore_dtype that parameters and gradients may have.
enum ElementType : uint8_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 3 };

/// A stretch of one parameter, the work of one warp: addresses of its own first element.
struct alignas(16) Piece {
  uint64_t parameter;
  uint64_t master;  ///< 0 where the parameter is float32 itself
  uint64_t gradient;
  uint64_t first_moment;
  uint64_t second_moment;
  uint32_t count;     ///< elements
  uint32_t settings;  ///< which of them
  uint16_t head;      ///< elements up to the first whole kQuad of all tensors alike; kNoVectors if there is none
  uint8_t parameter_type;
  uint8_t gradient_type;
  uint32_t has_averages;
};

static_assert(sizeof(Piece) == 64);

/// Of the settings in the C ABI, as updates read them.
struct alignas(16) Settings {
  double gradient_scale;
  float penalty, weight1, weight2, epsilon, step_size, shrinkage;
};

static_assert(sizeof(Settings) == 32);

/// Settings that one launch carries, by value: no memory of the host's has to outlive the call. As words, one a thread: clang keeps a copy
/// of a parameter on the stack that is indexed by the thread and has mixed fields.
constexpr int kSettingsPerLaunch = 16;
constexpr int kSettingsWords = sizeof(Settings) / sizeof(uint64_t);

struct SettingsBatch {
  uint64_t word[kSettingsPerLaunch * kSettingsWords];
};

struct Decays {
  ema::Step step[kMostAverages];
};

/// A stretch of one gradient, whose squares a warp adds up. Where the cuts are decides the bits of the sum: those of
/// src/Kernels/AdamW/GradientNorm.cs.
struct alignas(16) Chunk {
  uint64_t gradient;
  uint32_t count;  ///< elements, at most kChunkElements
  uint32_t gradient_type;
};

constexpr int kChunkElements = 4096;
constexpr int kFinalSums = 256;  ///< and the threads of the block that adds them up

/// What GradientNorm found, and what a clipped update does about it.
struct alignas(16) Norm {
  double sum_of_squares;
  uint64_t non_finite;  ///< elements
  double factor;
  uint64_t skip;  ///< 1 or 0
};

static_assert(sizeof(Norm) == 32);

/// As torch.nn.utils.clip_grad_norm_.
constexpr double kClipEpsilon = 1e-6;

}  // namespace auxcore::adamw
