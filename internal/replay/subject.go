package replay

// A subject is an identifier within a namespace, held to a policy, and what became of it.
type subject struct {
	namespace, policy, identifier string

	number uint32 // of the first maxSubjects; the others have none
	others bool   // it is not remembered: there are too many
	asked  uint64
	units  uint64
	sides  [2]side // each is written by the goroutine of its configuration alone
}

// A side is what one of the two configurations did to a subject.
type side struct {
	denied uint64
	limits []hold
}

// A hold is what one limit did to a subject.
type hold struct {
	row    *row
	denied uint64
	first  int64 // when it was first denied
	last   int64

	window int64 // the period of the limit that is counted in, since the epoch
	units  uint64
	peak   uint64 // the most units that were asked in one period
}

// subjects are all that ask, at most as many as there is room for.
type subjects struct {
	byKey map[string]*subject
	all   []*subject
	most  int
	// Others counts records of subjects for which there was no room.
	others uint64
}

// find returns the subject of a key, as a chunk has it.
func (s *subjects) find(key []byte) *subject {
	if who := s.byKey[string(key)]; who != nil {
		return who
	}
	text := string(key)
	namespace, policy := int(text[0])+2, int(text[1])
	who := &subject{namespace: text[2:namespace], policy: text[namespace : namespace+policy], identifier: text[namespace+policy:]}
	if len(s.all) >= s.most {
		s.others++
		who.others = true
		return who
	}
	who.number = uint32(len(s.all))
	s.byKey[text] = who
	s.all = append(s.all, who)
	return who
}
