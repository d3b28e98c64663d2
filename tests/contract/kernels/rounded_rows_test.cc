// Rows that ops round besides what they give, for the products behind them; by the second rung's
// kernels and, where those do not take the shapes, behind the simple ones.
#include "kernels/cuda/rounded_rows.cuh"

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class RoundedRowsContract : public KernelsTest {
 protected:
  // Room that is larger than the rows, and full of something else.
  struct Room {
    Tensor memory;
    RoundedRows rows;
  };
  static Room MakeRoom(Random& random, int64_t rows, int64_t width) {
    Room room;
    const int64_t pitch = width + 8 * random.Int(0, 3);
    room.memory = Tensor(DType::kBF16, {rows, pitch});
    std::fill_n(room.memory.view().b16(), rows * pitch, uint16_t{0x1234});
    room.rows = {room.memory.view().b16(), pitch,
                 random.Coin() ? RowOrder::kPlain : RowOrder::kForF8};
    return room;
  }
  // y: rows y_stride apart.
  static void ExpectRounded(const Room& room, const float* y, int64_t y_stride, int64_t rows,
                            int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
      const bf16* got = room.rows.data + r * room.rows.pitch;
      for (int64_t k = 0; k < room.rows.pitch; ++k) {
        const bool wide = room.rows.order == RowOrder::kForF8 && k < width;
        const int64_t place = wide ? k / 64 * 64 + cuda::PlaceOf(static_cast<int>(k % 64)) : k;
        const uint16_t want = k < width ? ToBF16(y[r * y_stride + k]) : uint16_t{0x1234};
        ASSERT_EQ(got[place], want) << "row " << r << ", column " << k;
      }
    }
  }
  // [rows, stride] f32, at a place that wide loads do not take, if `odd`.
  static TensorView At(const Tensor& memory, bool odd, int64_t rows, int64_t width) {
    return TensorView(memory.f32() + (odd ? 1 : 0), DType::kF32, {rows, width});
  }
};

TEST_P(RoundedRowsContract, OfANormAreItsResult) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(1, 20), width = 64 * random.Int(1, 40);
    const int64_t stride = width + 4 * random.Int(0, 3);
    const bool odd = random.Coin();
    const Tensor x = random.Values(DType::kF32, {rows, stride + 1}, 3.0f);
    const Tensor w = random.Values(random.WeightType(), {width});
    const TensorView view = At(x, odd, rows, width);
    const Room room = MakeRoom(random, rows, width);
    kernels_->RmsNorm({.x = view,
                       .x_stride = stride,
                       .w = w,
                       .y = view,
                       .y_stride = stride,
                       .rounded = room.rows},
                      Any(random));
    ExpectRounded(room, view.f32(), stride, rows, width);
  });
}

TEST_P(RoundedRowsContract, OfSwiGluAreItsResult) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(1, 20), width = 64 * random.Int(1, 40);
    const bool odd = random.Coin();
    const Tensor gate = random.Values(DType::kF32, {rows, width + 1});
    const Tensor up = random.Values(DType::kF32, {rows, width});
    const TensorView view = At(gate, odd, rows, width);
    const Room room = MakeRoom(random, rows, width);
    kernels_->SwiGlu({.gate = view, .up = up, .y = view, .rounded = room.rows}, Any(random));
    ExpectRounded(room, view.f32(), width, rows, width);
  });
}

TEST_P(RoundedRowsContract, OfHeadsAreAllHeadsResultsInARow) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(1, 40), heads = 4, from = 8 * random.Int(1, 9);
    const int64_t to = 16 * random.Int(1, 9);  // of four heads a multiple of 64
    const Tensor x = random.Values(DType::kF32, {rows, heads, from});
    const Tensor w = random.Values(random.WeightType(), {heads, to, from});  // f32: the simple way
    const Tensor y(DType::kF32, {rows, heads, to});
    const Room room = MakeRoom(random, rows, heads * to);
    kernels_->HeadProject({.x = x,
                           .w = TensorView(w.view().raw(), w.view().dtype(), {to, from}),
                           .w_head_stride = to * from,
                           .transpose = true,
                           .y = y,
                           .compute = Compute::kBF16,
                           .rounded = room.rows},
                          Any(random));
    ExpectRounded(room, y.f32(), heads * to, rows, heads * to);
  });
}

INSTANTIATE_TEST_SUITE_P(Tables, RoundedRowsContract, testing::ValuesIn(TensorTableNames()),
                         NameOfParam);

}  // namespace
}  // namespace choir
