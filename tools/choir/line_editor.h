// Lines typed at a terminal, with editing and a history (libedit: arrows, Ctrl-R, Emacs keys).
// Where stdin is no terminal, plain lines. One at a time in a process; one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace choir {

class LineEditor {
 public:
  // `history_file` is read now and written (0600) at the end; empty: nothing is kept.
  explicit LineEditor(std::string history_file);
  ~LineEditor();

  // The next line without its end; nullopt at the end of input (Ctrl-D). Ctrl-C drops what was
  // typed and gives an empty line. A line that ends in a backslash goes on in the next one.
  std::optional<std::string> Next(const std::string& prompt);

 private:
  struct Terminal;
  std::optional<std::string> NextPart();
  std::unique_ptr<Terminal> terminal_;  // null: stdin is no terminal
  std::string prompt_, history_file_;
};

}  // namespace choir
