// Mutations of protobuf messages by reflection, so that a fuzzer gets behind the parser. An input
// is a list of messages of one type, each behind its length (as SerializeDelimited writes them).
// The target says of which type; linking this file installs the mutator.
#pragma once

#include <google/protobuf/message.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace choir::fuzz {

// Defined by the target: the type of its messages.
const google::protobuf::Message& Prototype();

using Messages = std::vector<std::unique_ptr<google::protobuf::Message>>;

// Stops at the first thing that cannot be read; at most 64.
Messages ReadMessages(const uint8_t* data, size_t size);

}  // namespace choir::fuzz
