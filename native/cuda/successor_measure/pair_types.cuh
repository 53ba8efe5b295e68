// What the host and the device code of the losses over pairs both know.
#pragma once

#include <stdint.h>

namespace auxcore::pairs {

constexpr int kThreads = 256;
constexpr int kTile = 64;                ///< rows of a tile, of either side
constexpr int kPart = kTile / 4;         ///< threads a side: each has four rows by four
constexpr int kDepth = 16;               ///< columns that are multiplied at a time
constexpr int kPitch = kTile + 4;        ///< floats from one row of shared memory to the next
constexpr int kMostSegments = 8;
constexpr int kSegmentPairs = 1 << 14;   ///< below this many rows, other rows are cut into segments

static_assert(kPart * kPart == kThreads && kTile * kDepth == 4 * kThreads);

/// The values of auxcore_dtype that inputs may have.
enum Type : int32_t { kFloat32 = 0, kBFloat16 = 3 };

/// Into how many segments the other rows are cut: a function of the batch alone, so that the device changes no sum.
constexpr int32_t segments_of(int64_t count) {
  const int64_t segments = kSegmentPairs / (count < 1 ? 1 : count), tiles = (count + kTile - 1) / kTile;
  const int64_t most = tiles < kMostSegments ? tiles : kMostSegments;
  return int32_t(segments < 1 ? 1 : segments < most ? segments : most);
}

}  // namespace auxcore::pairs
