// TokenSelect on CUDA: a block a segment ranks (token_rank.cuh) and emits indices, offsets and slots. Where a segment's indices begin
// depends on the segments before. With one segment, or a number that follows from lengths, every block reckons that itself, and one launch
// does all; otherwise a first launch finds the cuts.
#include "token_select.cuh"

#include "token_rank.cuh"

namespace auxcore::token_select {
namespace {

using namespace tokens;

__device__ __forceinline__ Scores scores_of(const Arguments& arguments, const Segment& segment) {
  const uint8_t* always = arguments.always == nullptr ? nullptr : arguments.always + segment.first;
  const char* scores = static_cast<const char*>(arguments.scores) + int64_t{segment.first} * size_of(arguments.type);
  return {scores, always, arguments.type, segment.length};
}

__device__ __forceinline__ Cut cut(const Arguments& arguments, const Scores& scores, const RankSpace& space) {
  int32_t* nan_count = arguments.nan_counts == nullptr ? nullptr : arguments.nan_counts + blockIdx.x;
  return cut_of(scores, arguments.budget, nan_count, space);
}

/// The sum of the counts of the segments before the block's own.
template <class Count>
__device__ __forceinline__ int32_t count_before(const RankSpace& space, const Count& count) {
  unsigned own = 0;
  for (int32_t b = int32_t(threadIdx.x); b < int32_t(blockIdx.x); b += kRankThreads)
    own += unsigned(count(b));
  return int32_t(block_sum<kRankThreads>(own, space.words));
}

__device__ __forceinline__ void emit(
    const Arguments& arguments, const Segment& segment, const Scores& scores, const Cut& at, int32_t begin, const RankSpace& space) {
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0)
      arguments.offsets[0] = 0;
    arguments.offsets[blockIdx.x + 1] = begin + at.count;
  }
  emit_kept(scores, at, space, [&](int32_t i, int32_t place) {
    const int32_t token = segment.first + i, slot = place < 0 ? -1 : begin + place;
    if (arguments.slots != nullptr)
      arguments.slots[token] = slot;
    if (slot >= 0 && slot < arguments.capacity)
      arguments.indices[slot] = token;
  });
}

}  // namespace

/// One segment, or a budget whose numbers follow from lengths.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_token_select(Arguments arguments) {
  AUXCORE_RANK_SPACE(space);
  const Segment segment(arguments.bounds, int32_t(blockIdx.x), arguments.tokens);
  const Scores scores = scores_of(arguments, segment);
  const Cut at = cut(arguments, scores, space);
  const int32_t begin = count_before(space, [&](int32_t b) {
    const int32_t length = Segment(arguments.bounds, b, arguments.tokens).length;
    return limited(arguments.budget, most_of(arguments.budget, length), length, 0);
  });
  emit(arguments, segment, scores, at, begin, space);
}
AUXCORE_KERNEL(auxcore_token_select)

extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_token_rank(Arguments arguments) {
  AUXCORE_RANK_SPACE(space);
  const Cut at = cut(arguments, scores_of(arguments, Segment(arguments.bounds, int32_t(blockIdx.x), arguments.tokens)), space);
  if (threadIdx.x == 0)
    arguments.cuts[blockIdx.x] = at;
}
AUXCORE_KERNEL(auxcore_token_rank)

extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_token_emit(Arguments arguments) {
  AUXCORE_RANK_SPACE(space);
  const Segment segment(arguments.bounds, int32_t(blockIdx.x), arguments.tokens);
  const int32_t begin = count_before(space, [&](int32_t b) { return arguments.cuts[b].count; });
  emit(arguments, segment, scores_of(arguments, segment), arguments.cuts[blockIdx.x], begin, space);
}
AUXCORE_KERNEL(auxcore_token_emit)

}  // namespace auxcore::token_select
