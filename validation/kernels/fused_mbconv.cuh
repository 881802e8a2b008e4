// What the FusedMBConv kernels for Hopper share: where the tile lies in shared memory, and which of its rows a tap reads.
#pragma once
#include "hopper.cuh"
#include "specialisation.h"

namespace fmb {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = CHUNK, NWG = WARPGROUPS, NH = C / 64, NS = RING_SLOTS;
constexpr int LROWS = BOX * BOXES, ROWS = (LROWS + 8) / 8 * 8, HALF = ROWS * 128, TILE = NH * HALF;  // >= 1 zero row
using Ring = Position<NS>;

// The consumers' first step: biases, and zero rows of so many buffers of tiles
template <int TILES> __device__ __forceinline__ void fetch_biases(unsigned char* tile, uint32_t biases, const uint4* blob, int tid) {
  for (int i = tid; i < (HID * 2 + C * 2) / 16; i += 128 * NWG) cp_async16(biases + i * 16, blob + i, true);
  for (int i = tid; i < TILES * NH * (ROWS - LROWS) * 8; i += 128 * NWG) {
    const int r = i / ((ROWS - LROWS) * 8), k = i % ((ROWS - LROWS) * 8);
    *reinterpret_cast<uint4*>(tile + r * HALF + LROWS * 128 + k * 16) = make_uint4(0, 0, 0, 0);
  }
  cp_async_commit();
  cp_async_wait<0>();
  bar_sync(8, 128 * NWG);
}
// Taps of pixel p that lie within the image, a bit each. References, here and below: with values ptxas orders what stands around them anew
__device__ __forceinline__ uint32_t taps_inside(int p, const int& H, const int& W) {
  const int yy = p / W % H, xx = p % W;
  uint32_t inside = 0;
#pragma unroll
  for (int t = 0; t < 9; ++t)
    inside |= ((unsigned)(yy + t / 3 - 1) < (unsigned)H && (unsigned)(xx + t % 3 - 1) < (unsigned)W) << t;
  return inside;
}
// A lane's address for ldmatrix of 16 input channels of tap t, of pixel m of the tile `at`: zeros where the tap is outside
__device__ __forceinline__ uint32_t tap_address(uint32_t at, const uint32_t& inside, int t, const int& m, const int& W, const int& lane) {
  const int r = inside >> t & 1 ? LEAD + m + (t / 3 - 1) * W + t % 3 - 1 : LROWS;
  return at + r * 128 + (((lane >> 4) ^ r) & 7) * 16;
}
}  // namespace fmb
