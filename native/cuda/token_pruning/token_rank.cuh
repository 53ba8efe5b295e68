// Order statistics of scores by radix, a block a segment; TokenSelect.cs has the order, Budget.cs the rules.
//
// A score and its index are one number of 64 bits, (key << 32) | ~index, and the last one that is kept is what is looked for. Its upper
// half is found by digits of 11, 11 and 10 bits: the first digit is sign, exponent and two bits of the mantissa, so that scores which are
// alike, as attention is, do not all meet in a few counters. The lower half needs no digits: among equal keys indices ascend, and tokens
// are emitted in the order of their indices, so it is enough to know how many of the equal ones are kept.
//
// Scores are read anew for each digit. A segment of 16,384 is 64 KB, which the first pass leaves in the first-level cache.
#pragma once

#include "token_device.cuh"

namespace auxcore::tokens {

constexpr int kDigits = 2048;
constexpr uint32_t kAlways = 0xffffffffu, kSign = 0x80000000u;

/// A score as an unsigned integer of the same order: NaN is 0, the least; -0 becomes +0.
__device__ __forceinline__ uint32_t key_of(float score) {
  if (score != score)
    return 0;
  const uint32_t bits = score == 0 ? 0 : as_bits(score);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

/// The score of a key that is not NaN's.
__device__ __forceinline__ float score_of(uint32_t key) { return as_float((key & kSign) != 0 ? key & ~kSign : ~key); }

/// The scores of one segment.
struct Scores {
  const void* scores;     ///< of the segment's first token
  const uint8_t* always;  ///< likewise; null where no token is always kept
  int32_t type, length;

  __device__ __forceinline__ float at(int32_t i) const { return load(scores, type, i); }
  __device__ __forceinline__ bool is_always(int32_t i) const { return always != nullptr && always[i] != 0; }
  __device__ __forceinline__ uint32_t raised(int32_t i, float score) const { return is_always(i) ? kAlways : key_of(score); }
};

/// What a block ranks with.
struct RankSpace {
  unsigned* counts;            ///< kDigits
  unsigned long long* masses;  ///< kDigits
  unsigned* words;             ///< a place a warp
  uint64_t* sums;              ///< a place a warp
  uint64_t* found;             ///< two places
};

#define AUXCORE_RANK_SPACE(name)                                                                       \
  AUXCORE_SHARED(unsigned, name##_counts, ::auxcore::tokens::kDigits);                                 \
  AUXCORE_SHARED(unsigned long long, name##_masses, ::auxcore::tokens::kDigits);                       \
  AUXCORE_SHARED(unsigned, name##_words, ::auxcore::tokens::kRankThreads / ::auxcore::tokens::kWarp);  \
  AUXCORE_SHARED(uint64_t, name##_sums, ::auxcore::tokens::kRankThreads / ::auxcore::tokens::kWarp);   \
  AUXCORE_SHARED(uint64_t, name##_found, 2);                                                           \
  const ::auxcore::tokens::RankSpace name = {name##_counts, name##_masses, name##_words, name##_sums, name##_found}

constexpr int kAtOnce = 4;  ///< scores of a thread that are under way at once

template <class T>
__device__ __forceinline__ void load_own(const void* scores, int32_t from, int32_t length, float (&values)[kAtOnce]) {
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k)
    if (from + k * kRankThreads < length)
      values[k] = load(static_cast<const T*>(scores) + from + k * kRankThreads);
}

/// body(i, score) for the tokens of a thread: every kRankThreads-th, so that neighbours read neighbours.
template <class Body>
__device__ __forceinline__ void for_own(const Scores& scores, const Body& body) {
  for (int32_t from = int32_t(threadIdx.x); from < scores.length; from += kAtOnce * kRankThreads) {
    float values[kAtOnce] = {};
    switch (scores.type) {
      case kFloat32:
        load_own<float>(scores.scores, from, scores.length, values);
        break;
      case kBFloat16:
        load_own<bfloat16>(scores.scores, from, scores.length, values);
        break;
      default:
        load_own<float16>(scores.scores, from, scores.length, values);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (from + k * kRankThreads < scores.length)
        body(from + k * kRankThreads, values[k]);
  }
}

template <class Predicate>
__device__ __forceinline__ int32_t count_if(const Scores& scores, const RankSpace& space, const Predicate& predicate) {
  unsigned own = 0;
  for_own(scores, [&](int32_t i, float score) { own += predicate(i, score) ? 1 : 0; });
  return int32_t(block_sum<kRankThreads>(own, space.words));
}

struct Ranked {
  uint32_t key;
  int32_t above;  ///< how many keys are greater
};

/// The digits of a key from the top.
struct Digit {
  int shift, count;
};

__device__ __forceinline__ Digit digit(int pass) { return pass == 0 ? Digit{21, 2048} : pass == 1 ? Digit{10, 2048} : Digit{0, 1024}; }

/// The k-th largest of the keys, k from 1 to length.
template <class Key>
__device__ AUXCORE_TOKEN_INLINE Ranked largest(const Scores& scores, const Key& key_at, int32_t k, const RankSpace& space) {
  uint32_t prefix = 0, mask = 0;
  unsigned left = unsigned(k);
  for (int pass = 0; pass < 3; ++pass) {
    const Digit now = digit(pass);
    for (int i = int(threadIdx.x); i < kDigits; i += kRankThreads)
      space.counts[i] = 0;
    __syncthreads();
    for_own(scores, [&](int32_t i, float score) {
      const uint32_t key = key_at(i, score);
      if ((key & mask) == prefix)
        atomicAdd(space.counts + (key >> now.shift & unsigned(now.count - 1)), 1u);
    });
    __syncthreads();
    // From the top, two digits a thread.
    const int upper = kDigits - 1 - 2 * int(threadIdx.x);
    const unsigned first = space.counts[upper], second = space.counts[upper - 1];
    const unsigned before = block_sum_before<kRankThreads>(first + second, space.words);
    if (before < left && left <= before + first + second) {
      const bool is_first = left <= before + first;
      space.found[0] = uint64_t(is_first ? upper : upper - 1);
      space.found[1] = is_first ? before : before + first;
    }
    __syncthreads();
    prefix |= uint32_t(space.found[0]) << now.shift;
    mask |= unsigned(now.count - 1) << now.shift;
    left -= unsigned(space.found[1]);
    __syncthreads();
  }
  return {prefix, k - int32_t(left)};
}

/// The least key of a score above another one, which is not the greatest.
__device__ AUXCORE_TOKEN_INLINE uint32_t next_above(const Scores& scores, uint32_t than, const RankSpace& space) {
  uint32_t own = 0;  // of the complements
  for_own(scores, [&](int32_t, float score) {
    const uint32_t key = key_of(score);
    own = most(own, key > than ? ~key : 0u);
  });
  return ~block_most<kRankThreads>(own, space.words);
}

/// The mass of a score: an integer below 2^32, so that no order of summation matters (TokenMass in TokenSelectWork.cs).
struct Mass {
  double scale;
  bool is_infinite;

  __device__ __forceinline__ explicit Mass(float greatest) : scale(0), is_infinite(greatest == infinity()) {
    if (!(greatest > 0) || is_infinite)
      return;
    int32_t exponent = int32_t(as_bits(greatest) >> 23) - 127;
    if (exponent == -127)  // subnormal
      for (uint32_t bits = as_bits(greatest); (bits & 0x400000u) == 0; bits <<= 1)
        --exponent;
    const uint64_t bits = uint64_t(1023 + 31 - exponent) << 52;
    __builtin_memcpy(&scale, &bits, sizeof scale);
  }

  __device__ __forceinline__ uint32_t of(float score) const {
    if (is_infinite)
      return score == infinity() ? 1 : 0;
    return score > 0 ? uint32_t(__dmul_rn(double(score), scale)) : 0;
  }

  /// ⌈share · sum⌉ in double, at most the sum.
  static __device__ __forceinline__ uint64_t wanted(double share, uint64_t sum) {
    if (share >= 1)
      return sum;
    const double exact = __dmul_rn(share, double(sum));
    const uint64_t below = uint64_t(exact);
    return least(sum, double(below) < exact ? below + 1 : below);
  }
};

/// How many tokens from the top have the mass that is wanted, beginning with what is always kept.
__device__ AUXCORE_TOKEN_INLINE int32_t count_of_mass(const Scores& scores, double share, const RankSpace& space) {
  unsigned greatest = 0;  // of positive scores bits and scores have one order
  for_own(scores, [&](int32_t, float score) {
    greatest = most(greatest, score > 0 ? as_bits(score) : 0u);
  });
  const Mass mass(as_float(block_most<kRankThreads>(greatest, space.words)));
  uint64_t all = 0, kept = 0;
  for_own(scores, [&](int32_t i, float score) {
    const uint64_t own = mass.of(score);
    all += own;
    kept += scores.is_always(i) ? own : 0;
  });
  const int32_t always = count_if(scores, space, [&](int32_t i, float) { return scores.is_always(i); });
  uint64_t wanted = Mass::wanted(share, block_sum<kRankThreads>(all, space.sums));
  kept = block_sum<kRankThreads>(kept, space.sums);
  if (wanted <= kept)
    return always;
  wanted -= kept;

  uint32_t prefix = 0, mask = 0;
  int32_t count = always;
  for (int pass = 0; pass < 3; ++pass) {
    const Digit now = digit(pass);
    for (int i = int(threadIdx.x); i < kDigits; i += kRankThreads) {
      space.counts[i] = 0;
      space.masses[i] = 0;
    }
    __syncthreads();
    for_own(scores, [&](int32_t i, float score) {
      const uint32_t key = key_of(score);
      if (scores.is_always(i) || (key & mask) != prefix)
        return;
      const unsigned place = key >> now.shift & unsigned(now.count - 1);
      atomicAdd(space.counts + place, 1u);
      atomicAdd(space.masses + place, static_cast<unsigned long long>(mass.of(score)));
    });
    __syncthreads();
    const int upper = kDigits - 1 - 2 * int(threadIdx.x);
    const uint64_t first = space.masses[upper], second = space.masses[upper - 1];
    const unsigned first_count = space.counts[upper], both = first_count + space.counts[upper - 1];
    const uint64_t before = block_sum_before<kRankThreads>(first + second, space.sums);
    const unsigned count_before = block_sum_before<kRankThreads>(both, space.words);
    if (before < wanted && wanted <= before + first + second) {
      const bool is_first = wanted <= before + first;
      space.found[0] = uint64_t(is_first ? upper : upper - 1) << 32 | (is_first ? count_before : count_before + first_count);
      space.found[1] = is_first ? before : before + first;
    }
    __syncthreads();
    const uint32_t place = uint32_t(space.found[0] >> 32);
    prefix |= place << now.shift;
    mask |= unsigned(now.count - 1) << now.shift;
    count += int32_t(uint32_t(space.found[0]));
    wanted -= space.found[1];
    if (pass == 2) {
      const uint64_t one = space.masses[place] / space.counts[place];  // equal scores have equal masses
      count += int32_t((wanted + one - 1) / one);
    }
    __syncthreads();
  }
  return count;
}

/// A quartile of the `numbers` scores that are not NaN, between two of them as NumPy has it.
__device__ AUXCORE_TOKEN_INLINE double quartile(const Scores& scores, int32_t numbers, int quarters, const RankSpace& space) {
  const int64_t at = int64_t{numbers - 1} * quarters;
  const int32_t below_place = int32_t(at / 4), above_place = int32_t((at + 3) / 4);
  const Ranked below = largest(scores, [](int32_t, float score) { return key_of(score); }, numbers - below_place, space);
  uint32_t above = below.key;
  if (above_place != below_place && below.above == numbers - above_place)
    above = next_above(scores, below.key, space);
  const double low = score_of(below.key), high = score_of(above);
  return low == high ? low : __dadd_rn(low, __dmul_rn(__dadd_rn(high, -low), double(at % 4) / 4));
}

/// The least key of scores above the outliers' bound.
__device__ AUXCORE_TOKEN_INLINE uint32_t outlier_bound(const Scores& scores, int32_t numbers, double factor, const RankSpace& space) {
  if (numbers == 0)
    return kAlways;
  const double first = quartile(scores, numbers, 1, space), third = quartile(scores, numbers, 3, space);
  const double bound = __dadd_rn(third, __dmul_rn(factor, __dadd_rn(third, -first)));
  if (bound != bound)
    return kAlways;
  const float nearest = float(bound);
  return double(nearest) > bound ? key_of(nearest) : key_of(nearest) + 1;  // keys of neighbours are neighbours
}

/// What the rule says of a segment by its length alone.
__device__ __forceinline__ int32_t most_of(const Budget& budget, int32_t length) {
  if (budget.rule == kCount)
    return budget.count;
  return budget.rule == kRatio ? int32_t(__dadd_rn(__dmul_rn(budget.value, double(length)), 0.5)) : length;
}

__device__ __forceinline__ int32_t limited(const Budget& budget, int32_t count, int32_t length, int32_t always) {
  const int32_t lowest = least(budget.minimum, length), highest = least(budget.maximum, length);
  return most(always, most(lowest, least(count, highest)));
}

/// Where a segment is cut by a budget. nan_count: null where it is not wanted.
__device__ AUXCORE_TOKEN_INLINE Cut cut_of(const Scores& scores, const Budget& budget, int32_t* nan_count, const RankSpace& space) {
  const int32_t length = scores.length;
  int32_t nan = 0;
  if (nan_count != nullptr || budget.rule == kOutliers)
    nan = count_if(scores, space, [](int32_t, float score) { return score != score; });
  if (nan_count != nullptr && threadIdx.x == 0)
    *nan_count = nan;
  const int32_t always = scores.always == nullptr ? 0 : count_if(scores, space, [&](int32_t i, float) { return scores.is_always(i); });

  int32_t count = 0;
  if (budget.rule == kThreshold || budget.rule == kOutliers) {
    const uint32_t bound =
        budget.rule == kThreshold ? key_of(float(budget.value)) : outlier_bound(scores, length - nan, budget.value, space);
    count = count_if(scores, space, [&](int32_t i, float score) { return scores.raised(i, score) >= bound; });
  } else {
    count = budget.rule == kTopP ? count_of_mass(scores, budget.value, space) : most_of(budget, length);
  }
  count = limited(budget, count, length, always);
  if (count == 0)
    return {kAlways, 0, 0, 0};
  const Ranked last = largest(scores, [&](int32_t i, float score) { return scores.raised(i, score); }, count, space);
  return {last.key, count - last.above, count, 0};
}

/// Tokens that are kept, in the order of their indices. Each warp takes a stretch: first it counts what is kept there, then it knows where
/// its own go. emit(token, place): the place is -1 where it is not kept.
template <class Emit>
__device__ AUXCORE_TOKEN_INLINE void emit_kept(const Scores& scores, const Cut& cut, const RankSpace& space, const Emit& emit) {
  constexpr int kWarps = kRankThreads / kWarp;
  const int32_t stretch = (scores.length + kRankThreads - 1) / kRankThreads * kWarp;
  const int32_t from = least(scores.length, stretch * own_warp()), to = least(scores.length, from + stretch);
  unsigned above = 0, equal = 0;
  for (int32_t at = from; at < to; at += kWarp) {
    const int32_t i = at + own_lane();
    const uint32_t key = i < to ? scores.raised(i, scores.at(i)) : 0;
    above += unsigned(__popc(__ballot_sync(kAllLanes, i < to && key > cut.key)));
    equal += unsigned(__popc(__ballot_sync(kAllLanes, i < to && key == cut.key)));
  }
  if (own_lane() == 0) {
    space.counts[own_warp()] = above;
    space.counts[kWarps + own_warp()] = equal;
  }
  __syncthreads();
  unsigned above_before = 0, equal_before = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    above_before += warp < own_warp() ? space.counts[warp] : 0;
    equal_before += warp < own_warp() ? space.counts[kWarps + warp] : 0;
  }
  const unsigned ties = unsigned(cut.ties), before_lane = (1u << own_lane()) - 1;
  for (int32_t at = from; at < to; at += kWarp) {
    const int32_t i = at + own_lane();
    const uint32_t key = i < to ? scores.raised(i, scores.at(i)) : 0;
    const unsigned greater = __ballot_sync(kAllLanes, i < to && key > cut.key);
    const unsigned same = __ballot_sync(kAllLanes, i < to && key == cut.key);
    const unsigned own_above = above_before + unsigned(__popc(greater & before_lane));
    const unsigned own_equal = equal_before + unsigned(__popc(same & before_lane));
    const bool is_kept = key > cut.key || (key == cut.key && own_equal < ties);
    if (i < to)
      emit(i, is_kept ? int32_t(own_above + least(own_equal, ties)) : -1);
    above_before += unsigned(__popc(greater));
    equal_before += unsigned(__popc(same));
  }
}

}  // namespace auxcore::tokens
