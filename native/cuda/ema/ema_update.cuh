// What ema_update.cpp and ema_update.cu both know: the table in device memory.
#pragma once

#include <stdint.h>

namespace auxcore::ema {

/// A stretch of one tensor, the work of one warp.
struct alignas(16) Piece {
  uint64_t source;
  uint32_t count;        ///< elements
  uint16_t head;         ///< elements up to the first 16-byte boundary of source and averages alike; kNoVectors if there is none
  uint16_t source_type;  ///< SourceType
};

static_assert(sizeof(Piece) == 16, "a piece is read by one load");

constexpr uint16_t kNoVectors = 0xffff;

/// The values of auxcore_dtype that a source may have.
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

/// Steps that one launch of auxcore_ema_set_steps carries, by value: no memory of the host's has to outlive the call.
constexpr int kStepsPerLaunch = 16;

struct Steps {
  Step step[kStepsPerLaunch];
};

constexpr int kWarp = 32;
constexpr int kThreads = 256;  ///< of a block
constexpr int kPieceElements = 4096;

}  // namespace auxcore::ema
