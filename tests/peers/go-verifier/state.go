package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/crypto/sha3"
)

// broken is a step or rule that does not hold; index is that of the entry, -1 where it is of none.
type broken struct {
	step    string
	index   int64
	message string
}

const (
	slack   = 5_000
	day     = 86_400_000
	longest = 3_660 * day
)

// grant is one grant of the log: announced, then complete, and named by a destruction.
type grant struct {
	slot                       int64
	id, tag, model             string
	terms                      *terms
	complete, named, destroyed bool
	element                    *[1024]uint16
}

func (g *grant) living() bool { return g.complete && !g.named }

// person is a principal of the log.
type person struct {
	slot                       int64
	roles                      map[string]bool
	complete, named, destroyed bool
}

// operation is what an entry opens: a grant, principal or destroy operation, or a rotation.
type operation struct {
	first      int64
	kind, op   string
	entry      object // its first entry
	slots      []int64
	tags       []string
	voids      []int64
	grants     []*grant
	sought     bool
	seenBefore map[int64]bool // a rotation: the branches that had slots before
}

// state is what the entries so far lead to.
type state struct {
	origin    string
	index     int64
	high      int64
	open      map[int64]*operation
	rotations map[string]*operation // by what: templates, move
	alloc     map[int64]int64
	settings  string
	epoch     int64
	print     string
	prints    map[string]bool
	grants    map[int64]*grant
	byTag     map[string][]*grant
	erased    map[string]bool
	people    map[string]*person
	bySlot    map[int64]*person
	scopes    map[int64]int
	parts     *operation // whose next part is to follow
	last      object     // the part before
	replaces  *duty      // R15
	why       object     // R31: a rotation that is to be followed
	chain     []generation
	restart   object
	adopting  int // the step of the adoption; 0 outside of one
	matching  object
	regions   map[string]bool
	asked     map[string]*asking
}

// duty is a destruction that must follow a completion, and the predecessors that it ends.
type duty struct {
	op    string
	by    any
	slots map[int64]bool
}

// generation is the two keys in force from an entry on.
type generation struct {
	from int64
	keys [2]*key
}

// asking counts the decisions of one day (SPEC §7.1).
type asking struct{ count, failures, last, first int64 }

func newState(origin string) *state {
	return &state{origin: origin, open: map[int64]*operation{}, rotations: map[string]*operation{}, alloc: map[int64]int64{0: 16},
		prints: map[string]bool{}, grants: map[int64]*grant{}, byTag: map[string][]*grant{}, erased: map[string]bool{},
		people: map[string]*person{}, bySlot: map[int64]*person{}, scopes: map[int64]int{}, asked: map[string]*asking{}}
}

// must panics with the rule where it does not hold.
func (s *state) must(holds bool, rule, message string, with ...any) {
	if !holds {
		panic(&broken{rule, s.index, fmt.Sprintf(message, with...)})
	}
}

// roleActions is the table of SPEC §11.3.
var roleActions = map[string]string{
	"service":   "identify verify",
	"registrar": "enroll grant renew withdraw",
	"operator":  "backup check clock enroll grant keys maintain principals renew restore settings shred status subjects withdraw",
	"auditor":   "check log status",
	"dpo":       "log shred status subjects withdraw",
}

func (p *person) may(actions string) bool {
	for role := range p.roles {
		for _, action := range strings.Fields(roleActions[role]) {
			for _, wanted := range strings.Fields(actions) {
				if action == wanted {
					return true
				}
			}
		}
	}
	return false
}

// needs is what an entry takes (R12); empty where that is judged elsewhere.
func needs(e object) string {
	op := text(e, "op")
	switch text(e, "type") {
	case "decision":
		return op
	case "grant":
		switch op {
		case "reseal":
			return "keys"
		case "adopt":
			return "restore"
		}
		return op
	case "principal":
		return "principals"
	case "destroy":
		return map[string]string{"revoke": "principals", "shred": "shred", "expire": "shred", "withdraw": "withdraw", "extend": "enroll grant renew keys", "rotate": "keys"}[op]
	case "settings", "clock", "backup", "restore":
		return text(e, "type")
	case "rotation", "rotated", "signing":
		return "keys"
	case "checkpoint":
		return "log maintain"
	case "restarted":
		return "restore"
	}
	return ""
}

// hand judges R11 and R12.
func (s *state) hand(e object) {
	kind, op := text(e, "type"), text(e, "op")
	if kind == "genesis" || kind == "restart" || kind == "granted" || kind == "destroyed" || kind == "destroy" && (op == "void" || op == "renew" || op == "reseal") {
		return
	}
	if e["by"] == nil {
		anybody := s.adopting > 0
		for _, p := range s.people {
			anybody = anybody || p.complete
		}
		s.must(kind == "principal" && (!anybody || s.adopting == 1), "R11", "by is null")
		return
	}
	p := s.people[text(e, "by")]
	s.must(p != nil && p.complete && !p.named, "R11", "%s is no principal who may act", text(e, "by"))
	s.must(p.may(needs(e)), "R12", "no role of %s allows it", text(e, "by"))
}

// setDigest is that of SPEC §6.4.
func setDigest(set []*grant) string {
	var sum [1024]uint16
	for _, g := range set {
		if g.element == nil {
			g.element = &[1024]uint16{}
			id, _ := hex.DecodeString(g.id)
			message := binary.BigEndian.AppendUint64([]byte(domain("set-element")), uint64(g.slot))
			var out [2048]byte
			sha3.ShakeSum128(out[:], append(message, id...))
			for at := range g.element {
				g.element[at] = binary.LittleEndian.Uint16(out[2*at:])
			}
		}
		for at := range sum {
			sum[at] += g.element[at]
		}
	}
	message := []byte(domain("set"))
	for _, each := range sum {
		message = binary.LittleEndian.AppendUint16(message, each)
	}
	digest := sha256.Sum256(message)
	return hex.EncodeToString(digest[:])
}

func domain(label string) string { return "facekeep/v1/" + label + "\x00" }

// expand returns every slot of ranges, at most what grants there can be, for a range may be of a whole branch.
func (s *state) expand(ranges []any, rule string) (found []int64) {
	for _, each := range ranges {
		first, count := each.([]any)[0].(int64), each.([]any)[1].(int64)
		for at := first; at < first+count; at++ {
			s.must(s.grants[at] != nil || s.bySlot[at] != nil, rule, "slot %d was not given out", at)
			found = append(found, at)
		}
	}
	return found
}
