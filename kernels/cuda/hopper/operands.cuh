// What Hopper's copy engine (TMA) and its asynchronous tensor cores (WGMMA) take, as the module and
// the emulation both read it: maps of tensors, and descriptors of operands in shared memory.
//
// A Block that runs kernels of this folder has, besides what arch.cuh names:
//   warpgroup()                    this thread's 128 threads, the same value in all of them
//   SyncWarp()
//   InitBarrier(barrier, n)        a barrier whose phases end after n arrivals and all their bytes;
//   FenceBarriers()                by the thread that made them, before Sync
//   Arrive(barrier), ArriveExpecting(barrier, bytes)
//   AwaitPhase(barrier, parity)    until the phase of this parity has ended; bounded: it traps
//   LoadTile(map, at, to, barrier) one thread: a box of a tensor, which counts its bytes there
//   PrefetchMap(map)               so that the first of them need not wait for the map
//   CopyAsync4(to, from)           four bytes; CopyAsync, as in arch.cuh, sixteen
//   ArriveAfterCopies(barrier)     arrives once this thread's copies so far are there
//   FenceAsync()                   between what threads wrote, or copied by CopyAsync, and products
//                                  that read it; by the writer, or by who has waited for it
//   Wgmma<kF8>(d, a, b, add)       64 outputs by 2 · |d| rows, 32 bytes of K, of a warpgroup; a is
//                                  a descriptor, or the registers of a bf16 fragment
//   WgmmaAcross(d, a, b, add)      the same in bf16 with K across the lines of b (AcrossAt)
//   WgmmaFence(), WgmmaCommit(), WgmmaWait<n>(), Pin(d)   before; after; until n groups are left;
//                                  and what keeps the compiler from moving d over them
//   SharedAddress(p)
//   SelectBytes(bytes, digits)                            of bytes 0-3, or 4 for zero; the lowest
//                                  hexadecimal digit gives the lowest byte
//   ScaleUpPair(pair)              two bf16 times 2^120, subnormals too
//   QuickSigmoid(x)                within 1e-6, from x = -10 on 1e-6 of its value; further down
//                                  5e-6 of it (x · log2(e) is rounded), and 0 below -87.3
//   QuickExp2(x)                                          2^x within 2 units in the last place
//   GiveRegisters<n>(), TakeRegisters<n>()                of a warpgroup, a thread
// What runs these kernels also has
//   MakeMap(shape, map)            false: the driver refuses it. That is an error of the device, as
//                                  a launch's is, found by polling: what needs the map is not
//                                  launched, and no other kernel in its place
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor/dtype.h"
#include "kernels/cuda/arch.cuh"

namespace choir::cuda {

inline constexpr int kWarpgroup = 128;

// Rows of a tile lie 128 bytes apart, and 16-byte units of a row are swapped among themselves:
// unit u of row r lies at u ^ (r % 8), so that no column is all in one bank. The pattern repeats
// every 8 rows: tiles begin at multiples of 1024.
inline constexpr int kLineBytes = 128;
inline constexpr int kSwizzleRepeat = 8 * kLineBytes;

// Opaque: CUtensorMap in the module, a MapShape in the emulation.
struct alignas(64) TensorMap {
  std::byte bytes[128];
};

// A matrix [rows, width] in global memory, and the box that one copy takes: one line of `box_rows`
// rows. What is outside of the matrix is zeros. Coordinates are {column, row}.
struct MapShape {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // bf16 or f8
  int64_t rows = 0, width = 0;
  int64_t pitch = 0;  // bytes between rows
  int32_t box_rows = 0;
  // No kernel that may still run writes it: loaded before AwaitEarlier. Only the emulation looks.
  bool lasting = false;
};

inline MapShape RowsMap(const void* data, DType dtype, int64_t rows, int64_t width, int box_rows) {
  return {data, dtype, rows, width, BytesOf(dtype, width), box_rows};
}

// What the copy engine asks of a matrix.
inline bool IsMappable(const void* data, DType dtype, int64_t width) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && BytesOf(dtype, width) % 16 == 0;
}

// Of an operand with K along its lines (PTX ISA, "Matrix Descriptor Format"): address / 16 in bits
// 0-13; in bits 32-45 what lies between groups of 8 lines; the 128-byte swizzle in bits 62-63. A
// step of 32 bytes along K adds 2.
CHOIR_DEVICE uint64_t OperandAt(uint32_t shared_address) {
  return uint64_t{(shared_address & 0x3ffff) >> 4} | uint64_t{1} << 16 |
         uint64_t{kSwizzleRepeat >> 4} << 32 | uint64_t{1} << 62;
}
inline constexpr uint64_t kOperandStep = 2;

// Of an operand with K across its lines, which hold 64 columns of N each ("N-major"): bits 16-29
// have what lies between 64 columns and the next, `panel`; bits 32-45 again what lies between
// groups of 8 lines. A step of 16 lines of K adds 128.
CHOIR_DEVICE uint64_t AcrossAt(uint32_t shared_address, uint32_t panel) {
  return uint64_t{(shared_address & 0x3ffff) >> 4} | uint64_t{panel >> 4} << 16 |
         uint64_t{kSwizzleRepeat >> 4} << 32 | uint64_t{1} << 62;
}
inline constexpr uint64_t kAcrossStep = 2 * kSwizzleRepeat >> 4;

}  // namespace choir::cuda
