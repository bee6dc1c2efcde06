// The vectors of simd.h in AVX2.

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
