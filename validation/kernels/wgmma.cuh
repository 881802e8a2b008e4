// The matrix unit of Hopper (sm_90a), asynchronous, in fp16 or bf16 (BF16).
#pragma once
#include "instructions.cuh"
using uint64_t = unsigned long long;

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// Shared-memory matrix descriptor, no swizzle, K-major: 8x8 core matrices of 128 contiguous bytes (8 rows x 16 B).
// lbo: bytes between core matrices adjacent along K;  sbo: bytes between core matrices adjacent along M or N.
__device__ __forceinline__ uint64_t make_desc(uint32_t addr, uint32_t lbo, uint32_t sbo) {
  return (uint64_t)((addr >> 4) & 0x3FFF) | ((uint64_t)(lbo >> 4) << 16) | ((uint64_t)(sbo >> 4) << 32);
}

// D (64 x N, fp32 registers) = A (64 x 16: registers `rs`, shared memory `ss`) . B (16 x N, shared memory) + (acc ? D : 0), A and B along k.
template <int N> struct Wgmma;
#define PRODUCT(N) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE_NAME "." TYPE_NAME " "
// A0 .. A5: names of the operands after the N/2 sums
#define WGMMA(N, SUMS, NAMES, A0, A1, A2, A3, A4, A5)                                                                                    \
  template <> struct Wgmma<N> {                                                                                                          \
    static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int acc) {                          \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, " A5 ", 0;\n" PRODUCT(N) "{" NAMES "}, {" A0 ", " A1 ", " A2 ", " A3 "}, " A4 ", p, 1, 1, 0; }" \
                   : SUMS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(acc));                                               \
    }                                                                                                                                    \
    static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b, int acc) {                                      \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, " A2 ", 0;\n" PRODUCT(N) "{" NAMES "}, " A0 ", " A1 ", p, 1, 1, 0, 0; }"               \
                   : SUMS : "l"(a), "l"(b), "r"(acc));                                                                                   \
    }                                                                                                                                    \
  }
#define SUMS_4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define NAMES_4 "%0, %1, %2, %3"
#define SUMS_8 SUMS_4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define NAMES_8 NAMES_4 ", %4, %5, %6, %7"
#define SUMS_12 SUMS_8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define NAMES_12 NAMES_8 ", %8, %9, %10, %11"
#define SUMS_16 SUMS_12, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define NAMES_16 NAMES_12 ", %12, %13, %14, %15"
#define SUMS_20 SUMS_16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define NAMES_20 NAMES_16 ", %16, %17, %18, %19"
#define SUMS_24 SUMS_20, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define NAMES_24 NAMES_20 ", %20, %21, %22, %23"
#define SUMS_28 SUMS_24, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define NAMES_28 NAMES_24 ", %24, %25, %26, %27"
#define SUMS_32 SUMS_28, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define NAMES_32 NAMES_28 ", %28, %29, %30, %31"
#define SUMS_48 SUMS_32, \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define NAMES_48 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SUMS_64 SUMS_48, \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define NAMES_64 NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_128 SUMS_64, \
  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), \
  "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), \
  "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), \
  "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), \
  "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), \
  "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), \
  "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
#define NAMES_128 NAMES_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
WGMMA(8, SUMS_4, NAMES_4, "%4", "%5", "%6", "%7", "%8", "%9");
WGMMA(16, SUMS_8, NAMES_8, "%8", "%9", "%10", "%11", "%12", "%13");
WGMMA(24, SUMS_12, NAMES_12, "%12", "%13", "%14", "%15", "%16", "%17");
WGMMA(32, SUMS_16, NAMES_16, "%16", "%17", "%18", "%19", "%20", "%21");
WGMMA(40, SUMS_20, NAMES_20, "%20", "%21", "%22", "%23", "%24", "%25");
WGMMA(48, SUMS_24, NAMES_24, "%24", "%25", "%26", "%27", "%28", "%29");
WGMMA(56, SUMS_28, NAMES_28, "%28", "%29", "%30", "%31", "%32", "%33");
WGMMA(64, SUMS_32, NAMES_32, "%32", "%33", "%34", "%35", "%36", "%37");
WGMMA(96, SUMS_48, NAMES_48, "%48", "%49", "%50", "%51", "%52", "%53");
WGMMA(128, SUMS_64, NAMES_64, "%64", "%65", "%66", "%67", "%68", "%69");
WGMMA(256, SUMS_128, NAMES_128, "%128", "%129", "%130", "%131", "%132", "%133");
