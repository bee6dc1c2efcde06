// The vectors of simd.h as arrays, for any machine: what the others must equal.

struct Floats {
  float v[8];
};
inline Floats Load(const float* p) {
  Floats a;
  for (int i = 0; i < 8; ++i) a.v[i] = p[i];
  return a;
}
inline void Store(float* p, const Floats& a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline Floats Fill(float x) {
  Floats a;
  for (float& v : a.v) v = x;
  return a;
}
inline Floats Add(Floats a, const Floats& b) {
  for (int i = 0; i < 8; ++i) a.v[i] += b.v[i];
  return a;
}
inline Floats MulAdd(const Floats& a, const Floats& b, Floats c) {
  for (int i = 0; i < 8; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}

struct Table16 {
  const float* table;
  explicit Table16(const float* p) : table(p) {}
  Floats Select(const uint8_t* indices) const {
    Floats a;
    for (int i = 0; i < 8; ++i) a.v[i] = table[indices[i]];
    return a;
  }
};

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= (x[i] * direction[i] >= threshold[i] ? 1u : 0u) << i;
  return mask;
}

inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= (sums[i] >= thresholds[i] ? 1u : 0u) << i;
  return mask;
}

constexpr int kCountRows = 1;
struct BytePattern {
  uint8_t v;
  explicit BytePattern(uint8_t a) : v(a) {}
};
struct ChannelBytes {
  const uint8_t* v;
  explicit ChannelBytes(const uint8_t* p) : v(p) {}
};
struct ByteCounts {
  uint8_t total[32] = {};
  void Add(const BytePattern& a, const ChannelBytes& w) {
    for (int l = 0; l < 32; ++l) {  // bits in pairs, in fours, in eights: compilers vectorize it
      uint8_t bits = a.v ^ w.v[l];
      bits = static_cast<uint8_t>(bits - (bits >> 1 & 0x55));
      bits = static_cast<uint8_t>((bits & 0x33) + (bits >> 2 & 0x33));
      total[l] = static_cast<uint8_t>(total[l] + ((bits + (bits >> 4)) & 15));
    }
  }
  void AddTo(uint16_t* totals) const {
    for (int l = 0; l < 32; ++l) totals[l] = static_cast<uint16_t>(totals[l] + total[l]);
  }
};

inline int8_t RoundEntry(int32_t sum, const EntryRounding& rounding) {
  const int64_t half = rounding.shift > 0 ? int64_t{1} << (rounding.shift - 1) : 0;
  int64_t scaled = (sum + half) >> rounding.shift;
  scaled = scaled < -32768 ? -32768 : scaled > 32767 ? 32767 : scaled;
  const int64_t entry = (scaled * rounding.multiplier + (1 << 14)) >> 15;
  return static_cast<int8_t>(entry < -128 ? -128 : entry > 127 ? 127 : entry);
}

struct Pair {
  const int16_t* v;
  void Load(const int16_t* pair) { v = pair; }
};

struct PairSums {
  int32_t v[8];
  void Set(const int16_t* vectors, const Pair& pair) {
    for (int32_t& sum : v) sum = 0;
    Add(vectors, pair);
  }
  void Add(const int16_t* vectors, const Pair& pair) {
    for (int l = 0; l < 8; ++l) {
      v[l] += vectors[2 * l] * pair.v[0] + vectors[2 * l + 1] * pair.v[1];
    }
  }
};

struct Rounder {
  EntryRounding rounding;
  explicit Rounder(const EntryRounding& given) : rounding(given) {}
  void Store(const PairSums& low, const PairSums& high, int8_t* entries) const {
    for (int l = 0; l < 8; ++l) {
      entries[l] = RoundEntry(low.v[l], rounding);
      entries[8 + l] = RoundEntry(high.v[l], rounding);
    }
  }
};

inline void QuantizeEight(const float* x, float inverse_scale, float low, float high,
                          int16_t* codes) {
  for (int i = 0; i < 8; ++i) {
    const float scaled = x[i] * inverse_scale;
    const float below = scaled < high ? scaled : high;  // also NaN becomes `high`
    codes[i] = static_cast<int16_t>(std::nearbyint(below > low ? below : low));
  }
}

struct Nibbles {
  const uint8_t* bytes;
  explicit Nibbles(const uint8_t* p) : bytes(p) {}
};

struct NibbleSums {
  int32_t v[32] = {};
  void Add(const int8_t* tables, const Nibbles& index) {
    for (int l = 0; l < 32; ++l) {
      v[l] += tables[index.bytes[l] & 15] + tables[16 + (index.bytes[l] >> 4)];
    }
  }
  void AddTo(int32_t* sums) const {
    for (int l = 0; l < 32; ++l) sums[l] += v[l];
  }
};

struct ByteSums {
  int16_t v[16];
  void Load(const int16_t* sums) { memcpy(v, sums, sizeof(v)); }
  void Add(const int8_t* entries) {
    for (int i = 0; i < 16; ++i) v[i] = static_cast<int16_t>(v[i] + entries[i]);
  }
  void Store(int16_t* sums) const { memcpy(sums, v, sizeof(v)); }
};
