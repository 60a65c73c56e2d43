package memory

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// An agreement is what the users of a store have agreed on. They are all in this
// process.
type agreement struct {
	mu     sync.Mutex        // protects the following
	values map[string][]byte // by name, of which there are few
}

// Agree keeps the value as long as the store lives.
func (s *Store) Agree(_ context.Context, name string, value []byte) ([]byte, error) {
	a := &s.agreement
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[name] == nil {
		if a.values == nil {
			a.values = map[string][]byte{}
		}
		a.values[name] = slices.Clone(value)
	}
	return bytes.Clone(a.values[name]), nil
}
