// The microkernels, written once over the vectors of simd.h.
// Included by one file per instruction set, inside its own unnamed namespace.

// A counter gains at most 8 a byte: of 8 bits it holds 31 bytes, of 16 bits 8184, a multiple of 31.
constexpr int kBytesPerCount = 31, kBytesPerTotal = 264 * kBytesPerCount;

void PackSigns(const float* x, const float* direction, const float* thresholds, int n,
               uint8_t* bits) {
  int c = 0;
  for (; c + 8 <= n; c += 8) {
    *bits++ = static_cast<uint8_t>(ReachMask(x + c, direction + c, thresholds + c));
  }
  if (c == n) return;
  unsigned byte = 0;
  for (int i = 0; c + i < n; ++i) {
    byte |= static_cast<unsigned>(x[c + i] * direction[c + i] >= thresholds[c + i]) << i;
  }
  *bits = static_cast<uint8_t>(byte);
}

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

void PackSums(const int32_t* sums, const int32_t* thresholds, int n, uint8_t* bits) {
  for (int c = 0; c < n; c += 8)
    *bits++ = static_cast<uint8_t>(ReachMask(sums + c, thresholds + c));
}

// Channels are lanes. For some rows, and some blocks of 32 channels:
//   for every byte a of a row, and those w of the channels:  counts += popcount(a ^ w)
//   totals += counts
// A function of its own, so that the registers are left to the counts.
template <int kRows, int kBlocks>
__attribute__((noinline)) void CountBytes(const uint8_t* rows, int64_t pitch, const uint8_t* w,
                                          int64_t block_pitch, int64_t bytes, uint16_t* totals) {
  ByteCounts counts[kRows][kBlocks];
  for (int64_t i = 0; i < bytes; ++i, ++rows, w += kCountChannels) {
    for (int p = 0; p < kRows; ++p) {
      const BytePattern pattern(rows[p * pitch]);
      for (int b = 0; b < kBlocks; ++b) {
        counts[p][b].Add(pattern, ChannelBytes(w + b * block_pitch));
      }
    }
  }
  for (int p = 0; p < kRows; ++p) {
    for (int b = 0; b < kBlocks; ++b, totals += kCountChannels) counts[p][b].AddTo(totals);
  }
}

//   every 31 bytes totals += counts, and in the end sums = n - 2 totals
template <int kRows, int kBlocks>
void CountDiffering(const uint8_t* rows, int64_t pitch, const uint8_t* w, int64_t bytes, int n,
                    int64_t lanes, int32_t* sums) {
  constexpr int kLanes = kBlocks * kCountChannels;
  for (int p = 0; p < kRows; ++p) {
    for (int l = 0; l < kLanes; ++l) sums[p * lanes + l] = n;
  }
  for (int64_t i = 0; i < bytes;) {
    uint16_t totals[kRows][kLanes] = {};
    for (const int64_t last = Least(bytes, i + kBytesPerTotal); i < last; i += kBytesPerCount) {
      CountBytes<kRows, kBlocks>(rows + i, pitch, w + i * kCountChannels, bytes * kCountChannels,
                                 Least(last - i, kBytesPerCount), totals[0]);
    }
    for (int p = 0; p < kRows; ++p) {
      for (int l = 0; l < kLanes; ++l) sums[p * lanes + l] -= 2 * totals[p][l];
    }
  }
}

// As many rows at a time as the registers hold: they share the weights.
template <int kBlocks>
void CountRows(const uint8_t* rows, int count, int64_t pitch, const uint8_t* w, int64_t bytes,
               int n, int64_t lanes, int32_t* sums) {
  int p = 0;
  for (; p + kCountRows <= count; p += kCountRows) {
    CountDiffering<kCountRows, kBlocks>(rows + p * pitch, pitch, w, bytes, n, lanes,
                                        sums + p * lanes);
  }
  for (; p < count; ++p) {
    CountDiffering<1, kBlocks>(rows + p * pitch, pitch, w, bytes, n, lanes, sums + p * lanes);
  }
}

void XorPopcount(const uint8_t* rows, int count, int64_t pitch, const uint8_t* w, int64_t bytes,
                 int blocks, int n, int32_t* sums) {
  const int64_t lanes = int64_t{blocks} * kCountChannels;
  int b = 0;
  for (; b + 2 <= blocks; b += 2) {
    CountRows<2>(rows, count, pitch, w + b * bytes * kCountChannels, bytes, n, lanes,
                 sums + b * kCountChannels);
  }
  if (b < blocks) {
    CountRows<1>(rows, count, pitch, w + b * bytes * kCountChannels, bytes, n, lanes,
                 sums + b * kCountChannels);
  }
}

// sums[6][16] += pixels[6][depth] x panel[depth][16], tap after tap
void Gemm6x16(const float* const* pixels, const float* panel, int taps, int depth, float* sums) {
  Floats acc[kGemmRows][2];
  for (int p = 0; p < kGemmRows; ++p) {
    acc[p][0] = Load(sums + p * kPanelChannels);
    acc[p][1] = Load(sums + p * kPanelChannels + 8);
  }
  for (int t = 0; t < taps; ++t, pixels += kGemmRows) {
    const float* const row[kGemmRows] = {pixels[0], pixels[1], pixels[2],
                                         pixels[3], pixels[4], pixels[5]};
    for (int i = 0; i < depth; ++i, panel += kPanelChannels) {
      const Floats w0 = Load(panel), w1 = Load(panel + 8);
      for (int p = 0; p < kGemmRows; ++p) {
        const Floats x = Fill(row[p][i]);
        acc[p][0] = MulAdd(x, w0, acc[p][0]);
        acc[p][1] = MulAdd(x, w1, acc[p][1]);
      }
    }
  }
  for (int p = 0; p < kGemmRows; ++p) {
    Store(sums + p * kPanelChannels, acc[p][0]);
    Store(sums + p * kPanelChannels + 8, acc[p][1]);
  }
}

void DecodePlanesX16(const uint16_t* masks, int64_t mask_stride, int planes, const float* scales,
                     const float* offset, int n, float* panel) {
  for (int i = 0; i < n; ++i, panel += kPanelChannels) {
    float value[kPanelChannels];
    for (int l = 0; l < kPanelChannels; ++l) value[l] = offset[l];
    for (int p = 0; p < planes; ++p) {
      const uint32_t mask = ~static_cast<uint32_t>(masks[p * mask_stride + i]);
      for (int l = 0; l < kPanelChannels; ++l) {
        uint32_t bits;
        memcpy(&bits, scales + p * kPanelChannels + l, sizeof(bits));
        bits ^= (mask >> l & 1u) << 31;  // a clear bit turns the scale's sign
        float signed_scale;
        memcpy(&signed_scale, &bits, sizeof(bits));
        value[l] += signed_scale;
      }
    }
    memcpy(panel, value, sizeof(value));
  }
}

// 8 channels in registers over all taps; several outputs of a channel, and the rest, one by one
void Depthwise(const float* const* inputs, const float* const* weights, int taps, int channels,
               int multiplier, float* sums) {
  int c = 0;
  for (; multiplier == 1 && c + 8 <= channels; c += 8) {
    Floats acc = Fill(0.0f);
    for (int t = 0; t < taps; ++t) acc = MulAdd(Load(inputs[t] + c), Load(weights[t] + c), acc);
    Store(sums + c, acc);
  }
  for (; c < channels; ++c) {
    float sum = 0.0f;
    for (int t = 0; t < taps; ++t) sum += inputs[t][c / multiplier] * weights[t][c];
    sums[c] = sum;
  }
}

// acc[codewords][vectors] in registers;  for each j:  acc[k] += codeword[k][j] * row[j]
template <int kCodewords, int kVectors>
inline void TableBlock(const float* codewords, int subvector, int length, const float* rows,
                       int64_t row, float* table) {
  Floats acc[kCodewords][kVectors];
  for (int k = 0; k < kCodewords; ++k) {
    for (int v = 0; v < kVectors; ++v) acc[k][v] = Fill(0.0f);
  }
  for (int j = 0; j < length; ++j) {
    Floats x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = Load(rows + j * row + 8 * v);
    for (int k = 0; k < kCodewords; ++k) {
      const Floats codeword = Fill(codewords[k * subvector + j]);
      for (int v = 0; v < kVectors; ++v) acc[k][v] = MulAdd(codeword, x[v], acc[k][v]);
    }
  }
  for (int k = 0; k < kCodewords; ++k) {
    for (int v = 0; v < kVectors; ++v) Store(table + k * row + 8 * v, acc[k][v]);
  }
}

template <int kVectors>
inline void TableColumns(const float* codewords, int size, int subvector, int length,
                         const float* rows, int64_t row, float* table) {
  constexpr int kBlock = kVectors == 1 ? 8 : 4;  // eight sums hide the latency
  int k = 0;
  for (; k + kBlock <= size; k += kBlock) {
    TableBlock<kBlock, kVectors>(codewords + k * subvector, subvector, length, rows, row,
                                 table + k * row);
  }
  for (; k < size; ++k) {
    TableBlock<1, kVectors>(codewords + k * subvector, subvector, length, rows, row,
                            table + k * row);
  }
}

void BuildTable(const float* codewords, int size, int subvector, int length, const float* rows,
                int64_t row, float* table) {
  int64_t i = 0;
  for (; i + 16 <= row; i += 16) {
    TableColumns<2>(codewords, size, subvector, length, rows + i, row, table + i);
  }
  if (i < row) TableColumns<1>(codewords, size, subvector, length, rows + i, row, table + i);
}

// acc[channels][vectors] in registers;  for each sub-space m, tap t:
//   acc[c] += table[m][index[m][t][c]] from tap_offsets[t] on
template <int kChannels, int kVectors>
void LookUp(const LookUpBlock& block) {
  const int64_t row = block.row;
  float* sums = block.sums;
  for (int b = 0; b < block.channel_blocks; ++b) {
    for (int first = 0; first < kLookUpChannels; first += kChannels) {
      const uint8_t* index = block.indices + b * block.index_pitch + first;
      Floats acc[kChannels][kVectors];
      for (int c = 0; c < kChannels; ++c) {
        for (int v = 0; v < kVectors; ++v) acc[c][v] = Load(sums + (c * kVectors + v) * 8);
      }
      const float* table = block.table;
      for (int m = 0; m < block.subspaces; ++m, table += block.subspace_pitch) {
        for (int t = 0; t < block.taps; ++t, index += kLookUpChannels) {
          const float* shifted = table + block.tap_offsets[t];
          for (int c = 0; c < kChannels; ++c) {
            const float* entry = shifted + index[c] * row;
            for (int v = 0; v < kVectors; ++v) acc[c][v] = Add(acc[c][v], Load(entry + 8 * v));
          }
        }
      }
      for (int c = 0; c < kChannels; ++c) {
        for (int v = 0; v < kVectors; ++v) Store(sums + (c * kVectors + v) * 8, acc[c][v]);
      }
      sums += kChannels * kVectors * 8;
    }
  }
}

// Enough sums in flight to hide the latency of an addition, few enough for the registers.
void LookUpAny(const LookUpBlock& block) {
  switch (block.vectors) {
    case 1:
      return LookUp<8, 1>(block);
    case 2:
      return LookUp<4, 2>(block);
    case 3:
      return LookUp<4, 3>(block);
    case 4:
      return LookUp<2, 4>(block);
    case 5:
      return LookUp<2, 5>(block);
    case 6:
      return LookUp<2, 6>(block);
    case 7:
      return LookUp<1, 7>(block);
    default:
      return LookUp<1, 8>(block);
  }
}

void DecodeCodewordsX16(const uint8_t* low, const uint8_t* high, const float* columns, int length,
                        float* rows) {
  for (int j = 0; j < length; ++j, columns += 16, rows += kPanelChannels) {
    const Table16 table(columns);
    Store(rows, table.Select(low));
    Store(rows + 8, table.Select(high));
  }
}

void Quantize(const float* x, float inverse_scale, int low, int high, int n, int16_t* codes) {
  const float lowest = static_cast<float>(low), highest = static_cast<float>(high);
  int i = 0;
  for (; i + 8 <= n; i += 8) QuantizeEight(x + i, inverse_scale, lowest, highest, codes + i);
  if (i == n) return;
  float rest[8] = {};
  int16_t rest_codes[8];
  memcpy(rest, x + i, sizeof(float) * (n - i));
  QuantizeEight(rest, inverse_scale, lowest, highest, rest_codes);
  memcpy(codes + i, rest_codes, sizeof(int16_t) * (n - i));
}

// pairs in registers;  for every 16 lanes:  entries = rounded sum of vectors x pair
template <int kPairs>
inline void BuildEntriesOf(const int16_t* vectors, int64_t stride, const int16_t* pair,
                           int64_t pair_stride, int lanes, const EntryRounding& rounding,
                           int8_t* entries) {
  Pair both[kPairs];
  for (int j = 0; j < kPairs; ++j) both[j].Load(pair + j * pair_stride);
  const Rounder rounder(rounding);
  for (int l = 0; l < lanes; l += kEntryLanes, vectors += 2 * kEntryLanes) {
    PairSums low, high;
    low.Set(vectors, both[0]);
    high.Set(vectors + kEntryLanes, both[0]);
    for (int j = 1; j < kPairs; ++j) {
      low.Add(vectors + j * stride, both[j]);
      high.Add(vectors + j * stride + kEntryLanes, both[j]);
    }
    rounder.Store(low, high, entries + l);
  }
}

// Longer sub-vectors: pair after pair.
inline void BuildLongEntries(const int16_t* vectors, int64_t stride, const int16_t* pair,
                             int64_t pair_stride, int pairs, int lanes,
                             const EntryRounding& rounding, int8_t* entries) {
  const Rounder rounder(rounding);
  for (int l = 0; l < lanes; l += kEntryLanes, vectors += 2 * kEntryLanes) {
    Pair both;
    both.Load(pair);
    PairSums low, high;
    low.Set(vectors, both);
    high.Set(vectors + kEntryLanes, both);
    for (int j = 1; j < pairs; ++j) {
      both.Load(pair + j * pair_stride);
      low.Add(vectors + j * stride, both);
      high.Add(vectors + j * stride + kEntryLanes, both);
    }
    rounder.Store(low, high, entries + l);
  }
}

void BuildEntries(const int16_t* vectors, int64_t stride, const int16_t* pair, int64_t pair_stride,
                  int pairs, int lanes, const EntryRounding& rounding, int8_t* entries) {
  switch (pairs) {
    case 1:
      return BuildEntriesOf<1>(vectors, stride, pair, pair_stride, lanes, rounding, entries);
    case 2:
      return BuildEntriesOf<2>(vectors, stride, pair, pair_stride, lanes, rounding, entries);
    case 3:
      return BuildEntriesOf<3>(vectors, stride, pair, pair_stride, lanes, rounding, entries);
    case 4:
      return BuildEntriesOf<4>(vectors, stride, pair, pair_stride, lanes, rounding, entries);
    default:
      return BuildLongEntries(vectors, stride, pair, pair_stride, pairs, lanes, rounding, entries);
  }
}

// acc[positions] of 16 bits in registers;  for each tap, for each two sub-spaces:
//   acc[p] += both tables[tap][p] at the indices;  widened before they overflow
void LookUpNibbles(const int8_t* const* tables, const uint8_t* indices, int taps, int pairs,
                   int32_t* sums) {
  NibbleSums acc[kNibbleRows];
  int left = kMaxByteSums / 2;
  for (int t = 0; t < taps; ++t, tables += kNibbleRows) {
    for (int first = 0; first < pairs;) {
      const int end = first + (pairs - first < left ? pairs - first : left);
      left -= end - first;
      for (; first < end; ++first, indices += kNibbleChannels) {
        const Nibbles index(indices);
        for (int p = 0; p < kNibbleRows; ++p) acc[p].Add(tables[p] + first * 32, index);
      }
      if (left > 0) continue;
      for (int p = 0; p < kNibbleRows; ++p) {
        acc[p].AddTo(sums + p * kNibbleChannels);
        acc[p] = NibbleSums();
      }
      left = kMaxByteSums / 2;
    }
  }
  for (int p = 0; p < kNibbleRows; ++p) acc[p].AddTo(sums + p * kNibbleChannels);
}

// acc[vectors] in registers;  for each sub-space m, tap t:  acc += table[m][index[c][m][t]]
template <int kVectors>
inline void LookUpBytes(const ByteLookUpBlock& block, const uint8_t* index, int first,
                        int16_t* sums) {
  const int8_t* table = block.table + first * kEntryLanes;
  ByteSums acc[kVectors];
  for (int v = 0; v < kVectors; ++v) acc[v].Load(sums + v * kEntryLanes);
  for (int m = 0; m < block.subspaces; ++m, table += block.subspace_pitch) {
    for (int t = 0; t < block.taps; ++t) {
      const int8_t* entry = table + *index * block.row + block.tap_offsets[t];
      index += kLookUpChannels;
      for (int v = 0; v < kVectors; ++v) acc[v].Add(entry + v * kEntryLanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) acc[v].Store(sums + v * kEntryLanes);
}

void LookUpBytesAny(const ByteLookUpBlock& block) {
  using LookUp = void (*)(const ByteLookUpBlock&, const uint8_t*, int, int16_t*);
  constexpr LookUp kWidths[kMaxByteVectors] = {LookUpBytes<1>, LookUpBytes<2>, LookUpBytes<3>,
                                               LookUpBytes<4>, LookUpBytes<5>, LookUpBytes<6>,
                                               LookUpBytes<7>, LookUpBytes<8>};
  const int parts = (block.vectors + kMaxByteVectors - 1) / kMaxByteVectors;
  for (int c = 0; c < block.channels; ++c) {
    int16_t* sums = block.sums + static_cast<int64_t>(c) * block.vectors * kEntryLanes;
    const uint8_t* index =
        block.indices + c / kLookUpChannels * block.index_pitch + c % kLookUpChannels;
    for (int part = 0; part < parts; ++part) {  // of nearly equal width
      const int first = block.vectors * part / parts, end = block.vectors * (part + 1) / parts;
      kWidths[end - first - 1](block, index, first, sums + first * kEntryLanes);
    }
  }
}

constexpr Kernels kKernels = {KERASQ_ISA_NAME,    PackSigns,       XorPopcount, Gemm6x16,
                              DecodeCodewordsX16, DecodePlanesX16, Depthwise,   BuildTable,
                              LookUpAny,          PackSums,        Quantize,    BuildEntries,
                              LookUpNibbles,      LookUpBytesAny};
