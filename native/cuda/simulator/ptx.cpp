#include "ptx.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace standin {
namespace {

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

/// Words (a directive with its dot is one), numbers and single signs; comments and white space are left out.
std::vector<std::string_view> tokens(std::string_view text) {
  std::vector<std::string_view> found;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (std::isspace(static_cast<unsigned char>(text[i]))) {
      ++i;
    } else if (text.substr(i, 2) == "//") {
      i = std::min(text.find('\n', i), text.size());
    } else if (text.substr(i, 2) == "/*") {
      i = std::min(text.find("*/", i), text.size() - 2) + 2;
    } else if (is_name(text[i]) || text[i] == '.') {
      for (++i; i < text.size() && is_name(text[i]);)
        ++i;
      found.push_back(text.substr(start, i - start));
    } else {
      found.push_back(text.substr(i++, 1));
    }
  }
  return found;
}

size_t number(std::string_view word) { return size_t(std::strtoull(std::string(word).c_str(), nullptr, 10)); }

/// .u64 is 8; 0 where the word is no type.
size_t bytes_of_type(std::string_view word) {
  if (word.size() < 3 || word[0] != '.' || std::string_view("busf").find(word[1]) == std::string_view::npos)
    return 0;
  return number(word.substr(2)) / 8;
}

}  // namespace

std::string what_is_wrong_with_ptx(std::string_view text) {
  for (const std::string_view directive : {".version", ".target"})
    if (text.find(directive) == std::string_view::npos)
      return "ptxas fatal   : Missing " + std::string(directive) + " directive at start of file";
  return "";
}

std::optional<std::vector<Parameter>> parameters_of_entry(std::string_view text, std::string_view name) {
  const std::vector<std::string_view> words = tokens(text);
  size_t i = 0;
  while (i + 1 < words.size() && !(words[i] == ".entry" && words[i + 1] == name))
    ++i;
  if (i + 1 >= words.size())
    return std::nullopt;

  std::vector<Parameter> parameters;
  size_t end = 0;
  i += 2;
  if (i >= words.size() || words[i] != "(")
    return parameters;
  // .param [.align n] .type [.ptr [.space] [.align n]] name [ "[" count "]" ]
  size_t alignment = 0, element = 0, count = 1;
  for (++i; i < words.size(); ++i) {
    if (words[i] == ".align" && element == 0 && i + 1 < words.size()) {
      alignment = number(words[++i]);
    } else if (words[i] == "[" && i + 1 < words.size()) {
      count = number(words[++i]);
    } else if (words[i] == "," || words[i] == ")") {
      if (element != 0) {
        const size_t to = alignment != 0 ? alignment : element;
        const size_t offset = (end + to - 1) / to * to;
        parameters.push_back({offset, element * count});
        end = offset + element * count;
      }
      if (words[i] == ")")
        break;
      alignment = element = 0;
      count = 1;
    } else if (element == 0) {
      element = bytes_of_type(words[i]);
    }
  }
  return parameters;
}

}  // namespace standin
