#include "context.h"

namespace auxcore {

// Apart from the rest, which is the same whatever images are linked with it.
const char* const image_description = AUXCORE_IMAGE_DESCRIPTION;

}  // namespace auxcore
