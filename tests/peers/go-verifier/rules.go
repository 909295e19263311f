package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// replay judges all rules but R10's last, entry by entry.
func replay(bodies [][]byte, origin string, given []*key) (s *state, err *broken) {
	s = newState(origin)
	defer func() {
		if found := recover(); found != nil {
			var known bool
			if err, known = found.(*broken); !known {
				panic(found)
			}
		}
	}()
	for at, body := range bodies {
		s.index = int64(at)
		e := parseEntry(body)
		s.replacing(e)
		s.must(e != nil, "L4", "not an entry")
		s.step(e)
	}
	s.index = int64(len(bodies))
	s.replacing(nil)
	s.index--
	s.must(len(bodies) > 0, "R1", "there is no entry")
	s.must(s.parts == nil, "R4", "the last entry ends an operation half-way")
	s.must(s.why == nil, "R31", "the last entry is a rotation that does not follow")
	s.must(s.adopting == 0, "R35", "the adoption has no end")
	s.must(s.restart == nil || trusted(s.chain, given), "R35", "no generation of the keys is trusted")
	return s, nil
}

func (s *state) step(e object) {
	kind, op := text(e, "type"), text(e, "op")
	denial := kind == "decision" && e["allow"] == false
	s.must((kind == "genesis" || kind == "restart") == (s.index == 0), "R1", "%s is entry %d", kind, s.index)
	time := num(e, "time_ms")
	s.must(kind == "clock" || denial || s.index == 0 || time >= s.high-slack, "R2", "dated %d, after %d", time, s.high)
	s.follows(e, kind, op)
	if !denial {
		s.hand(e)
	}
	switch kind {
	case "genesis", "restart":
		s.found(e)
	case "restarted":
		s.restarted(e)
	case "grant":
		s.grant(e, op)
	case "principal":
		s.principal(e)
	case "granted", "destroyed":
		s.complete(e, kind)
	case "destroy":
		s.destroy(e, op)
	case "decision":
		if !denial {
			s.decision(e, op)
		}
	case "settings":
		s.must(e["previous"] == s.settings, "R9", "previous is not the digest in force")
		s.settings = text(e, "digest")
		s.limits(e)
	case "rotation":
		s.rotation(e)
	case "rotated":
		s.rotated(e)
	case "signing":
		s.signing(e)
	case "checkpoint":
		s.must(num(e, "size") <= s.index, "R34", "size is above the entry's index")
	case "backup":
		s.must(num(e, "size") <= s.index, "R29", "size is above the entry's index")
	case "clock":
		s.must(num(e, "high_ms") == s.high && time < s.high-slack, "R3", "it sets nothing back that there is")
		s.high, s.asked = time, map[string]*asking{}
	case "restore":
		s.restore(e)
	}
	if time > s.high {
		s.high = time
	}
}

// replacing judges what follows the completion of grants (R15).
func (s *state) replacing(e object) {
	due := s.replaces
	if due == nil || s.parts != nil {
		return
	}
	if e == nil || e["type"] != "destroy" || e["op"] != due.op || e["by"] != due.by {
		panic(&broken{"R15", s.index - 1, "the predecessor is not ended next, by the same hand"})
	}
}

// follows judges what may stand at this place: R4, R15, R31, R35.
func (s *state) follows(e object, kind, op string) {
	if s.parts != nil {
		whole := kind == s.parts.kind && op == s.parts.op && num(e, "parts") == num(s.last, "parts") && num(e, "part") == num(s.last, "part")+1
		s.must(whole && e["by"] == s.last["by"] && e["time_ms"] == s.last["time_ms"], "R4", "the next part of operation %d is missing", s.parts.first)
		return
	}
	s.must(e["part"] == nil || num(e, "part") == 1, "R4", "the first part is missing")
	ends := kind == "destroy" && (op == "renew" || op == "reseal")
	s.must(!ends || s.replaces != nil, "R15", "it follows no completion of grants that had predecessors")
	if s.why != nil {
		next := kind == "signing"
		if s.why["what"] != "signing" {
			next = kind == "destroy" && op == "rotate"
		}
		s.must(next && e["by"] == s.why["by"], "R31", "the rotation is not followed by what it announces")
	} else {
		s.must(kind != "signing" || s.adopting > 0, "R31", "no rotation says why")
		s.must(!(kind == "destroy" && op == "rotate") || len(s.rotations) > 0, "R31", "no rotation says why")
	}
	s.why = nil
	if s.adopting > 0 {
		s.adoption(e, kind, op)
	} else {
		s.must(kind != "restarted" && !(kind == "grant" && op == "adopt"), "R35", "nothing is adopted here")
	}
}

// adoption judges the order of §6.6. Its steps: 1 principals, 2 signing, 3 grants, and what completes them.
func (s *state) adoption(e object, kind, op string) {
	for first, open := range s.open {
		s.must(kind == "granted" && num(e, "of") == first && e["by"] == open.entry["by"], "R35", "operation %d is not completed next, by its own hand", first)
		return
	}
	by := s.restart["by"]
	switch {
	case kind == "principal" && s.adopting == 1:
		s.must(e["by"] == nil, "R35", "a principal is adopted by somebody")
	case kind == "signing" && s.adopting <= 2:
		s.adopting = 2
	case kind == "grant" && op == "adopt":
		s.adopting = 3
	case kind == "restarted":
	default:
		s.must(false, "R35", "%s stands in the adoption", kind)
	}
	s.must(kind == "principal" || e["by"] == by, "R35", "it is not of the hand of the restart")
}

func (s *state) found(e object) {
	s.must(s.origin == "facekeep/"+text(e, "vault"), "R1", "it is of another vault")
	s.must(e["type"] == "restart" || e["by"] == nil && num(e, "epoch") == 1, "R1", "by or epoch")
	s.settings, s.epoch, s.print = text(e, "settings"), num(e, "epoch"), text(e, "fingerprint")
	s.prints[s.print] = true
	s.limits(e)
	if e["type"] == "restart" {
		s.must(restartSigned(e, s.origin), "R35", "the signatures do not verify")
		s.restart, s.adopting = e, 1
	}
}

func (s *state) limits(e object) {
	if found, there := e["matching"]; there {
		s.matching = found.(object)
	}
	if found, there := e["regions"]; there {
		s.regions = map[string]bool{}
		for _, code := range found.([]any) {
			s.regions[code.(string)] = true
		}
	}
}

func (s *state) restarted(e object) {
	closed := map[int64]bool{}
	for _, branch := range list(e, "closed") {
		closed[branch.(int64)], s.alloc[branch.(int64)] = true, branchSlots
	}
	for branch := range s.scopes {
		s.must(closed[branch], "R35", "branch %d is not closed", branch)
	}
	s.must(num(e, "next") >= s.alloc[0], "R35", "next is below what was given out")
	s.alloc[0] = num(e, "next")
	if len(s.chain) == 0 {
		s.chain = []generation{{0, keysOf(s.restart, "keys")}}
	}
	s.must(sameKeys(s.chain[len(s.chain)-1].keys, keysOf(s.restart, "keys")), "R35", "the keys of the restart are not in force")
	s.adopting = 0
}

// opened starts an operation, or goes on with the one whose part this is.
func (s *state) opened(e object, kind, op string) *operation {
	o := s.parts
	if o == nil {
		o = &operation{first: s.index, kind: kind, op: op, entry: e}
	}
	s.last, s.parts = e, nil
	if e["part"] != nil && num(e, "part") < num(e, "parts") {
		s.parts = o
	} else {
		s.open[o.first] = o
	}
	return o
}

// allocate judges R5.
func (s *state) allocate(slot int64) {
	branch, index := slot>>21, slot&(1<<21-1)
	s.must(index >= s.alloc[branch], "R5", "slot %d is not above those given out", slot)
	s.alloc[branch] = index + 1
}

func (s *state) principal(e object) {
	id, slot := text(e, "principal"), num(e, "slot")
	s.must(s.people[id] == nil, "R11", "principal %s is there", id)
	s.must(slot>>21 == 0, "R5", "a principal outside branch 0")
	s.allocate(slot)
	p := &person{slot: slot, roles: map[string]bool{}}
	for _, role := range list(e, "roles") {
		s.must(roleActions[role.(string)] != "", "R12", "%s is no role", role)
		p.roles[role.(string)] = true
	}
	s.people[id], s.bySlot[slot] = p, p
	o := s.opened(e, "principal", "")
	o.slots = []int64{slot}
}

func (s *state) grant(e object, op string) {
	o := s.opened(e, "grant", op)
	time := num(e, "time_ms")
	for _, item := range list(e, "grants") {
		each := item.(object)
		g := &grant{slot: num(each, "slot"), id: text(each, "grant"), tag: text(each, "tag"), model: text(each, "model"), terms: parseTerms(text(each, "terms"))}
		s.must(g.slot>>21 != 0, "R5", "a grant in branch 0")
		s.must(g.terms != nil, "R13", "terms are not well-formed")
		s.must(op == "adopt" || g.terms.until > uint64(time), "R13", "the grant has lapsed")
		s.must(g.terms.until <= uint64(time+longest+slack), "R13", "the grant does not end")
		s.must(!s.erased[g.tag], "R19", "the subject was erased")
		s.source(g, each["from"], op, time)
		branch := g.slot >> 21
		s.allocate(g.slot)
		if _, known := s.scopes[branch]; !known {
			s.scopes[branch] = g.terms.scope
		}
		s.must(s.scopes[branch] == g.terms.scope, "R5", "the branch is of another scope")
		o.grants, o.slots = append(o.grants, g), append(o.slots, g.slot)
		s.grants[g.slot] = g
		s.byTag[g.tag] = append(s.byTag[g.tag], g)
	}
}

// source judges R14 and R32.
func (s *state) source(g *grant, from any, op string, time int64) {
	if from == nil {
		s.must(op == "enroll" || op == "adopt", "R14", "from is null")
		return
	}
	old := s.grants[from.(int64)]
	s.must(op != "adopt" && old != nil && old.living(), "R14", "from is no living grant")
	s.must(old.tag == g.tag && old.model == g.model && old.terms.dimension == g.terms.dimension && old.terms.metric == g.terms.metric, "R14", "from is of another subject, model, dimension or metric")
	s.must(op == "grant" || old.terms.scope == g.terms.scope, "R14", "from is of another scope")
	s.must(g.terms.count == old.terms.count || op == "enroll" && g.terms.count > old.terms.count, "R14", "another number of templates than from")
	s.must(op != "grant" || old.terms.window(time, slack), "R14", "outside the window of from")
	if op != "reseal" {
		return
	}
	rotation := s.rotations["templates"]
	s.must(rotation != nil && selects(rotation.entry, old), "R32", "no rotation selects it")
	s.must(bytes.Equal(old.terms.raw[:56], g.terms.raw[:56]), "R32", "other terms than those of from")
	s.must(!rotation.seenBefore[g.slot>>21], "R32", "the branch is not new")
}

// selects says whether a rotation of templates re-seals a grant.
func selects(rotation object, g *grant) bool {
	if rotation["model"] != nil && rotation["model"] != g.model {
		return false
	}
	for _, pair := range list(rotation, "below") {
		if pair.([]any)[0] == g.slot>>21 && g.slot&(1<<21-1) < pair.([]any)[1].(int64) {
			return true
		}
	}
	return false
}

func (s *state) complete(e object, kind string) {
	o := s.open[num(e, "of")]
	s.must(o != nil && (o.kind == "destroy") == (kind == "destroyed"), "R6", "no such operation is open")
	s.must(e["by"] == nil || e["by"] == o.entry["by"], "R6", "it is of another hand")
	delete(s.open, o.first)
	if kind == "destroyed" {
		s.destroyed(e, o)
		return
	}
	if o.kind == "principal" {
		s.bySlot[o.slots[0]].complete = true
		return
	}
	due := &duty{op: "reseal", by: e["by"], slots: map[int64]bool{}}
	if o.op == "renew" {
		due.op = "renew"
	}
	for at, g := range o.grants {
		for _, other := range o.grants[:at] {
			s.must(other.tag != g.tag || other.terms.scope != g.terms.scope, "R15", "two grants of one subject and scope")
		}
		for _, old := range s.byTag[g.tag] {
			if !g.named && old.living() && old.terms.scope == g.terms.scope {
				due.slots[old.slot] = true
			}
		}
	}
	for _, g := range o.grants {
		g.complete = true
	}
	s.must(s.adopting == 0 || len(due.slots) == 0, "R35", "two grants of one subject and scope are adopted")
	if len(due.slots) > 0 {
		s.replaces = due
	}
}

func (s *state) destroyed(e object, o *operation) {
	s.must(num(e, "epoch") > s.epoch && e["previous"] == s.print, "R8", "it does not continue the chain of root keys")
	s.must(!s.prints[text(e, "fingerprint")], "R8", "a fingerprint returns")
	s.must(hasReceipt(e), "R8", "no receipt says that a root was destroyed")
	s.epoch, s.print = num(e, "epoch"), text(e, "fingerprint")
	s.prints[s.print] = true
	for _, slot := range o.slots {
		if g := s.grants[slot]; g != nil {
			g.destroyed = true
		} else {
			s.bySlot[slot].destroyed = true
		}
	}
}

func hasReceipt(e object) bool {
	for _, each := range list(e, "receipts") {
		if each.(object)["action"] == "destroyed" {
			return true
		}
	}
	return false
}

func (s *state) rotation(e object) {
	what := text(e, "what")
	if what != "templates" && what != "move" {
		s.why = e
		return
	}
	s.must(s.rotations[what] == nil, "R31", "such a rotation is open")
	o := &operation{first: s.index, entry: e, seenBefore: map[int64]bool{}}
	for branch := range s.scopes {
		o.seenBefore[branch] = true
	}
	s.rotations[what] = o
}

func (s *state) rotated(e object) {
	for what, o := range s.rotations {
		if o.first != num(e, "of") {
			continue
		}
		left := int64(0)
		for _, g := range s.grants {
			if what == "templates" && g.living() && selects(o.entry, g) {
				left++
			}
		}
		s.must(num(e, "left") == left, "R33", "%d grants are left", left)
		delete(s.rotations, what)
		return
	}
	s.must(false, "R31", "no such rotation is open")
}

func (s *state) living(want func(*grant) bool) (found []*grant) {
	for _, g := range s.grants {
		if g.living() && want(g) {
			found = append(found, g)
		}
	}
	return found
}

func (s *state) restore(e object) {
	s.must(num(e, "merged")+num(e, "dead")+num(e, "present")+num(e, "refused") == num(e, "rows"), "R30", "the rows do not add up")
	all := len(s.living(func(*grant) bool { return true }))
	s.must(num(e, "merged")+num(e, "missing") <= int64(all), "R30", "more than the living grants")
}

func (s *state) decision(e object, op string) {
	time, code := num(e, "time_ms"), text(e, "region")
	templates := uint16(1)
	if op == "verify" {
		g := s.grants[num(e, "slot")]
		s.must(g != nil && g.living(), "R22", "no grant that is complete and not destroyed")
		s.must(e["scope"] == "verify" && g.terms.scope == 2 && g.tag == e["tag"] && g.model == e["model"], "R23", "the grant is of another subject, scope or model")
		s.must(g.terms.window(time, 0), "R24", "outside the grant's window")
		s.must(g.terms.covers(code), "R25", "the grant does not cover %s", code)
		templates = g.terms.count
	} else {
		s.search(e, time, code)
	}
	s.must(s.regions == nil || s.regions[code], "R37", "the settings do not allow %s", code)
	if s.matching != nil && !s.people[text(e, "by")].may("settings") {
		s.bound(e, op, templates)
		s.brake(e, op, time)
	}
	s.count(e, op, time)
}

func (s *state) search(e object, time int64, code string) {
	s.must(e["scope"] == "identify", "R26", "a search in another scope")
	omitted := map[int64]bool{}
	for _, slot := range s.expand(list(e, "omitted"), "R28") {
		omitted[slot] = true
		g := s.grants[slot]
		s.must(g != nil && g.living() && g.terms.scope == 3, "R28", "slot %d of omitted is of no living grant", slot)
	}
	all := s.living(func(g *grant) bool { return g.terms.scope == 3 })
	var set []*grant
	members := map[int64]bool{}
	for _, g := range all {
		if g.terms.window(time, 0) && g.terms.covers(code) && g.model == e["model"] && !omitted[g.slot] {
			set, members[g.slot] = append(set, g), true
		}
	}
	s.must(num(e, "count") == int64(len(set)) && e["set"] == setDigest(set), "R26", "another set was compared")
	for _, slot := range list(e, "candidates") {
		s.must(members[slot.(int64)], "R27", "slot %d was not compared", slot)
	}
	s.must(num(e, "excluded") == int64(len(all)-len(set)), "R28", "excluded is not what was left out")
}

// bound judges R36.
func (s *state) bound(e object, op string, templates uint16) {
	name := "thresholds"
	if op == "identify" {
		name = "search_thresholds"
	}
	var found []any
	for _, each := range list(s.matching, name) {
		if each.([]any)[0] == e["model"] {
			found = each.([]any)
		}
	}
	s.must(found != nil, "R36", "the model has no limits")
	limit := num(e, "threshold_e6")
	if op == "verify" {
		s.must(templates > 1 && limit == found[2] || templates == 1 && limit == found[1], "R36", "another limit")
	} else {
		mean := limit
		if e["mean_e6"] != nil {
			mean = num(e, "mean_e6")
		}
		s.must(limit == found[1] && mean == found[2], "R36", "another limit")
		s.must(int64(len(list(e, "candidates"))) <= num(s.matching, "top"), "R36", "more than top candidates")
	}
	s.must(e["score"] == nil || s.matching["scores"] == true, "R36", "distances left")
}

func asker(e object, op string, time int64) string {
	return fmt.Sprint(time/day, " ", op, " ", e["by"], " ", e["tag"])
}

// brake judges R38.
func (s *state) brake(e object, op string, time int64) {
	a := s.asked[asker(e, op, time)]
	if a == nil || s.index-a.first >= 65536 {
		return
	}
	name := "asks"
	if op == "identify" {
		name = "searches"
	}
	most := num(s.matching, name)
	s.must(most == 0 || a.count < most, "R38", "asked %d times this day", a.count)
	from := num(s.matching, "failures")
	if op != "verify" || from == 0 || a.failures < from {
		return
	}
	pause, longest := num(s.matching, "pause_s"), num(s.matching, "longest_s")
	for n := from; n < a.failures && pause < longest; n++ {
		pause *= 2
	}
	if pause > longest {
		pause = longest
	}
	s.must(time-a.last >= pause*1000, "R38", "%d ms after a failure", time-a.last)
}

func (s *state) count(e object, op string, time int64) {
	name := asker(e, op, time)
	a := s.asked[name]
	if a == nil {
		a = &asking{first: s.index}
		s.asked[name] = a
	}
	a.count++
	if time > a.last {
		a.last = time
	}
	if a.failures++; e["result"] != "no_match" {
		a.failures = 0
	}
}

// --- keys (SPEC §6.6, §10.8) ---

func keysOf(e object, name string) (found [2]*key) {
	for at, each := range list(e, name) {
		found[at], _ = parseKey(each.(string))
	}
	return found
}

func sameKeys(a, b [2]*key) bool { return a[0].text == b[0].text && a[1].text == b[1].text }

// signaturesHold verifies the signatures of an entry by keys, in their order; all are named as the origin.
func signaturesHold(e object, label, origin string, keys ...*key) bool {
	message := []byte(domain(label) + encodeCanonical(without(e, "signatures")))
	for at, k := range keys {
		body, _ := hex.DecodeString(list(e, "signatures")[at].(string))
		if k.name != origin || !signedBytes(k, message, body) {
			return false
		}
	}
	return true
}

func restartSigned(e object, origin string) bool {
	keys := keysOf(e, "keys")
	return signaturesHold(e, "restart", origin, keys[:]...)
}

func signingHolds(e object, origin string) bool {
	old, new := keysOf(e, "previous"), keysOf(e, "keys")
	return old[0].text != new[0].text && old[1].text != new[1].text && signaturesHold(e, "signing", origin, old[0], old[1], new[0], new[1])
}

func (s *state) signing(e object) {
	s.must(signingHolds(e, s.origin), "R10", "its keys or signatures do not hold")
	old := keysOf(e, "previous")
	if len(s.chain) == 0 {
		s.chain = []generation{{0, old}}
	}
	s.must(sameKeys(s.chain[len(s.chain)-1].keys, old), "R10", "previous are not the keys in force")
	s.must(num(e, "generation") == int64(len(s.chain))+1, "R10", "another generation")
	s.chain = append(s.chain, generation{s.index + 1, keysOf(e, "keys")})
}

// trusted says whether a generation of a chain is trusted under the given keys.
func trusted(chain []generation, given []*key) bool {
	for _, g := range chain {
		seen, whole := false, true
		for _, k := range g.keys {
			wanted, there := false, false
			for _, each := range logKeys(given, k.name) {
				wanted = wanted || each.kind == k.kind
				there = there || each.text == k.text
			}
			seen, whole = seen || there, whole && (!wanted || there)
		}
		if seen && whole {
			return true
		}
	}
	return false
}

// inForce returns the keys of a chain for a size, and the chain up to them.
func inForce(chain []generation, size int64) (keys []*key, until []generation) {
	for _, g := range chain {
		if g.from <= size || len(until) == 0 {
			keys, until = []*key{g.keys[0], g.keys[1]}, append(until, g)
		}
	}
	return keys, until
}

// chainOf reads the generations of entries, to open a checkpoint with; one that does not verify leads nowhere.
func chainOf(bodies [][]byte, origin string) (found []generation) {
	for at, body := range bodies {
		if at > 0 && !bytes.Contains(body, []byte(`"type":"signing"`)) {
			continue
		}
		e := parseEntry(body)
		if e == nil || e["type"] != "signing" {
			continue
		}
		if !signingHolds(e, origin) || len(found) > 0 && !sameKeys(found[len(found)-1].keys, keysOf(e, "previous")) {
			break
		}
		if len(found) == 0 {
			found = []generation{{0, keysOf(e, "previous")}}
		}
		found = append(found, generation{int64(at) + 1, keysOf(e, "keys")})
	}
	if e := parseEntry(bodies[0]); len(found) == 0 && e != nil && e["type"] == "restart" && restartSigned(e, origin) {
		found = []generation{{0, keysOf(e, "keys")}}
	}
	return found
}
