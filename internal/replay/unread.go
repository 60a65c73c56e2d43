package replay

import "slices"

// Unread are lines of one kind that gave no record.
type unread struct {
	kind    string
	count   uint64
	example string // the place and the beginning of the first
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
	u.kinds[i].count += p.count
}

func (u *unreads) total() (n uint64) {
	for _, k := range u.kinds {
		n += k.count
	}
	return n
}
