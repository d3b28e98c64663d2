// `choir logits`: the logits after every position of a list of token ids, as a .npy file.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/choir/commands.h"
#include "tools/choir/offline.h"
#include "worker/model/model_runner.h"

namespace choir {
namespace {

struct FileCloser {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

// A two-dimensional float32 array, written row by row. Format: numpy.lib.format, version 1.0.
class NpyWriter {
 public:
  static StatusOr<NpyWriter> Open(const std::string& path, int64_t rows, int64_t columns) {
    static_assert(std::endian::native == std::endian::little);
    NpyWriter writer;
    writer.path_ = path;
    writer.file_.reset(std::fopen(path.c_str(), "wb"));
    if (!writer.file_)
      return InvalidArgument("{}: cannot be written: {}", path, std::strerror(errno));
    std::string header = fmt::format(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
    constexpr size_t kPreamble = 10, kAlignment = 64;  // magic, version, header length
    header.append(kAlignment - (kPreamble + header.size() + 1) % kAlignment, ' ');
    header += '\n';
    std::string start("\x93NUMPY\x01\x00", 8);
    start += static_cast<char>(header.size() & 0xff);
    start += static_cast<char>(header.size() >> 8);
    start += header;
    CHOIR_RETURN_IF_ERROR(writer.Write(std::as_bytes(std::span(std::string_view(start)))));
    return writer;
  }

  Status Write(std::span<const std::byte> bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size()) return {};
    return Unavailable("{}: cannot be written: {}", path_, std::strerror(errno));
  }
  Status Close() {
    if (std::fclose(file_.release()) == 0) return {};
    return Unavailable("{}: cannot be written: {}", path_, std::strerror(errno));
  }

 private:
  std::string path_;
  std::unique_ptr<std::FILE, FileCloser> file_;
};

struct LogitsOptions {
  OfflineOptions offline;
  std::string ids, out;
  int64_t chunk = 128;
};

// Rank 0 has the tokens; the others compute their experts.
Status RunRank(const OfflineModel& model, const LogitsOptions& options,
               std::span<const int32_t> ids, Collectives* collectives, NpyWriter* out) {
  const auto total = static_cast<int64_t>(ids.size());
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner,
                         ModelRunner::Make(model.loaded, model.kernels.get(), collectives,
                                           {.step_tokens = std::min(options.chunk, total),
                                            .positions_max = total,
                                            .num_threads = model.threads_per_rank}));
  for (int64_t at = 0; at < total; at += options.chunk) {
    std::vector<ModelRunner::Rows> rows;
    if (collectives->rank() == 0) {
      const auto count = static_cast<size_t>(std::min(options.chunk, total - at));
      rows.push_back({.tokens = ids.subspan(static_cast<size_t>(at), count),
                      .first_position = static_cast<int32_t>(at)});
    }
    CHOIR_ASSIGN_OR_RETURN(const std::span<const float> logits, runner->Step(rows));
    if (!rows.empty()) CHOIR_RETURN_IF_ERROR(out->Write(std::as_bytes(logits)));
  }
  return {};
}

Status Run(const LogitsOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const OfflineModel model, LoadOffline(options.offline));
  const ModelInfo& info = model.loaded->info();
  CHOIR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ReadTokenIds(options.ids, info.vocab));
  if (static_cast<int64_t>(ids.size()) > info.context_length) {
    return InvalidArgument("{}: {} token ids are more than the model's context length {}",
                           options.ids, ids.size(), info.context_length);
  }
  CHOIR_ASSIGN_OR_RETURN(
      NpyWriter out, NpyWriter::Open(options.out, static_cast<int64_t>(ids.size()), info.vocab));
  CHOIR_RETURN_IF_ERROR(RunOfflineRanks(model.ranks, [&](Collectives* collectives) {
    return RunRank(model, options, ids, collectives, &out);
  }));
  return out.Close();
}

}  // namespace

int RunLogits(int argc, const char* const* argv) {
  LogitsOptions options;
  OptionSet set("choir logits", "Computes the logits after every position of a list of token ids.",
                "");
  AddOfflineOptions(&set, &options.offline);
  set.Add(&options.ids,
          {.flag = "--ids", .help = "file with a JSON list of token ids", .required = true});
  set.Add(&options.out, {.flag = "--out",
                         .help = "file to write: float32 .npy, [positions, vocabulary]",
                         .required = true});
  set.Add(&options.chunk, {.flag = "--prefill-chunk", .help = "tokens computed at once"}, 1, 65536);
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const Status status = Run(options);
  return status.ok() ? 0 : Complain(status);
}

}  // namespace choir
