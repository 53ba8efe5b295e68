// Every call that the functions of token pruning make to the driver, made to fail once: the status is the driver's, and nothing leaks. Then
// random changes of their arguments, none of which may crash. Needs the stand-in.
#include <cstddef>

#include "library_spoil.h"
#include "library_tokens.h"

using namespace auxcore::test;

namespace {

/// Extents that reach from one allocation into another pass for memory that was mapped piece by piece, and nothing can be said of what lies
/// between. So a spoiled tensor is within its allocation, or is refused.
void stay_within(auxcore_token_rows& rows) {
  int64_t* const numbers = &rows.row_bytes;  // up to the last of the steps
  for (std::size_t i = 0; i < (offsetof(auxcore_token_rows, segment_dimension) - offsetof(auxcore_token_rows, row_bytes)) / 8; ++i)
    if (numbers[i] > 24 && numbers[i] < int64_t{1} << 50)
      numbers[i] = 24;
}

/// What one call of each function takes.
struct Structures {
  auxcore_token_select_batch select;
  CompactCase compact;
  auxcore_token_pool_batch pool;
  auxcore_token_scores_batch few, many;
  RerotateCase rerotate;

  explicit Structures(Memory& memory)
      : select(select_batch(memory)), compact(compact_case(memory)), pool(pool_batch(memory)), few(scores_batch(memory, 3)),
        many(scores_batch(memory, 20)), rerotate(memory) {
    many.log_sum_exp = 0;
  }

  std::vector<std::function<auxcore_status()>> calls(auxcore_context on) {
    return {[=, this] { return auxcore_token_select(on, nullptr, &select); },
        [=, this] { return auxcore_token_compact(on, nullptr, &compact.indices, &compact.rows, 1); },
        [=, this] { return auxcore_token_compact_backward(on, nullptr, &compact.slots, &compact.spread, 1); },
        [=, this] { return auxcore_token_pool(on, nullptr, &pool); },
        [=, this] { return auxcore_token_pool_backward(on, nullptr, &pool); },
        [=, this] { return auxcore_token_scores(on, nullptr, &few); }, [=, this] { return auxcore_token_scores(on, nullptr, &many); },
        [=, this] { return rerotate.run(on); }};
  }

  void spoil(std::mt19937_64& random) {
    auxcore::test::spoil(select, random);
    auxcore::test::spoil(compact.indices, random);
    auxcore::test::spoil(compact.slots, random);
    auxcore::test::spoil(compact.rows, random);
    auxcore::test::spoil(compact.spread, random);
    stay_within(compact.rows);
    stay_within(compact.spread);
    auxcore::test::spoil(pool, random);
    auxcore::test::spoil(few, random);
    auxcore::test::spoil(many, random);
    auxcore::test::spoil(rerotate.batch, random);
    auxcore::test::spoil(rerotate.layers, random);
    auxcore::test::spoil(rerotate.frequencies, random);
    auxcore::test::spoil(rerotate.row_of, random);
  }
};

}  // namespace

int main() {
  const Standin standin;
  open_or_skip();
  skip_without_device_code();
  {
    Memory memory;
    Structures good(memory);
    every_driver_call_may_fail(standin, [&](auxcore_context on) { return good.calls(on); });
    for (const unsigned seed : {1u, 2u, 3u})
      garbage_is_refused_or_computed_with(good, seed, 100);
  }
  OK(auxcore_close(context));
  const auxcore_standin_state now = standin.state();
  CHECK(now.allocations == 0 && now.retained_contexts == 0 && now.modules == 0);
  return result();
}
