#include "router/limits/redis/limit_script.h"

#include <charconv>
#include <nlohmann/json.hpp>

namespace choir {

// Bucket numbers are one more than BucketKind's; kinds of refusals are LimitKind's.
const char kLimitScript[] = R"lua(
local routers, me, now = KEYS[1], ARGV[1], tonumber(ARGV[2])
local call = cjson.decode(ARGV[3])
local given = now ~= 0  -- a time of a test's own: keys would expire by another
if not given then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local EPS = 1e-6
local function text(n) return string.format('%.17g', n) end

if call.op == 'leave' then
  redis.call('ZREM', routers, me)
  return {}
end

local lost, era = 0, ''
if call.op == 'sync' then
  era = redis.call('GET', KEYS[#KEYS])
  if not era then
    era = call.era
    redis.call('SET', KEYS[#KEYS], era)
  end
  local until_us = redis.call('ZSCORE', routers, me)
  if not until_us or tonumber(until_us) < now then lost = 1 end
  redis.call('ZREMRANGEBYSCORE', routers, '-inf', '(' .. text(now))
  redis.call('ZADD', routers, text(now + call.lease), me)
  redis.call('PEXPIRE', routers, string.format('%.0f', call.lease / 100))
end
local live, replicas = {}, 0
for _, router in ipairs(redis.call('ZRANGEBYSCORE', routers, text(now), '+inf')) do
  live[router] = true
  replicas = replicas + 1
end

local function load(key, rules)
  local s = {key = key, rules = rules, stamp = now, dead = {},
             level = {0, 0, 0, 0}, spare = {0, 0, 0, 0},
             r = 0, k = 0, m = 0, others = {r = 0, k = 0, m = 0}}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local field, value = flat[i], tonumber(flat[i + 1])
    local kind, who = string.sub(field, 1, 1), string.sub(field, 3)
    if kind == 't' then
      s.stamp = value
    elseif kind == 'l' then
      s.level[tonumber(string.sub(field, 2))] = value
    elseif kind == 'w' then
      s.spare[tonumber(string.sub(field, 2))] = value
    elseif who == me then
      s[kind] = value
    elseif live[who] then
      s.others[kind] = s.others[kind] + value
    else
      s.dead[#s.dead + 1] = field
    end
  end
  local elapsed = now - s.stamp
  if elapsed > 0 then
    s.stamp = now
    for b = 1, 4 do
      local rule = rules[b]
      if rule and rule[2] > 0 then
        local leak = elapsed * rule[2] / rule[3]
        if leak > s.level[b] then s.spare[b] = s.spare[b] + leak - s.level[b] end
        s.level[b] = math.max(0, s.level[b] - leak)
      end
    end
  end
  return s
end

local function reserved(s, b)
  if b == 1 then return 0 end
  if b == 4 then return s.m + s.others.m end
  return s.k + s.others.k
end

local function save(s)
  local write, full_ms, keep = {'t', text(s.stamp)}, 0, false
  for b = 1, 4 do
    local rule = s.rules[b]
    if rule then
      write[#write + 1], write[#write + 2] = 'l' .. b, text(s.level[b])
      if b == 2 or b == 3 then write[#write + 1], write[#write + 2] = 'w' .. b, text(s.spare[b]) end
      if rule[2] > 0 then
        full_ms = math.max(full_ms, s.level[b] * rule[3] / rule[2] / 1000)
      elseif s.level[b] > 0 then
        keep = true
      end
    end
  end
  for _, kind in ipairs({'r', 'k', 'm'}) do
    if s.r > 0 then
      write[#write + 1], write[#write + 2] = kind .. ':' .. me, text(s[kind])
    else
      s.dead[#s.dead + 1] = kind .. ':' .. me
    end
  end
  redis.call('HSET', s.key, unpack(write))
  if #s.dead > 0 then redis.call('HDEL', s.key, unpack(s.dead)) end
  if keep or given then
    redis.call('PERSIST', s.key)
  else
    if s.r + s.others.r > 0 then full_ms = math.max(full_ms, 90000000) end
    redis.call('PEXPIRE', s.key, string.format('%.0f', math.ceil(full_ms) + 1000))
  end
end

local scopes = {}
for i, rules in ipairs(call.scopes) do scopes[i] = load(KEYS[i + 1], rules) end

if call.op == 'sync' then
  for i, s in ipairs(scopes) do
    local held = call.held[i]
    s.r, s.k, s.m = held.r, held.k, held.m
    for b = 1, 4 do
      s.level[b] = s.level[b] + (era == call.known and held.since[b] or held.whole[b])
    end
    save(s)
  end
  return {text(lost), text(replicas), era}
end

local function need(b)
  if call.op == 'admit' then return (b == 1 and not call.resumed) and 1 or 0 end
  if b == 1 then return 0 end
  return b == 4 and call.money or call.tokens
end

local function refusal()
  if call.resumed or call.op == 'close' then return -1, 0 end
  local admit = call.op == 'admit'
  local function full(s, b)
    local rule = s.rules[b]
    return rule and s.level[b] + reserved(s, b) + need(b) > rule[1] + EPS
  end
  for i, s in ipairs(scopes) do
    local rule = s.rules[4]
    if rule then
      if admit then
        if s.level[4] + reserved(s, 4) >= rule[1] then return i - 1, 3 end
      elseif full(s, 4) then
        return i - 1, 3
      end
    end
  end
  for i, s in ipairs(scopes) do
    if admit then
      if full(s, 1) then return i - 1, 0 end
      if s.rules[5] and s.r + s.others.r + 1 > s.rules[5] then return i - 1, 4 end
    else
      if full(s, 2) then return i - 1, 1 end
      if full(s, 3) then return i - 1, 2 end
    end
  end
  return -1, 0
end

local function close(s, spare)
  s.r = math.max(0, s.r - 1)
  local rule = s.rules[1]
  if rule and call.withdrawn and call.admitted >= 0 and not call.resumed then
    local leaked = (s.stamp - call.admitted) * rule[2] / rule[3]
    s.level[1] = math.max(0, s.level[1] - math.max(0, 1 - leaked))
  end
  s.k = s.r == 0 and 0 or math.max(0, s.k - call.tokens)
  s.m = s.r == 0 and 0 or math.max(0, s.m - call.money)
  for b = 2, 4 do
    if s.rules[b] then
      local used = b == 4 and call.used_money or call.used_tokens
      local since = spare and s.spare[b] - spare[b] or 0
      local paid = math.min(used, math.max(0, since))
      s.spare[b] = s.spare[b] - paid
      s.level[b] = s.level[b] + used - paid
    end
  end
end

local scope, kind = refusal()
if scope < 0 then
  for i, s in ipairs(scopes) do
    if call.op == 'admit' then
      if s.rules[1] then s.level[1] = s.level[1] + need(1) end
      s.r = s.r + 1
    elseif call.op == 'reserve' then
      s.k, s.m = s.k + call.tokens, s.m + call.money
    else
      close(s, call.spare[i])
    end
    save(s)
  end
end

local out = {text(scope), text(kind), text(now), text(replicas)}
for _, s in ipairs(scopes) do
  for b = 1, 4 do
    out[#out + 1] = text(s.level[b])
    out[#out + 1] = text(reserved(s, b))
    out[#out + 1] = text(s.spare[b])
  end
  out[#out + 1] = text(s.r + s.others.r)
end
return out
)lua";

namespace {

using nlohmann::json;

json RulesOf(const LimitScope& scope) {
  json rules = json::array();
  for (const auto& bucket : scope.buckets) {
    rules.push_back(bucket ? json{bucket->capacity, bucket->leak, bucket->period_us} : json(false));
  }
  rules.push_back(scope.concurrency ? json(*scope.concurrency) : json(false));
  return rules;
}

ScriptCall Encode(const ScriptCaller& caller, const json& call) {
  return {.keys = {caller.prefix + "routers"},
          .arguments = {caller.router, fmt::format("{:.0f}", caller.now_us), call.dump()}};
}

// The next number of a reply.
class Numbers {
 public:
  explicit Numbers(const std::vector<std::string>& reply) : reply_(reply) {}
  double Next() {
    if (at_ >= reply_.size()) return good_ = false, 0;
    const std::string& text = reply_[at_++];
    double value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    good_ &= error == std::errc() && rest == text.data() + text.size();
    return value;
  }
  bool done() const { return good_ && at_ == reply_.size(); }

 private:
  const std::vector<std::string>& reply_;
  size_t at_ = 0;
  bool good_ = true;
};

const char* OpName(LimitOp op) {
  return op == LimitOp::kAdmit ? "admit" : op == LimitOp::kReserve ? "reserve" : "close";
}

}  // namespace

ScriptCall EncodeCall(const ScriptCaller& caller, const LimitCall& call) {
  json out = {{"op", OpName(call.op)}, {"resumed", call.resumed}, {"scopes", json::array()}};
  if (call.op != LimitOp::kAdmit) out.update({{"tokens", call.tokens}, {"money", call.money}});
  if (call.op == LimitOp::kClose) {
    out.update({{"used_tokens", call.used_tokens},
                {"used_money", call.used_money},
                {"withdrawn", call.withdrawn},
                {"admitted", call.admitted_us},
                {"spare", call.spare}});
  }
  for (const LimitScope& scope : *call.scopes) out["scopes"].push_back(RulesOf(scope));
  ScriptCall encoded = Encode(caller, out);
  for (const LimitScope& scope : *call.scopes) encoded.keys.push_back(caller.prefix + scope.name);
  return encoded;
}

StatusOr<LimitAnswer> DecodeAnswer(const std::vector<std::string>& reply, size_t num_scopes,
                                   double* replicas) {
  Numbers numbers(reply);
  LimitAnswer answer;
  const double scope = numbers.Next();
  const double kind = numbers.Next();
  answer.now_us = numbers.Next();
  *replicas = numbers.Next();
  for (size_t i = 0; i < num_scopes; ++i) {
    ScopeReading& reading = answer.readings.emplace_back();
    for (BucketReading& bucket : reading.buckets) {
      bucket.level = numbers.Next();
      bucket.reserved = numbers.Next();
      bucket.spare = numbers.Next();
    }
    reading.running = numbers.Next();
  }
  const bool good = numbers.done() && scope < static_cast<double>(num_scopes) && kind >= 0 &&
                    kind <= static_cast<double>(LimitKind::kConcurrency);
  if (!good) return Internal("redis: an answer of another form than this router's script gives");
  if (scope >= 0) {
    answer.refusal =
        LimitRefusal{static_cast<size_t>(scope), static_cast<LimitKind>(static_cast<int>(kind))};
  }
  return answer;
}

ScriptCall EncodeSync(const ScriptCaller& caller, const SyncCall& call,
                      const std::vector<HeldScope>& scopes) {
  json out = {{"op", "sync"},
              {"lease", call.lease_us},
              {"known", call.known_era},
              {"era", call.new_era},
              {"scopes", json::array()},
              {"held", json::array()}};
  for (const HeldScope& scope : scopes) {
    json since = json::array(), whole = json::array();
    for (const LimitBook::Bucket& bucket : scope.held.buckets) {
      whole.push_back(bucket.level);
      since.push_back(bucket.level - bucket.before);
    }
    out["scopes"].push_back(RulesOf(scope.scope));
    out["held"].push_back({{"r", scope.held.running},
                           {"k", scope.held.buckets[kMinuteBucket].reserved},
                           {"m", scope.held.buckets[kBudgetBucket].reserved},
                           {"since", std::move(since)},
                           {"whole", std::move(whole)}});
  }
  ScriptCall encoded = Encode(caller, out);
  for (const HeldScope& scope : scopes) encoded.keys.push_back(caller.prefix + scope.scope.name);
  encoded.keys.push_back(caller.prefix + "era");
  return encoded;
}

StatusOr<SyncAnswer> DecodeSync(const std::vector<std::string>& reply) {
  SyncAnswer answer;
  if (reply.size() == 3) {
    const std::vector<std::string> counts(reply.begin(), reply.begin() + 2);
    Numbers numbers(counts);
    answer.lost = numbers.Next() != 0;
    answer.replicas = numbers.Next();
    answer.era = reply[2];
    if (numbers.done() && answer.replicas >= 1) return answer;
  }
  return Internal("redis: an answer of another form than this router's script gives");
}

ScriptCall EncodeLeave(const ScriptCaller& caller) {
  return Encode(caller, json::object({{"op", "leave"}}));
}

}  // namespace choir
