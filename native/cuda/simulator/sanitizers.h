// What the sanitizers have to be told. SIMT_THREAD_SANITIZER comes from CMake: the simulator's own files are compiled without
// ThreadSanitizer, whose subject is the kernel, and link with it nevertheless.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#  define SIMT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define SIMT_ADDRESS_SANITIZER 1
#  endif
#endif

#if defined(SIMT_ADDRESS_SANITIZER)
#  include <sanitizer/asan_interface.h>
#  include <sanitizer/common_interface_defs.h>
#endif

#if defined(SIMT_THREAD_SANITIZER)
#  include <sanitizer/tsan_interface.h>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace simt {

/// Everything before the releases of a tag happens before everything after its acquisitions that follow.
inline void release([[maybe_unused]] char& tag) {
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_release(&tag);
#endif
}

inline void acquire([[maybe_unused]] char& tag) {
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_acquire(&tag);
#endif
}

/// While one exists, what this thread does is no part of a race. Allocation and memset are intercepted wherever they are called from.
class Unchecked {
 public:
#if defined(SIMT_THREAD_SANITIZER)
  Unchecked() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unchecked() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unchecked() {}
  ~Unchecked() {}
#endif
  Unchecked(const Unchecked&) = delete;
  Unchecked& operator=(const Unchecked&) = delete;
};

}  // namespace simt
