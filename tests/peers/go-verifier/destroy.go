package main

// destroy judges one part of a destruction; what holds of the whole operation is judged at its last part.
func (s *state) destroy(e object, op string) {
	o := s.opened(e, "destroy", op)
	if _, there := e["sought"]; there {
		o.sought = true
	}
	slots := s.expand(list(e, "slots"), "R16")
	s.must(len(slots) == 0 || op != "extend" && op != "rotate", "R16", "%s names no slot", op)
	s.must(op == "void" || len(list(e, "voids")) == 0, "R7", "%s voids", op)
	s.must(op != "void" || e["by"] == nil, "R7", "somebody voids")
	s.must(op == "shred" || len(list(e, "tags")) == 0, "R18", "%s has tags", op)
	for _, slot := range slots {
		s.names(slot, op, num(e, "time_ms"))
	}
	o.slots = append(o.slots, slots...)
	for _, tag := range list(e, "tags") {
		s.must(len(s.byTag[tag.(string)]) > 0, "R18", "a tag that nothing was granted to")
		o.tags = append(o.tags, tag.(string))
	}
	for _, void := range list(e, "voids") {
		o.voids = append(o.voids, void.(int64))
	}
	if s.parts == nil {
		s.whole(o)
	}
}

// names judges one slot of a destruction, and takes it out of use.
func (s *state) names(slot int64, op string, time int64) {
	if p := s.bySlot[slot]; p != nil {
		s.must(op == "revoke" || op == "void", "R21", "%s names a principal", op)
		s.must(op == "void" || !p.destroyed, "R16", "slot %d is destroyed", slot)
		p.named = true
		return
	}
	g := s.grants[slot]
	s.must(op != "revoke", "R21", "a revocation names a grant")
	s.must(op == "void" || !g.destroyed, "R16", "slot %d is destroyed", slot)
	s.must(op != "expire" || g.terms.until <= uint64(time), "R20", "slot %d has not expired", slot)
	g.named = true
}

func (s *state) whole(o *operation) {
	switch o.op {
	case "revoke":
		s.must(len(o.slots) > 0, "R21", "it names nobody")
	case "expire":
		s.must(len(o.slots) > 0, "R20", "it names nothing")
	case "withdraw":
		s.withdrawn(o)
	case "shred":
		s.shredded(o)
	case "void":
		s.voided(o)
	}
	if due := s.replaces; due != nil {
		s.replaces = nil
		named := map[int64]bool{}
		for _, slot := range o.slots {
			s.must(due.slots[slot], "R15", "it names more than the predecessors")
			named[slot] = true
		}
		for slot := range due.slots {
			s.must(named[slot], "R15", "predecessor %d is not named", slot)
		}
	}
}

func (s *state) withdrawn(o *operation) {
	if o.sought {
		s.must(len(o.slots) == 0, "R17", "it names somebody, and sought")
		return
	}
	s.must(len(o.slots) > 0, "R17", "it names nothing")
	tag := s.grants[o.slots[0]].tag
	scopes := map[int]bool{}
	for _, slot := range o.slots {
		s.must(s.grants[slot].tag == tag, "R17", "it names grants of two subjects")
		scopes[s.grants[slot].terms.scope] = true
	}
	for _, g := range s.byTag[tag] {
		s.must(g.named || !scopes[g.terms.scope], "R17", "slot %d is left", g.slot)
	}
}

func (s *state) shredded(o *operation) {
	if o.sought {
		s.must(len(o.slots)+len(o.tags) == 0, "R18", "it names somebody, and sought")
		return
	}
	s.must(len(o.slots) > 0 && len(o.tags) > 0, "R18", "no tag or no slot")
	tags := map[string]bool{}
	for _, tag := range o.tags {
		tags[tag], s.erased[tag] = true, true
		for _, g := range s.byTag[tag] {
			s.must(g.named, "R18", "slot %d is left", g.slot)
		}
	}
	for _, slot := range o.slots {
		s.must(tags[s.grants[slot].tag], "R18", "slot %d is somebody else's", slot)
	}
}

func (s *state) voided(o *operation) {
	s.must(len(o.voids) > 0, "R7", "it voids nothing")
	wanted, named := map[int64]bool{}, map[int64]bool{}
	for _, void := range o.voids {
		other := s.open[void]
		s.must(other != nil && other.kind != "destroy", "R7", "%d is no open grant or principal operation", void)
		delete(s.open, void)
		for _, slot := range other.slots {
			wanted[slot] = true
		}
	}
	for _, slot := range o.slots {
		named[slot] = true
		s.must(wanted[slot], "R7", "slot %d is not of what it voids", slot)
	}
	s.must(len(named) == len(wanted), "R7", "a slot of what it voids is not named")
}
