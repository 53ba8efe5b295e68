// Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011): 128 random bits as a function of a counter and a key, and of nothing else. The same
// numbers as src/Kernels/Philox.cs.
#pragma once

#include "device.cuh"

namespace auxcore {

struct RandomBits {
  uint64_t low, high;  ///< the first word in the lower half of low
};

__device__ __forceinline__ RandomBits philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {uint64_t(c1) << 32 | c0, uint64_t(c3) << 32 | c2};
}

}  // namespace auxcore
