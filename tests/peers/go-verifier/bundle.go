package main

import (
	"crypto/sha256"
	"encoding/hex"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxBundle = 1 << 20

// notProved has the words of SPEC §12.2, ascending.
var notProved = strings.Fields("all_grants before_restart consent kept_keys medium one_history other_scopes other_tags outside sanitization_level software statement whose_tag")

func exactly(wanted string) check { return func(v any) bool { return v == wanted } }

func printable(v any) bool {
	s, ok := v.(string)
	n := utf8.RuneCountInString(s)
	return ok && n >= 1 && n <= 200 && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func base64Text(v any) bool {
	s, ok := v.(string)
	_, err := decode64(s)
	return ok && err == nil
}

func anyText(v any) bool { _, ok := v.(string); return ok }

var (
	sanitization = form{must: map[string]check{"tool": matching(`facekeep [0-9A-Za-z.+!-]{1,40}`), "media": printable, "organization": printable, "role": printable}}.holds
	copies       = form{must: map[string]check{"live": number, "mirrors": number, "recovery_keys": number, "backups": number, "exported": printable}}.holds
	bundleForm   = form{must: map[string]check{
		"type": exactly("facekeep/shredding-proof"), "v": between(1, 1), "vault": hexOf(16), "tag": hash32, "erasure": number,
		"scopes": ascending(0, 5, scope), "checkpoint": anyText,
		"entries":    listOf(1, 2000, form{must: map[string]check{"index": number, "entry": func(v any) bool { _, ok := v.(object); return ok }, "proof": listOf(0, 63, base64Text)}}.holds),
		"statement":  form{must: map[string]check{"sanitization": sanitization, "copies": copies}}.holds,
		"not_proved": ascending(0, len(notProved), anyText), "made_ms": number, "signatures": row(base64Text, base64Text),
	}}
)

// proof is a shredding proof while it is verified.
type proof struct {
	bundle  object
	indices []int64
	entries map[int64]object
	used    map[int64]bool
	scopes  map[string]bool
	erasure int64
	tag     string
}

// shreddingProof judges P1 to P13 (SPEC §12.3).
func shreddingProof(req *request, keys []*key) (found *broken) {
	defer func() {
		if caught := recover(); caught != nil {
			var known bool
			if found, known = caught.(*broken); !known {
				panic(caught)
			}
		}
	}()
	p := parseBundle(req.Proof)
	origin, signed := "facekeep/"+text(p.bundle, "vault"), []byte(text(p.bundle, "checkpoint"))
	x := &exported{}
	if req.Dir != "" {
		from := request{Dir: req.Dir, Origin: origin}
		if loaded, err := load(&from); err == nil {
			x = loaded
		}
	}
	c, verifying, err := openOlder(signed, keys, x.chain, origin)
	need(err == nil, "P2", -1, "the checkpoint: %v", err)
	p.inTree(c)
	p.first(origin)
	parts := p.concerned()
	completion := p.completed(p.erasure, 0)
	need(completion >= 0, "P6", p.erasure, "the erasure was not completed with a receipt")
	p.used[completion] = true
	p.replaced(completion)
	slots := p.granted()
	p.destroyed(slots, parts)
	for _, index := range p.indices {
		need(p.used[index], "P10", index, "an entry without a purpose")
	}
	for _, k := range verifiedKeys(signed, verifying, origin) {
		at := 0
		if k.kind == typeMLDSA {
			at = 1
		}
		body, _ := decode64(list(p.bundle, "signatures")[at].(string))
		need(signedBytes(k, p.message(), body), "P11", -1, "the signature of the bundle does not verify")
	}
	if req.Opening != nil {
		need(opens(req.Opening, p.bundle), "P12", -1, "the opening does not lead to the tag")
	}
	if req.Dir != "" {
		newer, err := openLed(x.signed, keys, x.chain, origin)
		need(err == nil, "P13", -1, "the export: %v", err)
		bodies, broke := x.continues(signed, c, newer, keys)
		if broke != nil {
			need(false, "P13", -1, "the export: %s %s", broke.step, broke.message)
		}
		p.alone(bodies, slots)
	}
	return nil
}

// alone judges what P13 says of the entries of an export.
func (p *proof) alone(bodies [][]byte, slots map[int64]int64) {
	for at, body := range bodies {
		index, e := int64(at), parseEntry(body)
		need(e != nil, "P13", index, "not an entry")
		if e["type"] == "grant" && (index < p.erasure || len(p.scopes) == 0) {
			for _, each := range list(e, "grants") {
				g := each.(object)
				known, there := slots[num(g, "slot")]
				need(!p.meant(g) || there && known == index, "P13", index, "a grant that is not in the bundle")
			}
		}
		if e["type"] != "decision" || e["allow"] == false || index <= p.erasure {
			continue
		}
		need(len(p.scopes) > 0 || e["tag"] != p.tag, "P13", index, "the subject was compared after the erasure")
		for _, slot := range append(list(e, "candidates"), e["slot"]) {
			n, there := slot.(int64)
			_, own := slots[n]
			need(!there || !own, "P13", index, "slot %d was opened after the erasure", n)
		}
	}
}

// meant says whether a grant is of the tag, and of a withdrawal of one of its scopes.
func (p *proof) meant(g object) bool {
	if g["tag"] != p.tag || len(p.scopes) == 0 {
		return g["tag"] == p.tag
	}
	t := parseTerms(text(g, "terms"))
	return t == nil || p.scopes[scopes[t.scope]]
}

func need(holds bool, step string, index int64, message string, with ...any) {
	(&state{index: index}).must(holds, step, message, with...)
}

// verifiedKeys are the given log keys that signed a checkpoint that opened.
func verifiedKeys(signed []byte, keys []*key, origin string) (found []*key) {
	n, _ := parseNote(signed)
	for _, k := range logKeys(keys, origin) {
		for _, each := range n.signatures {
			if each.name == k.name && each.id == k.id {
				found = append(found, k)
				break
			}
		}
	}
	return found
}

func parseBundle(data []byte) *proof {
	need(len(data) <= maxBundle, "P1", -1, "longer than 1 MiB")
	v, err := parseCanonical(data)
	need(err == nil && bundleForm.holds(v), "P1", -1, "not of the form of a shredding proof")
	p := &proof{bundle: v.(object), entries: map[int64]object{}, used: map[int64]bool{}, scopes: map[string]bool{}}
	p.erasure, p.tag = num(p.bundle, "erasure"), text(p.bundle, "tag")
	for _, each := range list(p.bundle, "scopes") {
		p.scopes[each.(string)] = true
	}
	before := int64(-1)
	for _, each := range list(p.bundle, "entries") {
		item := each.(object)
		index, e := num(item, "index"), parseEntry([]byte(encodeCanonical(item["entry"])))
		need(index > before && e != nil, "P1", index, "not an entry, or not ascending")
		lengths := []string{}
		for _, h := range list(item, "proof") {
			lengths = append(lengths, h.(string))
		}
		_, err := hashLines(lengths)
		need(err == nil, "P1", index, "not a proof")
		p.indices, p.entries[index], before = append(p.indices, index), e, index
	}
	for at, length := range []int{64, mldsaSigned} {
		body, _ := decode64(list(p.bundle, "signatures")[at].(string))
		need(len(body) == length, "P1", -1, "a signature of another length")
	}
	n, err := parseNote([]byte(text(p.bundle, "checkpoint")))
	need(err == nil, "P1", -1, "the checkpoint is no note")
	_, err = parseCheckpoint(n.text)
	need(err == nil, "P1", -1, "the checkpoint is none")
	first := p.entries[p.indices[0]]
	wanted := []any{}
	for _, word := range notProved {
		if word == "before_restart" && (first == nil || first["type"] != "restart") || word == "other_scopes" && len(p.scopes) == 0 {
			continue
		}
		wanted = append(wanted, word)
	}
	need(encodeCanonical(wanted) == encodeCanonical(p.bundle["not_proved"]), "P1", -1, "not_proved is not that of §12.2")
	return p
}

// message is what the signatures are over: of each entry the index alone.
func (p *proof) message() []byte {
	said, indices := without(p.bundle, "signatures"), []any{}
	for _, index := range p.indices {
		indices = append(indices, index)
	}
	said["entries"] = indices
	return []byte(domain("shredding-proof") + encodeCanonical(said))
}

func (p *proof) inTree(c *checkpoint) {
	for at, index := range p.indices {
		item := list(p.bundle, "entries")[at].(object)
		var texts []string
		for _, h := range list(item, "proof") {
			texts = append(texts, h.(string))
		}
		path, _ := hashLines(texts)
		leaf := leafHash([]byte(encodeCanonical(item["entry"])))
		need(inclusionHolds(leaf, index, c.size, path, c.root), "P3", index, "the entry is not in the tree")
	}
}

func (p *proof) first(origin string) {
	e := p.entries[0]
	need(e != nil && (e["type"] == "genesis" || e["type"] == "restart") && e["vault"] == p.bundle["vault"], "P4", 0, "no first entry of this vault")
	need(e["type"] == "genesis" || restartSigned(e, origin), "P4", 0, "the restart does not verify")
	p.used[0] = true
}

// operationOf is the index of the first entry of the operation of a part.
func operationOf(index int64, e object) int64 { return index - num(e, "part") + 1 }

// concerned judges P5 and returns the parts of the erasure.
func (p *proof) concerned() (parts []int64) {
	op, named := "", false
	for _, index := range p.indices {
		e := p.entries[index]
		if e["type"] != "destroy" || operationOf(index, e) != p.erasure {
			continue
		}
		need(len(parts) == 0 || text(e, "op") == op, "P5", index, "the parts of the erasure are of two ops")
		parts, op = append(parts, index), text(e, "op")
		for _, tag := range list(e, "tags") {
			if tag == p.tag {
				named, p.used[index] = true, true
			}
		}
	}
	need(len(parts) > 0, "P5", p.erasure, "the erasure is not there")
	need(op != "shred" || named, "P5", p.erasure, "the erasure does not name the tag")
	need(len(p.scopes) == 0 || op == "withdraw", "P5", p.erasure, "the erasure is no withdrawal")
	return parts
}

// completed is the index of the completion of an operation that has a receipt of a destruction; -1 where there is none.
func (p *proof) completed(of, after int64) int64 {
	for _, index := range p.indices {
		e := p.entries[index]
		if e["type"] == "destroyed" && num(e, "of") == of && index > of && index > after && hasReceipt(e) {
			return index
		}
	}
	return -1
}

func (p *proof) replaced(completion int64) {
	e := p.entries[completion]
	for _, index := range p.indices {
		before := p.entries[index]
		_, shows := before["epoch"]
		if !shows || index >= completion || before["fingerprint"] != e["previous"] {
			continue
		}
		need(num(before, "epoch") < num(e, "epoch") && e["fingerprint"] != e["previous"], "P7", completion, "the root key was not replaced")
		p.used[index] = true
		return
	}
	need(false, "P7", completion, "nothing shows the root key before")
}

// granted judges P8 and returns the index of the grant entry of each slot.
func (p *proof) granted() map[int64]int64 {
	slots := map[int64]int64{}
	for _, index := range p.indices {
		e := p.entries[index]
		if e["type"] != "grant" {
			continue
		}
		for _, each := range list(e, "grants") {
			g := each.(object)
			if !p.meant(g) {
				continue
			}
			need(parseTerms(text(g, "terms")) != nil, "P8", index, "terms are not well-formed")
			_, twice := slots[num(g, "slot")]
			need(!twice && index < p.erasure, "P8", index, "a slot twice, or a grant after the erasure")
			slots[num(g, "slot")], p.used[index] = index, true
		}
	}
	need(len(slots) > 0, "P8", -1, "no grant is the subject's")
	return slots
}

func names(e object, slot int64) bool {
	for _, each := range list(e, "slots") {
		first, count := each.([]any)[0].(int64), each.([]any)[1].(int64)
		if first <= slot && slot < first+count {
			return true
		}
	}
	return false
}

func (p *proof) destroyed(slots map[int64]int64, parts []int64) {
	ordered := []int64{}
	for slot := range slots {
		ordered = append(ordered, slot)
	}
	sort.Slice(ordered, func(a, b int) bool { return ordered[a] < ordered[b] })
	erased := false
	for _, slot := range ordered {
		done := false
		for _, index := range p.indices {
			e := p.entries[index]
			if e["type"] != "destroy" || index < slots[slot] || !names(e, slot) {
				continue
			}
			of := operationOf(index, e)
			erased = erased || of == p.erasure
			if completion := p.completed(of, index); completion >= 0 {
				need(completion <= p.completed(p.erasure, 0), "P9", index, "slot %d was destroyed after the erasure", slot)
				need(len(p.scopes) == 0 || of <= p.erasure, "P9", index, "slot %d lived on after the withdrawal", slot)
				done, p.used[index], p.used[completion] = true, true, true
				break // a later one that names it is no part of the proof
			}
		}
		need(done, "P9", slots[slot], "slot %d was not destroyed", slot)
	}
	need(erased || p.entries[parts[0]]["op"] == "shred", "P9", p.erasure, "the erasure names none of the slots")
}

// opens judges P12 (SPEC §12.4).
func opens(opening []byte, bundle object) bool {
	v, err := parseLoose(opening)
	o, ok := v.(object)
	if err != nil || !ok || !hash32(o["tag"]) || !hash32(o["salt"]) || !anyText(o["subject"]) {
		return false
	}
	vault, _ := hex.DecodeString(text(bundle, "vault"))
	salt, _ := hex.DecodeString(text(o, "salt"))
	message := append(append([]byte(domain("subject-tag")), vault...), salt...)
	sum := sha256.Sum256(append(message, text(o, "subject")...))
	return hex.EncodeToString(sum[:]) == bundle["tag"]
}
