// What a caller of AdamWUpdate says of its tensors: checked, and cut into the pieces and chunks that the kernels work on.
#pragma once

#include <vector>

#include "../library/context.h"
#include "adamw_update.cuh"

namespace auxcore::adamw {

/// A caller's tensors, kept: a later call with the same ones only compares.
class Tensors {
 public:
  /// The tensors of nobody.
  explicit Tensors(int average_count) : average_count_(average_count) {}

  /// Copies what the caller says; refuses what cannot be a list of tensors.
  Tensors(const auxcore_adamw_tensors& given, int average_count);

  bool operator==(const Tensors& other) const = default;

  /// Refuses tensors that are not wholly in device memory of the context, not aligned to their elements, or overlap.
  void check(const Context& context) const;

  std::size_t size() const { return counts_.size(); }
  uint64_t count(std::size_t tensor) const { return static_cast<uint64_t>(counts_[tensor]); }
  bool has_gradient(std::size_t tensor) const { return address(tensor, kGradient) != 0 && counts_[tensor] > 0; }
  bool has_averages(std::size_t tensor) const { return average_count_ > 0 && address(tensor, kAverages) != 0; }

  /// The greatest of the settings that a parameter with a gradient follows; -1 where none has a gradient.
  int greatest_settings() const;

  /// Pieces of the parameters with gradients, and average_count addresses for each, which begin where their piece does.
  struct Pieces {
    std::vector<Piece> pieces;
    std::vector<uint64_t> averages;
  };
  Pieces pieces() const;

  std::vector<Chunk> chunks() const;

 private:
  enum Column { kParameter, kMaster, kGradient, kFirstMoment, kSecondMoment, kAverages };

  /// "parameters[3]", "averages[0][3]": the words of the managed API.
  struct Name {
    char text[64];
  };
  Name name(std::size_t tensor, std::size_t column) const;

  std::size_t columns() const { return static_cast<std::size_t>(kAverages + average_count_); }
  uint64_t address(std::size_t tensor, std::size_t column) const { return addresses_[tensor * columns() + column]; }
  std::size_t element_bytes(std::size_t tensor, std::size_t column) const;
  bool is_there(std::size_t tensor, std::size_t column) const;
  void check_row(std::size_t tensor) const;
  void check_memory(std::size_t tensor, std::size_t column, const Context& context) const;
  void check_overlap() const;
  uint16_t head(std::size_t tensor) const;
  uint64_t piece_elements() const;

  int average_count_;
  std::vector<uint64_t> addresses_;
  std::vector<int64_t> counts_;
  std::vector<auxcore_dtype> parameter_types_, gradient_types_;
  std::vector<int32_t> settings_of_;
};

}  // namespace auxcore::adamw
