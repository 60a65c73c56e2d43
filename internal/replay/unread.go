package replay

import "slices"

// Unread are lines of one kind that gave no record.
type unread struct {
	kind    string
	count   uint64
	example string // the place and the beginning of the first
	born    uint64 // how many events were before the first, of what lanes refuse
}

// unreads are all lines that gave no record, by kind.
type unreads struct{ kinds []unread }

func (u *unreads) add(more []unread) {
	for _, p := range more {
		u.count(p)
	}
}

func (u *unreads) count(p unread) {
	i := slices.IndexFunc(u.kinds, func(k unread) bool { return k.kind == p.kind })
	if i < 0 {
		u.kinds = append(u.kinds, p)
		return
	}
	k := &u.kinds[i]
	if k.count += p.count; p.born < k.born {
		k.example, k.born = p.example, p.born
	}
}

func (u *unreads) total() (n uint64) {
	for _, k := range u.kinds {
		n += k.count
	}
	return n
}
