// Checks that the losses over pairs share.
#pragma once

#include "../library/arguments.h"

namespace auxcore::pairs {

void check_type(auxcore_dtype type);
void check_count(int32_t count);
void check_dimension(int32_t dimension);

}  // namespace auxcore::pairs
