#include "tflite/options.h"

#include <cstring>

namespace kerasq {
namespace {

// Far more than an operator has; a damaged size must not cost minutes.
constexpr size_t kMaxEntries = 256;

// Types of FlexBuffer values that stand for an integer; a packed type is type << 2 | log2(width).
enum FlexType {
  kInt = 1,
  kUInt = 2,
  kIndirectInt = 6,
  kIndirectUInt = 7,
  kMap = 9,
  kBool = 26,
};

// Little-endian reads within a buffer; a read that does not fit fails.
class Buffer {
 public:
  Buffer(const void* bytes, size_t size)
      : bytes_(static_cast<const uint8_t*>(bytes)), size_(size) {}

  size_t size() const { return size_; }

  bool Unsigned(size_t position, size_t width, uint64_t* value) const {
    if (position > size_ || width > size_ - position) return false;
    *value = 0;
    for (size_t i = 0; i < width; ++i) {
      *value |= static_cast<uint64_t>(bytes_[position + i]) << (8 * i);
    }
    return true;
  }

  bool Signed(size_t position, size_t width, int64_t* value) const {
    uint64_t bits;
    if (!Unsigned(position, width, &bits)) return false;
    const int unused = 64 - 8 * static_cast<int>(width);
    *value = static_cast<int64_t>(bits << unused) >> unused;
    return true;
  }

  // Follow an offset, which counts back from where it is stored.
  bool Follow(size_t position, size_t width, size_t* target) const {
    uint64_t offset;
    if (!Unsigned(position, width, &offset) || offset == 0 || offset > position) return false;
    *target = position - static_cast<size_t>(offset);
    return true;
  }

  bool String(size_t position, std::string* text) const {
    if (position >= size_) return false;
    const void* end = std::memchr(bytes_ + position, 0, size_ - position);
    if (end == nullptr) return false;
    text->assign(reinterpret_cast<const char*>(bytes_ + position));
    return true;
  }

 private:
  const uint8_t* bytes_;
  size_t size_;
};

// A vector of `size` elements of `width` bytes at `position`.
struct Vector {
  size_t position, width, size;

  size_t Element(size_t i) const { return position + i * width; }
};

bool IsWidth(uint64_t width) { return width == 1 || width == 2 || width == 4 || width == 8; }

// The size of a vector stands before its elements.
bool ReadVector(const Buffer& buffer, size_t position, size_t width, Vector* vector) {
  uint64_t size;
  if (position < width || !buffer.Unsigned(position - width, width, &size)) return false;
  if (position > buffer.size() || size > (buffer.size() - position) / width) return false;
  *vector = {position, width, static_cast<size_t>(size)};
  return true;
}

// The last three bytes or more: the root's offset, its packed type, and the offset's width.
bool ReadMap(const Buffer& buffer, Vector* keys, Vector* values) {
  uint64_t width, type;
  if (buffer.size() < 3) return false;
  if (!buffer.Unsigned(buffer.size() - 1, 1, &width) || !IsWidth(width)) return false;
  if (!buffer.Unsigned(buffer.size() - 2, 1, &type) || type >> 2 != kMap) return false;
  if (buffer.size() < 2 + width) return false;
  size_t position;
  if (!buffer.Follow(buffer.size() - 2 - width, width, &position)) return false;
  const size_t value_width = size_t{1} << (type & 3);
  if (!ReadVector(buffer, position, value_width, values)) return false;

  // Before the size of a map: where its keys are, and how wide their offsets.
  if (position < 3 * value_width) return false;
  uint64_t key_width;
  if (!buffer.Unsigned(position - 2 * value_width, value_width, &key_width)) return false;
  size_t key_position;
  if (!IsWidth(key_width)) return false;
  if (!buffer.Follow(position - 3 * value_width, value_width, &key_position)) return false;
  return ReadVector(buffer, key_position, key_width, keys) && keys->size == values->size &&
         keys->size <= kMaxEntries;
}

bool ReadInteger(const Buffer& buffer, size_t position, size_t width, uint64_t packed_type,
                 int64_t* value) {
  const uint64_t type = packed_type >> 2;
  if (type == kIndirectInt || type == kIndirectUInt) {
    if (!buffer.Follow(position, width, &position)) return false;
    width = size_t{1} << (packed_type & 3);
  }
  if (type == kInt || type == kIndirectInt) return buffer.Signed(position, width, value);
  if (type != kUInt && type != kBool && type != kIndirectUInt) return false;
  uint64_t bits;
  if (!buffer.Unsigned(position, width, &bits) || bits > INT64_MAX) return false;
  *value = static_cast<int64_t>(bits);
  return true;
}

}  // namespace

Status Options::Parse(const void* bytes, size_t size, Options* options) {
  options->values_.clear();
  KERASQ_ENSURE(bytes != nullptr && size > 0, "it has no custom options: the file is damaged");
  const Buffer buffer(bytes, size);
  Vector keys, values;
  KERASQ_ENSURE(ReadMap(buffer, &keys, &values), "its custom options (", size,
                " bytes) are truncated or malformed: the file is damaged");
  for (size_t i = 0; i < keys.size; ++i) {
    size_t key_position;
    std::string key;
    uint64_t type;
    int64_t value;
    KERASQ_ENSURE(buffer.Follow(keys.Element(i), keys.width, &key_position) &&
                      buffer.String(key_position, &key) &&
                      buffer.Unsigned(values.Element(values.size) + i, 1, &type),
                  "its custom options are malformed at entry ", i, ": the file is damaged");
    KERASQ_ENSURE(ReadInteger(buffer, values.Element(i), values.width, type, &value),
                  "its option '", key, "' is not an integer: the file is damaged");
    KERASQ_ENSURE(options->values_.emplace(key, value).second, "its option '", key,
                  "' occurs twice: the file is damaged");
  }
  return Status::Ok();
}

Status Options::Get(const char* key, int low, int high, int* value) const {
  const auto entry = values_.find(key);
  KERASQ_ENSURE(entry != values_.end(), "its option '", key, "' is missing");
  KERASQ_ENSURE(entry->second >= low && entry->second <= high, "its option '", key, "' is ",
                entry->second, ", expected ", low, " to ", high);
  *value = static_cast<int>(entry->second);
  return Status::Ok();
}

Status Options::GetOr(const char* key, int absent, int low, int high, int* value) const {
  *value = absent;
  return Has(key) ? Get(key, low, high, value) : Status::Ok();
}

}  // namespace kerasq
