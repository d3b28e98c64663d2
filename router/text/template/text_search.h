// Searching in time linear in both texts whatever they are: std::string::find needs their product
// at worst, which a hostile template turns into hours. Pure; any thread.
#pragma once

#include <cstddef>
#include <string_view>

namespace choir {

// Up to here FindLastText needs no copy of the text.
inline constexpr size_t kShortSearch = 64;

// As std::string_view::find and rfind.
size_t FindText(std::string_view text, std::string_view sub, size_t from = 0);
size_t FindLastText(std::string_view text, std::string_view sub);

}  // namespace choir
