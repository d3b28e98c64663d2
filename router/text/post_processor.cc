#include "router/text/post_processor.h"

#include <utility>

namespace choir::text {
namespace {

constexpr int kDepthMax = 16;

// special_tokens[name].ids of a TemplateProcessing.
Status AppendSpecial(const JsonField& field, const std::string& name, int32_t id_end,
                     std::vector<int32_t>* to) {
  const JsonField special = field["special_tokens"];
  CHOIR_RETURN_IF_ERROR(special.RequireObject());
  const JsonField ids = special[name.c_str()]["ids"];
  CHOIR_RETURN_IF_ERROR(ids.RequireArray());
  for (size_t i = 0; i < ids.size(); ++i) {
    CHOIR_ASSIGN_OR_RETURN(const int64_t id, ids.At(i).Integer({}, 0, id_end - 1));
    to->push_back(static_cast<int32_t>(id));
  }
  return {};
}

Status ReadTemplate(const JsonField& field, int32_t id_end, PostProcessor* post) {
  const JsonField single = field["single"];
  CHOIR_RETURN_IF_ERROR(single.RequireArray());
  std::vector<int32_t> before;
  std::vector<int32_t> behind;
  bool seen_text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    CHOIR_RETURN_IF_ERROR(single.At(i).RequireObject());
    const JsonField special = single.At(i)["SpecialToken"];
    const JsonField sequence = single.At(i)["Sequence"];
    if (special.present()) {
      CHOIR_RETURN_IF_ERROR(special.RequireObject());
      CHOIR_ASSIGN_OR_RETURN(const std::string name, special["id"].String());
      CHOIR_RETURN_IF_ERROR(AppendSpecial(field, name, id_end, seen_text ? &behind : &before));
      continue;
    }
    CHOIR_RETURN_IF_ERROR(sequence.RequireObject());
    CHOIR_ASSIGN_OR_RETURN(const std::string name, sequence["id"].String());
    if (name != "A" || seen_text) return sequence["id"].Error("must be one single A");
    seen_text = true;
  }
  if (!seen_text) return single.Error("has no Sequence A");
  post->before = std::move(before);
  post->behind = std::move(behind);
  post->adds_tokens = true;
  return {};
}

// cls and sep: ["<s>", 0].
Status ReadPair(const JsonField& field, int32_t id_end, int32_t* id) {
  CHOIR_RETURN_IF_ERROR(field.RequireArray());
  if (field.size() != 2) return field.Error("must be [text, id]");
  CHOIR_ASSIGN_OR_RETURN(const int64_t value, field.At(1).Integer({}, 0, id_end - 1));
  *id = static_cast<int32_t>(value);
  return {};
}

Status ReadInto(const JsonField& field, int32_t id_end, int depth, PostProcessor* post) {
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  if (depth > kDepthMax) return field.Error("nested too deeply");
  CHOIR_ASSIGN_OR_RETURN(const std::string type, field["type"].String());
  if (type == "ByteLevel") return {};
  if (type != "Sequence" && post->adds_tokens) {
    return field["type"].Error("a second post-processor that adds tokens is not supported");
  }
  if (type == "TemplateProcessing") return ReadTemplate(field, id_end, post);
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    int32_t cls = 0;
    int32_t sep = 0;
    CHOIR_RETURN_IF_ERROR(ReadPair(field["cls"], id_end, &cls));
    CHOIR_RETURN_IF_ERROR(ReadPair(field["sep"], id_end, &sep));
    post->before = {cls};
    post->behind = {sep};
    post->adds_tokens = true;
    return {};
  }
  if (type == "Sequence") {
    const JsonField parts = field["processors"];
    CHOIR_RETURN_IF_ERROR(parts.RequireArray());
    for (size_t i = 0; i < parts.size(); ++i) {
      CHOIR_RETURN_IF_ERROR(ReadInto(parts.At(i), id_end, depth + 1, post));
    }
    return {};
  }
  return field["type"].Error(
      "this post-processor is not supported (Sequence, ByteLevel, TemplateProcessing, "
      "RobertaProcessing and BertProcessing are)");
}

}  // namespace

StatusOr<PostProcessor> PostProcessor::Read(const JsonField& field, int32_t id_end) {
  PostProcessor post;
  if (field.present()) CHOIR_RETURN_IF_ERROR(ReadInto(field, id_end, 0, &post));
  return post;
}

}  // namespace choir::text
