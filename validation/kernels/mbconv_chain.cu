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
// warp activates the next chunk (with two warpgroups its last group behind the convolution) and hands it on; the expansion of the chunk after that
// runs under the gathering, or under the next barrier. With two warpgroups the registers hold the convolution of all four groups of a chunk, the first
// two of which are gathered under that of the others, with three of two of them; with two, x of the next step comes through shared memory, each
// lane's own, asked for half a step early.
//
// All rings come round with the chunks of a step, or with the segments of a step's (FAR), so that their slots and phases are known to the compiler.
// Of the ring of weights an item is We of chunk n + 2 and the rest of chunk n: what is expanded under the gathering of chunk n lies beside what that
// chunk is convolved and projected with, comes with it and is left with it.
//
// Conditions: C a multiple of 32, 8, 12 or 16 chunks of 32 hidden channels; N*H*W < 2^31.
// Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, X_SHARED (x of the next step through shared memory), SHARED_BYTES.
#include "hopper.cuh"
#include "mbconv_strips.cuh"
#include "specialisation.h"

namespace chain {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = 32, NCH = HID / HC, NP = HC / 16, GROUPS = HC / 8, NWG = WARPGROUPS, NS = 4;
constexpr int CONSUMERS = 128 * NWG, STEP = 4 * NWG;                                 // rows of h at once
constexpr int WEB = C * HC * 2, PAIR = 2688, BIAS = HC * 32, MID = BIAS + NP * PAIR;
constexpr int ITEM = 2 * WEB + MID;                                                  // one chunk's We | bias as 16 more rows of We | filters | Wp
constexpr int ROW = HC * 32;                                                         // bytes of one row's chunk of h
// entries of two rows: within a warpgroup, and to the one below, NEAR chunks; from the last to the first, a step later, FAR
constexpr int NEAR = NCH % 8 == 0 ? 8 : 6, FAR = NCH + NEAR, SEGMENTS = NCH / NEAR, EXCHANGE = ((2 * NWG - 1) * NEAR + FAR) * 2 * ROW;
constexpr int OFF_RING = 0, OFF_EX = OFF_RING + NS * ITEM, OFF_ZERO = OFF_EX + EXCHANGE, OFF_X = OFF_ZERO + ROW, OFF_B1 = OFF_X + (X_SHARED ? CONSUMERS * C : 0);
constexpr int OFF_BP = OFF_B1 + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int BIASES = OFF_BAR - OFF_B1;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + (NWG - 1) * NEAR);
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(HID % HC == 0 && C % 32 == 0 && ITEM % 16 == 0 && NCH % 4 == 0 && NCH % NEAR == 0 && NCH >= NWG + 4, "whole chunks, two in flight");
static_assert((NWG - 1) * C * 64 <= NWG * NEAR * 2 * ROW, "where sums of the last row pass");
constexpr int AT_ONCE = NWG == 2 ? GROUPS : 2;                                       // groups whose convolutions the registers hold
constexpr bool TOGETHER = AT_ONCE == GROUPS;
constexpr int BEFORE = TOGETHER ? 3 : GROUPS;                                        // groups of the next chunk that are activated before a chunk's convolution

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
      const int whole = steps * NCH;
      int j = 0, ahead = 0;                                                          // chunks
      for (int n = -2; n < whole + (tail ? NCH : 0); ++n) {                          // We of chunk n + 2, the rest of chunk n
        const int slot = n & 3;
        const uint32_t bar = full + 8 * slot, use = (n >> 2) + (slot >= 2);
        mbar_wait(empty + 8 * slot, use & 1 ^ 1);
        mbar_expect(bar, (n < whole ? WEB + BIAS : 0) + (n >= 0 ? ITEM - WEB - BIAS : 0));
        if (n < whole) {
          bulk_load(sm + OFF_RING + slot * ITEM, stream + ahead * ITEM, WEB + BIAS, bar);
          if (++ahead == NCH) ahead = 0;
        }
        if (n >= 0) {
          bulk_load(sm + OFF_RING + slot * ITEM + WEB + BIAS, stream + j * ITEM + WEB + BIAS, ITEM - WEB - BIAS, bar);
          if (++j == NCH) j = 0;
        }
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
    const uint32_t kept = ex + NWG * NEAR * 2 * ROW, far = kept + (NWG - 1) * NEAR * 2 * ROW;
    const bool later = wg == 0;                                                      // the rows above are those of the step before
    uint64_t de, dw, dp;
    uint32_t nothing = 0;                                                            // unknown to the compiler: descriptors stay sums of 64 bits, an instruction each
    auto address = [&](int slot) {                                                   // of an item
      const uint64_t off = (long long)(int)(slot * (ITEM >> 4) + nothing);
      de = (uint64_t)(sm + OFF_RING >> 4) + make_desc(0, HC / 8 * 128, 128) + off;
      dw = (uint64_t)(sm + OFF_RING + WEB + BIAS >> 4) + make_desc(0, 384, 128) + off;
      dp = (uint64_t)(sm + OFF_RING + WEB + MID >> 4) + make_desc(0, C / 8 * 128, 128) + off;
      nothing += N >> 31;
    };
    const uint32_t b1 = sm + OFF_B1 + q * (HC / 8 * 4);
    uint32_t xf[C / 16][4];
    uint32_t one[4] = {0, 0, 0, 0};                                                  // A operand of the bias: 1 for pixels in the image
    auto arrange_x = [&](Raw& raw, bool copied) {                                    // as loaded -> A operands; copied: with zeros outside of the image
      Inside inside(here, ok, W, lx);
      inside.ones(one, q);
      if (copied) inside.first = inside.second = ~0u;
      inside.arrange(xf, raw);
    };
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
    const uint32_t xs = sm + OFF_X + (4 * wg + warp) * (C * 32) + lane * 16;         // X_SHARED: what this lane copies is what it reads
    auto copy_x = [&] {                                                              // of the next step
      const bool in0 = ok && (unsigned)(here.left + lx) < (unsigned)W, in1 = ok && (unsigned)(here.left + lx + 1) < (unsigned)W;
      const unsigned char* p0 = (in0 ? x + (long)(here.pixel + lx) * (C * 2) : x) + q * 16;
      const unsigned char* p1 = (in1 ? x + (long)(here.pixel + lx + 1) * (C * 2) : x) + q * 16;
#pragma unroll
      for (int m = 0; m < C / 32; ++m) {
        cp_async16(xs + 2 * m * 512, p0 + m * 64, in0);
        cp_async16(xs + (2 * m + 1) * 512, p1 + m * 64, in1);
      }
      cp_async_commit();
    };
    auto fetch_x = [&](Raw& raw) {
      if (!X_SHARED) return load_x(raw);
      cp_async_wait<0>();
#pragma unroll
      for (int m = 0; m < C / 16; ++m) raw[m] = lds128(xs + m * 512);
    };
    // Two chunks in flight: while the tensor cores convolve chunk n, the warps activate chunk n + 1, whose expansion ran under the gathering of
    // chunk n - 1; the rows of h are in shared memory long before the barrier that the next convolution waits for.
    uint32_t h[2][NP][4];
    float s[HC / 2];
    bool cut;                                                                        // row of h below the output row is outside
    // where this warp's row goes, and where the rows above it are: lanes' own addresses, or the compiler branches
    const int w = tid >> 5 & 3;                                                      // `warp`, but not known to be uniform
    constexpr uint32_t STRIDE = 2 * ROW, SEGMENT = NEAR * STRIDE;
    int turn = 0;                                                                    // steps, modulo the FAR ring's SEGMENTS + 1
    const bool far_to = w >= 2 && wg == NWG - 1, far0 = w < 2 && later, far1 = w == 0 ? later : w == 3 && wg == NWG - 1;
    uint32_t to[SEGMENTS], from0[SEGMENTS], from1[SEGMENTS];
    {
      const uint32_t pairs = ex + wg * NEAR * STRIDE + lane * 8, own = (wg == NWG - 1 ? far : kept + wg * NEAR * STRIDE) + lane * 8;
      const uint32_t up = (later ? far : kept + (wg - 1) * NEAR * STRIDE) + lane * 8;
#pragma unroll
      for (int k = 0; k < SEGMENTS; ++k) {
        to[k] = (w < 2 ? pairs + w * ROW : own + (w - 2) * ROW) + (far_to ? k * SEGMENT : 0);
        from0[k] = (w < 2 ? up + w * ROW : pairs + (w - 2) * ROW) + (far0 ? (k + 1) * SEGMENT : 0);
        from1[k] = (w == 0 ? up + ROW : w < 3 ? pairs + (w - 1) * ROW : own) + (far1 ? (w == 0 ? k + 1 : k) * SEGMENT : 0);
      }
    }
    auto activate = [&](uint32_t (&h)[NP][4], int chunk, int from, int until) {     // groups of it, to its neighbours and as A operand
      const uint32_t st = to[chunk / NEAR] + chunk % NEAR * STRIDE;
#pragma unroll
      for (int g = from; g < until; ++g) {
        const uint32_t lo = pack2(silu(s[4 * g]), silu(s[4 * g + 1])), hi = pack2(silu(s[4 * g + 2]), silu(s[4 * g + 3]));  // as many instructions as in halves
        h[g >> 1][(g & 1) * 2] = lo;
        h[g >> 1][(g & 1) * 2 + 1] = hi;
        sts64(st + g * 256, lo, hi);
      }
      if (until < GROUPS) return;
      if (warp >= 2 && wg < NWG - 1) mbar_arrive(handed + 8 * (wg * NEAR + chunk % NEAR));    // every lane for what it wrote
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
    if (steps > 0) {                                                                 // always; without it the compiler reads the thread's index again and again
      Raw raw;
      load_x(raw);
      cp_async_wait<0>();
      bar_sync(8, CONSUMERS);                                                        // biases and zeros are there
      arrange_x(raw, false);
      cut = here.y == 0;
      address(2);
      mbar_wait(full + 8 * 2, 0);
      expand(de);
      wgmma_wait<0>();
      activate(h[0], 0, 0, GROUPS);
      mbar_wait(full + 8 * 3, 0);
      address(3);
      expand(de);
      wgmma_wait<0>();
    }
    if (!TOGETHER) mbar_wait(full, 0);
    for (int t = 0; t < steps; ++t) {
      const bool top = H == 1 || here.y == 1;                                        // row of h above the output row is outside
      float o[C / 2];
      Residual id;
#pragma unroll
      for (int j = 0; j < NCH; ++j) {
        const int odd = j & 1;
        const bool load = j == NCH - 2, end = j == NCH - 1;
        const int slot = j & 3;
        address(slot);
        const uint32_t f0 = top ? sm + OFF_ZERO + lane * 8 : from0[j / NEAR] + j % NEAR * STRIDE;
        const uint32_t f1 = from1[j / NEAR] + j % NEAR * STRIDE;
        bar_sync(1 + wg, 128);
        if (!later && warp < 2) mbar_wait(handed + 8 * ((wg - 1) * NEAR + j % NEAR), (j / NEAR + (SEGMENTS % 2 ? t : 0)) & 1);
        if ((tid & 127) == 0) mbar_arrive(empty + 8 * (slot ^ 2));                   // what all four warps have left: of two chunks before
        auto await = [&](int next, int step) {                                       // the item of this chunk, or of the next one
          constexpr bool BY_STEP = NCH / NS % 2;
          const int slot = next & 3;
          mbar_wait(full + 8 * slot, (next % NCH / NS + (slot >= 2) + (BY_STEP ? step : 0)) & 1);
        };
        if (TOGETHER) await(j, t);
        // ---- the next chunk's h, while the operands of this chunk's convolution come
        Partial e[AT_ONCE];
        uint32_t f[AT_ONCE][4], g[NP][4], b[GROUPS];
        auto fetch = [&](int i) {
          lds64(f[i % AT_ONCE][0], f[i % AT_ONCE][1], f0 + i * 256);
          lds64(f[i % AT_ONCE][2], f[i % AT_ONCE][3], f1 + i * 256);
        };
        auto fetch_bias = [&](int p) { lds64(b[2 * p], b[2 * p + 1], b1 + j * (HC * 2) + p * 8); };
        auto product = [&](int i) {
          const uint64_t d = dw + (i >> 1) * (PAIR >> 4);
          Wgmma<24>::rs(e[i % AT_ONCE], f[i % AT_ONCE], d + ((i & 1) * 768 >> 4), 0);
          Wgmma<24>::rs(e[i % AT_ONCE], h[odd][i >> 1], d + (1536 + (i & 1) * 384 >> 4), 1);
        };
        auto begin = [&](int i) {
          wgmma_fence();
          product(i);
          wgmma_commit();
        };
        auto project = [&](int p) { Wgmma<C>::rs(o, g[p], dp + p * (C * 32 >> 4), (j > 0) | (p > 0)); };
        auto walk_on = [&] {
          if (j == NCH / 2) {
            advance();
            if (t + 1 < steps) {
              if (X_SHARED) copy_x();
              else prefetch_row<C>(x, here, ok, W, lx, q);
            }
          }
        };
        Raw raw;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) fetch(i);
        if (end) cut = here.y == 0;                                                  // of the chunk that is activated now
        if (TOGETHER) wgmma_wait<1>();                                               // its expansion is complete
        else wgmma_wait<0>();
        if (TOGETHER && load) fetch_x(raw);                                          // of the next step, into registers that the expansion has left
        if (end) {
          // the segment before, or the last one: of what is written; of what is read of the step before, what was written now
#pragma unroll
          for (int k = 0; k < SEGMENTS; ++k) {
            const int now = (k - turn + SEGMENTS + 1) % (SEGMENTS + 1);
            const uint32_t back = now > 0 ? 0u - SEGMENT : SEGMENTS * SEGMENT;       // to the next step's
            const int before = (now + 1) % (SEGMENTS + 1);                           // of the step before
            const uint32_t read = before > 0 ? 0u - SEGMENT : SEGMENTS * SEGMENT;
            to[k] += far_to ? back : 0;
            from0[k] += far0 ? read : 0;
            from1[k] += far1 ? (w == 0 ? read : back) : 0;
          }
          turn = turn == SEGMENTS ? 0 : turn + 1;
        }
        activate(h[!odd], (j + 1) % NCH, 0, BEFORE);
        // ---- convolution, gathering and projection; the expansion of the chunk after the next
        if (TOGETHER) {
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < GROUPS; ++i) {
            product(i);
            if (i & 1) wgmma_commit();
          }
          walk_on();
          if (BEFORE < GROUPS) activate(h[!odd], (j + 1) % NCH, BEFORE, GROUPS);
          fetch_bias(0);
          fetch_bias(1);
          auto gather = [&](int i) { combine(g[i >> 1][2 * (i & 1)], g[i >> 1][2 * (i & 1) + 1], e[i], b[i], silu_packed); };
          wgmma_wait<1>();
          gather(0);
          gather(1);
          wgmma_wait<0>();
          if (load) arrange_x(raw, X_SHARED);
          if (end) identity(id, STEP + 1);
          expand(de);                                                                // from here on the compiler mixes the gathering into it
          gather(2);
          gather(3);
          wgmma_fence();
#pragma unroll
          for (int p = 0; p < NP; ++p) project(p);
          wgmma_commit();
        } else {
          Gathered c[2];
          begin(0);
          begin(1);
          walk_on();
          if (load) fetch_x(raw);
          fetch_bias(0);
          if (j < NCH - 1 || t + 1 < steps || tail) await(j + 1, j == NCH - 1 ? t + 1 : t);
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
          if (load) arrange_x(raw, X_SHARED);
          expand(de);
        }
      }
      put(o, id);
    }
    // ---- the last row of a strip: two rows of h that are there, and none below. The warpgroups take the chunks in turn and add up their sums
    if (tail) {
      float o[C / 2];
      const int last_turn = (steps - 1) % (SEGMENTS + 1);
      uint32_t f[GROUPS][4];
      auto fetch = [&](int j) {
        const int segment = (j / NEAR - last_turn + SEGMENTS + 1) % (SEGMENTS + 1);
        const uint32_t f1 = far + segment * SEGMENT + (j % NEAR * 2 + 1) * ROW + lane_index() * 8;
        const uint32_t f0 = H == 1 ? sm + OFF_ZERO + lane_index() * 8 : f1 - ROW;
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) {
          lds64(f[i][0], f[i][1], f0 + i * 256);
          lds64(f[i][2], f[i][3], f1 + i * 256);
        }
      };
      auto parity = [&](int j) { return ((j >> 2) + ((j & 3) >= 2) + (NCH / 4 % 2 ? steps : 0)) & 1; };
      // chunk j's weights come after every warpgroup has handed on chunk NCH + j - 4 of the last step: its chunk j + NWG may be read by then
      bar_sync(1 + wg, 128);
      if ((tid & 127) == 0) {                                                        // the slots of the last step's last two chunks
        mbar_arrive(empty + 8 * 2);
        mbar_arrive(empty + 8 * 3);
      }
      fetch(wg);
      int left = 0;                                                                  // chunks whose slots this warpgroup has left
      auto leave_before = [&](int j) {
        if ((tid & 127) == 0)
          for (; left < j; ++left) {
            mbar_wait(full + 8 * (left & 3), parity(left));
            mbar_arrive(empty + 8 * (left & 3));
          }
      };
#pragma unroll 1
      for (int j = wg; j < NCH; j += NWG) {
        address(j & 3);
        mbar_wait(full + 8 * (j & 3), parity(j));
        uint32_t g[2][4];
        Partial e[GROUPS];
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) Wgmma<24>::rs(e[i], f[i], dw + ((i >> 1) * PAIR + (i & 1) * 768 >> 4), 0);
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
        for (int p = 0; p < NP; ++p) Wgmma<C>::rs(o, g[p], dp + p * (C * 32 >> 4), (j >= NWG) | (p > 0));
        wgmma_commit();
      }
      wgmma_wait<0>();
      leave_before(NCH - NS);                                                        // the producer waits for no more
      const uint32_t sums = ex + lane_index() * 16;
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
