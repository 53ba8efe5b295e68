// What the stand-in has to know of PTX: which kernels a text has, and how their parameters lie.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace standin {

struct Parameter {
  size_t offset, bytes;
};

/// "" where the text may be PTX, otherwise what is wrong with it.
std::string what_is_wrong_with_ptx(std::string_view text);

/// The parameters of the kernel of that name, or nothing where there is no such kernel.
std::optional<std::vector<Parameter>> parameters_of_entry(std::string_view text, std::string_view name);

}  // namespace standin
