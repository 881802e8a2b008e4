// Fused MBConv residual block for Hopper (sm_90a), fp16 in/out, fp32 accumulation, NHWC, inference, stride 1:
//
//   h = silu(x @ We + be)                      C -> eC, pointwise; zero outside the image
//   g = silu(grouped_conv3x3(h, w1) + b1)      eC -> eC, groups of 8 channels
//   y = g @ Wp + bp + x                        eC -> C
//
// As in mbconv_rows.cu a warp owns one row of a vertical strip of 14 columns with a column more on either side, the rows above and below come
// through shared memory in the lanes' own layout, and a product with n = 24 computes the three columns of the filter at once; We, be, w1, b1
// are halved, be is 16 more rows of We, and the channels of x and y are permuted so that a lane has 16 contiguous bytes of a pixel.
//
// The warpgroups of a block walk down one range of rows, each below the one before; a producer warp streams the weights, chunk by chunk.
// Two chunks of hidden channels are in flight: between a chunk's barrier and its convolution, while the neighbours' rows come from shared memory, a
// warp activates the next chunk and hands it on; the expansion of the chunk after that runs under the gathering, or under the next barrier.
// With two warpgroups the registers hold the convolution of all four groups of a chunk, with three of two of them.
//
// Conditions: C a multiple of 32, 8 to 16 chunks of 32 hidden channels, an even number of them; N*H*W < 2^31.
// Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, SLOTS (of the ring of weights), SHARED_BYTES.
#include "hopper.cuh"
#include "mbconv_strips.cuh"
#include "specialisation.h"

namespace chain {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = 32, NCH = HID / HC, NP = HC / 16, GROUPS = HC / 8, NWG = WARPGROUPS, NS = SLOTS;
constexpr int CONSUMERS = 128 * NWG, STEP = 4 * NWG;                                 // rows of h at once
constexpr int WEB = C * HC * 2, PAIR = 2688, BIAS = HC * 32, MID = BIAS + NP * PAIR;
constexpr int ITEM = 2 * WEB + MID;                                                  // one chunk's We | bias as 16 more rows of We | filters | Wp
constexpr int ROW = HC * 32;                                                         // bytes of one row's chunk of h
// rows handed on: two within the step (double-buffered), two per chunk that the rows below read at once or a step later
constexpr int NEAR = NS + 1, FAR = NCH + NS + 1, EXCHANGE = NWG * 4 * ROW + ((NWG - 1) * NEAR + FAR) * 2 * ROW;
constexpr int OFF_RING = 0, OFF_EX = OFF_RING + NS * ITEM, OFF_ZERO = OFF_EX + EXCHANGE, OFF_B1 = OFF_ZERO + ROW;
constexpr int OFF_BP = OFF_B1 + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int BIASES = OFF_BAR - OFF_B1;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + NWG * NEAR);
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(HID % HC == 0 && C % 32 == 0 && ITEM % 16 == 0 && NCH % 2 == 0 && NCH >= NWG + 4 && NS >= 6, "whole chunks, two in flight");
static_assert((NWG - 1) * C * 64 <= NWG * 4 * ROW, "where sums of the last row pass");
constexpr int AT_ONCE = NWG == 2 ? GROUPS : 2;                                       // groups whose convolutions the registers hold
constexpr bool TOGETHER = AT_ONCE == GROUPS;

using Ring = Position<NS>;
__device__ __forceinline__ void zero_if(bool which, uint32_t (&v)[4], uint32_t zeros) {        // by a load: an instruction to skip, not four
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %5, 0;\n@p ld.shared.v4.b32 {%0,%1,%2,%3}, [%4]; }"
               : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3]) : "r"(zeros), "r"((int)which) : "memory");
}
}  // namespace chain

extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS + 128, 1)
KERNEL_NAME(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, const unsigned char* __restrict__ stream,
            const uint4* __restrict__ biases, int N, int H, int W, int block_rows, int total, uint32_t reciprocal_rows, uint32_t reciprocal_strips) {
  using namespace chain;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, tid >> 5, 0) & 3, lane = tid & 31, q = lane & 3;
  const int strips = (W + VALID - 1) / VALID;                                         // of an image; `total` rows in the sequence
  const uint32_t full = sm + OFF_BAR, empty = full + 8 * NS, handed = empty + 8 * NS;
  const Divisor by_rows = {H, reciprocal_rows}, by_strips = {strips, reciprocal_strips};
  // this block's rows: outputs first .. last-1, steps of STEP rows of h
  const int first = (int)blockIdx.x * block_rows, last = min(first + block_rows, total);
  const int above = first % H != 0;
  // a range that ends with a strip needs no row of h below it, and its last row of y none of its own: it comes after whole steps
  const bool tail = last % H == 0 && (last - first + above) % STEP == 0;
  const int steps = (last - first + above + !tail + STEP - 1) / STEP;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) {
      mbar_init(full + 8 * i, 1);
      mbar_init(empty + 8 * i, NWG);
    }
    for (int i = 0; i < (NWG - 1) * NEAR; ++i) mbar_init(handed + 8 * i, 64);
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // --------------------------------------------------------------------------- producer
    fewer_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 1};
      int j = 0;
      for (int n = steps * NCH + (tail ? NCH : 2); n > 0; --n, r.next()) {
        const uint32_t bar = full + 8 * r.slot;
        mbar_wait(empty + 8 * r.slot, r.phase);
        mbar_expect(bar, ITEM);
        bulk_load(sm + OFF_RING + r.slot * ITEM, stream + j * ITEM, ITEM, bar);
        if (++j == NCH) j = 0;
      }
    }
  } else {  // -------------------------------------------------------------------------------------------- consumers
    more_registers<WARPGROUPS == 3 ? 160 : 240>();
    for (int i = tid; i < BIASES / 16; i += CONSUMERS) cp_async16(sm + OFF_B1 + i * 16, biases + i, true);
    cp_async_commit();
    for (int i = tid; i < ROW / 8; i += CONSUMERS) sts64(sm + OFF_ZERO + i * 8, 0, 0);
    const int lx = 2 * (lane >> 2);                                                  // this lane's pixels: lx, lx + 1 of 16
    // this warp's row of h, walked down step by step: divisions for the first one alone
    int row = first - above + 4 * wg + warp;
    Row here = locate(row, by_strips, by_rows, W);
    bool ok = row < total;                                                           // is there such a row
    prefetch_row<C>(x, here, ok, W, lx, q);                                          // into L2, where what the previous grid still writes comes, too
    pdl_wait();                                                                      // x may be its output
    auto advance = [&] {                                                             // to the next step
      here.advance(STEP, H, W);
      row += STEP;
      ok = row < total;
    };
    typedef uint4 Raw[C / 16];                                                       // x of the next step as loaded
    auto load_x = [&](Raw& raw) { load_row<C>(raw, x, here, ok, W, lx, q); };

    // ---- where rows are handed on
    const uint32_t ex = sm + OFF_EX;
    const uint32_t pairs = ex + wg * 4 * ROW;                                        // rows 0, 1 of the warpgroup, two buffers
    const uint32_t kept = ex + NWG * 4 * ROW;                                        // rows 2, 3 of every warpgroup, a ring each
    const int depth = wg < NWG - 1 ? NEAR : FAR, up_wg = wg == 0 ? NWG - 1 : wg - 1;
    const int up_depth = up_wg < NWG - 1 ? NEAR : FAR;
    const bool later = wg == 0;                                                      // the rows above are those of the step before
    const uint32_t own_base = kept + wg * NEAR * 2 * ROW, up_base = kept + up_wg * NEAR * 2 * ROW;
    int own = 0, upper = later ? up_depth - NCH : 0;                                 // slots in the two rings
    uint32_t up_phase = 0;

    uint64_t de, dw, dp;
    auto address = [&] {                                                             // anew for each chunk, or the compiler keeps all that follow from them
      const uint32_t ring = __shfl_sync(~0u, sm + OFF_RING >> 4, 0);
      de = (uint64_t)ring | make_desc(0, HC / 8 * 128, 128);
      dw = (uint64_t)(ring + (WEB + BIAS >> 4)) | make_desc(0, 384, 128);
      dp = (uint64_t)(ring + (WEB + MID >> 4)) | make_desc(0, C / 8 * 128, 128);
    };
    const uint32_t b1 = sm + OFF_B1 + q * (HC / 8 * 4);
    uint32_t xf[C / 16][4];
    uint32_t one[4] = {0, 0, 0, 0};                                                  // A operand of the bias: 1 for pixels in the image
    auto arrange_x = [&](Raw& raw) {                                                 // as loaded -> A operands
      const Inside inside(here, ok, W, lx);
      inside.ones(one, q);
      inside.arrange(xf, raw);
    };
    auto offset = [&](int slot) { return (uint64_t)(slot * (ITEM >> 4)); };
    using Residual = Identity<C, C / 32>;
    auto identity = [&](Residual& to, int back) {                                    // of the row of y so many rows above this warp's row of h
      Row r = here;
      const bool put = row - back >= first && row - back < last;
      r.pixel -= back * W;
      if (put && r.y < back) r = locate(row - back, by_strips, by_rows, W);            // in another strip
      to.of(x, r, put, W, lx, q, 0);
    };
    auto put = [&](float (&o)[C / 2], Residual& id) {                                // with bias and identity
      wgmma_wait<0>();
#pragma unroll
      for (int m0 = 0; m0 < C / 32; m0 += Residual::AT_ONCE) {
        if (m0 > 0) id.fetch(x, m0);
        id.put(y, o, m0, sm + OFF_BP + q * 16);
      }
    };
    // Two chunks in flight: while the tensor cores convolve chunk n, the warps activate chunk n + 1, whose expansion ran under the gathering of
    // chunk n - 1; the rows of h are in shared memory long before the barrier that the next convolution waits for.
    uint32_t h[2][NP][4];
    float s[HC / 2];
    Ring ahead = {0, 0};                                                             // of the chunk that is expanded
    int now = 0, behind = NS - 2;                                                    // slots of this chunk, of the one before the last
    bool cut;                                                                        // row of h below the output row is outside
    // where this warp's row goes, and where the rows above it are: lanes' own addresses, or the compiler branches
    const int w = tid >> 5 & 3;                                                      // `warp`, but not known to be uniform
    const uint32_t to = (w < 2 ? pairs + w * ROW : own_base + (w - 2) * ROW) + lane * 8;
    const uint32_t from0 = (w < 2 ? up_base + w * ROW : pairs + (w - 2) * ROW) + lane * 8;
    const uint32_t from1 = (w == 0 ? up_base + ROW : w < 3 ? pairs + (w - 1) * ROW : own_base) + lane * 8;
    auto activate = [&](uint32_t (&h)[NP][4], int parity) {                          // to its neighbours, and as A operand
      const uint32_t st = to + (w < 2 ? parity : own) * 2 * ROW;
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) {
        const uint32_t lo = silu_packed(pack2(s[4 * g], s[4 * g + 1])), hi = silu_packed(pack2(s[4 * g + 2], s[4 * g + 3]));
        h[g >> 1][(g & 1) * 2] = lo;
        h[g >> 1][(g & 1) * 2 + 1] = hi;
        sts64(st + g * 256, lo, hi);
      }
      if (warp >= 2 && wg < NWG - 1) mbar_arrive(handed + 8 * (wg * NEAR + own));    // every lane for what it wrote
#pragma unroll
      for (int p = 0; p < NP; ++p) zero_if(cut, h[p], sm + OFF_ZERO + lane * 16);
    };
    auto expand = [&](uint64_t d) {
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(s, xf[k], d + k * (HC * 32 >> 4), k > 0);
      Wgmma<HC>::rs(s, one, d + (WEB >> 4), 1);
      wgmma_commit();
    };
    auto expand_ahead = [&] {
      mbar_wait(full + 8 * ahead.slot, ahead.phase);
      expand(de + offset(ahead.slot));
      ahead.next();
    };
    if (steps > 0) {                                                                 // always; without it the compiler reads the thread's index again and again
      Raw raw;
      load_x(raw);
      cp_async_wait<0>();
      bar_sync(8, CONSUMERS);                                                        // biases and zeros are there
      arrange_x(raw);
      cut = here.y == 0;
      address();
      expand_ahead();
      wgmma_wait<0>();
      activate(h[0], 0);
      expand_ahead();
      wgmma_wait<0>();
    }
    for (int t = 0; t < steps; ++t) {
      const bool top = H == 1 || here.y == 1;                                        // row of h above the output row is outside
      float o[C / 2];
      Residual id;
#pragma unroll
      for (int j = 0; j < NCH; ++j) {
        const int odd = j & 1;
        const bool load = j == NCH - 2, end = j == NCH - 1;
        address();
        if (NCH % NS == 0) { now = j % NS; ahead.slot = (j + 2) % NS; behind = (j + NS - 2) % NS; }  // known to the compiler
        const uint32_t f0 = top ? sm + OFF_ZERO + lane * 8 : from0 + (w < 2 ? upper : odd) * 2 * ROW;
        const uint32_t f1 = from1 + (w == 0 ? upper : w < 3 ? odd : own) * 2 * ROW;
        bar_sync(1 + wg, 128);
        if (!later && warp < 2) mbar_wait(handed + 8 * (up_wg * NEAR + upper), up_phase);
        if ((tid & 127) == 0 && (j > 1 || t > 0)) mbar_arrive(empty + 8 * behind);    // what all four warps have left
        if (++own == depth) own = 0;
        if (++upper == up_depth) { upper = 0; up_phase ^= 1; }
        // ---- the next chunk's h, while the operands of this chunk's convolution come
        Partial e[AT_ONCE];
        uint32_t f[AT_ONCE][4], g[NP][4], b[GROUPS];
        auto fetch = [&](int i) {
          lds64(f[i % AT_ONCE][0], f[i % AT_ONCE][1], f0 + i * 256);
          lds64(f[i % AT_ONCE][2], f[i % AT_ONCE][3], f1 + i * 256);
        };
        auto fetch_bias = [&](int p) { lds64(b[2 * p], b[2 * p + 1], b1 + j * (HC * 2) + p * 8); };
        auto product = [&](int i) {
          const uint64_t d = dw + offset(now) + (i >> 1) * (PAIR >> 4);
          Wgmma<24>::rs(e[i % AT_ONCE], f[i % AT_ONCE], d + ((i & 1) * 768 >> 4), 0);
          Wgmma<24>::rs(e[i % AT_ONCE], h[odd][i >> 1], d + (1536 + (i & 1) * 384 >> 4), 1);
        };
        auto begin = [&](int i) {
          wgmma_fence();
          product(i);
          wgmma_commit();
        };
        auto project = [&](int p) { Wgmma<C>::rs(o, g[p], dp + offset(now) + p * (C * 32 >> 4), (j > 0) | (p > 0)); };
        auto walk_on = [&] {
          if (j == NCH / 2) {
            advance();
            if (t + 1 < steps) prefetch_row<C>(x, here, ok, W, lx, q);
          }
        };
        Raw raw;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) fetch(i);
        if (end) cut = here.y == 0;                                                  // of the chunk that is activated now
        if (TOGETHER) wgmma_wait<1>();                                               // its expansion is complete
        else wgmma_wait<0>();
        if (TOGETHER && load) load_x(raw);                                           // of the next step, into registers that the expansion has left
        activate(h[!odd], !odd);
        // ---- convolution, gathering and projection; the expansion of the chunk after the next
        if (TOGETHER) {
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < GROUPS; ++i) product(i);
          wgmma_commit();
          walk_on();
          fetch_bias(0);
          fetch_bias(1);
          wgmma_wait<0>();
          if (load) arrange_x(raw);
          if (end) identity(id, STEP + 1);
          expand_ahead();                                                            // from here on the compiler mixes the gathering into it
#pragma unroll
          for (int i = 0; i < GROUPS; ++i) combine(g[i >> 1][2 * (i & 1)], g[i >> 1][2 * (i & 1) + 1], e[i], b[i], silu_packed);
          wgmma_fence();
#pragma unroll
          for (int p = 0; p < NP; ++p) project(p);
          wgmma_commit();
        } else {
          Gathered c[2];
          begin(0);
          begin(1);
          walk_on();
          if (load) load_x(raw);
          fetch_bias(0);
          wgmma_wait<1>();
          fetch(2);
          c[0].take(e[0], b[0]);
          begin(2);                                                                  // into registers that are free since, under shuffles and silu
          c[0].finish(g[0][0], g[0][1]);
          wgmma_wait<1>();
          fetch(3);
          c[1].take(e[1], b[1]);
          begin(3);
          c[1].finish(g[0][2], g[0][3]);
          fetch_bias(1);
          wgmma_fence();
          project(0);
          wgmma_commit();
          wgmma_wait<2>();
          c[0].take(e[0], b[2]);
          wgmma_wait<1>();
          if (end) identity(id, STEP + 1);
          c[1].take(e[1], b[3]);
          c[0].finish(g[1][0], g[1][1]);
          c[1].finish(g[1][2], g[1][3]);
          wgmma_fence();
          project(1);
          wgmma_commit();
          if (load) arrange_x(raw);
          expand_ahead();
        }
        now = now + 1 == NS ? 0 : now + 1;
        behind = behind + 1 == NS ? 0 : behind + 1;
      }
      put(o, id);
    }
    // ---- the last row of a strip: two rows of h that are there, and none below. The warpgroups take the chunks in turn and add up their sums
    if (tail) {
      float o[C / 2];
      const uint32_t above_end = kept + (NWG - 1) * NEAR * 2 * ROW;
      int at = (steps - 1) * NCH % FAR;                                              // where the last step's rows are
      uint32_t f[GROUPS][4];
      auto fetch = [&](int j) {
        const int slot = at + j >= FAR ? at + j - FAR : at + j;
        const uint32_t f1 = above_end + (slot * 2 + 1) * ROW + lane * 8, f0 = H == 1 ? sm + OFF_ZERO + lane * 8 : f1 - ROW;
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) {
          lds64(f[i][0], f[i][1], f0 + i * 256);
          lds64(f[i][2], f[i][3], f1 + i * 256);
        }
      };
      Ring r = {now, ahead.slot < now ? ahead.phase ^ 1 : ahead.phase};               // of chunk j
      // chunk j's weights come after every warpgroup has handed on chunk NCH + j - 4 of the last step: its chunk j + NWG may be read by then
      bar_sync(1 + wg, 128);
      if ((tid & 127) == 0) {                                                        // the slots of the last step's last two chunks
        mbar_arrive(empty + 8 * behind);
        mbar_arrive(empty + 8 * (now == 0 ? NS - 1 : now - 1));
      }
      fetch(wg);
      int left = 0;                                                                  // chunks whose slots this warpgroup has left
      Ring leaving = r;
      auto leave_before = [&](int j) {
        if ((tid & 127) == 0)
          for (; left < j; ++left, leaving.next()) {
            mbar_wait(full + 8 * leaving.slot, leaving.phase);
            mbar_arrive(empty + 8 * leaving.slot);
          }
      };
      r.next(wg);
#pragma unroll 1
      for (int j = wg; j < NCH; j += NWG) {
        address();
        mbar_wait(full + 8 * r.slot, r.phase);
        const uint64_t slot = offset(r.slot);
        uint32_t g[2][4];
        Partial e[GROUPS];
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) Wgmma<24>::rs(e[i], f[i], dw + slot + ((i >> 1) * PAIR + (i & 1) * 768 >> 4), 0);
        wgmma_commit();
        const uint4 v = lds128(b1 + j * (HC * 2));
        const uint32_t b[4] = {v.x, v.y, v.z, v.w};
        wgmma_wait<0>();                                                             // the projection before, too
        if (j + NWG < NCH) fetch(j + NWG);
        bar_sync(1 + wg, 128);
        leave_before(j);
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) combine(g[i >> 1][2 * (i & 1)], g[i >> 1][2 * (i & 1) + 1], e[i], b[i], silu_packed);
        wgmma_fence();
#pragma unroll
        for (int p = 0; p < NP; ++p) Wgmma<C>::rs(o, g[p], dp + slot + p * (C * 32 >> 4), (j >= NWG) | (p > 0));
        wgmma_commit();
        r.next(NWG);
      }
      wgmma_wait<0>();
      leave_before(NCH - NS);                                                        // the producer waits for no more
      const uint32_t sums = ex + lane * 16;
      if (wg > 0 && warp == 0)
#pragma unroll
        for (int i = 0; i < C / 8; ++i) sts128(sums + ((wg - 1) * (C / 8) + i) * 512, o + 4 * i);
      bar_sync(8, CONSUMERS);
      for (int other = 0; other < NWG - 1; ++other)
#pragma unroll
        for (int i = 0; i < C / 8; ++i) {
          const uint4 v = lds128(sums + (other * (C / 8) + i) * 512);
          o[4 * i] += __uint_as_float(v.x); o[4 * i + 1] += __uint_as_float(v.y);
          o[4 * i + 2] += __uint_as_float(v.z); o[4 * i + 3] += __uint_as_float(v.w);
        }
      if (wg == 0) {
        Residual id;
        identity(id, 1);
        put(o, id);
      }
    }
  }
}
