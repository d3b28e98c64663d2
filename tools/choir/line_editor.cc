#include "tools/choir/line_editor.h"

#include <histedit.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <iostream>
#include <utility>

namespace choir {
namespace {

constexpr int kHistoryLines = 1000;

char* Prompt(EditLine* el) {
  std::string* prompt = nullptr;
  el_get(el, EL_CLIENTDATA, &prompt);
  return prompt->data();
}

// Ctrl-C: shows that the line was dropped and begins anew.
unsigned char DropLine(EditLine* el, int) {
  const LineInfo* line = el_line(el);
  el_cursor(el, static_cast<int>(line->lastchar - line->cursor));
  el_deletestr(el, static_cast<int>(line->lastchar - line->buffer));
  return CC_REFRESH;
}

}  // namespace

struct LineEditor::Terminal {
  EditLine* el = nullptr;
  History* history = nullptr;
  HistEvent event{};
};

LineEditor::LineEditor(std::string history_file) : history_file_(std::move(history_file)) {
  if (isatty(STDIN_FILENO) == 0) return;
  std::setlocale(LC_CTYPE, "");  // libedit counts columns of what is typed by it
  terminal_ = std::make_unique<Terminal>();
  terminal_->el = el_init("choir", stdin, stderr, stderr);
  terminal_->history = history_init();
  history(terminal_->history, &terminal_->event, H_SETSIZE, kHistoryLines);
  history(terminal_->history, &terminal_->event, H_SETUNIQUE, 1);
  if (!history_file_.empty()) {
    history(terminal_->history, &terminal_->event, H_LOAD, history_file_.c_str());
  }
  el_set(terminal_->el, EL_EDITOR, "emacs");
  el_set(terminal_->el, EL_CLIENTDATA, &prompt_);
  el_set(terminal_->el, EL_PROMPT, Prompt);
  el_set(terminal_->el, EL_HIST, history, terminal_->history);
  el_set(terminal_->el, EL_ADDFN, "choir-drop-line", "Drop the line", DropLine);
  el_set(terminal_->el, EL_SETTY, "-d", "-isig", nullptr);  // while a line is edited
  el_set(terminal_->el, EL_BIND, "^C", "choir-drop-line", nullptr);
  el_set(terminal_->el, EL_BIND, "^R", "em-inc-search-prev", nullptr);
}

LineEditor::~LineEditor() {
  if (terminal_ == nullptr) return;
  if (!history_file_.empty()) {
    const mode_t before = umask(0177);
    history(terminal_->history, &terminal_->event, H_SAVE, history_file_.c_str());
    umask(before);
  }
  history_end(terminal_->history);
  el_end(terminal_->el);
}

std::optional<std::string> LineEditor::NextPart() {
  std::string line;
  if (terminal_ == nullptr) {
    std::fputs(prompt_.c_str(), stderr);
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  int count = 0;
  const char* text = el_gets(terminal_->el, &count);
  if (text == nullptr || count <= 0) return std::nullopt;
  line.assign(text, static_cast<size_t>(count));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  if (!line.empty()) history(terminal_->history, &terminal_->event, H_ENTER, line.c_str());
  return line;
}

std::optional<std::string> LineEditor::Next(const std::string& prompt) {
  prompt_ = prompt;
  std::string text;
  while (true) {
    const std::optional<std::string> part = NextPart();
    if (!part.has_value()) return text.empty() ? std::nullopt : std::optional(text);
    text += *part;
    if (!text.ends_with('\\')) return text;
    text.back() = '\n';
    prompt_ = std::string(prompt.size() > 2 ? prompt.size() - 2 : 0, ' ') + ". ";
  }
}

}  // namespace choir
