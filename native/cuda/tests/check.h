// A check that says what it found; a test program ends with 1 if one failed.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace auxcore::test {

inline std::atomic<int> failures = 0;

#define CHECK(condition, ...)                                                   \
  do {                                                                          \
    if (!(condition)) {                                                         \
      ++auxcore::test::failures;                                                \
      std::fprintf(stderr, "%s:%d: not so: %s ", __FILE__, __LINE__, #condition); \
      __VA_OPT__(std::fprintf(stderr, __VA_ARGS__);)                            \
      std::fputc('\n', stderr);                                                 \
    }                                                                           \
  } while (false)

inline int result() {
  if (failures != 0)
    std::fprintf(stderr, "%d checks failed\n", failures.load());
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace auxcore::test
