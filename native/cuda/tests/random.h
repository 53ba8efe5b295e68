// Numbers for tests that want many of them, the same in every run.
#pragma once

#include <cstdint>

namespace auxcore::test {

/// What comes next; a test may set it, to begin again or elsewhere.
inline uint32_t random_state = 1;

/// 24 bits of a linear congruential generator.
inline uint32_t next_random() {
  random_state = random_state * 1664525u + 1013904223u;
  return random_state >> 8;
}

}  // namespace auxcore::test
