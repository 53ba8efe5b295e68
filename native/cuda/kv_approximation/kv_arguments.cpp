#include "kv_arguments.h"

namespace auxcore::kv {

void check_format(const char* name, int32_t format) {
  if (format < 0 || format >= kFormats)
    fail(AUXCORE_E_ARGUMENT, "%s is %d, none of AUXCORE_KV_F32, …", name, format);
}

int64_t product(const char* name, std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(result, factor, &result))
      fail(AUXCORE_E_ARGUMENT, "%s: more elements than 64 bits count", name);
  return result;
}

int64_t bytes_of(const char* name, int32_t format, int64_t elements) {
  const int group = group_of(format);
  if (elements % group != 0)
    fail(AUXCORE_E_ARGUMENT, "%s: %lld elements are not a multiple of %d, the format's groups", name, static_cast<long long>(elements),
        group);
  return product(name, {elements / group, group_bytes_of(format)});
}

}  // namespace auxcore::kv
