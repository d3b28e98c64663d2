// Which request is next.
#include <algorithm>
#include <cmath>

#include "router/admission/admission.h"

namespace choir {

uint64_t Admission::HeldBy(AdmissionClass c) const {
  const ClassState& state = At(c);
  return state.entered + state.queue.size() + state.running;
}

bool Admission::AnyPermitLeft(const AdmitRequest& request) const {
  uint64_t kept = 0;
  for (const AdmissionClass other : kAdmissionClasses) {
    if (other == request.admission_class || request.resumed) continue;
    const uint64_t part = requests_max_ / 16;
    kept += part - std::min(part, HeldBy(other));
  }
  return held_ + kept < requests_max_;
}

// Sequences that can be given to ranks now: free seats, and a few that wait there so that no seat
// stays empty. Negative when a request had more choices than there was room.
int64_t Admission::FreePlaces() const {
  const uint64_t waiting_there = config_.ahead * capacity_.ranks;
  const uint64_t ahead = waiting_there - std::min(waiting_there, capacity_.over);
  return static_cast<int64_t>(capacity_.free + ahead) - static_cast<int64_t>(unplaced_sequences_);
}

// What of its floor the class does not use.
uint64_t Admission::KeptFor(AdmissionClass c) const {
  const uint64_t floor = config_.of(c).floor.Of(Places());
  return floor - std::min(floor, At(c).running_sequences);
}

uint64_t Admission::KeptFromOthersThan(AdmissionClass c) const {
  uint64_t kept = 0;
  for (const AdmissionClass other : kAdmissionClasses) kept += other == c ? 0 : KeptFor(other);
  return kept;
}

// One that has more choices than the ceiling allows at all runs alone.
bool Admission::UnderCeiling(AdmissionClass c, uint64_t sequences) const {
  const ClassState& state = At(c);
  if (state.running_sequences == 0) return true;
  const Amount& ceiling = config_.of(c).ceiling;
  if (!capacity_.bounded && ceiling.is_share) return true;
  return state.running_sequences + sequences <= ceiling.Of(Places());
}

// How many requests of one choice could start now.
uint64_t Admission::RoomOf(AdmissionClass c) const {
  uint64_t room = UINT64_MAX;
  const Amount& ceiling = config_.of(c).ceiling;
  if (capacity_.bounded || !ceiling.is_share) {
    const uint64_t most = ceiling.Of(Places());
    room = most - std::min(most, At(c).running_sequences);
  }
  if (!capacity_.bounded) return capacity_.ranks == 0 ? 0 : room;
  const int64_t free = FreePlaces() - static_cast<int64_t>(KeptFromOthersThan(c));
  return std::min(room, static_cast<uint64_t>(std::max<int64_t>(free, 0)));
}

bool Admission::FitsKv(const RequestWork& work) const {
  return capacity_.kv_free >= unplaced_tokens_ &&
         work.prompt <= capacity_.kv_free - unplaced_tokens_;
}

// What is next of the class; null: nobody of it waits.
const RequestWork* Admission::FirstOf(AdmissionClass c, const Guest* guest) const {
  if (guest != nullptr && guest->admission_class == c) return &guest->work;
  const FairQueue::Entry* const front = At(c).queue.front();
  return front == nullptr ? nullptr : &static_cast<const Permit::Place*>(front)->permit->work_;
}

void Admission::NotePassedOver(std::optional<AdmissionClass> chosen, MonoTime now) {
  const bool places = capacity_.ranks > 0 && (!capacity_.bounded || FreePlaces() > 0);
  for (const AdmissionClass c : kAdmissionClasses) {
    ClassState& state = At(c);
    if (state.queue.size() == 0 || c == chosen || state.passed_over_since) continue;
    if (chosen || (places && state.running_sequences == 0)) state.passed_over_since = now;
  }
}

// The class that was passed over longest beyond its ageing. Its first one may take what is kept for
// others, but no more: floors hold.
std::optional<AdmissionClass> Admission::ChooseAged(int64_t free, const Guest* guest,
                                                    MonoTime now) const {
  std::optional<AdmissionClass> chosen;
  Duration most(-1);
  for (const AdmissionClass c : kAdmissionClasses) {
    const ClassState& state = At(c);
    const RequestWork* const first = FirstOf(c, guest);
    if (first == nullptr || !state.passed_over_since) continue;
    const Duration over = now - *state.passed_over_since - config_.of(c).ageing;
    if (over < Duration(0) || over <= most || !UnderCeiling(c, first->choices)) continue;
    const bool may =
        state.running_sequences == 0 || free > static_cast<int64_t>(KeptFromOthersThan(c));
    if (!may) continue;
    chosen = c;
    most = over;
  }
  return chosen;
}

// First whoever was passed over for too long; then classes below their floors, then all others as
// far as floors leave room, both from the highest class down. Who is not let for its prompt's size
// is waited for by the classes below it, or it would wait for ever.
std::optional<Admission::Choice> Admission::Choose(MonoTime now, const Guest* guest) const {
  if (capacity_.ranks == 0 || (expiries_.empty() && guest == nullptr)) return std::nullopt;
  const int64_t free = capacity_.bounded ? FreePlaces() : INT64_MAX;
  // With nothing of ours there, reports may be of a time that is over, or of other routers' work.
  const bool alone = sequences_ == 0;
  if (free < 1 && !alone) return std::nullopt;
  if (const auto aged = ChooseAged(free, guest, now)) return Choice{*aged, true};
  for (const bool below_floor : {true, false}) {
    for (const AdmissionClass c : kAdmissionClasses) {
      const RequestWork* const first = FirstOf(c, guest);
      if (first == nullptr || !UnderCeiling(c, first->choices)) continue;
      const bool may =
          below_floor ? KeptFor(c) > 0 : free > static_cast<int64_t>(KeptFromOthersThan(c));
      if (!may && !(alone && !below_floor)) continue;
      if (FitsKv(*first) || alone) return Choice{c, false};
      if (!below_floor) return std::nullopt;
    }
  }
  return std::nullopt;
}

MonoTime Admission::NextTimer(MonoTime now) const {
  if (expiries_.empty()) return MonoTime::max();
  MonoTime next = expiries_.begin()->first.first;
  for (const AdmissionClass c : kAdmissionClasses) {
    const ClassState& state = At(c);
    if (state.queue.size() == 0 || !state.passed_over_since) continue;
    const MonoTime ages = *state.passed_over_since + config_.of(c).ageing;
    if (ages > now) next = std::min(next, ages);
  }
  return next;
}

}  // namespace choir
