// Fused MBConv residual block for Hopper (sm_90a), fp16 in/out, fp32 accumulation, NHWC, inference, stride 1:
//
//   h = silu(x @ We + be)                      C -> eC, pointwise; zero outside the image
//   g = silu(grouped_conv3x3(h, w1) + b1)      eC -> eC, groups of 8 channels
//   y = g @ Wp + bp + x                        eC -> C
//
// As in mbconv_rows.cu a warp owns one row of a vertical strip of 14 columns with a column more on either side (16 pixels, M of
// a wgmma for a warp), the rows above and below come through shared memory in the lanes' own layout, and a product with n = 24 computes
// the three columns of the filter at once. For channel counts whose rows of h do not fit: tiles of 8 rows, whose first and
// last only serve their neighbours, except at the image's edge.
//
// The matrix unit is what this shape needs most, and it is given a queue that does not run empty. Per chunk of 64 hidden channels:
//   h = silu(S), handed on; barrier
//   for each of four pairs of groups:  convolve;  a part of the next chunk's expansion (x from shared memory
//                                      as A operand, so it needs no registers);  silu and projection of the pair before;  gather the convolved
// be is one more row of We, which an A operand with a column of ones meets: zeros where a pixel is outside of the image.
// We, be, w1, b1 are pre-multiplied by 1/2, because silu(2h) = h + h*tanh(h). Wp's output channels are permuted so that a lane
// writes 16 contiguous bytes of a pixel.
// Five warps stream the weights, a piece each, behind a chunk's barrier: the halves of We(j+1) and Wp(j) that the chunk's last pairs
// need, with the filters of chunk j+1; and, into two buffers in turn, the halves of We(j+2) and Wp(j+1) that the next chunk's first pairs need.
//
// Conditions: stride 1, C a multiple of 64, at most 256.
// Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, SHARED_BYTES.
#include "hopper.cuh"
#include "mbconv.cuh"
#include "specialisation.h"

namespace tiles {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = 64, NCH = HID / HC, NP = HC / 16, NWG = WARPGROUPS;
constexpr int CONSUMERS = 128 * NWG, RT = 4 * NWG, VALID = 14, PART = C / 16 / NP;
constexpr int WEB = C * HC * 2, HALF = WEB / 2, PAIR = 2688, BIAS = HC * 16, MID = BIAS + NP * PAIR;
constexpr int ITEM = 2 * WEB + MID;                                                  // a chunk's We | bias | filters | Wp
constexpr int ROW = HC * 32, TILE = C * 128;                                         // a row's chunk of h; x of 64 pixels
constexpr int OFF_LATE = 4 * HALF;                                                   // before it {We, Wp} in two buffers for the first pairs
constexpr int OFF_F = 6 * HALF, OFF_EX = OFF_F + 2 * MID, OFF_ZERO = OFF_EX + 2 * RT * ROW, OFF_X = OFF_ZERO + ROW;
constexpr int OFF_B1 = OFF_X + NWG * TILE, OFF_BP = OFF_B1 + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int BIASES = OFF_BAR - OFF_B1;
constexpr int SMEM = OFF_BAR + 24;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(HID % HC == 0 && C % 64 == 0, "whole chunks, in quarters");
}  // namespace tiles

extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS, 1)
KERNEL_NAME(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, const unsigned char* __restrict__ stream,
            const uint4* __restrict__ biases, int N, int H, int W, uint32_t reciprocal_down, uint32_t reciprocal_strips) {
  using namespace tiles;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, tid >> 5, 0) & 3, lane = tid & 31, q = lane & 3;
  const int strips = (W + VALID - 1) / VALID, down = (max(H - 2, 1) + RT - 3) / (RT - 2);  // of an image; tiles of a strip
  const Divisor by_down = {down, reciprocal_down}, by_strips = {strips, reciprocal_strips};
  const int total = N * strips * down, steps = (total - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
  const uint32_t soon = sm + OFF_BAR, late = soon + 16;                             // what has come: for the first pairs, for the last

  if (tid == 0) {
    for (int i = 0; i < 3; ++i) mbar_init(soon + 8 * i, 1);
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  // halves of We and Wp of a chunk, in this order, to where two lie together; filters of a chunk; -1: none
  auto load = [&](uint32_t to, uint32_t bar, int we, int wp, int half, int filters, int buffer) {
    mbar_expect(bar, (we >= 0 ? HALF : 0) + (wp >= 0 ? HALF : 0) + (filters >= 0 ? MID : 0));
    if (we >= 0) bulk_load(to, stream + we * ITEM + half * HALF, HALF, bar);
    if (wp >= 0) bulk_load(to + HALF, stream + wp * ITEM + WEB + MID + half * HALF, HALF, bar);
    if (filters >= 0) bulk_load(sm + OFF_F + buffer * MID, stream + filters * ITEM + WEB, MID, bar);
  };
  if (tid == 0) {                                                                    // what a chunk before the first would have left
    load(sm + 2 * HALF, soon + 8, 0, -1, 0, -1, 0);
    load(sm + OFF_LATE, late, 0, -1, 1, 0, 0);
    load(sm, soon, 1 % NCH, 0, 0, -1, 0);
  }
  for (int i = tid; i < BIASES / 16; i += CONSUMERS) cp_async16(sm + OFF_B1 + i * 16, biases + i, true);
  cp_async_commit();
  for (int i = tid; i < ROW / 8; i += CONSUMERS) sts64(sm + OFF_ZERO + i * 8, 0, 0);
  cp_async_wait<0>();
  bar_sync(8, CONSUMERS);
  pdl_wait();                                                                      // x may be the previous grid's output

  const int w = 4 * wg + warp, lx = 2 * (lane >> 2);                               // row of the tile; this lane's pixels: lx, lx + 1 of 16
  struct Place {
    int row, left;                                                                 // of the image, first column (with halo)
    long pixel;                                                                    // index of the pixel (row, left)
    bool ok, out;
  };
  auto place = [&](int t) -> Place {                                               // of this warp's row in step t
    const int tile = (int)blockIdx.x + t * (int)gridDim.x, k = by_down(tile), d = tile - k * down, n = by_strips(k);
    Place r;
    r.row = d * (RT - 2) + w;
    r.ok = r.row < H;
    r.out = r.ok && (w > 0 || d == 0) && (w < RT - 1 || r.row == H - 1);
    r.left = (k - n * strips) * VALID - 1;
    r.pixel = (r.ok ? ((long)n * H + r.row) * W : 0) + r.left;
    return r;
  };
  const uint32_t xs = sm + OFF_X + wg * TILE;                                      // [k8][8 pixels of M][8 channels]
  auto load_x = [&](int t) {
    const Place r = place(t);
    const int px = lane >> 1;
    const bool in = r.ok && (unsigned)(r.left + px) < (unsigned)W;
    const unsigned char* src = (in ? x + (r.pixel + px) * (C * 2) : x) + (lane & 1) * 16;
    const uint32_t to = xs + (lane & 1) * 1024 + warp * 256 + (px & 1) * 128 + (px >> 1) * 16;
#pragma unroll
    for (int m = 0; m < C / 16; ++m) cp_async16(to + m * 2048, src + m * 32, in);
    cp_async_commit();
  };
  auto prefetch_x = [&](int t) {
    const Place r = place(t);
    const int c = lx + (q & 1);
    if (r.ok && (unsigned)(r.left + c) < (unsigned)W)
      for (int m = q >> 1; m * 128 < C * 2; m += 2) prefetch_l2(x + (r.pixel + c) * (C * 2) + m * 128);
  };

  // descriptors: addresses (in 16 bytes) from a shuffle, which the compiler neither hoists nor takes for some that differ by lane
  uint32_t ring, here, mids[2], xa;                                                // weights; this chunk's first halves; filters of this and the next; x
  auto address = [&](int odd) {
    ring = __shfl_sync(~0u, sm >> 4, 0);
    here = __shfl_sync(~0u, sm + odd * 2 * HALF >> 4, 0);
    mids[0] = __shfl_sync(~0u, sm + OFF_F + odd * MID >> 4, 0);
    mids[1] = __shfl_sync(~0u, sm + OFF_F + (odd ^ 1) * MID >> 4, 0);
    xa = __shfl_sync(~0u, xs >> 4, 0);
  };
  auto desc = [](uint32_t at, int lbo, int sbo) { return (uint64_t)at | (uint64_t)(lbo >> 4) << 16 | (uint64_t)(sbo >> 4) << 32; };
  const uint32_t b1 = sm + OFF_B1 + q * (HC / 2), ex = sm + OFF_EX;
  uint32_t one[4] = {0, 0, 0, 0};                                                  // A operand of the bias: 1 for pixels in the image
  float s[HC / 2], o[C / 2], e[2][12];
  int n = 0;                                                                       // of chunks so far
  auto expand = [&](int part, uint32_t we, uint32_t filters) {                     // a quarter; the bias with the last
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < PART; ++i) {
      const int k = part * PART + i;
      Wgmma<HC>::ss(s, desc(xa + (k * 2048 >> 4), 1024, 128), desc(we + (k % (C / 32) * HC * 32 >> 4), HC / 8 * 128, 128), k > 0);
    }
    if (part == NP - 1) Wgmma<HC>::rs(s, one, desc(filters, 0, 128), 1);
    wgmma_commit();
  };
  // the weights to come, while the products run: one thread alone would keep its warpgroup waiting
  const int part = 4 * wg + warp;
  auto stream_on = [&](int j, int odd) {
    const int j1 = j + 1 < NCH ? j + 1 : 0, j2 = j1 + 1 < NCH ? j1 + 1 : 0;
    const bool coming = part < 3 || (part < 5 && n + 1 < steps * NCH);
    if (!coming) return;
    const bool first = part > 2;
    const uint32_t bar = first ? soon + 8 * (odd ^ 1) : late, to = sm + (first ? (odd ^ 1) * 2 * HALF : OFF_LATE);
    const int item = part == 1 ? j : part == 3 ? j2 : j1, half = first ? 0 : HALF;
    const uint32_t dst = part == 2 ? sm + OFF_F + (odd ^ 1) * MID : part == 1 || part == 4 ? to + HALF : to;
    const int at = item * ITEM + (part == 2 ? WEB : part == 1 || part == 4 ? WEB + MID + half : half);
    if (lane == 0) {
      if (part == 0) mbar_expect(late, 2 * HALF + MID);
      if (part == 3) mbar_expect(bar, 2 * HALF);
      bulk_load(dst, stream + at, part == 2 ? MID : HALF, bar);
    }
    __syncwarp();
  };
  auto start = [&](int t) {                                                        // the first chunk's expansion
    const Place r = place(t);
    one[0] = q == 0 && r.ok && (unsigned)(r.left + lx) < (unsigned)W ? 0x3C00 : 0;
    one[1] = q == 0 && r.ok && (unsigned)(r.left + lx + 1) < (unsigned)W ? 0x3C00 : 0;
    cp_async_wait<0>();
    fence_async_proxy();
    bar_sync(1 + wg, 128);                                                         // all four warps' x is the product's
    mbar_wait(soon + 8 * (n + 1 & 1), n >> 1 & 1);
    mbar_wait(late, n & 1);
    address(n + 1 & 1);
#pragma unroll
    for (int part = 0; part < NP; ++part) expand(part, part < NP / 2 ? here : ring + (OFF_LATE >> 4), mids[1]);
  };
  load_x(0);
  start(0);
  wgmma_wait<0>();
  for (int t = 0; t < steps; ++t) {
    const int row = place(t).row;
    const bool above = row == 0 || w == 0, below = row == H - 1 || w == RT - 1;      // a row of zeros, not the tile's
    auto chunk = [&](int j, const bool last) __attribute__((always_inline)) {
      const int odd = n & 1;
      address(odd);
      // ---- h: to its neighbours, and as A operand
      uint32_t h[NP][4];
      const uint32_t st = ex + (odd * RT + w) * ROW + lane * 8;
#pragma unroll
      for (int g = 0; g < HC / 8; ++g) {
        const uint32_t lo = silu_packed(pack2(s[4 * g], s[4 * g + 1])), hi = silu_packed(pack2(s[4 * g + 2], s[4 * g + 3]));
        h[g >> 1][(g & 1) * 2] = lo;
        h[g >> 1][(g & 1) * 2 + 1] = hi;
        sts64(st + g * 256, lo, hi);
      }
      const uint32_t f0 = (above ? sm + OFF_ZERO : ex + (odd * RT + w - 1) * ROW) + lane * 8;
      const uint32_t f1 = (below ? sm + OFF_ZERO : ex + (odd * RT + w + 1) * ROW) + lane * 8;
      wgmma_wait<0>();                                                             // the last projection of the chunk before
      bar_sync(8, CONSUMERS);
      // ---- convolution and projection, two groups at a time
      uint32_t f[2][2][4], c[4], g[4];                                             // rows above and below of two pairs; before silu and after
      auto fetch = [&](int p) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          lds64(f[p & 1][i][0], f[p & 1][i][1], f0 + (2 * p + i) * 256);
          lds64(f[p & 1][i][2], f[p & 1][i][3], f1 + (2 * p + i) * 256);
        }
      };
      auto project = [&](int p) {                                                  // operands of the pair before are free
#pragma unroll
        for (int i = 0; i < 4; ++i) g[i] = silu_packed(c[i]);
        if (p == 0 && last) mbar_wait(soon + 8 * odd, n + 1 >> 1 & 1);              // else the expansion has waited
        wgmma_fence();
        Wgmma<C>::rs(o, g, desc((p < NP / 2 ? here : ring + (OFF_LATE >> 4)) + (HALF + p % (NP / 2) * C * 32 >> 4), C / 8 * 128, 128), (j > 0) | (p > 0));
        wgmma_commit();
      };
      fetch(0);
#pragma unroll
      for (int p = 0; p < NP; ++p) {
        const uint32_t d = mids[0] + (BIAS + p * PAIR >> 4);
        wgmma_fence();
        Wgmma<24>::rs(e[0], f[p & 1][0], desc(d, 384, 128), 0);                    // k16: the rows above and below of one group
        Wgmma<24>::rs(e[1], f[p & 1][1], desc(d + (768 >> 4), 384, 128), 0);
        Wgmma<24>::rs(e[0], h[p], desc(d + (1536 >> 4), 384, 128), 1);             // its own row of two groups, one of which meets zeros
        Wgmma<24>::rs(e[1], h[p], desc(d + (1920 >> 4), 384, 128), 1);
        wgmma_commit();
        if (p > 0 && p + 1 < NP) fetch(p + 1);                                     // in time: what is behind products in shared memory takes long
        if (p == NP - 1) mbar_wait(late, n + 1 & 1);
        if (!last && p != NP / 2) {                                                // 1, 1, 0, 2 quarters: the second half comes late
          if (p == 0) mbar_wait(soon + 8 * odd, n + 1 >> 1 & 1);
          if (p == NP - 1) expand(2, ring + (OFF_LATE >> 4), mids[1]);
          expand(p, p < NP / 2 ? here : ring + (OFF_LATE >> 4), mids[1]);
        }
        if (p == 0) {                                                              // all have left what the chunk before used
          stream_on(j, odd);
          if (last && t + 1 < steps) load_x(t + 1);
          if (j == NCH / 2 && t + 1 < steps) prefetch_x(t + 1);
        }
        // what was issued since: quarters of the expansion, a projection
        if (p == 0) {
          if (last) wgmma_wait<0>();
          else wgmma_wait<1>();
        } else if (p == 1) {
          project(0);
          if (last) wgmma_wait<1>();
          else wgmma_wait<2>();
        } else if (p == 2) {
          wgmma_wait<1>();
          project(1);
          wgmma_wait<1>();
        } else {
          if (last) wgmma_wait<1>();
          else wgmma_wait<3>();
          project(2);
          if (last) wgmma_wait<1>();
          else wgmma_wait<3>();
        }
        uint32_t b[2];
        lds64(b[0], b[1], b1 + j * (HC * 2) + p * 8);
        if (p == 0) fetch(1);                                                      // no sooner: the expansion still needs the registers
        combine(c[0], c[1], e[0], b[0]);
        combine(c[2], c[3], e[1], b[1]);
      }
      wgmma_wait<0>();                                                             // the projection before, the next chunk's expansion
      project(NP - 1);
      ++n;
    };
#pragma unroll 1
    for (int j = 0; j < NCH - 1; ++j) chunk(j, false);
    chunk(NCH - 1, true);
    // ---- the next tile's first expansion under bias + residual, 16 bytes a lane
    if (t + 1 < steps) {
      start(t + 1);
      wgmma_wait<NP>();
    } else {
      wgmma_wait<0>();
    }
    const Place r = place(t);
    const bool put0 = r.out && lx > 0 && r.left + lx < W, put1 = r.out && lx < 14 && r.left + lx + 1 < W;
    const long to = (r.pixel + lx) * (C * 2) + q * 16;
#pragma unroll
    for (int m0 = 0; m0 < C / 32; m0 += 4) {
      uint4 ra[4], rb[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        ra[m] = ldg128(x + (put0 ? to + (m0 + m) * 64 : 0));
        rb[m] = ldg128(x + (put1 ? to + C * 2 + (m0 + m) * 64 : 0));
      }
#pragma unroll
      for (int mm = 0; mm < 4; ++mm) {
        const int m = m0 + mm;
        const uint4 bias = lds128(sm + OFF_BP + m * 64 + q * 16);
        uint4 v0 = ra[mm], v1 = rb[mm];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* v = o + 4 * (4 * m + i);
          (&v0.x)[i] = add2(add2(pack2(v[0], v[1]), (&bias.x)[i]), (&v0.x)[i]);
          (&v1.x)[i] = add2(add2(pack2(v[2], v[3]), (&bias.x)[i]), (&v1.x)[i]);
        }
        if (put0) *reinterpret_cast<uint4*>(y + to + m * 64) = v0;
        if (put1) *reinterpret_cast<uint4*>(y + to + C * 2 + m * 64) = v1;
      }
    }
    wgmma_wait<0>();
  }
}
