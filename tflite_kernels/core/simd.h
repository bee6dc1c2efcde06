// Eight floats and 256 bits, whatever the instruction set: the kernels are written once in these.
// Included by one file per instruction set, inside its own unnamed namespace.

#if defined(KERASQ_SIMD_AVX2)

struct Floats {
  __m256 v;
};
inline Floats Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void Store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline Floats Fill(float x) { return {_mm256_set1_ps(x)}; }
inline Floats Add(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats MulAdd(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

// A table of 16 floats, and the elements that 8 indices below 16 select from it.
struct Table16 {
  __m256 low, high;
  explicit Table16(const float* p) : low(_mm256_loadu_ps(p)), high(_mm256_loadu_ps(p + 8)) {}
  Floats Select(const uint8_t* indices) const {
    const __m256i i =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(indices)));
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));  // bit 3 to the sign
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, i), _mm256_permutevar8x32_ps(high, i),
                             upper)};
  }
};

// One bit a lane: direction * x >= threshold; false for NaN.
inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const __m256 directed = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(direction));
  return static_cast<unsigned>(
      _mm256_movemask_ps(_mm256_cmp_ps(directed, _mm256_loadu_ps(threshold), _CMP_GE_OQ)));
}

// The same of integers: sum >= threshold.
inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  const __m256i below =
      _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(thresholds)),
                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)));
  return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 255u;
}

// differing[0][a][i] = popcount(i ^ low half of a), differing[1][a][i] the same of its high half.
struct HalfByteTables {
  uint8_t differing[2][256][16] = {};
  constexpr HalfByteTables() {
    for (int a = 0; a < 256; ++a) {
      for (int i = 0; i < 16; ++i) {
        for (int bit = 0; bit < 4; ++bit) {
          differing[0][a][i] += (i ^ a) >> bit & 1;
          differing[1][a][i] += (i ^ a >> 4) >> bit & 1;
        }
      }
    }
  }
};
alignas(16) constexpr HalfByteTables kHalfByteTables;

// A byte of the input, as two tables that the halves of the weights look up.
struct BytePattern {
  __m256i low, high;
  explicit BytePattern(uint8_t a) : low(Table(0, a)), high(Table(1, a)) {}
  static __m256i Table(int half, uint8_t a) {
    return _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(kHalfByteTables.differing[half][a])));
  }
};

// The bytes of 32 channels.
struct ChannelBytes {
  __m256i low, high;
  explicit ChannelBytes(const uint8_t* p) {
    const __m256i half = _mm256_set1_epi8(15);
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    low = _mm256_and_si256(w, half);
    high = _mm256_and_si256(_mm256_srli_epi16(w, 4), half);
  }
};

// 32 counts of 8 bits; those of as many rows as the registers hold are kept at a time.
constexpr int kCountRows = 3;
struct ByteCounts {
  __m256i total = _mm256_setzero_si256();
  void Add(const BytePattern& a, const ChannelBytes& w) {
    total = _mm256_add_epi8(total, _mm256_shuffle_epi8(a.low, w.low));
    total = _mm256_add_epi8(total, _mm256_shuffle_epi8(a.high, w.high));
  }
  void AddTo(uint16_t* totals) const {
    const __m128i halves[] = {_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1)};
    for (int i = 0; i < 2; ++i) {
      __m256i* sum = reinterpret_cast<__m256i*>(totals + 16 * i);
      _mm256_storeu_si256(
          sum, _mm256_add_epi16(_mm256_loadu_si256(sum), _mm256_cvtepu8_epi16(halves[i])));
    }
  }
};

// Two factors of 16 bits, side by side.
struct Pair {
  __m256i v;
  void Load(const int16_t* pair) {
    int32_t both;
    memcpy(&both, pair, sizeof(both));
    v = _mm256_set1_epi32(both);
  }
};

// Eight sums of products with a pair: of lane l, vectors[2 l] and vectors[2 l + 1].
struct PairSums {
  __m256i v;
  static __m256i Product(const int16_t* vectors, const Pair& pair) {
    return _mm256_madd_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(vectors)), pair.v);
  }
  void Set(const int16_t* vectors, const Pair& pair) { v = Product(vectors, pair); }
  void Add(const int16_t* vectors, const Pair& pair) {
    v = _mm256_add_epi32(v, Product(vectors, pair));
  }
};

// Makes entries of sixteen sums.
struct Rounder {
  __m128i shift;
  __m256i half, multiplier;
  explicit Rounder(const EntryRounding& rounding)
      : shift(_mm_cvtsi32_si128(rounding.shift)),
        half(_mm256_set1_epi32(rounding.shift > 0 ? 1 << (rounding.shift - 1) : 0)),
        multiplier(_mm256_set1_epi16(static_cast<short>(rounding.multiplier))) {}
  void Store(const PairSums& low, const PairSums& high, int8_t* entries) const {
    const __m256i a = _mm256_sra_epi32(_mm256_add_epi32(low.v, half), shift);
    const __m256i b = _mm256_sra_epi32(_mm256_add_epi32(high.v, half), shift);
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m256i scaled = _mm256_mulhrs_epi16(both, multiplier);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(entries),
        _mm_packs_epi16(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256(scaled, 1)));
  }
};

inline void QuantizeEight(const float* x, float inverse_scale, float low, float high,
                          int16_t* codes) {
  const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse_scale));
  const __m256 kept =
      _mm256_max_ps(_mm256_min_ps(scaled, _mm256_set1_ps(high)), _mm256_set1_ps(low));
  const __m256i code = _mm256_cvtps_epi32(kept);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(codes),
      _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1)));
}

// Indices of 4 bits of 32 channels, in two sub-spaces.
struct Nibbles {
  __m256i even, odd;
  explicit Nibbles(const uint8_t* p) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = _mm256_and_si256(bytes, low);
    odd = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
  }
};

// Sums of entries of 8 bits for 32 channels, at most kMaxByteSums each. The entries of two
// sub-spaces are put side by side, and added in pairs.
struct NibbleSums {
  __m256i v[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  static __m256i Select(const int8_t* table, __m256i index) {
    return _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))),
        index);
  }
  // `tables` are those of two sub-spaces.
  void Add(const int8_t* tables, const Nibbles& index) {
    const __m256i even = Select(tables, index.even), odd = Select(tables + 16, index.odd);
    const __m256i ones = _mm256_set1_epi8(1);
    v[0] = _mm256_add_epi16(v[0], _mm256_maddubs_epi16(ones, _mm256_unpacklo_epi8(even, odd)));
    v[1] = _mm256_add_epi16(v[1], _mm256_maddubs_epi16(ones, _mm256_unpackhi_epi8(even, odd)));
  }
  void AddTo(int32_t* sums) const {  // unpacked: channels 0 .. 7, 16 .. 23; the rest
    AddEight(_mm256_castsi256_si128(v[0]), sums);
    AddEight(_mm256_castsi256_si128(v[1]), sums + 8);
    AddEight(_mm256_extracti128_si256(v[0], 1), sums + 16);
    AddEight(_mm256_extracti128_si256(v[1], 1), sums + 24);
  }
  static void AddEight(__m128i values, int32_t* sums) {
    __m256i* target = reinterpret_cast<__m256i*>(sums);
    _mm256_storeu_si256(
        target, _mm256_add_epi32(_mm256_loadu_si256(target), _mm256_cvtepi16_epi32(values)));
  }
};

// Sums of entries of 8 bits at 16 positions.
struct ByteSums {
  __m256i v;
  void Load(const int16_t* sums) { v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)); }
  void Add(const int8_t* entries) {
    v = _mm256_add_epi16(
        v, _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries))));
  }
  void Store(int16_t* sums) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), v); }
};

#elif defined(KERASQ_SIMD_NEON)

struct Floats {
  float32x4_t lo, hi;
};
inline Floats Load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void Store(float* p, Floats a) {
  vst1q_f32(p, a.lo);
  vst1q_f32(p + 4, a.hi);
}
inline Floats Fill(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Floats Add(Floats a, Floats b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline Floats MulAdd(Floats a, Floats b, Floats c) {
  return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}

struct Table16 {
  uint8x16x4_t bytes;
  explicit Table16(const float* p) {
    for (int i = 0; i < 4; ++i) bytes.val[i] = vreinterpretq_u8_f32(vld1q_f32(p + 4 * i));
  }
  // Index i stands for the bytes 4 i .. 4 i + 3.
  float32x4_t Four(uint32x4_t i) const {
    const uint32x4_t spread = vmlaq_n_u32(vdupq_n_u32(0x03020100), i, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(spread)));
  }
  Floats Select(const uint8_t* indices) const {
    const uint16x8_t i = vmovl_u8(vld1_u8(indices));
    return {Four(vmovl_u16(vget_low_u16(i))), Four(vmovl_u16(vget_high_u16(i)))};
  }
};

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint32x4_t lo =
      vcgeq_f32(vmulq_f32(vld1q_f32(x), vld1q_f32(direction)), vld1q_f32(threshold));
  const uint32x4_t hi =
      vcgeq_f32(vmulq_f32(vld1q_f32(x + 4), vld1q_f32(direction + 4)), vld1q_f32(threshold + 4));
  return vaddvq_u32(vandq_u32(lo, bits)) | vaddvq_u32(vandq_u32(hi, bits)) << 4;
}

inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint32x4_t lo = vcgeq_s32(vld1q_s32(sums), vld1q_s32(thresholds));
  const uint32x4_t hi = vcgeq_s32(vld1q_s32(sums + 4), vld1q_s32(thresholds + 4));
  return vaddvq_u32(vandq_u32(lo, bits)) | vaddvq_u32(vandq_u32(hi, bits)) << 4;
}

// A byte of the input; the bytes of 32 channels; 32 counts of 8 bits: eor, cnt, add.
constexpr int kCountRows = 4;
struct BytePattern {
  uint8x16_t v;
  explicit BytePattern(uint8_t a) : v(vdupq_n_u8(a)) {}
};
struct ChannelBytes {
  uint8x16_t v[2];
  explicit ChannelBytes(const uint8_t* p) : v{vld1q_u8(p), vld1q_u8(p + 16)} {}
};
struct ByteCounts {
  uint8x16_t total[2] = {vdupq_n_u8(0), vdupq_n_u8(0)};
  void Add(const BytePattern& a, const ChannelBytes& w) {
    for (int i = 0; i < 2; ++i) total[i] = vaddq_u8(total[i], vcntq_u8(veorq_u8(a.v, w.v[i])));
  }
  void AddTo(uint16_t* totals) const {
    for (int i = 0; i < 2; ++i, totals += 16) {
      vst1q_u16(totals, vaddw_u8(vld1q_u16(totals), vget_low_u8(total[i])));
      vst1q_u16(totals + 8, vaddw_u8(vld1q_u16(totals + 8), vget_high_u8(total[i])));
    }
  }
};

struct Pair {
  int16x4_t v;
  void Load(const int16_t* pair) {
    v = vreinterpret_s16_s32(vld1_dup_s32(reinterpret_cast<const int32_t*>(pair)));
  }
};

struct PairSums {
  int32x4_t lo, hi;
  void Set(const int16_t* vectors, const Pair& pair) {
    const int16x8x2_t v = vld2q_s16(vectors);
    lo = vmull_lane_s16(vget_low_s16(v.val[0]), pair.v, 0);
    hi = vmull_high_lane_s16(v.val[0], pair.v, 0);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[1]), pair.v, 1);
    hi = vmlal_high_lane_s16(hi, v.val[1], pair.v, 1);
  }
  void Add(const int16_t* vectors, const Pair& pair) {
    const int16x8x2_t v = vld2q_s16(vectors);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[0]), pair.v, 0);
    hi = vmlal_high_lane_s16(hi, v.val[0], pair.v, 0);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[1]), pair.v, 1);
    hi = vmlal_high_lane_s16(hi, v.val[1], pair.v, 1);
  }
};

struct Rounder {
  int32x4_t shift;
  int16_t multiplier;
  explicit Rounder(const EntryRounding& rounding)
      : shift(vdupq_n_s32(-rounding.shift)),
        multiplier(static_cast<int16_t>(rounding.multiplier)) {}
  int16x8_t Scaled(const PairSums& sums) const {
    const int16x4_t lo = vqmovn_s32(vrshlq_s32(sums.lo, shift));
    return vqrdmulhq_n_s16(vqmovn_high_s32(lo, vrshlq_s32(sums.hi, shift)), multiplier);
  }
  void Store(const PairSums& low, const PairSums& high, int8_t* entries) const {
    vst1q_s8(entries, vqmovn_high_s16(vqmovn_s16(Scaled(low)), Scaled(high)));
  }
};

inline void QuantizeEight(const float* x, float inverse_scale, float low, float high,
                          int16_t* codes) {
  int32x4_t code[2];
  for (int i = 0; i < 2; ++i) {
    const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + 4 * i), inverse_scale);
    // minnm gives the number where the other is NaN
    const float32x4_t kept = vmaxq_f32(vminnmq_f32(scaled, vdupq_n_f32(high)), vdupq_n_f32(low));
    code[i] = vcvtnq_s32_f32(kept);
  }
  vst1q_s16(codes, vcombine_s16(vmovn_s32(code[0]), vmovn_s32(code[1])));
}

// Indices of the two sub-spaces side by side, those of the second into the second half of a table
// of 32: register i is of channels 8 i .. 8 i + 7.
struct Nibbles {
  uint8x16_t index[4];
  explicit Nibbles(const uint8_t* p) {
    for (int half = 0; half < 2; ++half) {
      const uint8x16_t bytes = vld1q_u8(p + 16 * half);
      const uint8x16_t even = vandq_u8(bytes, vdupq_n_u8(15));
      const uint8x16_t odd = vsriq_n_u8(vdupq_n_u8(16), bytes, 4);
      index[2 * half] = vzip1q_u8(even, odd);
      index[2 * half + 1] = vzip2q_u8(even, odd);
    }
  }
};

// tbl, then sadalp adds the entries of both sub-spaces.
struct NibbleSums {
  int16x8_t v[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
  void Add(const int8_t* tables, const Nibbles& index) {
    const int8x16x2_t both = {{vld1q_s8(tables), vld1q_s8(tables + 16)}};
    for (int i = 0; i < 4; ++i) v[i] = vpadalq_s8(v[i], vqtbl2q_s8(both, index.index[i]));
  }
  void AddTo(int32_t* sums) const {
    for (int i = 0; i < 4; ++i, sums += 8) {
      vst1q_s32(sums, vaddw_s16(vld1q_s32(sums), vget_low_s16(v[i])));
      vst1q_s32(sums + 4, vaddw_high_s16(vld1q_s32(sums + 4), v[i]));
    }
  }
};

struct ByteSums {
  int16x8_t lo, hi;
  void Load(const int16_t* sums) {
    lo = vld1q_s16(sums);
    hi = vld1q_s16(sums + 8);
  }
  void Add(const int8_t* entries) {
    const int8x16_t e = vld1q_s8(entries);
    lo = vaddw_s8(lo, vget_low_s8(e));
    hi = vaddw_high_s8(hi, e);
  }
  void Store(int16_t* sums) const {
    vst1q_s16(sums, lo);
    vst1q_s16(sums + 8, hi);
  }
};

#else

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

#endif
