#include "tests/fuzz/proto_mutator.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/util/delimited_message_util.h>

#include <cmath>
#include <cstring>
#include <iterator>
#include <random>
#include <string>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace choir::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Random = std::minstd_rand;

constexpr size_t kMessagesMax = 64;
constexpr int kRepeatedMax = 64;

int64_t OddInteger(Random& random) {
  static constexpr int64_t kOdd[] = {0,     1,  2,  3,         4,         5,         6,        7,
                                     8,     9,  16, 42,        255,       301,       302,      1024,
                                     65536, -1, -2, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
  return kOdd[random() % std::size(kOdd)];
}

double OddReal(Random& random) {
  static const double kOdd[] = {0,     0.5, 1,    2,   -1,       -0.0,      1e-300,
                                1e300, 100, -100, 1.5, INFINITY, -INFINITY, NAN};
  return kOdd[random() % std::size(kOdd)];
}

std::string OddText(std::string text, Random& random) {
  static const char* const kOdd[] = {
      "",     "tiny", "ck-secret", "[{\"role\":\"user\",\"content\":\"hi\"}]",
      "{}",   "[]",   "req-1",     "\xc3\x28",
      "g0r0", "<s>x", "null"};
  if (random() % 2 == 0) return kOdd[random() % std::size(kOdd)];
  const size_t size = text.size();
  text.resize(size + 16);
  text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, size + 16));
  return text;
}

void Change(Message* message, Random& random, int depth);

// Sets one value of a field, or adds one.
void SetField(Message* m, const FieldDescriptor* f, Random& random, int depth) {
  const Reflection* r = m->GetReflection();
  const bool many = f->is_repeated();
  if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const int count = many ? r->FieldSize(*m, f) : 0;
    const bool add = many && (count == 0 || random() % 3 == 0);
    Message* child = !many ? r->MutableMessage(m, f)
                     : add ? r->AddMessage(m, f)
                           : r->MutableRepeatedMessage(m, f, static_cast<int>(random() % count));
    Change(child, random, depth + 1);
    return;
  }
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      const auto v = static_cast<int32_t>(OddInteger(random));
      return many ? r->AddInt32(m, f, v) : r->SetInt32(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_INT64:
      return many ? r->AddInt64(m, f, OddInteger(random)) : r->SetInt64(m, f, OddInteger(random));
    case FieldDescriptor::CPPTYPE_UINT32: {
      const auto v = static_cast<uint32_t>(OddInteger(random));
      return many ? r->AddUInt32(m, f, v) : r->SetUInt32(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      const auto v = static_cast<uint64_t>(OddInteger(random));
      return many ? r->AddUInt64(m, f, v) : r->SetUInt64(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return many ? r->AddDouble(m, f, OddReal(random)) : r->SetDouble(m, f, OddReal(random));
    case FieldDescriptor::CPPTYPE_FLOAT: {
      const auto v = static_cast<float>(OddReal(random));
      return many ? r->AddFloat(m, f, v) : r->SetFloat(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      return many ? r->AddBool(m, f, random() % 2) : r->SetBool(m, f, random() % 2);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int v = static_cast<int>(random() % 8);
      return many ? r->AddEnumValue(m, f, v) : r->SetEnumValue(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string v = OddText(many ? "" : r->GetString(*m, f), random);
      return many ? r->AddString(m, f, v) : r->SetString(m, f, v);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return;
  }
}

void Change(Message* message, Random& random, int depth) {
  const auto* type = message->GetDescriptor();
  if (type->field_count() == 0 || depth > 8) return;
  const Reflection* r = message->GetReflection();
  const FieldDescriptor* f = type->field(static_cast<int>(random() % type->field_count()));
  const int count = f->is_repeated() ? r->FieldSize(*message, f) : 0;
  if (f->is_repeated() && count > 0 && (count >= kRepeatedMax || random() % 4 == 0)) {
    r->SwapElements(message, f, static_cast<int>(random() % count), count - 1);
    r->RemoveLast(message, f);
  } else if (random() % 8 == 0) {
    r->ClearField(message, f);
  } else {
    SetField(message, f, random, depth);
  }
}

}  // namespace

Messages ReadMessages(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of every string that is no UTF-8
  google::protobuf::io::ArrayInputStream in(data, static_cast<int>(size));
  Messages messages;
  while (messages.size() < kMessagesMax) {
    std::unique_ptr<Message> message(Prototype().New());
    bool end = false;
    if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(message.get(), &in, &end)) break;
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace choir::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  choir::fuzz::Random random(seed);
  if (random() % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  choir::fuzz::Messages messages = choir::fuzz::ReadMessages(data, size);
  if (messages.empty() || random() % 8 == 0) {
    messages.emplace_back(choir::fuzz::Prototype().New());
  } else if (random() % 16 == 0) {
    messages.erase(messages.begin() + static_cast<ptrdiff_t>(random() % messages.size()));
  } else if (random() % 16 == 0) {
    auto copy = std::unique_ptr<google::protobuf::Message>(messages.back()->New());
    copy->CopyFrom(*messages[random() % messages.size()]);
    messages.push_back(std::move(copy));
  }
  for (size_t n = 1 + random() % 4; n > 0 && !messages.empty(); --n) {
    choir::fuzz::Change(messages[random() % messages.size()].get(), random, 0);
  }
  std::string out;
  {
    google::protobuf::io::StringOutputStream stream(&out);
    for (const auto& m : messages) {
      google::protobuf::util::SerializeDelimitedToZeroCopyStream(*m, &stream);
    }
  }
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}
