// What token_select.cpp and token_select.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_select {

struct Arguments {
  const void* scores;
  const int32_t* bounds;  ///< [segments + 1]
  const uint8_t* always;  ///< null where no token is always kept
  int32_t* indices;
  int32_t* offsets;     ///< [segments + 1]
  int32_t* slots;       ///< null where they are not wanted
  int32_t* nan_counts;  ///< null where they are not wanted
  tokens::Cut* cuts;    ///< workspace: [segments]; null where one launch does all
  tokens::Budget budget;
  int32_t type, tokens, segments, capacity;
};

}  // namespace auxcore::token_select
