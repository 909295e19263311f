package main

import (
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"strings"
)

// A check says whether a value has a form.
type check func(any) bool

// form is the keys of an object: those that must be there, and those that may.
type form struct{ must, may map[string]check }

const (
	branchSlots = 1_728_000
	maxGrants   = 16
)

var (
	number   = between(0, maxInteger)
	positive = between(1, maxInteger)
	word     = matching(`[a-z][a-z0-9_-]{0,39}`)
	model    = matching(`[a-z0-9._:/-]{1,40}`)
	scopes   = []string{"", "", "verify", "identify", "evaluate", "train", "share"}
	scope    = oneOf("verify identify evaluate train share")
	hash32   = hexOf(32)
	region   = oneOf(regionCodes)
	parts    = between(1, 1<<32-1)
	ranges   = check(isRanges)
	slot     = check(isSlot)
)

const regionCodes = `
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT
BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH
ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT
HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS
LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI
NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG
SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG
UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
EU ZZ`

const reasons = "ok principal_unknown principal_revoked role subject_unknown scope terms not_before expired withdrawn destroyed region model clock integrity unavailable policy rate"

const union = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"

func between(low, high int64) check {
	return func(v any) bool { n, ok := v.(int64); return ok && low <= n && n <= high }
}

func matching(pattern string) check {
	compiled := regexp.MustCompile(`^(?:` + pattern + `)\z`)
	return func(v any) bool { s, ok := v.(string); return ok && compiled.MatchString(s) }
}

func hexOf(length int) check {
	return func(v any) bool {
		s, ok := v.(string)
		raw, err := hex.DecodeString(s)
		return ok && err == nil && len(raw) == length && strings.ToLower(s) == s
	}
}

func oneOf(words string) check {
	known := map[string]bool{}
	for _, each := range strings.Fields(words) {
		known[each] = true
	}
	return func(v any) bool { s, ok := v.(string); return ok && known[s] }
}

func orNull(c check) check { return func(v any) bool { return v == nil || c(v) } }

func boolean(v any) bool { _, ok := v.(bool); return ok }

func yes(v any) bool { return v == true }

func listOf(low, high int, c check) check {
	return func(v any) bool {
		items, ok := v.([]any)
		if !ok || len(items) < low || len(items) > high {
			return false
		}
		for _, item := range items {
			if !c(item) {
				return false
			}
		}
		return true
	}
}

// ascending is a list of texts or numbers, each above the one before.
func ascending(low, high int, c check) check {
	return func(v any) bool {
		if !listOf(low, high, c)(v) {
			return false
		}
		items := v.([]any)
		for at := 1; at < len(items); at++ {
			if !less(items[at-1], items[at]) {
				return false
			}
		}
		return true
	}
}

// less compares numbers, texts, and the first elements of lists.
func less(a, b any) bool {
	switch first := a.(type) {
	case int64:
		return first < b.(int64)
	case string:
		return first < b.(string)
	}
	return less(a.([]any)[0], b.([]any)[0])
}

// row is a list of exactly these elements.
func row(elements ...check) check {
	return func(v any) bool {
		items, ok := v.([]any)
		if !ok || len(items) != len(elements) {
			return false
		}
		for at, c := range elements {
			if !c(items[at]) {
				return false
			}
		}
		return true
	}
}

func (f form) holds(v any) bool {
	found, ok := v.(object)
	if !ok {
		return false
	}
	count := 0
	for name, c := range f.must {
		item, there := found[name]
		if !there || !c(item) {
			return false
		}
		count++
	}
	for name, c := range f.may {
		if item, there := found[name]; there {
			if !c(item) {
				return false
			}
			count++
		}
	}
	return count == len(found)
}

func isSlot(v any) bool {
	n, ok := v.(int64)
	return ok && n >= 0 && n>>21 < 1<<32 && n&(1<<21-1) < branchSlots
}

func isRanges(v any) bool {
	if !listOf(0, 1000, row(isSlot, positive))(v) {
		return false
	}
	end := int64(-1)
	for _, each := range v.([]any) {
		first, count := each.([]any)[0].(int64), each.([]any)[1].(int64)
		last := first + count - 1
		if first <= end || !isSlot(last) || last>>21 != first>>21 {
			return false
		}
		end = last + 1
	}
	return true
}

// distinct says whether no two values are one.
func distinct(items []any, of func(any) any) bool {
	seen := map[any]bool{}
	for _, item := range items {
		seen[of(item)] = true
	}
	return len(seen) == len(items)
}

func isVkey(kind byte) check {
	return func(v any) bool {
		s, ok := v.(string)
		if !ok {
			return false
		}
		k, err := parseKey(s)
		return err == nil && k.kind == kind
	}
}

var (
	twoKeys  = row(isVkey(typeEd25519), isVkey(typeMLDSA))
	signedBy = []check{hexOf(64), hexOf(mldsaSigned)}
	limits   = check(form{must: map[string]check{"asks": between(0, 1_000_000), "failures": between(0, 1000), "longest_s": between(1, 86400), "pause_s": between(1, 86400), "scores": boolean, "searches": between(0, 10_000_000), "top": between(1, 1000), "thresholds": thresholds, "search_thresholds": thresholds}}.holds)
	allowed  = map[string]check{"matching": limits, "regions": ascending(1, 17, region)}
	provider = form{must: map[string]check{"class": holder, "scheme": word}}.holds
	holder   = oneOf("erasing wrapping mirror recovery")
	pin      = check(form{must: map[string]check{"root": hash32, "size": number}}.holds)
	receipt  = form{must: map[string]check{"class": holder, "scheme": word, "action": word, "limits": ascending(0, 32, word)}}.holds
	element  = form{must: map[string]check{"slot": slot, "grant": hexOf(16), "tag": hash32, "commitment": hash32, "terms": hexOf(88), "model": model, "from": orNull(slot)}}.holds
	common   = map[string]check{"v": between(1, 1), "type": anything, "nonce": hexOf(16), "time_ms": number, "by": orNull(hexOf(8))}
	asked    = map[string]check{"op": anything, "allow": boolean, "reason": oneOf(reasons), "scope": scope, "region": region, "model": model}
	answered = map[string]check{"threshold_e6": number, "result": oneOf("match no_match")}
	founding = map[string]check{"vault": hexOf(16), "suite": between(1, 1), "epoch": positive, "fingerprint": hash32, "provider": provider, "settings": hash32}
	branch   = between(1, 1<<32-1)
)

func thresholds(v any) bool { return ascending(0, 34, row(model, number, number))(v) }

func anything(any) bool { return true }

// entryForms has the further keys of each type (SPEC §6.1, §6.2, §6.6, §10.8).
var entryForms = map[string]form{
	"genesis":    {founding, allowed},
	"restart":    {merged(founding, map[string]check{"by": hexOf(8), "pin": pin, "seen": orNull(pin), "keys": twoKeys, "signatures": row(signedBy...)}), allowed},
	"restarted":  {map[string]check{"closed": ascending(0, 120, branch), "next": between(16, branchSlots), "left": number}, nil},
	"grant":      {map[string]check{"op": oneOf("enroll grant renew reseal adopt"), "part": parts, "parts": parts, "grants": listOf(1, maxGrants, element)}, nil},
	"principal":  {map[string]check{"principal": hexOf(8), "slot": slot, "grant": hexOf(16), "commitment": hash32, "roles": ascending(1, 16, word)}, nil},
	"granted":    {map[string]check{"of": number}, nil},
	"destroy":    {map[string]check{"op": oneOf("shred withdraw renew reseal revoke expire void extend rotate"), "part": parts, "parts": parts, "slots": ranges, "tags": ascending(0, 400, hash32), "voids": ascending(0, 400, number)}, map[string]check{"sought": hexOf(16)}},
	"destroyed":  {map[string]check{"of": number, "epoch": positive, "fingerprint": hash32, "previous": hash32, "receipts": listOf(0, 16, receipt)}, nil},
	"settings":   {map[string]check{"digest": hash32, "previous": hash32}, allowed},
	"rotation":   {map[string]check{"what": oneOf("root tree templates signing move"), "reason": oneOf("scheduled compromise departure migration algorithm drill other"), "below": ascending(0, 120, row(branch, between(1, branchSlots))), "model": orNull(model)}, nil},
	"rotated":    {map[string]check{"of": number, "left": number}, nil},
	"signing":    {map[string]check{"generation": between(2, 1<<32-1), "previous": twoKeys, "keys": twoKeys, "signatures": row(append(append([]check{}, signedBy...), signedBy...)...)}, nil},
	"checkpoint": {map[string]check{"sha256": hash32, "size": positive}, nil},
	"clock":      {map[string]check{"high_ms": number}, nil},
	"backup":     {map[string]check{"rows": number, "sha256": hash32, "size": positive}, nil},
	"restore":    {map[string]check{"sha256": hash32, "rows": number, "merged": number, "dead": number, "present": number, "refused": number, "missing": number}, nil},
}

// decisionForms has the further keys of a decision, by whether it allows and its op (SPEC §6.2).
var decisionForms = map[bool]map[string]form{
	false: {
		"verify":   {asked, map[string]check{"tag": hash32, "slot": slot}},
		"identify": {asked, nil},
	},
	true: {
		"verify":   {merged(asked, answered, map[string]check{"tag": hash32, "slot": slot}), map[string]check{"score": yes}},
		"identify": {merged(asked, answered, map[string]check{"count": number, "set": hash32, "candidates": listOf(0, 1000, slot), "excluded": number, "omitted": ranges}), map[string]check{"mean_e6": number, "most": positive, "score": yes}},
	},
}

func merged(maps ...map[string]check) map[string]check {
	found := map[string]check{}
	for _, each := range maps {
		for name, c := range each {
			found[name] = c
		}
	}
	return found
}

// parseEntry parses an entry that has the form of its type; nil where it has not.
func parseEntry(body []byte) object {
	if len(body) > 65535 {
		return nil
	}
	v, err := parseCanonical(body)
	e, ok := v.(object)
	if err != nil || !ok {
		return nil
	}
	kind, _ := e["type"].(string)
	f, known := entryForms[kind]
	if kind == "decision" {
		f, known = decisionForms[e["allow"] == true][text(e, "op")]
	}
	if !known || !(form{merged(common, f.must), f.may}).holds(e) || !relations(kind, e) {
		return nil
	}
	return e
}

// relations holds what §6.1 and §6.2 say of several keys of one entry.
func relations(kind string, e object) bool {
	if e["part"] != nil && num(e, "part") > num(e, "parts") {
		return false
	}
	switch kind {
	case "decision":
		return decisionHolds(e)
	case "grant":
		return distinct(list(e, "grants"), func(v any) any { return v.(object)["slot"] })
	case "destroy":
		if text(e, "op") == "void" && len(list(e, "voids")) == 0 {
			return false
		}
		if _, there := e["sought"]; there {
			op := text(e, "op")
			return (op == "shred" || op == "withdraw") && len(list(e, "slots"))+len(list(e, "tags"))+len(list(e, "voids")) == 0
		}
	case "rotation":
		return e["what"] == "templates" || len(list(e, "below")) == 0 && e["model"] == nil
	}
	return true
}

func decisionHolds(e object) bool {
	if (e["allow"] == true) != (e["reason"] == "ok") {
		return false
	}
	if e["allow"] == false || e["op"] == "verify" {
		return true
	}
	found := list(e, "candidates")
	most, cut := e["most"]
	return distinct(found, func(v any) any { return v }) && (e["result"] == "match") == (len(found) > 0) &&
		e["mean_e6"] != e["threshold_e6"] && (!cut || most == int64(len(found)))
}

func num(e object, name string) int64   { return e[name].(int64) }
func text(e object, name string) string { s, _ := e[name].(string); return s }
func list(e object, name string) []any  { items, _ := e[name].([]any); return items }

// terms are packed terms (SPEC §5.3).
type terms struct {
	raw              []byte
	scope            int
	metric           uint16
	notBefore, until uint64
	regions          map[string]bool
	count, dimension uint16
}

// parseTerms returns nil where they are not well-formed.
func parseTerms(packed string) *terms {
	raw, err := hex.DecodeString(packed)
	if err != nil || len(raw) != 88 || raw[0] != 1 {
		return nil
	}
	two, eight := binary.BigEndian.Uint16, binary.BigEndian.Uint64
	t := &terms{raw: raw, scope: int(raw[1]), metric: two(raw[2:]), notBefore: eight(raw[4:]), until: eight(raw[12:]), regions: map[string]bool{}, count: two(raw[52:]), dimension: two(raw[54:])}
	last := ""
	for at := 20; at < 52; at += 2 {
		code := string(raw[at : at+2])
		if code == "\x00\x00" {
			last = "~"
			continue
		}
		if code <= last || !region(code) {
			return nil
		}
		t.regions[code], last = true, code
	}
	if t.scope < 2 || t.scope > 6 || t.metric > 1 || t.until <= t.notBefore || len(t.regions) == 0 || t.count < 1 || t.count > 64 || t.dimension < 1 || t.dimension > 4096 {
		return nil
	}
	return t
}

func (t *terms) covers(code string) bool {
	return t.regions[code] || t.regions["EU"] && strings.Contains(union, code)
}

// window says whether a time is in the window, give or take some slack.
func (t *terms) window(time, slack int64) bool {
	return int64(t.notBefore)-slack <= time && time < int64(t.until)+slack
}
