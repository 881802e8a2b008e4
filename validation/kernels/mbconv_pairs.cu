// Fused MBConv residual block for Hopper (sm_90a), fp16 in/out, fp32 accumulation, NHWC, inference, stride 1:
//
//   h = silu(x @ We + be)                      C -> eC, pointwise; zero outside the image
//   g = silu(grouped_conv3x3(h, w1) + b1)      eC -> eC, groups of 8 channels
//   y = g @ Wp + bp + x                        eC -> C
//
// The image is cut into vertical strips of 14 columns; with a column more on either side these are 16 pixels, the M rows that
// a wgmma gives to a warp. A warp owns two neighbouring rows of a strip:
//   S = x . We[chunk]            for both rows; silu -> h, which for a group of 8 channels is an A operand (k16 = two rows of the group)
//   E = (rows above) . T0 + (own rows) . T1    n = 48: two output rows, three kx, a group's 8 outputs. k32 = the four rows of h that two
//                                              output rows need: the two of the warp above, through shared memory in the lanes' own
//                                              layout (16 bytes a lane and group), then its own two.  T: the filter's Toeplitz form
//   c[x] = E[0][x-1] + E[1][x] + E[2][x+1]     M rows i and i+8 of a lane are the pixels 2i and 2i+1: one of the two neighbours is the
//                                              lane's own, the other one shuffle away
//   O += silu(c + b1) . Wp[chunk]              for both output rows
// be is one more row of We, which an A operand with a column of ones meets: zeros where a pixel is outside of the image.
// We, be, w1, b1 are pre-multiplied by 1/2, because silu(2h) = h + h*tanh(h). Wp's output channels are permuted so that a lane
// writes 16 contiguous bytes of a pixel; We's input channels likewise where x lies in registers.
//
// Pairs of output rows (2p, 2p+1) of all strips follow each other in one sequence, which each warpgroup walks downwards, a range of
// its own, four pairs a step. Pair p's warp computes h of the rows 2p+1 and 2p+2 (of row 0 of the next strip, where the strip
// ends: it is the next warp that needs it); the rows 2p-1 and 2p are the warp's before, or of the last warp a step before. So a
// range costs one pair more than it has, and nothing is computed twice within it. Two rows of h meet an output row of another strip: the first
// of a strip's first pair and the last of its last, both of which only one of the two output rows sees: masked.
//
// STREAMED: weights chunk by chunk by a producer warp, else all are resident. X_SHARED: x as an A operand from shared memory, else in registers.
//
// Conditions: stride 1, C a multiple of 32; pairs of rows < 2^31.
// Constants: KERNEL_NAME, CHANNELS, EXPANSION, STREAMED, WARPGROUPS, SLOTS (of the ring of weights), X_SHARED, BUFFERS (of E: the next
// group's convolution runs under the gathering of one), EARLY (the next chunk's expansion runs under the gathering), SHARED_BYTES.
#include "hopper.cuh"
#include "specialisation.h"

namespace pairs {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = 32, NCH = HID / HC, NWG = WARPGROUPS, NS = SLOTS;
constexpr bool LATE = BUFFERS == 2;                                                  // a chunk's last projection comes in the next one
constexpr int CONSUMERS = 128 * NWG, VALID = 14, GROUPS = HC / 8;
constexpr int WEB = C * HC * 2, BIAS = HC * 16, FILTER = 4 * 384, FILTERS = GROUPS * FILTER + 384;
constexpr int ITEM = 2 * WEB + BIAS + FILTERS;                                       // a chunk's We | bias | filters | Wp
constexpr int OFF_BIAS = WEB, OFF_FILTERS = OFF_BIAS + BIAS, OFF_WP = OFF_FILTERS + FILTERS;
constexpr int UNIT = GROUPS * 512;                                                   // a warp's two rows of a chunk of h
constexpr int NEAR = 2 * 3 * UNIT, FAR = (NCH + 1) * UNIT;                           // handed to the next warp; by the last, a step later
constexpr int TILE = C * 128;                                                        // X_SHARED: 64 pixels, one row of each warp
constexpr int OFF_RING = 0, OFF_NEAR = OFF_RING + NS * ITEM, OFF_FAR = OFF_NEAR + NWG * NEAR, OFF_X = OFF_FAR + NWG * FAR;
constexpr int OFF_B1 = OFF_X + (X_SHARED ? NWG * 2 * TILE : 0), OFF_BP = OFF_B1 + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int BIASES = OFF_BAR - OFF_B1;
constexpr int SMEM = OFF_BAR + 12 * NS;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(NS == NCH || STREAMED, "resident weights have a slot each");
static_assert(HID % HC == 0 && C % 32 == 0 && ITEM % 16 == 0, "whole chunks");

struct Row {                                                                         // of the input
  int pixel;                                                                         // index of the pixel (row, left)
  int left;                                                                          // first column (with halo)
  bool ok;
};
struct Pair {                                                                        // of output rows
  int n, column, p;                                                                  // image, strip; rows 2p, 2p + 1
};
__device__ __forceinline__ uint4 ldg128(const void* p) {
  uint4 v;
  asm volatile("ld.global.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void sts128(uint32_t a, const uint32_t (&v)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
__device__ __forceinline__ void lds(uint32_t (&v)[4], uint32_t a) {
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(a) : "memory");
}
__device__ __forceinline__ uint32_t silu_packed(uint32_t h) {                        // of a pre-activation that is already halved
  uint32_t t;
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(t) : "r"(h));
  __half2 p = __hfma2(*reinterpret_cast<__half2*>(&h), *reinterpret_cast<__half2*>(&t), *reinterpret_cast<__half2*>(&h));
  return *reinterpret_cast<uint32_t*>(&p);
}
// E of one output row, from `e` on: [kx][pixel][two channels] -> c + b1 of pixels 2i, 2i+1
__device__ __forceinline__ void combine(uint32_t& lo, uint32_t& hi, const float (&E)[24], int e, uint32_t b) {
  const uint32_t left = __shfl_up_sync(~0u, pack2(E[e + 2], E[e + 3]), 4), right = __shfl_down_sync(~0u, pack2(E[e + 8], E[e + 9]), 4);
  lo = add2(add2(pack2(E[e + 4] + E[e + 10], E[e + 5] + E[e + 11]), b), left);
  hi = add2(add2(pack2(E[e + 6] + E[e], E[e + 7] + E[e + 1]), b), right);
}
__device__ __forceinline__ void keep(uint32_t& v, uint32_t mask) { asm volatile("and.b32 %0, %0, %1;" : "+r"(v) : "r"(mask)); }
// how many have left a slot before this one
__device__ __forceinline__ uint32_t leave(uint32_t a) {
  uint32_t n;
  asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], 1;" : "=r"(n) : "r"(a) : "memory");
  return n;
}
struct Slot {                                                                        // position in the ring of weights
  int slot;
  uint32_t phase;
  __device__ __forceinline__ void next() { if (++slot == NS) { slot = 0; phase ^= 1; } }
};
}  // namespace pairs

extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS, 1)
KERNEL_NAME(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, const unsigned char* __restrict__ stream,
            const uint4* __restrict__ biases, int N, int H, int W, int range) {
  using namespace pairs;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  int tid;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, tid >> 5, 0) & 3, lane = tid & 31, q = lane & 3;
  const int strips = (W + VALID - 1) / VALID, high = (H + 1) / 2;                    // of an image; pairs of a strip
  const uint32_t full = sm + OFF_BAR, gone = full + 8 * NS;
  const int steps = (range + 4) / 4;                                                 // a pair more than the range has

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(full + 8 * i, 1); asm volatile("st.shared.b32 [%0], %1;" ::"r"(gone + 4 * i), "r"(0) : "memory"); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  pdl_launch();

  auto fill = [&](int slot, int chunk) {
    mbar_expect(full + 8 * slot, ITEM);
    bulk_load(sm + OFF_RING + slot * ITEM, stream + chunk * ITEM, ITEM, full + 8 * slot);
  };
  if (tid == 0)
    for (int i = 0; i < NS; ++i) fill(i, i);
  for (int i = tid; i < BIASES / 16; i += CONSUMERS) cp_async16(sm + OFF_B1 + i * 16, biases + i, true);
  cp_async_commit();
  cp_async_wait<0>();
  bar_sync(8, CONSUMERS);
  pdl_wait();                                                                        // x may be the previous grid's output

  const int begin = ((int)blockIdx.x * NWG + wg) * range, end = min(begin + range, N * strips * high);
  const int lx = 2 * (lane >> 2);                                                    // this lane's pixels: lx, lx + 1 of 16
  const int length = end - begin;                                                    // of the range's pairs; this warp's are 4t + warp - 1
  auto advance = [&](Pair r, int by) -> Pair {                                       // no divisions: they cost more than the few rounds of the loop
    for (r.p += by; r.p >= high; r.p -= high)
      if (++r.column == strips) { r.column = 0; ++r.n; }
    return r;
  };
  auto row_of = [&](Pair r, int t, int i) -> Row {                                   // of h: i = 0, 1 of this warp's
    int row = 2 * r.p + 1 + i;
    if (i == 1 && r.p == high - 1) {                                                 // the next strip's first
      row = 0;
      if (++r.column == strips) { r.column = 0; ++r.n; }
    }
    Row found;
    found.ok = 4 * t + warp - 1 < length && r.n >= 0 && r.n < N && row < H;
    found.left = r.column * VALID - 1;
    found.pixel = found.ok ? (r.n * H + row) * W + found.left : 0;
    return found;
  };
  const uint32_t xs = sm + OFF_X + wg * 2 * TILE;                                    // X_SHARED: [row][k8][8 pixels of M][8 channels]
  constexpr int XR = X_SHARED ? 1 : C / 16;
  uint4 raw[2][XR];                                                                  // x of the next step as loaded
  auto load_x = [&](Pair pair, int t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row r = row_of(pair, t, i);
      if (X_SHARED) {
        const int px = lane >> 1;
        const bool in = r.ok && (unsigned)(r.left + px) < (unsigned)W;
        const unsigned char* src = (in ? x + (long)(r.pixel + px) * (C * 2) : x) + (lane & 1) * 16;
        const uint32_t to = xs + i * TILE + (lane & 1) * 1024 + warp * 256 + (px & 1) * 128 + (px >> 1) * 16;
#pragma unroll
        for (int m = 0; m < C / 16; ++m) cp_async16(to + m * 2048, src + m * 32, in);
      } else {
        const bool in0 = r.ok && (unsigned)(r.left + lx) < (unsigned)W, in1 = r.ok && (unsigned)(r.left + lx + 1) < (unsigned)W;
        // outside of the image some other pixel is read; arrange_x replaces it by zero, so that h is silu(0) = 0 there
        const unsigned char* p0 = (in0 ? x + (long)(r.pixel + lx) * (C * 2) : x) + q * 16;
        const unsigned char* p1 = (in1 ? x + (long)(r.pixel + lx + 1) * (C * 2) : x) + q * 16;
#pragma unroll
        for (int m = 0; m < C / 32; ++m) {
          raw[i][2 * m % XR] = ldg128(p0 + m * 64);
          raw[i][(2 * m + 1) % XR] = ldg128(p1 + m * 64);
        }
      }
    }
    if (X_SHARED) cp_async_commit();
  };
  auto prefetch_x = [&](Pair pair, int t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row r = row_of(pair, t, i);
      const int c = lx + (q & 1);
      if (r.ok && (unsigned)(r.left + c) < (unsigned)W)
        for (int m = q >> 1; m * 128 < C * 2; m += 2) asm volatile("prefetch.global.L2 [%0];" ::"l"(x + (long)(r.pixel + c) * (C * 2) + m * 128));
    }
  };
  uint32_t xf[2][XR][4];
  uint32_t one[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};                                 // A operands of the bias: 1 for pixels in the image
  auto arrange_x = [&](Pair pair, int t) {                                                    // as loaded -> A operands
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row r = row_of(pair, t, i);
      const uint32_t keep0 = r.ok && (unsigned)(r.left + lx) < (unsigned)W ? ~0u : 0;
      const uint32_t keep1 = r.ok && (unsigned)(r.left + lx + 1) < (unsigned)W ? ~0u : 0;
      one[i][0] = q == 0 ? keep0 & 0x3C00 : 0;
      one[i][1] = q == 0 ? keep1 & 0x3C00 : 0;
      if (X_SHARED) continue;
#pragma unroll
      for (int m = 0; m < C / 32; ++m) {
        const uint4 a = raw[i][2 * m % XR], b = raw[i][(2 * m + 1) % XR];
        uint32_t (&lo)[4] = xf[i][2 * m % XR], (&hi)[4] = xf[i][(2 * m + 1) % XR];
        lo[0] = a.x & keep0; lo[1] = b.x & keep1; lo[2] = a.y & keep0; lo[3] = b.y & keep1;
        hi[0] = a.z & keep0; hi[1] = b.z & keep1; hi[2] = a.w & keep0; hi[3] = b.w & keep1;
      }
    }
    if (X_SHARED) {                                                                  // all four warps' x is the product's
      cp_async_wait<0>();
      fence_async_proxy();
      bar_sync(1 + wg, 128);
    }
  };

  const uint32_t b1 = sm + OFF_B1 + q * 16;
  const uint32_t near = sm + OFF_NEAR + wg * NEAR + lane * 16, far = sm + OFF_FAR + wg * FAR + lane * 16;
  float s[2][HC / 2], o[2][C / 2], e[BUFFERS][24];
  uint32_t c[2][4], a[2][4];                                                         // a pair of groups, two output rows: before silu, and after
  // descriptors: the address (in 16 bytes) from a shuffle, which the compiler neither hoists nor takes for one that differs by lane
  uint32_t ring, xt;
  auto address = [&] {
    ring = STREAMED ? __shfl_sync(~0u, sm + OFF_RING >> 4, 0) : sm + OFF_RING >> 4;
    if (X_SHARED) xt = __shfl_sync(~0u, xs >> 4, 0);
  };
  auto desc = [&](int slot, int off, int lbo, int sbo) {
    const uint64_t steps = (uint64_t)(lbo >> 4) << 16 | (uint64_t)(sbo >> 4) << 32;
    if (!STREAMED) return ((uint64_t)ring | steps) + (slot * (ITEM >> 4) + (off >> 4));
    return (uint64_t)(ring + slot * (ITEM >> 4) + (off >> 4)) | steps;
  };
  auto expand = [&](int i, int slot) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < C / 16; ++k) {
      const uint64_t d = desc(slot, k * HC * 32, HC / 8 * 128, 128);
      if (X_SHARED) Wgmma<HC>::ss(s[i], (uint64_t)(xt + (i * TILE + k * 2048 >> 4)) | 64ull << 16 | 8ull << 32, d, k > 0);
      else Wgmma<HC>::rs(s[i], xf[i][k % XR], d, k > 0);
    }
    Wgmma<HC>::rs(s[i], one[i], desc(slot, OFF_BIAS, 0, 128), 1);
    wgmma_commit();
  };
  Slot now = {0, 0};                                                                 // of this chunk
  uint32_t odd = 0;
  int put = 0;                                                                       // FAR's slot to write; the next is what was written a step before
  Pair pair;                                                                         // the first one's is the pair before the range: its rows of h serve the next
  {
    const int u = begin - 1 + warp, strip = (u + high) / high - 1;                   // u may be -1
    pair.p = u - strip * high;
    pair.n = (strip + strips) / strips - 1;
    pair.column = strip - pair.n * strips;
  }
  load_x(pair, 0);
  arrange_x(pair, 0);
  address();
  mbar_wait(full, 0);
  expand(0, 0);
  expand(1, 0);
  wgmma_wait<0>();
  for (int t = 0; t < steps; ++t) {
    const uint32_t top = pair.p == 0 ? 0 : ~0u, bottom = pair.p == high - 1 ? 0 : ~0u;
    auto chunk = [&](int j, const bool first, const bool last) __attribute__((always_inline)) {
      Slot after = now;
      after.next();
      address();
      if (first && t + 1 < steps) prefetch_x(advance(pair, 4), t + 1);
      // ---- h, and to the warp below
      uint32_t h[GROUPS][4];
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          h[g][2 * i] = silu_packed(pack2(s[i][4 * g], s[i][4 * g + 1]));
          h[g][2 * i + 1] = silu_packed(pack2(s[i][4 * g + 2], s[i][4 * g + 3]));
        }
        if (warp < 3) sts128(near + (odd * 3 + warp) * UNIT + g * 512, h[g]);
      }
      if (STREAMED && !LATE) wgmma_wait<0>();                                        // the projection before
      bar_sync(1 + wg, 128);
      if (X_SHARED && last) load_x(advance(pair, 4), t + 1);                                           // all four warps' last expansion is done
      if (STREAMED && (tid & 127) == 0 && (LATE ? j + t * NCH > 1 : j + t > 0)) {    // the last to leave a slot fills it again
        constexpr int behind = LATE ? 2 : 1, ahead = NS - behind;                    // chunks from the one that was there, to that which comes
        const int slot = now.slot < behind ? now.slot + ahead : now.slot - behind;
        if (leave(gone + 4 * slot) % NWG == NWG - 1 && t * NCH + j + ahead < steps * NCH) fill(slot, (j + ahead) % NCH);
      }
      const int got = put + 1 == NCH + 1 ? 0 : put + 1;
      const uint32_t above = warp > 0 ? near + (odd * 3 + warp - 1) * UNIT : far + got * UNIT;
      uint32_t f[2][4];
      lds(f[0], above);
      if (BUFFERS == 2) lds(f[1], above + 512);
      if (warp == 3)                                                                 // who reads its slot has passed this barrier
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) sts128(far + put * UNIT + g * 512, h[g]);
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) { keep(h[g][2], bottom); keep(h[g][3], bottom); }
      put = got;
      odd ^= 1;
      uint32_t b[4];
      lds(b, b1 + j * 64);
      // ---- convolution, gathering and projection
      auto own = [&](int g) { Wgmma<48>::rs(e[g % BUFFERS], h[g], desc(now.slot, OFF_FILTERS + g * FILTER + 768, 384, 128), 0); };
      auto rest = [&](int g) {
        keep(f[g % 2][0], top);
        keep(f[g % 2][1], top);
        Wgmma<48>::rs(e[g % BUFFERS], f[g % 2], desc(now.slot, OFF_FILTERS + g * FILTER, 384, 128), 1);
      };
      auto combined = [&](int g) {
#pragma unroll
        for (int i = 0; i < 2; ++i) combine(c[i][g % 2 * 2], c[i][g % 2 * 2 + 1], e[g % BUFFERS], 12 * (1 - i), b[g]);
      };
      auto activated = [&](int k0, int k1) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int k = k0; k < k1; ++k) a[i][k] = silu_packed(c[i][k]);
      };
      auto project = [&](int slot, int pair, int acc) {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 2; ++i) Wgmma<C>::rs(o[i], a[i], desc(slot, OFF_WP + pair * C * 32, C / 8 * 128, 128), acc);
        wgmma_commit();
      };
      if (BUFFERS == 2) {
        wgmma_fence();
        own(0);
        own(1);
        rest(0);
        rest(1);
        wgmma_commit();
        if (!last) {
          if (STREAMED || t == 0) mbar_wait(full + 8 * after.slot, after.phase);
          expand(0, after.slot);
        }
        if (!first) {                                                                // of the chunk before
          activated(0, 4);
          project(now.slot == 0 ? NS - 1 : now.slot - 1, 1, 1);
        }
        if (!first && !last) wgmma_wait<2>();
        else if (!first || !last) wgmma_wait<1>();
        else wgmma_wait<0>();
        lds(f[0], above + 1024);
        lds(f[1], above + 1536);
        combined(0);
        combined(1);
        wgmma_fence();
        own(2);
        own(3);
        rest(2);
        rest(3);
        wgmma_commit();
        if (!last) expand(1, after.slot);
        if (last) wgmma_wait<1>();                                                   // the projection before: its operands are used again
        else wgmma_wait<2>();
        activated(0, 4);
        project(now.slot, 0, !first);
        if (!X_SHARED && last) load_x(advance(pair, 4), t + 1);
        if (last) wgmma_wait<1>();
        else wgmma_wait<2>();
        combined(2);
        combined(3);
        if (last) {
          wgmma_wait<0>();
          activated(0, 4);
          project(now.slot, 1, 1);
        } else {
          wgmma_wait<1>();                                                           // the next expansion
        }
      } else {
        wgmma_fence();
        own(0);
        rest(0);
        wgmma_commit();
        if (!last) {
          if (STREAMED || t == 0) mbar_wait(full + 8 * after.slot, after.phase);
          expand(0, after.slot);
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        lds(f[1], above + 512);
        combined(0);
        wgmma_fence();
        own(1);
        rest(1);
        wgmma_commit();
        activated(0, 2);
        if (last) wgmma_wait<0>();
        else {
          expand(1, after.slot);
          wgmma_wait<1>();
        }
        lds(f[0], above + 1024);
        combined(1);
        wgmma_fence();
        own(2);
        rest(2);
        wgmma_commit();
        activated(2, 4);
        project(now.slot, 0, !first);
        wgmma_wait<1>();
        lds(f[1], above + 1536);
        combined(2);
        wgmma_fence();
        own(3);
        rest(3);
        wgmma_commit();
        wgmma_wait<1>();                                                             // the projection: its operands are used again
        activated(0, 2);
        if (!X_SHARED && last) load_x(advance(pair, 4), t + 1);
        wgmma_wait<0>();
        combined(3);
        activated(2, 4);
        project(now.slot, 1, 1);
      }
      now = after;
    };
    chunk(0, true, false);
#pragma unroll 1
    for (int j = 1; j < NCH - 1; ++j) chunk(j, false, false);
    chunk(NCH - 1, false, true);
    // ---- the next step's first expansion under bias + residual, 16 bytes a lane
    arrange_x(advance(pair, 4), t + 1);
    if (t + 1 < steps) {
      if (STREAMED) mbar_wait(full + 8 * now.slot, now.phase);
      expand(0, STREAMED ? now.slot : 0);
      expand(1, STREAMED ? now.slot : 0);
      wgmma_wait<2>();
    } else {
      wgmma_wait<0>();
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * pair.p + i, left = pair.column * VALID - 1, k = 4 * t + warp - 1;
      const bool out = k >= 0 && k < length && row < H;
      const bool put0 = out && lx > 0 && left + lx < W, put1 = out && lx < 14 && left + lx + 1 < W;
      constexpr int OUT = C / 32;
      const long at = (long)((pair.n * H + row) * W + left + lx) * (C * 2) + q * 16;
#pragma unroll
      for (int m0 = 0; m0 < OUT; m0 += 2) {
        uint4 ra[2], rb[2];
#pragma unroll
        for (int m = 0; m < 2 && m0 + m < OUT; ++m) {
          ra[m] = ldg128(x + (put0 ? at + (m0 + m) * 64 : 0));
          rb[m] = ldg128(x + (put1 ? at + C * 2 + (m0 + m) * 64 : 0));
        }
#pragma unroll
        for (int mm = 0; mm < 2 && m0 + mm < OUT; ++mm) {
          const int m = m0 + mm;
          const uint4 bias = lds128(sm + OFF_BP + m * 64 + q * 16);
          uint4 v0 = ra[mm], v1 = rb[mm];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float* v = o[i] + 4 * (4 * m + k);
            (&v0.x)[k] = add2(add2(pack2(v[0], v[1]), (&bias.x)[k]), (&v0.x)[k]);
            (&v1.x)[k] = add2(add2(pack2(v[2], v[3]), (&bias.x)[k]), (&v1.x)[k]);
          }
          if (put0) *reinterpret_cast<uint4*>(y + at + m * 64) = v0;
          if (put1) *reinterpret_cast<uint4*>(y + at + C * 2 + m * 64) = v1;
        }
      }
    }
    wgmma_wait<0>();
    pair = advance(pair, 4);
  }
}
