// What ema_update.cpp and ema_update.cu both know: the table in device memory.
#pragma once

#include <stdint.h>

namespace auxcore::ema {

/// A stretch of one tensor, the work of one warp.
struct alignas(16) Piece {
  uint64_t source;
  uint32_t count;        ///< elements
  uint16_t head;         ///< elements up to the first whole kQuad of source and averages alike; kNoVectors if there is none
  uint16_t source_type;  ///< SourceType
};

static_assert(sizeof(Piece) == 16);

/// Elements that one access reads or writes: 16 bytes of an average, 16 or 8 of a source, at a multiple of as many.
constexpr int kQuad = 4;
constexpr uint16_t kNoVectors = 0xffff;

/// The values of auxcore_dtype that a source may have; an average may be the first or the last.
enum SourceType : uint16_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 3 };

/// How a decay is applied; the formulas are in EmaUpdate's documentation (src/Kernels/Ema/EmaUpdate.cs).
enum Rule : uint32_t {
  kKeep = 0,         ///< decay 1: nothing is read or written
  kFromAverage = 1,  ///< w < 1/2: e <- fma(w, p - e, e)
  kFromSource = 2,   ///< w >= 1/2: e <- fma(-decay, p - e, p)
  kCopy = 3          ///< decay 0: e <- p
};

struct Step {
  Rule rule;
  float coefficient;  ///< w, or -decay
};

/// How averages in bfloat16 are rounded.
enum RoundingKind : uint32_t { kNearest = 0, kStochastic = 1 };

struct Rounding {
  uint64_t seed;  ///< of the first average; the next ones have the numbers that follow
  uint64_t step;
  uint32_t first_tensor;  ///< the number of the first tensor
  RoundingKind kind;
};

/// Where in its tensor a piece begins, and which tensor that is: what the random bits of its elements depend on.
struct Position {
  uint64_t element;
  uint32_t tensor;
  uint32_t unused;
};

/// Steps that one launch of auxcore_ema_set_steps carries, by value: no memory of the host's has to outlive the call.
constexpr int kStepsPerLaunch = 16;

struct Steps {
  Step step[kStepsPerLaunch];
};

constexpr int kWarp = 32;
constexpr int kThreads = 256;                ///< of a block
constexpr int kBlocksPerMultiprocessor = 4;  ///< at least: leaves a thread 64 registers; what it has under way takes 32

/// Elements of a piece: as many as give kWishedPieces of them, a multiple of kPieceStep within these. Short pieces spread a small model
/// over all multiprocessors; long ones keep the table of a large one small. An H100 holds 4224 to 8448 warps, each with a piece.
constexpr int kLeastPiece = 1024;
constexpr int kMostPiece = 8192;
constexpr int kPieceStep = 512;
constexpr int kWishedPieces = 65536;

}  // namespace auxcore::ema
