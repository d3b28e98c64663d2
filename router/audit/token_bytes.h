// What digests of prompts and outputs are taken over. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace choir {

// Each id as four bytes, lowest first.
std::string TokenBytes(std::span<const int32_t> ids);
// Of all choices: for each, the number of its ids, then these, all as four bytes.
std::string OutputBytes(const std::vector<std::vector<int32_t>>& outputs);
// The reverse of TokenBytes.
std::vector<int32_t> IdsOfTokenBytes(const std::string& bytes);

}  // namespace choir
