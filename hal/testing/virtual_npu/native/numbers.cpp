#include "numbers.h"

#include <bit>
#include <cmath>

namespace virtual_npu {

namespace {

// Types of 16 bits compute in float32, all others in themselves.
struct BFloat16 {
  using Wide = float;
  uint16_t bits;
  float wide() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  static BFloat16 from(float value) {
    const auto all = std::bit_cast<uint32_t>(value);
    if (std::isnan(value)) return {static_cast<uint16_t>(all >> 16 | 0x40)};
    return {static_cast<uint16_t>((all + 0x7fff + (all >> 16 & 1)) >> 16)};  // to nearest, ties to even
  }
};

struct Float16 {
  using Wide = float;
  _Float16 value;
  float wide() const { return value; }
  static Float16 from(float value) { return {static_cast<_Float16>(value)}; }
};

template <typename T>
struct Plain {
  using Wide = T;
  T value;
  T wide() const { return value; }
  static Plain from(T value) { return {value}; }
};

template <typename T>
T combine(T a, T b, HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_PROD: return static_cast<T>(a * b);
    case HCCL_REDUCE_MAX: return a > b ? a : b;
    case HCCL_REDUCE_MIN: return a < b ? a : b;
    default: return static_cast<T>(a + b);
  }
}

template <typename Item>
void reduce_as(const std::vector<const void *> &inputs, void *output, uint64_t count, HcclReduceOp op) {
  auto *const out = static_cast<Item *>(output);
  for (uint64_t i = 0; i < count; ++i) {
    typename Item::Wide sum = static_cast<const Item *>(inputs[0])[i].wide();
    for (size_t rank = 1; rank < inputs.size(); ++rank) {
      sum = combine(sum, static_cast<const Item *>(inputs[rank])[i].wide(), op);
    }
    out[i] = Item::from(sum);
  }
}

using Reduction = void (*)(const std::vector<const void *> &, void *, uint64_t, HcclReduceOp);

Reduction reduction(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: return reduce_as<Plain<int8_t>>;
    case HCCL_DATA_TYPE_INT16: return reduce_as<Plain<int16_t>>;
    case HCCL_DATA_TYPE_INT32: return reduce_as<Plain<int32_t>>;
    case HCCL_DATA_TYPE_INT64: return reduce_as<Plain<int64_t>>;
    case HCCL_DATA_TYPE_FP16: return reduce_as<Float16>;
    case HCCL_DATA_TYPE_BFP16: return reduce_as<BFloat16>;
    case HCCL_DATA_TYPE_FP32: return reduce_as<Plain<float>>;
    default: return nullptr;
  }
}

}  // namespace

bool can_reduce(HcclDataType type) { return reduction(type) != nullptr; }

void reduce(const std::vector<const void *> &inputs, void *output, uint64_t count, HcclDataType type, HcclReduceOp op) {
  reduction(type)(inputs, output, count, op);
}

}  // namespace virtual_npu
