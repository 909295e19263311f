// A verifier of facekeep's logs, consistency and shredding proofs, written from docs/spec/log.md alone.
//
// It reads one JSON request a line and writes one JSON answer a line. Of ML-DSA-44 signatures it looks at
// form, key id and length only.
package main

import (
	"bufio"
	"encoding/json"
	"os"
)

// request has the files as bytes (base64 in JSON), but an export as a directory.
type request struct {
	What       string   `json:"what"` // log, consistency, proof, note
	Keys       []string `json:"keys"`
	Origin     string   `json:"origin"` // that of the first key where it is absent
	Dir        string   `json:"dir"`    // an export; of a proof, for P13
	Entries    [][]byte `json:"entries"`
	Checkpoint []byte   `json:"checkpoint"` // of entries without tiles; a note
	Older      []byte   `json:"older"`
	Proof      []byte   `json:"proof"`
	Opening    []byte   `json:"opening"`
}

type answer struct {
	OK      bool   `json:"ok"`
	Step    string `json:"step"`
	Index   int64  `json:"index"`
	Message string `json:"message"`
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var req request
		ans := answer{Index: -1}
		if err := json.Unmarshal(line, &req); err != nil {
			ans.Step, ans.Message = "request", err.Error()
		} else if found := serve(&req); found != nil {
			ans = answer{Step: found.step, Index: found.index, Message: found.message}
		} else {
			ans.OK = true
		}
		text, _ := json.Marshal(&ans)
		out.Write(append(text, '\n'))
		out.Flush()
	}
}

// step is what does not hold, if it does not.
func step(name string, err error) *broken {
	if err == nil {
		return nil
	}
	return &broken{name, -1, err.Error()}
}

func serve(req *request) *broken {
	var keys []*key
	for _, each := range req.Keys {
		k, err := parseKey(each)
		if err != nil {
			return step("keys", err)
		}
		keys = append(keys, k)
	}
	if req.Origin == "" && len(keys) > 0 {
		req.Origin = keys[0].name
	}
	switch req.What {
	case "log":
		_, found := readLog(req, keys)
		return found
	case "consistency":
		return consistency(req, keys)
	case "proof":
		return shreddingProof(req, keys)
	case "note":
		_, err := openCheckpoint(req.Checkpoint, keys, req.Origin)
		return step("note", err)
	}
	return &broken{"request", -1, "no such request"}
}

// readLog judges all steps of SPEC §11.1 on an export, or on entries and their checkpoint.
func readLog(req *request, keys []*key) (*state, *broken) {
	x, err := load(req)
	if err != nil {
		return nil, step("L1", err)
	}
	c, err := openLed(x.signed, keys, x.chain, req.Origin)
	if err != nil {
		return nil, step("L1", err)
	}
	bodies := x.bodies
	if req.Dir != "" {
		ones, err := x.dir.lead(c)
		if err != nil {
			return nil, step("L2", err)
		}
		if bodies, err = x.dir.entries(c, ones); err != nil {
			return nil, &broken{"L3", int64(len(bodies)), err.Error()}
		}
	}
	leaves := make([]hash, len(bodies))
	for at, body := range bodies {
		leaves[at] = leafHash(body)
	}
	if int64(len(bodies)) != c.size || rootOf(leaves) != c.root {
		return nil, &broken{"L3", -1, "the entries do not lead to the root"}
	}
	s, found := replay(bodies, req.Origin, keys)
	if found != nil {
		return s, found
	}
	if len(s.chain) > 0 {
		at, until := inForce(s.chain, c.size)
		if _, err := openCheckpoint(x.signed, at, req.Origin); err != nil {
			return s, step("R10", err)
		}
		if !trusted(until, keys) {
			return s, &broken{"R10", -1, "the keys that sign are of no trusted generation"}
		}
	}
	return s, nil
}

// exported is what a request gives of a log, and what it says of its keys before anything of it was verified.
type exported struct {
	dir    export
	signed []byte
	bodies [][]byte
	chain  []generation
}

// load reads an export, or takes the entries of the request.
func load(req *request) (*exported, error) {
	x := &exported{dir: export(req.Dir), signed: req.Checkpoint, bodies: req.Entries}
	if req.Dir != "" {
		var err error
		if x.signed, err = x.dir.read("checkpoint", maxNote); err != nil {
			return nil, err
		}
		x.bodies = x.dir.untrusted(x.signed)
	}
	if len(x.bodies) > 0 {
		x.chain = chainOf(x.bodies, req.Origin)
	}
	return x, nil
}

// claimed parses a checkpoint that nobody opened.
func claimed(signed []byte) (*checkpoint, error) {
	n, err := parseNote(signed)
	if err != nil {
		return nil, err
	}
	return parseCheckpoint(n.text)
}

// untrusted reads the entries that a checkpoint that was not yet opened speaks of.
func (e export) untrusted(signed []byte) [][]byte {
	c, err := claimed(signed)
	if err != nil {
		return nil
	}
	bodies, _ := e.entries(c, nil)
	return bodies
}

// openLed opens a checkpoint under the given keys, or under those that entries lead to from them.
func openLed(signed []byte, keys []*key, chain []generation, origin string) (*checkpoint, error) {
	c, err := openCheckpoint(signed, keys, origin)
	if err == nil || len(chain) == 0 {
		return c, err
	}
	said, other := claimed(signed)
	if other != nil {
		return nil, err
	}
	at, until := inForce(chain, said.size)
	if !trusted(until, keys) {
		return nil, err
	}
	return openCheckpoint(signed, at, origin)
}

// consistency judges the steps of SPEC §11.2.
func consistency(req *request, keys []*key) *broken {
	if req.Dir == "" {
		older, err := openCheckpoint(req.Older, keys, req.Origin)
		if err != nil {
			return step("C1", err)
		}
		old, path, signed, err := parseProof(req.Proof)
		if err != nil {
			return step("C2", err)
		}
		newer, err := openCheckpoint(signed, keys, req.Origin)
		if err != nil {
			return step("C2", err)
		}
		if old > newer.size {
			return &broken{"C2", -1, "the proof's old size is above that of its tree"}
		}
		if newer.size < older.size || old != older.size {
			return &broken{"C3", -1, "the proof is not from the older checkpoint, or the tree is smaller"}
		}
		if !consistencyHolds(old, older.root, newer.size, newer.root, path) {
			return &broken{"C4", -1, "the newer tree does not begin with the older one"}
		}
		return nil
	}
	x, err := load(req)
	if err != nil {
		return step("C2", err)
	}
	older, _, err := openOlder(req.Older, keys, x.chain, req.Origin)
	if err != nil {
		return step("C1", err)
	}
	newer, err := openLed(x.signed, keys, x.chain, req.Origin)
	if err != nil {
		return step("C2", err)
	}
	_, found := x.continues(req.Older, older, newer, keys)
	return found
}

// continues judges C3 to C5 of an export whose checkpoint was opened, and returns its entries.
func (x *exported) continues(signed []byte, older, newer *checkpoint, keys []*key) ([][]byte, *broken) {
	if newer.size < older.size {
		return nil, &broken{"C3", -1, "the tree is smaller"}
	}
	leaves, err := x.dir.level(0, newer.size)
	if err != nil || rootOf(leaves) != newer.root || rootOf(leaves[:older.size]) != older.root {
		return nil, &broken{"C4", -1, "the newer tree does not begin with the older one"}
	}
	ones, err := x.dir.lead(newer)
	if err != nil {
		return nil, step("C5", err)
	}
	bodies, err := x.dir.entries(newer, ones)
	if err != nil {
		return nil, step("C5", err)
	}
	if len(x.chain) == 0 {
		if !sameSigners(signed, x.signed, keys, newer.origin) {
			return nil, &broken{"C5", -1, "no entry says that the keys were replaced"}
		}
		return bodies, nil
	}
	_, until := inForce(x.chain, newer.size)
	_, err = openAt(signed, x.chain, newer.origin)
	_, other := openAt(x.signed, x.chain, newer.origin)
	if err != nil || other != nil || !trusted(until, keys) {
		return nil, &broken{"C5", -1, "a checkpoint is not under keys in force, or no generation is trusted"}
	}
	return bodies, nil
}

// sameSigners says whether given keys of each type signed both checkpoints.
func sameSigners(one, other []byte, keys []*key, origin string) bool {
	both := map[byte]bool{}
	for _, k := range verifiedKeys(one, keys, origin) {
		for _, each := range verifiedKeys(other, keys, origin) {
			both[k.kind] = both[k.kind] || k.text == each.text
		}
	}
	for _, k := range logKeys(keys, origin) {
		if !both[k.kind] {
			return false
		}
	}
	return true
}

// openOlder opens a checkpoint under the given keys, or those that entries name for its size; it returns the keys, too.
func openOlder(signed []byte, keys []*key, chain []generation, origin string) (*checkpoint, []*key, error) {
	c, err := openCheckpoint(signed, keys, origin)
	if err == nil || len(chain) == 0 {
		return c, keys, err
	}
	said, other := claimed(signed)
	if other != nil {
		return nil, nil, err
	}
	at, _ := inForce(chain, said.size)
	c, err = openCheckpoint(signed, at, origin)
	return c, at, err
}

// openAt opens a checkpoint under the keys that were in force at its size.
func openAt(signed []byte, chain []generation, origin string) (*checkpoint, error) {
	c, err := claimed(signed)
	if err != nil {
		return nil, err
	}
	keys, _ := inForce(chain, c.size)
	return openCheckpoint(signed, keys, origin)
}
