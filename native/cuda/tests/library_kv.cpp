// The KV cache's C functions: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_kv.h"

using namespace auxcore::test;

namespace {

void formats_agree_with_the_formula() {
  std::vector<int> formats(std::begin(kStoredFormats), std::end(kStoredFormats));
  formats.push_back(AUXCORE_KV_KIVI4);
  for (const int format : formats) {
    Memory memory;
    std::vector<float> x = pattern(32 * 150, 3);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = std::ldexp(x[i], static_cast<int>(i / 32 % 40) - 25);
    auxcore_kv_elements given = kv_elements(memory, format, x);
    given.scale = format == AUXCORE_KV_E4M3 ? 0.37f : 1.0f;
    OK(auxcore_kv_quantise(context, nullptr, &given));
    const std::vector<uint8_t> expected = stored(format, x, given.scale);
    std::vector<uint8_t> actual = read<uint8_t>(given.stored, expected.size() + 16);
    CHECK(std::equal(expected.begin(), expected.end(), actual.begin()), "format %d", format);
    CHECK(std::count(actual.end() - 16, actual.end(), 0xa5) == 16, "format %d writes beyond", format);
    given.elements = memory.add(std::vector<float>(x.size()));
    OK(auxcore_kv_dequantise(context, nullptr, &given));
    const std::vector<float> back = read<float>(given.elements, x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      if (back[i] != static_cast<float>(restored(format, expected.data(), i, given.scale))) {
        CHECK(false, "format %d: element %zu is %g", format, i, double{back[i]});
        break;
      }
  }
}

void attended(const AttentionCase& given, const AttentionCall& call) {
  OK(auxcore_kv_decode_attention(context, nullptr, &call.cache, &call.attention));
  const std::vector<float> output = read<float>(call.attention.output, given.query.size());
  std::vector<double> sums(static_cast<std::size_t>(given.batch * given.kv_heads * given.capacity));
  const std::vector<double> expected = given.expected(&sums);
  for (std::size_t i = 0; i < output.size(); ++i)
    if (!(std::fabs(double{output[i]} - expected[i]) <= 5e-6)) {
      CHECK(false, "formats %d and %d, heads of %d: element %zu is %g, not %g", given.key_format, given.value_format, given.head_dim, i,
          double{output[i]}, expected[i]);
      break;
    }
  if (call.attention.position_sums == 0)
    return;
  const std::vector<float> actual = read<float>(call.attention.position_sums, sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    if (!(std::fabs(double{actual[i]} - sums[i]) <= 2e-6)) {
      CHECK(false, "the sum of position %zu is %g, not %g", i, double{actual[i]}, sums[i]);
      break;
    }
}

void attention_agrees_with_the_formula() {
  Memory memory;
  for (const int format : kStoredFormats)
    for (const int d : {64, 96, 128, 256}) {
      const AttentionCase given(2, 8, 2, d, 90, format, AUXCORE_KV_BF16, {90, 41}, 5);
      attended(given, AttentionCall(memory, given));
      const AttentionCase other(2, 7, 1, d, 50, AUXCORE_KV_F32, format, {50, 1}, 6);
      attended(other, AttentionCall(memory, other, d == 64 ? 16 : 0, false, true));
    }
  // So many positions that splits merge; in pages of heads, ragged.
  const AttentionCase many(1, 8, 1, 64, 2000, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0, {1999});
  const AttentionCall call(memory, many, 0, false, true);
  attended(many, call);
  const std::vector<float> first = read<float>(call.attention.output, many.query.size());
  OK(auxcore_kv_decode_attention(context, nullptr, &call.cache, &call.attention));
  CHECK(read<float>(call.attention.output, many.query.size()) == first, "repeated calls give the same bits");
  for (const int length : {37, 1999}) {
    const AttentionCase latest(1, 8, 1, 64, 2048, AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4, {length});
    attended(latest, AttentionCall(memory, latest, length == 37 ? 64 : 0, false, true));
  }
  const AttentionCase ragged(2, 4, 2, 80, 300, AUXCORE_KV_F16, AUXCORE_KV_E4M3, {300, 17, 0, 129});
  attended(ragged, AttentionCall(memory, ragged, 16, true));
}

void lengths_may_be_on_the_host() {
  Memory memory;
  AttentionCase given(2, 4, 2, 64, 40, AUXCORE_KV_Q8_0, AUXCORE_KV_Q8_0, {40, 13});
  AttentionCall call(memory, given);
  call.attention.lengths = 0;
  call.attention.host_lengths = given.lengths.data();
  attended(given, call);
  const AttentionCase before = given;
  OK(auxcore_kv_decode_attention(context, nullptr, &call.cache, &call.attention));
  given.lengths = {1, 1};  // were read before the call returned
  call.attention.host_lengths = before.lengths.data();
  const std::vector<float> output = read<float>(call.attention.output, given.query.size());
  CHECK(std::fabs(double{output[5]} - before.expected()[5]) < 5e-6);
}

/// Calls that differ from a good one in one thing.
template <class Change, class Call>
void refused(auxcore_status status, const char* text, Change change, const AttentionCall& good, Call call) {
  AttentionCall wrong = good;
  change(wrong);
  REFUSED(status, text, call(wrong));
}

void formats_are_checked() {
  Memory memory;
  const auxcore_kv_elements good = kv_elements(memory, AUXCORE_KV_Q8_0, pattern(64, 1));
  const auto wrong = [&](auxcore_status status, const char* text, auto change) {
    for (const auto function : {auxcore_kv_quantise, auxcore_kv_dequantise}) {
      auxcore_kv_elements spoilt = good;
      change(spoilt);
      REFUSED(status, text, function(context, nullptr, &spoilt));
    }
  };
  using Elements = auxcore_kv_elements;
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_quantise(0, nullptr, &good));
  REFUSED(AUXCORE_E_ARGUMENT, "elements is NULL", auxcore_kv_quantise(context, nullptr, nullptr));
  wrong(AUXCORE_E_ABI, "struct_size is 4", [](Elements& e) { e.struct_size = 4; });
  for (const int format : {-1, 7})
    wrong(AUXCORE_E_ARGUMENT, "none of AUXCORE_KV_F32", [=](Elements& e) { e.format = format; });
  wrong(AUXCORE_E_ARGUMENT, "count is -32", [](Elements& e) { e.count = -32; });
  wrong(AUXCORE_E_ARGUMENT, "33 elements are not a multiple of 32", [](Elements& e) { e.count = 33; });
  wrong(AUXCORE_E_ARGUMENT, "reserved is 1", [](Elements& e) { e.reserved = 1; });
  for (const float scale : {0.0f, -1.0f, HUGE_VALF, NAN})
    wrong(AUXCORE_E_ARGUMENT, "not finite and above 0", [=](Elements& e) { e.scale = scale; });
  wrong(AUXCORE_E_ARGUMENT, "it is 1 but for E4M3", [](Elements& e) { e.scale = 2; });
  wrong(AUXCORE_E_ARGUMENT, "is not device memory", [](Elements& e) { e.count = 1 << 30; });
  wrong(AUXCORE_E_ARGUMENT, "elements: 0x0", [](Elements& e) { e.elements = 0; });
  wrong(AUXCORE_E_ARGUMENT, "stored: 0x0", [](Elements& e) { e.stored = 0; });
  wrong(AUXCORE_E_ARGUMENT, "is not aligned to its elements of 4", [](Elements& e) { e.elements += 2; });
  wrong(AUXCORE_E_ARGUMENT, "is not aligned to its elements of 2", [](Elements& e) { e.format = AUXCORE_KV_F16, e.stored += 1; });
  wrong(AUXCORE_E_ARGUMENT, "overlaps", [](Elements& e) { e.stored = e.elements; });
  CHECK(read<uint8_t>(good.stored, 84) == std::vector<uint8_t>(84, 0xa5), "what was refused was not done");
  auxcore_kv_elements none = good;
  none.count = 0;
  none.elements = none.stored = 0;
  OK(auxcore_kv_quantise(context, nullptr, &none));
  OK(auxcore_kv_dequantise(context, nullptr, &none));
}

void attention_is_checked() {
  Memory memory;
  const AttentionCase given(2, 4, 2, 64, 32, AUXCORE_KV_E4M3, AUXCORE_KV_BF16, {32, 5});
  const AttentionCall contiguous(memory, given, 0, false, true), paged(memory, given, 16);
  const AttentionCase latest(2, 4, 2, 64, 64, AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4, {64, 5});
  const AttentionCall ringed(memory, latest);
  const auto call = [](const AttentionCall& wrong) {
    return auxcore_kv_decode_attention(context, nullptr, &wrong.cache, &wrong.attention);
  };
  const auto wrong = [&](const char* text, auto change, const AttentionCall* good = nullptr, auxcore_status status = AUXCORE_E_ARGUMENT) {
    refused(status, text, change, good == nullptr ? contiguous : *good, call);
  };
  using C = AttentionCall;
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_decode_attention(0, nullptr, &paged.cache, &paged.attention));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or attention is NULL", auxcore_kv_decode_attention(context, nullptr, nullptr, &paged.attention));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or attention is NULL", auxcore_kv_decode_attention(context, nullptr, &paged.cache, nullptr));
  wrong("cache->struct_size is 4", [](C& c) { c.cache.struct_size = 4; }, nullptr, AUXCORE_E_ABI);
  wrong("attention->struct_size is 4", [](C& c) { c.attention.struct_size = 4; }, nullptr, AUXCORE_E_ABI);
  wrong("batch is 0", [](C& c) { c.cache.batch = 0; });
  wrong("kv_heads is -1", [](C& c) { c.cache.kv_heads = -1; });
  wrong("positions is 0", [](C& c) { c.cache.positions = 0; });
  for (const int d : {0, -8, 4, 60, 264})
    wrong("head_dim is", [=](C& c) { c.cache.head_dim = d; });
  wrong("pages_are_of_heads is 2", [](C& c) { c.cache.pages_are_of_heads = 2; });
  wrong("page_offsets is 0, but there are pages", [](C& c) { c.cache.pages_are_of_heads = 1; });
  wrong("page_offsets is 0, but there are pages", [](C& c) { c.cache.page_offsets = 0; }, &paged);
  wrong("page_count is -1", [](C& c) { c.cache.page_count = -1; }, &paged);
  wrong("page_offsets: 0x", [](C& c) { c.cache.page_offsets = 4; }, &paged);
  wrong("pages: 0x0", [](C& c) { c.cache.pages = 0; }, &paged);
  wrong("keys.format is 7", [](C& c) { c.cache.keys.format = 7; });
  wrong("keys.residual_positions is 0, below 32", [](C& c) { c.cache.keys.format = AUXCORE_KV_KIVI4; });
  wrong("keys.residual: 0x0", [](C& c) { c.cache.keys.residual = 0; }, &ringed);
  wrong("keys.residual: 0x", [](C& c) { c.cache.keys.residual_positions = 1 << 28; }, &ringed);
  wrong("values.residual_positions is 31", [](C& c) { c.cache.values.residual_positions = 31; }, &ringed);
  wrong("keys.residual is there; only KIVI-4", [](C& c) { c.cache.keys.residual = c.attention.query; });
  wrong("values.residual is there; only KIVI-4", [](C& c) { c.cache.values.residual_positions = 37; });
  wrong("keys.reserved is 1", [](C& c) { c.cache.keys.reserved = 1; });
  wrong("positions is 33, not a multiple of 32", [](C& c) { c.cache.positions = 33; }, &ringed);
  wrong("keys: a step of", [](C& c) { c.cache.keys.outer_step += 2; }, &ringed);
  wrong("keys.first: 0x", [](C& c) { c.cache.keys.first += 2; }, &ringed);
  wrong("output overlaps", [](C& c) { c.attention.output = c.cache.values.residual; }, &ringed);
  wrong("values.format is -1", [](C& c) { c.cache.values.format = -1; });
  wrong("values.format: head_dim 40 is not a multiple of 32", [](C& c) {
    c.cache.head_dim = 40;
    c.cache.values.format = AUXCORE_KV_Q8_0;
  });
  wrong("keys.outer_count is 0", [](C& c) { c.cache.keys.outer_count = 0; });
  wrong("keys.outer_count is 3, but there are 2 sequences", [](C& c) { c.cache.keys.outer_count = 3; });
  wrong("keys: a step of -2 bytes", [](C& c) { c.cache.keys.outer_step = -2; });
  wrong("values: a step of 3 bytes", [](C& c) { c.cache.values.head_step = 3; });
  wrong("keys.first: 0x", [](C& c) { c.cache.keys.first += 1; });
  wrong("keys.scale_count is 0; 1 or kv_heads", [](C& c) { c.cache.keys.scale_count = 0; });
  wrong("values.scale_count is 1; only E4M3", [](C& c) { c.cache.values.scale_count = 1; });
  wrong("keys.scales: 0x0", [](C& c) { c.cache.keys.scales = 0; });
  wrong("keys: 0x", [](C& c) { c.cache.keys.outer_step = 1 << 30; });
  wrong("keys: more than 64 bits", [](C& c) { c.cache.keys.outer_step = INT64_MAX - 1; c.cache.keys.head_step = INT64_MAX - 1; });
  wrong("values: 0x0", [](C& c) { c.cache.values.first = 0; });
  wrong("query_heads is 0", [](C& c) { c.attention.query_heads = 0; });
  wrong("query_heads 5 is not a multiple of kv_heads 2", [](C& c) { c.attention.query_heads = 5; });
  wrong("lengths_are_of_heads is 2", [](C& c) { c.attention.lengths_are_of_heads = 2; });
  wrong("sum_positions is -1", [](C& c) { c.attention.sum_positions = -1; });
  wrong("position_sums and sum_positions", [](C& c) { c.attention.position_sums = 0; });
  wrong("position_sums and sum_positions", [](C& c) { c.attention.position_sums = c.attention.query; }, &paged);
  for (const double scale : {HUGE_VAL, -HUGE_VAL, std::nan("")})
    wrong("not finite", [=](C& c) { c.attention.scale = scale; });
  wrong("query: 0x0", [](C& c) { c.attention.query = 0; });
  wrong("output: 0x0", [](C& c) { c.attention.output = 0; });
  wrong("one of them is to be given", [](C& c) { c.attention.lengths = 0; });
  for (const int length : {-1, 33}) {
    const std::vector<int32_t> lengths = {3, length};
    wrong("host_lengths[1] is", [&](C& c) { c.attention.lengths = 0, c.attention.host_lengths = lengths.data(); });
    wrong("one of them is to be given", [&](C& c) { c.attention.host_lengths = lengths.data(); });
  }
  wrong("workspace: ", [](C& c) { c.attention.workspace_bytes -= 1; });
  wrong("is not aligned to 256", [](C& c) { c.attention.workspace += 128; });
  wrong("workspace: 0x0", [](C& c) { c.attention.workspace = 0; });
  wrong("output overlaps", [](C& c) { c.attention.output = c.attention.query; });
  wrong("overlaps", [](C& c) { c.attention.position_sums = c.cache.values.first; });
  wrong("workspace overlaps", [](C& c) { c.cache.keys.scales = c.attention.workspace; });
  CHECK(read<float>(contiguous.attention.output, 512) == std::vector<float>(512, -7.0f), "what was refused was not done");

  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "or bytes is NULL", auxcore_kv_attention_workspace(&paged.cache, &paged.attention, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "or bytes is NULL", auxcore_kv_attention_workspace(nullptr, &paged.attention, &bytes));
  AttentionCall large = contiguous;
  large.cache.batch = large.cache.kv_heads = large.attention.query_heads = INT32_MAX;
  large.cache.keys.outer_count = large.cache.values.outer_count = INT32_MAX;
  large.cache.keys.scale_count = 1;
  REFUSED(AUXCORE_E_ARGUMENT, "more than", auxcore_kv_attention_workspace(&large.cache, &large.attention, &bytes));
  CHECK(bytes == -1);
}

void tokens_are_appended() {
  Memory memory;
  const AttentionCase given(2, 4, 2, 64, 32, AUXCORE_KV_F32, AUXCORE_KV_Q8_0, {32, 32});
  const AttentionCall call(memory, given);
  AppendCall tokens(memory, call, {5, 31});
  OK(auxcore_kv_append_tokens(context, nullptr, &tokens.cache, &tokens.append));
  // Values have neither norm nor rotation.
  const std::vector<uint8_t> values = read<uint8_t>(tokens.cache.values.first, given.values.size());
  std::vector<uint8_t> expected = given.values;
  const std::vector<float> x = pattern(2 * 2 * 64, 3);
  for (std::size_t row = 0; row < 4; ++row)
    store(AUXCORE_KV_Q8_0, {x.begin() + static_cast<std::ptrdiff_t>(row * 64), x.begin() + static_cast<std::ptrdiff_t>(row * 64 + 64)}, 1,
        &expected[(row * 32 + (row < 2 ? 5 : 31)) * 68]);
  CHECK(values == expected);
  // Rotation keeps lengths, and the norm makes them the root of the number of elements.
  const std::vector<float> keys = read<float>(tokens.cache.keys.first, 4 * 32 * 64);
  double squares = 0;
  for (std::size_t i = 0; i < 64; ++i)
    squares += double{keys[5 * 64 + i]} * double{keys[5 * 64 + i]};
  CHECK(std::fabs(squares - 64) < 0.01, "%g", squares);
}

void tokens_pass_through_rings() {
  Memory memory;
  // One more than the window, which is the same for keys and values in heads of 32, and a block: both sequences' first 32 keys leave, and
  // the value at 31.
  const AttentionCase given(2, 4, 2, 32, 64, AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4, {36, 36});
  const AttentionCall call(memory, given);
  const AppendCall tokens(memory, call, {36, 36});
  OK(auxcore_kv_append_tokens(context, nullptr, &tokens.cache, &tokens.append));
  const std::vector<float> x = pattern(2 * 2 * 32, 3);
  const std::vector<float> ring = read<float>(tokens.cache.values.residual, given.value_ring.size());
  std::vector<uint8_t> values = given.values;
  for (std::size_t head = 0; head < 4; ++head) {
    CHECK(std::equal(&x[head * 32], &x[head * 32] + 32, &ring[(head * 37 + 36) * 32]), "the value of head %zu", head);
    store_kivi(&given.value_ring[(head * 37 + 31) * 32], 1, &values[(head * 64 + 31) * 20]);
  }
  CHECK(read<uint8_t>(tokens.cache.values.first, values.size()) == values);
  std::vector<uint8_t> keys = given.keys;
  for (std::size_t head = 0; head < 4; ++head)
    for (std::size_t channel = 0; channel < 32; ++channel)
      store_kivi(&given.key_ring[head * 37 * 32 + channel], 32, &keys[head * 64 * 20 + channel * 20]);
  CHECK(read<uint8_t>(tokens.cache.keys.first, keys.size()) == keys);
}

void appending_is_checked() {
  Memory memory;
  const AttentionCase given(2, 4, 2, 64, 32, AUXCORE_KV_BF16, AUXCORE_KV_Q8_0, {32, 32});
  const AttentionCall call(memory, given);
  const AppendCall good(memory, call, {5, 31});
  const auto wrong = [&](const char* text, auto change, auxcore_status status = AUXCORE_E_ARGUMENT) {
    auxcore_kv_cache cache = good.cache;
    auxcore_kv_append append = good.append;
    change(cache, append);
    REFUSED(status, text, auxcore_kv_append_tokens(context, nullptr, &cache, &append));
  };
  using C = auxcore_kv_cache;
  using A = auxcore_kv_append;
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_append_tokens(0, nullptr, &good.cache, &good.append));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or append is NULL", auxcore_kv_append_tokens(context, nullptr, nullptr, &good.append));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or append is NULL", auxcore_kv_append_tokens(context, nullptr, &good.cache, nullptr));
  wrong("append->struct_size is 4", [](C&, A& a) { a.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("cache->struct_size is 4", [](C& c, A&) { c.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("tokens is -1", [](C&, A& a) { a.tokens = -1; });
  wrong("type 4 is not", [](C&, A& a) { a.type = AUXCORE_UINT8; });
  wrong("slots_are_of_heads is 2", [](C&, A& a) { a.slots_are_of_heads = 2; });
  wrong("query.heads is 3", [](C&, A& a) { a.query.heads = 3; });
  wrong("keys.heads is 1", [](C&, A& a) { a.keys.heads = 1; });
  wrong("values.heads is 4", [](C&, A& a) { a.values.heads = 4; });
  wrong("query.reserved is 1", [](C&, A& a) { a.query.reserved = 1; });
  wrong("keys: a step of 8 bytes", [](C&, A& a) { a.keys.step = 8; });
  wrong("rotated_query: a step of 6 bytes", [](C&, A& a) { a.rotated_step = 6; });
  wrong("query.heads is 0, but", [](C&, A& a) { a.query.heads = 0; });
  wrong("values.norm is there", [](C&, A& a) { a.values.norm = a.keys.norm; });
  wrong("sequences is 0, but 1 tokens", [](C&, A& a) { a.tokens = 1; });
  for (const double epsilon : {-1.0, HUGE_VAL, std::nan("")})
    wrong("norm_epsilon is", [=](C&, A& a) { a.norm_epsilon = epsilon; });
  for (const int rotated : {-2, 3, 66})
    wrong("rotated is", [=](C&, A& a) { a.rotated = rotated; });
  wrong("is_in_pairs is 2", [](C&, A& a) { a.is_in_pairs = 2; });
  wrong("frequencies is NULL", [](C&, A& a) { a.frequencies = nullptr; });
  for (const double frequency : {1025.0, -HUGE_VAL, std::nan("")}) {
    std::vector<double> frequencies = good.frequencies;
    frequencies[7] = frequency;
    wrong("frequencies[7] is", [&](C&, A& a) { a.frequencies = frequencies.data(); });
  }
  wrong("keys.bias: 0x4", [](C&, A& a) { a.keys.bias = 4; });
  wrong("overlaps", [](C& c, A& a) { a.query.bias = c.keys.first; });
  wrong("slots: 0x0", [](C&, A& a) { a.slots = 0; });
  wrong("positions: 0x0", [](C&, A& a) { a.positions = 0; });
  wrong("keys: 0x0", [](C&, A& a) { a.keys.first = 0; });
  wrong("rotated_query: 0x0", [](C&, A& a) { a.rotated_query = 0; });
  wrong("overlaps", [](C& c, A& a) { a.rotated_query = c.keys.first; });
  wrong("overlaps", [](C& c, A& a) { a.slots = c.keys.first; });
  wrong("values overlaps keys", [](C& c, A&) { c.values.first = c.keys.first; });
  wrong("so short that rows overlap", [](C& c, A&) { c.keys.head_step = 64; });
  CHECK(read<uint8_t>(good.cache.keys.first, given.keys.size()) == given.keys, "what was refused was not done");
  auxcore_kv_append none = good.append;
  none.tokens = 0;
  OK(auxcore_kv_append_tokens(context, nullptr, &good.cache, &none));
  auxcore_kv_append in_place = good.append;
  in_place.rotated_query = in_place.query.first;
  in_place.rotated_step = in_place.query.step;
  OK(auxcore_kv_append_tokens(context, nullptr, &good.cache, &in_place));
}

/// More layers than a launch has, in formats that differ.
void predictions_are_written() {
  Memory memory;
  constexpr int kLayers = 30;
  std::vector<AttentionCase> cases;
  for (int i = 0; i < kLayers; ++i)
    cases.emplace_back(2, 1 + i % 3, 1 + i % 3, 64, 32, i % 2 == 0 ? AUXCORE_KV_F32 : AUXCORE_KV_Q4_0, AUXCORE_KV_Q8_0,
        std::vector<int32_t>{32, 32});
  std::vector<AttentionCall> calls;
  for (const AttentionCase& given : cases)
    calls.emplace_back(memory, given);
  std::vector<const AttentionCall*> pointers;
  for (const AttentionCall& call : calls)
    pointers.push_back(&call);
  const PredictCall given(memory, pointers, {5, 31});
  OK(auxcore_kv_predict_write(context, nullptr, &given.predict));
  for (std::size_t i = 0; i < kLayers; ++i) {  // values have neither norm nor rotation
    const int heads = cases[i].kv_heads;
    const std::vector<float> x = pattern(static_cast<std::size_t>(2 * heads * 64), 4);
    const std::vector<float> bias = pattern(static_cast<std::size_t>(heads * 64), 5);
    std::vector<uint8_t> expected = cases[i].values;
    for (int row = 0; row < 2 * heads; ++row) {
      std::vector<float> head(64);
      for (std::size_t e = 0; e < 64; ++e)
        head[e] = x[static_cast<std::size_t>(row) * 64 + e] + bias[static_cast<std::size_t>(row % heads) * 64 + e];
      store(AUXCORE_KV_Q8_0, head, 1, &expected[static_cast<std::size_t>(row * 32 + (row < heads ? 5 : 31)) * 68]);
    }
    CHECK(read<uint8_t>(calls[i].cache.values.first, expected.size()) == expected, "layer %zu", i);
    CHECK(read<uint8_t>(calls[i].cache.keys.first, cases[i].keys.size()) != cases[i].keys, "layer %zu", i);
  }
}

void predicting_is_checked() {
  Memory memory;
  const AttentionCase given(2, 4, 2, 64, 32, AUXCORE_KV_BF16, AUXCORE_KV_Q8_0, {32, 32});
  const AttentionCall first(memory, given), second(memory, given);
  const PredictCall good(memory, {&first, &second}, {5, 31});
  const auto wrong = [&](const char* text, auto change, auxcore_status status = AUXCORE_E_ARGUMENT) {
    std::vector<auxcore_kv_predict_layer> layers = good.layers;
    auxcore_kv_predict predict = good.predict;
    predict.layers = layers.data();
    change(predict, layers[1]);
    REFUSED(status, text, auxcore_kv_predict_write(context, nullptr, &predict));
  };
  using P = auxcore_kv_predict;
  using L = auxcore_kv_predict_layer;
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_predict_write(0, nullptr, &good.predict));
  REFUSED(AUXCORE_E_ARGUMENT, "predict is NULL", auxcore_kv_predict_write(context, nullptr, nullptr));
  wrong("predict->struct_size is 4", [](P& p, L&) { p.struct_size = 4; }, AUXCORE_E_ABI);
  for (const int count : {-1, 1025})
    wrong("layer_count is", [=](P& p, L&) { p.layer_count = count; });
  wrong("tokens is -1", [](P& p, L&) { p.tokens = -1; });
  wrong("layers is NULL", [](P& p, L&) { p.layers = nullptr; });
  wrong("layers[0]: type 4 is not", [](P& p, L&) { p.type = AUXCORE_UINT8; });
  wrong("layers[0]: rotated is 3", [](P& p, L&) { p.rotated = 3; });
  wrong("layers[0]: frequencies is NULL", [](P& p, L&) { p.frequencies = nullptr; });
  wrong("layers[0]: slots: 0x0", [](P& p, L&) { p.slots = 0; });
  wrong("layers[1]: cache->struct_size is 4", [](P&, L& l) { l.cache.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("layers[1]: keys.heads is 1", [](P&, L& l) { l.keys.heads = 1; });
  wrong("layers[1]: values.norm is there", [](P&, L& l) { l.values.norm = l.keys.norm; });
  wrong("layers[1]: 2 sequences and heads of 32, but layers[0] has 2, and heads of 64", [](P& p, L& l) {
    p.rotated = 32;
    l.cache.head_dim = 32;
  });
  wrong("layers[1]: keys.bias: 0x4", [](P&, L& l) { l.keys.bias = 4; });
  wrong("layers[1]: values: 0x0", [](P&, L& l) { l.values.first = 0; });
  wrong("overlaps", [](P&, L& l) { l.values.bias = l.cache.keys.first; });
  wrong("layers[0].cache overlaps layers[1].cache", [&](P&, L& l) { l.cache.values.first = good.layers[0].cache.values.first; });
  wrong("layers[0].cache overlaps what layers[1] reads", [&](P&, L& l) { l.keys.first = good.layers[0].cache.keys.first; });
  CHECK(read<uint8_t>(first.cache.keys.first, given.keys.size()) == given.keys, "what was refused was not done");
  for (const bool has_layers : {false, true}) {
    auxcore_kv_predict none = good.predict;
    (has_layers ? none.tokens : none.layer_count) = 0;
    OK(auxcore_kv_predict_write(context, nullptr, &none));
  }
  CHECK(read<uint8_t>(first.cache.keys.first, given.keys.size()) == given.keys, "nothing is nothing");
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  formats_agree_with_the_formula();
  attention_agrees_with_the_formula();
  lengths_may_be_on_the_host();
  formats_are_checked();
  attention_is_checked();
  tokens_are_appended();
  tokens_pass_through_rings();
  appending_is_checked();
  predictions_are_written();
  predicting_is_checked();
  OK(auxcore_close(context));
  return result();
}
