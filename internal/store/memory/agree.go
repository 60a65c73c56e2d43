package memory

import (
	"bytes"
	"slices"
	"sync"
)

// An agreement is what the users of a store have agreed on. They are all in this
// process.
type agreement struct {
	mu     sync.Mutex        // protects the following
	values map[string][]byte // by name, of which there are few
}

// agree returns the value of that name, which is value if there was none.
func (a *agreement) agree(name string, value []byte) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[name] == nil {
		if a.values == nil {
			a.values = map[string][]byte{}
		}
		a.values[name] = slices.Clone(value)
	}
	return bytes.Clone(a.values[name])
}

// append appends what was agreed on to b.
func (a *agreement) append(b []byte) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, value := range a.values {
		b = appendText(appendText(b, name), string(value))
	}
	return b
}
